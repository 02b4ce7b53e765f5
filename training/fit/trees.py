"""Gradient-boosted and extremely randomised trees: fitted by scikit-learn, kept as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from graphs.hardware.calibration.regressors import TreeEnsemble

PARAMETERS = {
    "max_iter": 300, "max_leaf_nodes": 24, "learning_rate": 0.06, "min_samples_leaf": 6, "l2_regularization": 1e-3,
    # the default would hold out rows on its own in large families only, which changes the recipe with the row count
    "early_stopping": False,
}  # fmt: skip

FOREST = {"n_estimators": 40, "min_samples_leaf": 2, "max_features": 0.7}


def fit_trees(x: NDArray[np.float64], y: NDArray[np.float64], seed: int, **changes: int) -> TreeEnsemble:
    """Fit boosted trees on features (n, f) and targets (n,); `changes` override `PARAMETERS`."""
    model = HistGradientBoostingRegressor(**(PARAMETERS | changes), random_state=seed).fit(x, y)
    return export(model)


def fit_forest(x: NDArray[np.float64], y: NDArray[np.float64], seed: int, **changes: int) -> TreeEnsemble:
    """Fit extremely randomised trees (Geurts et al., Machine Learning 63, 2006), averaged.

    They hold out better than boosting on a few hundred rows.
    """
    model = ExtraTreesRegressor(**(FOREST | changes), random_state=seed, n_jobs=1).fit(x, y)
    feature, threshold, left, right, value, roots, depth = [], [], [], [], [], [], 0
    offset = 0
    for estimator in model.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        own = np.arange(tree.node_count)
        feature.append(np.where(leaf, 0, tree.feature))
        threshold.append(np.where(leaf, 0.0, tree.threshold))
        left.append(np.where(leaf, own, tree.children_left) + offset)
        right.append(np.where(leaf, own, tree.children_right) + offset)
        value.append(np.where(leaf, tree.value[:, 0, 0], 0.0) / len(model.estimators_))
        roots.append(offset)
        depth = max(depth, int(tree.max_depth))
        offset += tree.node_count
    return _ensemble(feature, threshold, left, right, value, roots, depth, 0.0)


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
    base = float(np.ravel(model._baseline_prediction)[0])
    return _ensemble(feature, threshold, left, right, value, roots, depth, base)


def _ensemble(
    feature: list[Any], threshold: list[Any], left: list[Any], right: list[Any], value: list[Any], roots: list[int],
    depth: int, base: float,
) -> TreeEnsemble:  # fmt: skip
    return TreeEnsemble(
        feature=np.concatenate(feature).astype(np.int16),
        threshold=_single(np.concatenate(threshold)),
        left=np.concatenate(left).astype(np.int32),
        right=np.concatenate(right).astype(np.int32),
        value=np.concatenate(value).astype(np.float32),
        roots=np.array(roots, dtype=np.int32),
        depth=depth,
        base=base,
    )


def _single(threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return thresholds of single precision, as they are stored, none below its own.

    Thresholds are often the value of a training row itself, and x <= t must go on to hold there.
    """
    near = threshold.astype(np.float32)
    return np.where(near < threshold, np.nextafter(near, np.float32(np.inf)), near).astype(np.float64)
