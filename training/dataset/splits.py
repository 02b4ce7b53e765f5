"""The held-out rows: which configurations no model that is scored may have seen.

All three rules depend on the configuration alone, never on the device, so that a model of one GPU cannot
learn another GPU's held-out rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from graphs import ops

#: Salt of the random split; changing it changes every published figure.
SALT = "graphs-holdout-2026"
RANDOM_SHARE = 0.15
N_LAYER_SHAPES = 6
FAMILY_OF_SIZE = {
    **dict.fromkeys(["linear", "matmul", "addmm", "bmm"], "gemm"),
    **dict.fromkeys(["conv2d", "dwconv2d", "conv1d", "conv_transpose2d"], "conv"),
    **dict.fromkeys(["sdpa", "sdpa_decode", "sdpa_mask"], "attention"),
}
LAYER_OPS = ("linear", "matmul", "addmm")


def config_key(op: str, dtype: str, params: Mapping[str, Any] | str) -> str:
    """Return the text that is hashed to draw a configuration's split and fold, the same on every device.

    Kinds without matrix units run the same kernel for tf32 and fp32, so both share a key.  Parameters count as they
    are written; whether two rows are the same call is told by `identity`.
    """
    if isinstance(params, str):
        params = json.loads(params)
    if dtype == "tf32" and not ops.get(op).uses_matrix_units:
        dtype = "fp32"
    return f"{op}|{dtype}|{json.dumps(params, sort_keys=True, separators=(',', ':'))}"


def identity(op: str, dtype: str, params: Mapping[str, Any] | str) -> str:
    """Return one text for one call, however it is written: `config_key` with the defaults filled in.

    Raises
    ------
    UnknownOperatorError, OperatorParameterError
    """
    given = json.loads(params) if isinstance(params, str) else params
    return config_key(op, dtype, ops.get(op).validate(given))


def identities(frame: pd.DataFrame) -> list[str]:
    """Return the `identity` of each row of a table with columns op, dtype and params."""
    return [identity(*row) for row in zip(frame["op"], frame["dtype"], frame["params"], strict=True)]


def unit_hash(text: str, salt: str = SALT) -> float:
    """Return a number in [0, 1) that depends on `text` and `salt` alone."""
    digest = hashlib.sha256(f"{salt}|{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


#: Whole layer shapes (n, k) held out in every op of `LAYER_OPS`: the six lowest hashes among the 23 shapes that
#: occur 25 times or more in the H100 table.
HELD_OUT_LAYERS = frozenset({(128256, 4096), (5120, 1280), (1024, 4096), (3072, 1024), (4096, 11008), (1000, 2048)})
#: FLOP above which a configuration is held out: the 99 % quantile of each family, pooled over the GPUs / on the CPU.
LARGEST_FLOPS = {
    "gpu": {"gemm": 4.12e11, "conv": 4.73e11, "attention": 7.09e11},
    "cpu": {"gemm": 2.63e10, "conv": 3.72e10, "attention": 2.53e10},
}
SPLITS = ("train", "random", "new_layer_shape", "largest_flops")


def split_of(op: str, dtype: str, params: Mapping[str, Any], flops: float, kind: str) -> str:
    """Return the split of one configuration; `kind` is ``"gpu"`` or ``"cpu"``."""
    if flops > LARGEST_FLOPS[kind].get(FAMILY_OF_SIZE.get(op, ""), np.inf):
        return "largest_flops"
    if op in LAYER_OPS and (params["n"], params["k"]) in HELD_OUT_LAYERS:
        return "new_layer_shape"
    return "random" if unit_hash(config_key(op, dtype, params)) < RANDOM_SHARE else "train"


def assign_splits(frame: pd.DataFrame, kind: str) -> pd.Series:
    """Return the split of each row of a table with columns op, dtype, params (dict) and flops."""
    values = [
        split_of(o, d, p, f, kind)
        for o, d, p, f in zip(frame["op"], frame["dtype"], frame["params"], frame["flops"], strict=True)
    ]
    return pd.Series(values, index=frame.index, name="split")


def fold_of(op: str, dtype: str, params: Mapping[str, Any] | str, n_folds: int) -> int:
    """Return the cross-validation fold of a configuration, the same on every device."""
    return int(unit_hash(config_key(op, dtype, params), salt=SALT + "-folds") * n_folds)
