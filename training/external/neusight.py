"""NeuSight's operator table in our words.

Its `bytes` are ours on every row; its FLOP are ours but for layernorm (it counts 6 an element, we 8).  Element-by-
element kinds that this package has no operator for (powers, division by a scalar) keep the source's name and are
validated, not shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import DataError
from graphs.ops.batch import OperatorGroup
from training.external.machines import NEUSIGHT_SYSTEMS, system
from training.external.source import read_rows

Array = NDArray[np.float64]

FILE = "ops_train.csv.gz"
_COLUMNS = [
    "gpu", "op", "precision", "b", "m", "n", "k", "rows", "cols", "c_in", "c_out", "ksize", "in_size", "stride",
    "padding", "flops", "bytes", "latency_ms", "neusight_used",
    "kernel", "grid_x",
]  # fmt: skip
#: Its names to ours.
OURS = {
    "bmm": "bmm", "linear": "linear", "conv": "conv2d", "layernorm": "layernorm", "softmax": "softmax", "add": "add",
    "mul": "mul", "div": "div", "addu": "add_scalar", "mulu": "mul_scalar", "relu": "relu", "gelu": "gelu",
    "tanh": "tanh",
}  # fmt: skip
#: Kinds without an operator of ours, and one of the same traffic that stands in for them in features.
STAND_IN = {"pow": "mul", "divu": "mul_scalar", "powu": "mul_scalar"}
#: FLOP an element where the conventions differ, (source, ours).
FLOP_CONVENTION = {"layernorm": (6, 8)}


def read_ops(folder: Path) -> pd.DataFrame:
    """Return the rows with `latency_s`, `kind` (our name) and `set` (``gpu op``).

    Raises
    ------
    DataError
        Also where FLOP or bytes of the source disagree with ours.
    """
    frame = read_rows(folder / FILE, _COLUMNS)
    unknown = sorted(set(frame["op"]) - set(OURS) - set(STAND_IN))
    if unknown or set(frame["precision"]) - {"fp32"}:
        raise DataError(
            f"'{FILE}' has operators or precisions that are not known here",
            received=unknown or sorted(set(frame["precision"])),
            allowed=", ".join([*OURS, *STAND_IN]),
            next_step="extend training/external/neusight.py",
        )
    for gpu in frame["gpu"].unique():
        system(NEUSIGHT_SYSTEMS, str(gpu))
    frame = frame.assign(
        kind=frame["op"].map(OURS | STAND_IN), set=frame["gpu"] + " " + frame["op"], dtype="fp32"
    ).reset_index(drop=True)
    for name, rows in frame.groupby("op", sort=False).indices.items():
        _agree(frame.iloc[rows], str(name))
    return frame


def group(frame: pd.DataFrame) -> OperatorGroup:
    """Return rows of one kind as operator calls (without the per-row checks of user input)."""
    (kind,) = frame["kind"].unique()
    p = params(frame)
    size = np.full(len(frame), 4.0)
    spec = ops.get(str(kind))
    cost = spec.cost(**p, itemsize=size)
    flops, nbytes = (np.broadcast_to(np.asarray(c, dtype=np.float64), size.shape) for c in cost)
    return OperatorGroup(spec, np.arange(len(frame)), np.full(len(frame), "fp32"), size, p, flops, nbytes)


def params(frame: pd.DataFrame) -> dict[str, NDArray[np.generic]]:
    """Return the parameter columns of rows of one kind."""
    n = len(frame)
    (kind,) = frame["kind"].unique()

    def column(name: str) -> Array:
        values: Array = frame[name].to_numpy(dtype=np.float64)
        return values

    if kind == "bmm":
        return {name: column(name) for name in ("b", "m", "n", "k")}
    if kind == "linear":
        # a batch of a linear layer is more rows
        return {"m": column("b") * column("m"), "n": column("n"), "k": column("k"), "bias": np.zeros(n)}
    if kind == "conv2d":
        k, pad = column("ksize"), column("padding")
        return {
            "n": column("b"), "c": column("c_in"), "h": column("in_size"), "w": column("in_size"),
            "o": column("c_out"), "k": k, "stride": column("stride"), "pad": pad, "groups": np.ones(n),
            "bias": np.zeros(n), "fmt": np.full(n, "contiguous"), "kw": k, "padw": pad,
        }  # fmt: skip
    if kind in ("layernorm", "softmax"):
        return {"rows": column("rows"), "cols": column("cols")}
    numel = column("rows") * column("cols")
    return {"numel": numel, "bcast": np.zeros(n)} if kind in ("add", "mul", "div") else {"numel": numel}


def _agree(frame: pd.DataFrame, name: str) -> None:
    """Raise `DataError` where FLOP or bytes of one operator are not ours."""
    calls = group(frame)
    theirs, ours = FLOP_CONVENTION.get(name, (1, 1))
    for what, source, own in (
        ("flops", frame["flops"].to_numpy(dtype=np.float64) * ours / theirs, calls.flops),
        ("bytes", frame["bytes"].to_numpy(dtype=np.float64), calls.bytes),
    ):
        differ = ~np.isclose(source, own, rtol=1e-9)
        if differ.any():
            i = int(np.argmax(differ))
            raise DataError(
                f"{what} of {int(differ.sum())} of {len(frame)} '{name}' rows are not those of the operator",
                received=float(source[i]),
                allowed=float(own[i]),
                next_step="check the meaning of the dimensions",
            )
