"""Held-out parts of one set: random rows, whole new shapes, and the largest."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

#: Shares held out at random and as whole shapes.
RANDOM, SHAPES = 0.20, 0.15
SALT = "graphs external 1"


def splits(frame: pd.DataFrame) -> dict[str, Mask]:
    """Return the held-out rows of each split of one set, (n,) each.

    ``random``: by a hash of the dimensions, the same on every machine and dtype.  ``new_shape``: whole (n, k) pairs of
    GEMM, whole (heads, kv heads, head size) combinations of attention; none for NeuSight, whose shapes never repeat.
    ``largest``: the top decade of m of GEMM and of the sequence of attention; the top fifth of FLOP of NeuSight.
    """
    if "gpu" in frame:
        dims = ["b", "m", "n", "k", "rows", "cols", "c_in", "c_out", "ksize", "in_size"]
        flops = frame["flops"].to_numpy(dtype=np.float64)
        return {"random": chosen(frame, dims, RANDOM), "largest": flops > np.quantile(flops, 0.8)}
    if frame["op"].iloc[0] == "linear":
        m = frame["m"].to_numpy(dtype=np.float64)
        return {
            "random": chosen(frame, ["m", "n", "k"], RANDOM),
            "new_shape": chosen(frame, ["n", "k"], SHAPES),
            "largest": m > m.max() / 10,
        }
    key, s = ["h", "hkv", "d"], frame["seq"].to_numpy(dtype=np.float64)
    return {
        "random": chosen(frame, ["b", *key, "seq", "window"], RANDOM),
        "new_shape": chosen(frame, key, SHAPES),
        "largest": s > s.max() / 10,
    }


def chosen(frame: pd.DataFrame, columns: list[str], share: float) -> Mask:
    """Return which rows a hash of some columns holds out; equal values always go together."""
    distinct, index = np.unique(frame[columns].fillna(0).to_numpy(dtype=np.int64), axis=0, return_inverse=True)
    held = np.array([_fraction(",".join(map(str, row))) < share for row in distinct.tolist()], dtype=bool)
    return held[np.ravel(index)]


def _fraction(key: str) -> float:
    """Return a number in [0, 1) from a hash."""
    return int.from_bytes(hashlib.sha256(f"{SALT}|{key}".encode()).digest()[:8], "big") / 2**64
