"""What the ablation table compares, by the names its rows are known by, and the figures each is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Ingredients in the order of the table.  The three first differ in the target alone.
LATENCY, ROOFLINE = "trees: log latency", "trees: log (latency / roofline)"
FULL = "trees: log (latency / (t0 + roofline))"
JOINT, TREES_JOINT, CLASSES = "joint GP", "trees + joint GP", "joint + class GPs"
STACK = "stack: trees + joint + class GPs"
#: What `graphs train` fits: the stack, with the means that a family is given besides (see `training.fit.family`).
RECIPE = "the recipe: stack, robust to slow outliers, a forest on few rows"
#: Folds that the learning curve is scored on, and the shares of the other folds' rows that are learnt from.
CURVE_FOLDS, CURVE_SHARES = (0, 1), (0.25, 0.5, 1.0)
#: Kernel families of fewer rows share one column.
RARE = 6


def figures(ape: NDArray[np.float64]) -> dict[str, float]:
    """Return rows, median, mean and the share below 10 % of absolute percentage errors."""
    return {
        "rows": len(ape), "median_ape": round(float(np.median(ape)), 5), "mape": round(float(ape.mean()), 5),
        "within_10pct": round(float((ape < 0.1).mean()), 4),
    }  # fmt: skip
