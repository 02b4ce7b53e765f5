"""Gradient-boosted trees: fitted by scikit-learn, kept as plain arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from graphs.hardware.calibration.regressors import TreeEnsemble

PARAMETERS = {
    "max_iter": 300, "max_leaf_nodes": 24, "learning_rate": 0.06, "min_samples_leaf": 6, "l2_regularization": 1e-3,
    # the default would hold out rows on its own in large families only, which changes the recipe with the row count
    "early_stopping": False,
}  # fmt: skip


def fit_trees(x: NDArray[np.float64], y: NDArray[np.float64], seed: int, **changes: int) -> TreeEnsemble:
    """Fit boosted trees on features (n, f) and targets (n,); `changes` override `PARAMETERS`."""
    model = HistGradientBoostingRegressor(**(PARAMETERS | changes), random_state=seed).fit(x, y)
    return export(model)


def export(model: HistGradientBoostingRegressor) -> TreeEnsemble:
    """Return the fitted trees as arrays.

    The trees are a private attribute of scikit-learn; this is the only place that reads it, and a test compares
    the result with the library's own predictions.
    """
    feature, threshold, left, right, value, roots, depth = [], [], [], [], [], [], 0
    offset = 0
    for (predictor,) in model._predictors:
        nodes = predictor.nodes
        if nodes["is_categorical"].any():
            raise NotImplementedError("categorical splits are not exported")
        leaf = nodes["is_leaf"].astype(bool)
        own = np.arange(len(nodes))
        feature.append(np.where(leaf, 0, nodes["feature_idx"]))
        threshold.append(np.where(leaf, 0.0, nodes["num_threshold"]))
        left.append(np.where(leaf, own, nodes["left"]) + offset)
        right.append(np.where(leaf, own, nodes["right"]) + offset)
        value.append(np.where(leaf, nodes["value"], 0.0))
        roots.append(offset)
        depth = max(depth, int(nodes["depth"].max()))
        offset += len(nodes)
    return TreeEnsemble(
        feature=np.concatenate(feature).astype(np.int16),
        threshold=np.concatenate(threshold).astype(np.float64),
        left=np.concatenate(left).astype(np.int32),
        right=np.concatenate(right).astype(np.int32),
        value=np.concatenate(value).astype(np.float32),
        roots=np.array(roots, dtype=np.int32),
        depth=depth,
        base=float(np.ravel(model._baseline_prediction)[0]),
    )
