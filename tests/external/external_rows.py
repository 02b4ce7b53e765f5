"""Tiny files in the formats of the sources, with made-up numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from training.external import aiconfigurator, neusight

STACK = {"system": "h100_sxm", "backend": "trtllm", "version": "1.3.0rc20", "kernel": "torch_flow"}


def gemm_rows(ms: list[int] | None = None, sites: list[tuple[int, int]] | None = None, seed: int = 0) -> pd.DataFrame:
    """A grid whose latency is an overhead plus 1.3 times the roofline, with 1 % scatter."""
    rng = np.random.default_rng(seed)
    rows = []
    for dtype, peak, size in (("bfloat16", 989e12, 2), ("fp8", 1978e12, 1)):
        for n, k in sites or [(n, k) for n in (256, 1024, 4096, 8192) for k in (256, 1024, 4096, 8192)]:
            for m in ms or [1, 8, 64, 65, 128, 129, 512, 2048, 8192]:
                seconds = 3e-6 + 1.3 * max(2 * m * n * k / peak, (m * k + n * k + m * n) * size / 3.35e12)
                rows.append({**STACK, "dtype": dtype, "m": m, "n": n, "k": k,
                             "latency_ms": 1e3 * seconds * rng.normal(1, 0.01)})  # fmt: skip
    return pd.DataFrame(rows)


def attention_rows() -> pd.DataFrame:
    rows = [
        {**STACK, "dtype": "bfloat16", "kv_dtype": kv, "window": w, "batch": b, "seq": s, "heads": 8, "kv_heads": g,
         "head_dim": 128, "latency_ms": 1e-3 * (5 + b * s / 50)}
        for kv in ("bfloat16", "fp8") for w in (0, 128) for b in (1, 4) for s in (64, 256, 1024) for g in (1, 8)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def neusight_rows(changes: dict[str, Any] | None = None) -> pd.DataFrame:
    """One row of every operator, FLOP and bytes by NeuSight's conventions."""
    common = {
        "gpu": "T4",
        "precision": "fp32",
        "neusight_used": 1,
        "latency_ms": 0.05,
        "kernel": "volta_sgemm_64x64_tn",
        "grid_x": 8,
    }
    rows: list[dict[str, Any]] = [
        {"op": "bmm", "b": 3, "m": 5, "n": 7, "k": 11, "flops": 2 * 3 * 5 * 7 * 11,
         "bytes": 4 * 3 * (5 * 11 + 11 * 7 + 5 * 7)},
        {"op": "linear", "b": 1, "m": 5, "n": 7, "k": 11, "flops": 2 * 5 * 7 * 11,
         "bytes": 4 * (5 * 11 + 11 * 7 + 5 * 7)},
        {"op": "conv", "b": 2, "c_in": 3, "c_out": 4, "ksize": 3, "in_size": 8, "stride": 1, "padding": 1,
         "flops": 2 * 2 * 4 * 8 * 8 * 3 * 9, "bytes": 4 * (2 * 3 * 64 + 4 * 27 + 2 * 4 * 64)},
        {"op": "layernorm", "rows": 6, "cols": 10, "flops": 360, "bytes": 480},
        {"op": "softmax", "rows": 6, "cols": 10, "flops": 300, "bytes": 480},
    ]  # fmt: skip
    for op in ("add", "mul", "div", "pow"):
        rows.append({"op": op, "rows": 6, "cols": 10, "flops": 60, "bytes": 720})
    for op in ("addu", "mulu", "divu", "powu", "relu", "gelu", "tanh"):
        rows.append({"op": op, "rows": 6, "cols": 10, "flops": 60, "bytes": 480})
    columns = list(neusight._COLUMNS)
    return pd.DataFrame([common | r | (changes or {}) for r in rows]).reindex(columns=columns)


def write(folder: Path, gemm: pd.DataFrame | None = None, operators: pd.DataFrame | None = None) -> Path:
    """Write both sources below `folder`."""
    aic, ns = folder / "aiconfigurator", folder / "neusight"
    aic.mkdir(parents=True, exist_ok=True)
    ns.mkdir(exist_ok=True)
    (gemm_rows() if gemm is None else gemm).to_csv(aic / aiconfigurator.GEMM_FILE, index=False)
    attention_rows().to_csv(aic / aiconfigurator.CONTEXT_FILE, index=False)
    attention_rows().to_csv(aic / aiconfigurator.GENERATION_FILE, index=False)
    (neusight_rows() if operators is None else operators).to_csv(ns / neusight.FILE, index=False)
    return folder
