"""A small summary of made-up rows, for the renderings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.hardware.profile import load_profile
from training.validate.baselines import attainable_s
from training.validate.summary import summarise


def made_up(n: int = 120, error: float = 0.05, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scored and training rows of four kinds; half of the roofline, predictions off by `error`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(2 * n):
        op = ("linear", "relu", "softmax", "gelu")[i % 4]
        size = int(2 ** rng.uniform(6, 13))
        params: dict[str, Any] = {
            "linear": {"m": size, "n": 64 + i, "k": 512, "bias": True},
            "relu": {"numel": 1000 * size + i}, "gelu": {"numel": 1000 * size + i},
            "softmax": {"rows": size, "cols": 100 + i},
        }[op]  # fmt: skip
        dtype = ("bf16", "fp32")[i // 4 % 2]
        cost = ops.evaluate(op, params, ops.itemsize(dtype))
        rows.append({"op": op, "dtype": dtype, "params": params, "flops": cost.flops, "bytes": cost.bytes})
    frame = pd.DataFrame(rows)
    truth = 2.0 * attainable_s(frame.assign(median_us=1.0), load_profile("h100-sxm")) + 2e-6
    frame["median_us"] = 1e6 * truth
    frame["std_us"] = 0.01 * frame["median_us"]
    predicted = truth * np.exp(rng.normal(0.0, error, len(frame)))
    frame = frame.assign(
        split=np.where(np.arange(2 * n) % 3 == 0, "largest_flops", "random"), predicted_s=predicted,
        low_s=predicted * np.exp(-1.7 * error), high_s=predicted * np.exp(1.7 * error), source="model", reason="",
        extrapolated_s=predicted, retest_us=frame["median_us"] * 1.002,
    )  # fmt: skip
    return frame.iloc[:n].reset_index(drop=True), frame.iloc[n:].reset_index(drop=True)


def summary_of(rows: pd.DataFrame, train: pd.DataFrame) -> dict[str, Any]:
    """Return the summary of made-up rows on h100-sxm."""
    return summarise(rows, train, load_profile("h100-sxm"), "Made-up rows.", {"data": "none", "seed": 0})


def models() -> dict[str, Any]:
    """Return the figures of two made-up whole models."""
    figures = {
        "n": 2, "mape": 0.15, "median_ape": 0.15, "p90_ape": 0.19, "within_10pct": 0.5, "bias": 0.04,
        "source_share": {"model": 1.0}, "interval_coverage": 1.0, "interval_half_width": 0.2,
    }  # fmt: skip
    rows = [
        {"model": m, "batch": 8, "dtype": "bf16", "mode": "graph", "measured_s": 1e-3, "predicted_s": p,
         "low_s": 0.8e-3, "high_s": 1.4e-3, "default_20pct": 1e-4, "roofline": 1e-5, "calls": 10,
         "time_share": {"model": 1.0}, "unmodelled": 0} for m, p in (("resnet18", 1.1e-3), ("<vgg>", 0.8e-3))
    ]  # fmt: skip
    return {**figures, "by_mode": {"graph": figures, "device": figures}, "by_dtype": {"bf16": figures},
            "by_model": {}, "baselines": {"roofline": figures}, "rows": rows, "skipped": []}  # fmt: skip
