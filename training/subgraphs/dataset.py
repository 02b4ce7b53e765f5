"""Rows of the public subgraph tables, with recovered shapes; what is dropped or flagged is counted by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import DataError
from graphs.hardware.calibration.subgraph_features import Described, describe
from training.subgraphs.shapes import Node, read_nodes

FILE = "subgraphs.csv.gz"
#: Repository, commit and licence of the rows.
SOURCE = "branes-ai/graphs, commit b6c5e829c33a1e62c1d4c98dfcb16c034bec8994 (2026-05-17), MIT licence"
#: Hardware ids here, and the campaigns of the same machine in the tables: the first is scored unless told otherwise.
CAMPAIGNS = {
    "i7-12700k": ("i7_12700K", "intel_core_i7_12700k"),
    "ryzen-9-8945hs": ("ryzen_9_8945hs",),
    "jetson-orin-agx": ("jetson_orin", "jetson_orin_agx"),
}
#: Precisions that are measured natively: half precision on the i7 is emulated, 9 times slower than fp32 and more.
PRECISIONS = {"i7-12700k": ("fp32",), "ryzen-9-8945hs": ("fp32",), "jetson-orin-agx": ("fp32", "fp16")}
THERMAL = ("15w", "30w", "50w", "maxn")
#: Models of one family share layers: leaving out one alone flatters.
FAMILIES = ("efficientnet", "maxvit", "mobilenet", "resnet", "vgg", "vit")
_COLUMNS = (
    "hardware_id", "precision", "model", "batch_size", "flops", "latency_mean_ms", "latency_std_ms", "latency_min_ms",
    "latency_max_ms", "n_nodes", "node_names", "fusion_pattern",
)  # fmt: skip


@dataclass(frozen=True)
class Subgraphs:
    """Measured subgraphs of one machine.

    Attributes
    ----------
    frame : DataFrame
        Columns campaign, thermal ("" if none), precision, model, family, batch, flops (recorded), latency_s (the
        recorded mean), min_s, noisy, and key: position in `described`.
    described : list of Described
        Distinct (model, batch, subgraph, itemsize).
    counts : Counter
        Rows by what became of them.
    """

    frame: pd.DataFrame
    described: list[Described]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def features(self) -> NDArray[np.float64]:
        """Features of the rows, (n, f)."""
        return np.asarray(np.stack([d.row for d in self.described])[self.frame["key"].to_numpy()])


def read_subgraphs(folder: Path, shapes: Path, hardware: str) -> Subgraphs:
    """Read the rows of a machine.

    Parameters
    ----------
    folder : Path
        Holds `FILE`.
    shapes : Path
        Folder of the recorded nodes (``data/fx-shapes``).
    hardware : str
        Key of `CAMPAIGNS`.

    Raises
    ------
    DataError
        If a file is missing or a column is.
    """
    try:
        table = pd.read_csv(folder / FILE, usecols=list(_COLUMNS), keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the subgraph table cannot be read ({error})",
            received=str(folder / FILE),
            allowed=", ".join(_COLUMNS),
            next_step="give the folder that holds it",
        ) from error
    names = {_id(c, t): (c, t) for c in CAMPAIGNS[hardware] for t in _profiles(hardware)}
    table = table[table["hardware_id"].isin(names)]
    counts: Counter[str] = Counter(read=len(table))
    native = table["precision"].isin(PRECISIONS[hardware])
    counts["dropped: precision is emulated here, or not asked for"] = int((~native).sum())
    table = table[native]
    nodes: dict[tuple[str, int], dict[str, Node]] = {}
    keys: dict[tuple[Any, ...], int] = {}
    described: list[Described] = []
    rows = []
    for r in table.itertuples(index=False):
        if not r.latency_mean_ms > 0:
            counts["dropped: no latency"] += 1
            continue
        where = (str(r.model), int(r.batch_size))
        if where not in nodes:
            nodes[where] = read_nodes(shapes, *where)
        listed = [nodes[where].get(n) for n in str(r.node_names).split("|")]
        if None in listed:
            counts["dropped: a node is not in the recorded network"] += 1
            continue
        itemsize = ops.itemsize(str(r.precision))
        key = (*where, r.node_names, itemsize)
        if key not in keys:
            keys[key] = len(described)
            calls = [c for n in listed if n is not None for c in n.calls]
            described.append(describe(calls, len(listed), itemsize))
        if not _agrees(float(r.flops), described[keys[key]]):
            counts["dropped: recorded FLOP contradict the recovered shapes"] += 1
            continue
        noisy = r.latency_std_ms > 0.5 * r.latency_mean_ms or r.latency_max_ms > 3 * r.latency_mean_ms
        counts["kept"] += 1
        counts["flagged: noisy (std above half of the mean, or a maximum above 3 means)"] += int(noisy)
        counts["flagged: no FLOP, learned as latency"] += int(r.flops == 0)
        campaign, thermal = names[r.hardware_id]
        rows.append(
            (campaign, thermal, r.precision, r.model, _family(str(r.model)), where[1], float(r.flops),
             r.latency_mean_ms / 1e3, r.latency_min_ms / 1e3, noisy, r.fusion_pattern, keys[key])
        )  # fmt: skip
    frame = pd.DataFrame(
        rows,
        columns=["campaign", "thermal", "precision", "model", "family", "batch", "flops", "latency_s", "min_s",
                 "noisy", "pattern", "key"],
    )  # fmt: skip
    return Subgraphs(frame, described, counts)


def _agrees(recorded: float, d: Described) -> bool:
    """Tell whether the recorded FLOP can be those of the shapes.

    The record counts products and convolutions as here; element-wise work is counted differently, and not at all in
    some kinds.  So only subgraphs with a substantial product are compared.
    """
    products = {"conv", "pointwise", "depthwise", "product"} & set(d.classes)
    if not products or recorded < 1e6 or {"attention", "pool"} & set(d.classes):
        return True
    return bool(0.8 < d.flops / recorded < 1.6)


def _profiles(hardware: str) -> tuple[str, ...]:
    return THERMAL if hardware == "jetson-orin-agx" else ("",)


def _id(campaign: str, thermal: str) -> str:
    return f"{campaign}_{thermal}" if thermal else campaign


def _family(model: str) -> str:
    return next(f for f in FAMILIES if model.startswith(f))
