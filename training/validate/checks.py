"""What one error figure does not say: order, calibration of the interval at other levels, figures by physical bins."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Rows an operator needs for a rank correlation or a coverage of its own.
FEW = 8
#: Nominal levels of the reliability diagram.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: Edges of the roofline time, seconds: a size that is known before anything is measured.
SIZES = (1e-6, 1e-5, 1e-4, 1e-3)
SIZE_NAMES = ("below 1 us", "1-10 us", "10-100 us", "0.1-1 ms", "above 1 ms")
#: Edges of the arithmetic intensity, FLOP/byte.
INTENSITIES = (0.25, 1.0, 8.0, 64.0, 256.0)
INTENSITY_NAMES = ("below 0.25", "0.25-1", "1-8", "8-64", "64-256", "above 256")


def spearman(a: Array, b: Array) -> float | None:
    """Return Spearman's rank correlation, with mean ranks for ties; None where either side is constant.

    Examples
    --------
    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
    0.5
    """
    if len(a) < 2:
        return None
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else None


def _ranks(values: Array) -> Array:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2.0)[place], dtype=np.float64)


def pairs_in_order(measured: Array, predicted: Array, apart: float = 0.05) -> tuple[int, int]:
    """Return how many pairs that differ by more than `apart` are put in the right order, and how many there are."""
    lm, lp = np.log(measured), np.log(predicted)
    right = total = 0
    for i in range(len(lm) - 1):
        d = lm[i + 1 :] - lm[i]
        told = np.abs(d) > math.log1p(apart)
        total += int(told.sum())
        right += int((np.sign(lp[i + 1 :] - lp[i]) == np.sign(d))[told].sum())
    return right, total


def rank(op: NDArray[Any], measured: Array, predicted: Array) -> dict[str, Any]:
    """Return how well options are put in order: over all rows, and within each kind with at least `FEW` rows.

    Returns
    -------
    dict
        ``spearman`` of all rows; ``within_op`` {op: {n, spearman, pairs_in_order}}; ``within_op_median`` of the
        correlations; ``pairs_in_order``: share of the pairs within a kind, more than 5 % apart, in the right order.
    """
    within: dict[str, Any] = {}
    right = total = 0
    for name in sorted(set(map(str, op))):
        keep = op == name
        r, t = pairs_in_order(measured[keep], predicted[keep])
        right, total = right + r, total + t
        if keep.sum() >= FEW:
            within[name] = {
                "n": int(keep.sum()),
                "spearman": spearman(measured[keep], predicted[keep]),
                "pairs_in_order": r / t if t else None,
            }
    known = [w["spearman"] for w in within.values() if w["spearman"] is not None]
    return {
        "spearman": spearman(measured, predicted),
        "within_op": within,
        "within_op_median": float(np.median(known)) if known else None,
        "pairs_in_order": right / total if total else None,
        "pairs": total,
    }


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share of n, Wilson (1927).

    Examples
    --------
    >>> tuple(round(v, 3) for v in wilson(0.9, 100))
    (0.826, 0.945)
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def reliability(op: NDArray[Any], measured: Array, predicted: Array, low: Array, high: Array) -> dict[str, Any]:
    """Return how often the interval holds: at 90 % for each kind, and at other levels.

    The model states 90 % intervals.  At another level p the interval is the stated one scaled in log latency by
    z(p) / z(90 %), as for a normal distribution: what a user would do who needs another level.

    Returns
    -------
    dict
        ``levels`` [{nominal, observed, n}]; ``by_op`` {op: {n, observed, low, high}} at 90 %, with the 95 % Wilson
        interval of the observed share.
    """
    has = np.isfinite(low) & np.isfinite(high) & (high > low)
    out: dict[str, Any] = {"levels": [], "by_op": {}}
    if not has.any():
        return out
    half = np.where(measured > predicted, np.log(high / predicted), np.log(predicted / low))
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.abs(np.log(measured / predicted)) / half
    normal = NormalDist()
    for level in LEVELS:
        factor = normal.inv_cdf(0.5 + level / 2) / normal.inv_cdf(0.95)
        out["levels"].append({"nominal": level, "observed": float((score[has] <= factor).mean()), "n": int(has.sum())})
    for name in sorted(set(map(str, op[has]))):
        keep = has & (op == name)
        n = int(keep.sum())
        if n >= FEW:
            observed = float((score[keep] <= 1.0).mean())
            lower, upper = wilson(observed, n)
            out["by_op"][name] = {"n": n, "observed": observed, "low": lower, "high": upper}
    return out


def bins(values: Array, edges: tuple[float, ...], names: tuple[str, ...]) -> NDArray[np.str_]:
    """Return the name of the bin of each value."""
    return np.asarray(names, dtype=np.str_)[np.digitize(values, edges)]
