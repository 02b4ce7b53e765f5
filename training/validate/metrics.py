"""Error figures, the same for the model and for every baseline."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def metrics(
    measured_s: NDArray[np.float64],
    predicted_s: NDArray[np.float64],
    low_s: NDArray[np.float64] | None = None,
    high_s: NDArray[np.float64] | None = None,
    source: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Return error figures as fractions.

    Parameters
    ----------
    measured_s, predicted_s : (n,) float64
        Seconds.
    low_s, high_s : (n,) float64, optional
        Bounds of the interval; rows without one are left out of `interval_coverage`.
    source : (n,) str, optional

    Returns
    -------
    dict
        n, mape and median_ape and p90_ape of |predicted / measured - 1|, within_10pct, bias (geometric mean of
        predicted / measured, minus 1: positive is too slow), source_share, interval_coverage and
        interval_half_width (median, in log latency).  Figures of no rows are None.
    """
    n = len(measured_s)
    out: dict[str, Any] = dict.fromkeys(
        ("mape", "median_ape", "p90_ape", "within_10pct", "bias", "interval_coverage", "interval_half_width")
    )
    out = {"n": n, **out, "source_share": {}}
    if n == 0:
        return out
    ratio = predicted_s / measured_s
    ape = np.abs(ratio - 1.0)
    out |= {
        "mape": float(ape.mean()),
        "median_ape": float(np.median(ape)),
        "p90_ape": float(np.quantile(ape, 0.9)),
        "within_10pct": float((ape < 0.1).mean()),
        "bias": float(math.expm1(np.log(ratio).mean())),
    }
    if source is not None:
        names, counts = np.unique(np.asarray(source, dtype=np.str_), return_counts=True)
        out["source_share"] = {str(s): float(c / n) for s, c in zip(names, counts, strict=True)}
    if low_s is not None and high_s is not None:
        has = np.isfinite(low_s) & np.isfinite(high_s)
        if has.any():
            inside = (measured_s >= low_s) & (measured_s <= high_s)
            out["interval_coverage"] = float(inside[has].mean())
            out["interval_half_width"] = float(np.median(0.5 * np.log(high_s[has] / low_s[has])))
    return out
