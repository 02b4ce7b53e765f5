"""Which SKUs are fitted on public measurements, and their rows as operator calls."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import UnknownHardwareError, nearest
from graphs.ops.batch import OperatorGroup
from training.external import aiconfigurator, neusight
from training.external.compact import Measured
from training.external.machines import AIC_SYSTEMS, NEUSIGHT_SYSTEMS
from training.external.source import AICONFIGURATOR, NEUSIGHT, Source, data_folder
from training.external.splits import splits

#: NeuSight's GPUs with a model of their own; its AMD rows lack matrix products, its A100 80GB everything but conv.
NEUSIGHT_GPUS = ("A100-PCIE-40GB", "V100-PCIE-32GB", "P100-PCIE-16GB", "T4", "P4")


@dataclass(frozen=True, slots=True)
class Sku:
    """One machine with one software stack.

    Attributes
    ----------
    id, base : str
        ``base+stack``, and the profile of the machine alone.
    source : Source
    system : str
        Its name in the source.
    software : dict of str to str
        Versions, for the model's header.
    """

    id: str
    base: str
    source: Source
    system: str
    software: dict[str, str]


def skus() -> dict[str, Sku]:
    """Return every SKU that can be fitted, by id."""
    out = {}
    for name in NEUSIGHT_GPUS:
        s = NEUSIGHT_SYSTEMS[name]
        out[f"{s.hardware}+{s.stack}"] = Sku(
            f"{s.hardware}+{s.stack}", s.hardware, NEUSIGHT, name, {"torch": "2.1.0+cu121"}
        )
    for name, s in AIC_SYSTEMS.items():
        version = "1.0.0" if name == "a100_sxm" else "1.3.0rc20"
        out[f"{s.hardware}+{s.stack}"] = Sku(
            f"{s.hardware}+{s.stack}", s.hardware, AICONFIGURATOR, name, {"tensorrt-llm": version}
        )
    return out


def find(name: str) -> Sku:
    """Return a SKU by id, or raise `UnknownHardwareError`."""
    known = skus()
    if name not in known:
        raise UnknownHardwareError(
            "no public measurements are known for this hardware and software",
            received=name,
            allowed=nearest(name, known),
            next_step="choose one of these",
        )
    return known[name]


def files(sku: Sku, data: Path | None) -> list[Path]:
    """Return the files that hold the rows of a SKU."""
    folder = data_folder(sku.source, data)
    if sku.source is NEUSIGHT:
        return [folder / neusight.FILE]
    names = (aiconfigurator.GEMM_FILE, aiconfigurator.CONTEXT_FILE, aiconfigurator.GENERATION_FILE)
    return [folder / name for name in names]


@functools.lru_cache(maxsize=1)
def _tables(source: str, folder: Path) -> tuple[pd.DataFrame, ...]:
    """Return the tables of a source; kept, because several SKUs are cut out of the same ones."""
    if source == NEUSIGHT.name:
        return (neusight.read_ops(folder),)
    readers = (aiconfigurator.read_gemm, aiconfigurator.read_context, aiconfigurator.read_generation)
    return tuple(read(folder) for read in readers)


def measured(sku: Sku, data: Path | None) -> dict[str, list[Measured]]:
    """Return the measured calls of a SKU by family."""
    out: dict[str, list[Measured]] = {}
    tables = _tables(sku.source.name, data_folder(sku.source, data))
    if sku.source is NEUSIGHT:
        (frame,) = tables
        frame = frame[(frame["gpu"] == sku.system) & frame["op"].isin(neusight.OURS)]
        for _, rows in frame.groupby("op", sort=True):
            _add(out, neusight.group(rows), rows)
        return out
    for rows in tables:
        # attention without a window, by one kernel and with keys of the same dtype: what the operator means
        keep = (rows["system"] == sku.system) & (rows["dtype"] == "bfloat16") & (rows["kernel"] == "torch_flow")
        if "window" in rows:
            keep &= (rows["window"] == 0) & (rows["kv_dtype"] == "bfloat16")
        _add(out, aic_group(rows[keep]), rows[keep])
    return out


def _add(out: dict[str, list[Measured]], group: OperatorGroup, rows: pd.DataFrame) -> None:
    held = splits(rows)["random"]
    latency = rows["latency_s"].to_numpy(dtype=np.float64)
    out.setdefault(group.kind.family, []).append(Measured(group, latency, held))


def aic_group(frame: pd.DataFrame) -> OperatorGroup:
    """Return bf16 rows of one AIConfigurator table as operator calls, FLOP and bytes those of the operator."""
    n = len(frame)
    (op,) = frame["op"].unique()
    names = ("m", "n", "k") if op == "linear" else ("b", "h", "hkv", "s", "skv", "d")
    p: dict[str, NDArray[np.generic]] = {c: frame[c].to_numpy(dtype=np.float64) for c in names}
    if op == "linear":
        p["bias"] = np.zeros(n)
    else:
        p["causal"] = np.full(n, float(op == "sdpa"))
    if op == "sdpa":
        p["layout"] = np.full(n, "bhsd")
    size = np.full(n, 2.0)
    kind = ops.get(str(op))
    flops, nbytes = (
        np.asarray(np.broadcast_to(c, size.shape), dtype=np.float64) for c in kind.cost(**p, itemsize=size)
    )
    return OperatorGroup(kind, np.arange(n), np.full(n, "bf16"), size, p, flops, nbytes)
