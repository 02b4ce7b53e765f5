"""AIConfigurator's tables in our words: GEMM as `linear`, context attention as `sdpa`, generation as `sdpa_decode`.

The source states no FLOP and bytes.  Here one multiply-add is 2 FLOP; a causal prompt has half the scores, a sliding
window at most `window` keys a query; bytes count each operand once at its own element size (`machines.GEMM_BYTES`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs.errors import DataError
from training.external.machines import AIC_SYSTEMS, GEMM_BYTES, system
from training.external.source import read_rows

Array = NDArray[np.float64]

_STACK = ["system", "backend", "version", "dtype", "kernel", "latency_ms"]
_ATTENTION = ["kv_dtype", "window", "batch", "seq", "heads", "kv_heads", "head_dim"]
GEMM_FILE, CONTEXT_FILE, GENERATION_FILE = (
    "gemm.csv.gz", "context_attention.csv.gz", "generation_attention.csv.gz",
)  # fmt: skip
#: Bytes an element of queries, keys and values.
_SIZE = {"bfloat16": 2.0, "fp8": 1.0}


def read_gemm(folder: Path) -> pd.DataFrame:
    """Return GEMM rows: op, set, system, dtype, m, n, k, flops, bytes, latency_s.

    `set` is ``system dtype``: one model each.

    Raises
    ------
    DataError
    """
    frame = _checked(read_rows(folder / GEMM_FILE, [*_STACK, "m", "n", "k"]), ["m", "n", "k"])
    _known(frame, "dtype", GEMM_BYTES)
    m, n, k = (frame[c].to_numpy(dtype=np.float64) for c in ("m", "n", "k"))
    size = np.array([GEMM_BYTES[d] for d in frame["dtype"]]).T if len(frame) else np.zeros((3, 0))
    return frame.assign(
        op="linear",
        set=frame["system"] + " " + frame["dtype"],
        flops=2 * m * n * k,
        bytes=m * k * size[0] + n * k * size[1] + m * n * size[2],
    )


def read_context(folder: Path) -> pd.DataFrame:
    """Return causal prefill rows: b, h, hkv, s, skv, d, window, flops, bytes and the columns of `read_gemm`."""
    frame = _attention(folder / CONTEXT_FILE)
    b, h, hkv, s, d, window = (frame[c].to_numpy(dtype=np.float64) for c in ("b", "h", "hkv", "seq", "d", "window"))
    q, kv = _sizes(frame)
    # the output is bf16 whatever the inputs are
    nbytes = b * h * s * d * (q + 2.0) + 2 * b * hkv * s * d * kv
    return frame.assign(op="sdpa", s=frame["seq"], skv=frame["seq"], flops=4 * b * h * d * scores(s, window),
                        bytes=nbytes)  # fmt: skip


def read_generation(folder: Path) -> pd.DataFrame:
    """Return decode rows: one query a sequence over `skv` keys; columns as of `read_context`."""
    frame = _attention(folder / GENERATION_FILE)
    b, h, hkv, s, d, window = (frame[c].to_numpy(dtype=np.float64) for c in ("b", "h", "hkv", "seq", "d", "window"))
    _, kv = _sizes(frame)
    keys = np.where(window > 0, np.minimum(s, window), s)
    nbytes = 2 * b * h * d * 2.0 + 2 * b * hkv * keys * d * kv
    return frame.assign(op="sdpa_decode", s=1, skv=frame["seq"], flops=4 * b * h * d * keys, bytes=nbytes)


def scores(s: Array, window: Array) -> Array:
    """Return the scores of one head of a causal prompt: s^2 / 2, or at most `window` keys a query.

    With a window w < s the first w queries see half a square, the other s - w see w keys each: w^2 / 2 + (s - w) w.
    """
    w = np.where(window > 0, np.minimum(window, s), s)
    out: Array = w * w / 2 + (s - w) * w
    return out


def _attention(path: Path) -> pd.DataFrame:
    frame = _checked(read_rows(path, [*_STACK, *_ATTENTION]), ["batch", "seq", "heads", "kv_heads", "head_dim"])
    for column in ("dtype", "kv_dtype"):
        _known(frame, column, _SIZE)
    if (frame["heads"] % frame["kv_heads"] != 0).any():
        raise DataError(
            f"'{path.name}' has rows whose kv_heads do not divide heads",
            received=int((frame["heads"] % frame["kv_heads"] != 0).sum()),
            next_step="remove or repair these rows",
        )
    return frame.rename(columns={"batch": "b", "heads": "h", "kv_heads": "hkv", "head_dim": "d"}).assign(
        set=frame["system"] + " " + frame["dtype"] + "/" + frame["kv_dtype"]
    )


def _sizes(frame: pd.DataFrame) -> tuple[Array, Array]:
    q, kv = (frame[c].map(_SIZE).to_numpy(dtype=np.float64) for c in ("dtype", "kv_dtype"))
    return q, kv


def _checked(frame: pd.DataFrame, dims: list[str]) -> pd.DataFrame:
    for name in dims:
        if not (frame[name] >= 1).all():
            raise DataError(
                f"column {name} has values below 1", received=frame[name].min(), allowed=">= 1",
                next_step="remove or repair these rows",
            )  # fmt: skip
    for name in frame["system"].unique():
        system(AIC_SYSTEMS, str(name))
    return frame.reset_index(drop=True)


def _known(frame: pd.DataFrame, column: str, known: dict[str, object] | dict[str, tuple[float, float, float]]
           | dict[str, float]) -> None:  # fmt: skip
    unknown = sorted(set(frame[column]) - set(known))
    if unknown:
        raise DataError(
            f"column {column} has values without known element sizes", received=unknown, allowed=", ".join(known),
            next_step="add their sizes to training/external",
        )  # fmt: skip
