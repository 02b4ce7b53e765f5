"""The model of one set: boosted trees and randomised trees on log(latency / (base)), averaged in log space.

`base` is t0 + roofline time, as everywhere in this package, or (where validation inside the training rows says so) a
non-negative affine function of FLOP and bytes, which keeps its slope beyond the largest row seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.external.baselines import additive, affine

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

BOOSTED = {
    "max_iter": 400, "max_leaf_nodes": 31, "learning_rate": 0.08, "min_samples_leaf": 10, "l2_regularization": 1e-3,
    "max_features": 0.3, "early_stopping": False,
}  # fmt: skip
RANDOMISED = {"n_estimators": 30, "max_features": 0.4, "min_samples_leaf": 1, "n_jobs": 1}
#: Below this many rows fewer trees do.
FEW_ROWS, FEW_TREES, BEYOND_TREES = 3000, 120, 250
#: Rows that a choice is made on at most, on either side.
CHOOSING = 3000
BASES = ("roofline", "affine", "cache")
PRODUCT_BASES = ("roofline", "waves")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one set.

    Attributes
    ----------
    x : (n, f) float64
    latency_s, roofline_s, flops, bytes : (n,) float64
    cache_bytes : float
        Last-level cache, for the base that knows it.
    raw : (f,) bool
        Columns that are left out when queries lie beyond the largest row.
    waves : (n, t) float64, optional
        What the base `waves` adds up.
    kernel : (n,) int64, optional
        Which kernel ran, known of training rows alone; that of queries is never read.
    """

    x: Array
    latency_s: Array
    roofline_s: Array
    flops: Array
    bytes: Array
    cache_bytes: float
    raw: Mask
    waves: Array | None = None
    kernel: NDArray[np.int64] | None = None

    def take(self, some: NDArray[Any]) -> Rows:
        """Return some of the rows."""
        return Rows(
            self.x[some], self.latency_s[some], self.roofline_s[some], self.flops[some], self.bytes[some],
            self.cache_bytes, self.raw, None if self.waves is None else self.waves[some],
            None if self.kernel is None else self.kernel[some],
        )  # fmt: skip


def base_s(name: str, train: Rows, query: Rows) -> Array:
    """Return the base latency of queries.

    ``roofline``; ``affine``; ``cache``, affine with a kink at the cache; ``waves``, a sum of whole waves of tiles.
    """
    if name == "roofline":
        return float(np.quantile(train.latency_s, 0.01)) + query.roofline_s
    if name == "affine":
        return affine(train.flops, train.bytes, train.latency_s, query.flops, query.bytes)
    if name == "waves":
        assert train.waves is not None
        assert query.waves is not None
        return additive(train.waves, train.latency_s, query.waves)
    beyond = [np.maximum(r.bytes - train.cache_bytes, 0.0) for r in (train, query)]
    return affine(beyond[0], train.bytes, train.latency_s, beyond[1], query.bytes)


@dataclass(frozen=True, slots=True)
class Choice:
    """What validation inside the training rows chose.

    Attributes
    ----------
    base : str
    weights : (float, float, float)
        Of the boosted, the randomised and the linear member.
    kernels : bool
        Whether the probabilities of the kernels, learnt from the training rows, are columns too.
    beyond : bool
        Whether queries lie beyond the largest row: the boosted trees then weigh all columns at every split, so that the
        most physical ones win, and see none of the raw ones.
    """

    base: str = "roofline"
    weights: tuple[float, float, float] = (0.5, 0.5, 0.0)
    beyond: bool = False
    kernels: bool = False


#: For products beyond the largest m.  Validation inside smaller m cannot tell (efficiency still rises there); the
#: choice was made on one set, fp8 on the H100, and applied to all.
BEYOND = Choice("waves", (1.0, 0.0, 0.0), beyond=True)

#: Of matrix products, where randomised trees never helped.
BOOSTED_ALONE = ((1.0, 0.0, 0.0),)
#: Weights that validation chooses among: few, so that choosing costs no optimism.
WEIGHTS = ((0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.5, 0.0, 0.5), (0.0, 0.0, 1.0))


def choose(
    train: Rows, beyond: Mask, bases: Sequence[str], seed: int, extrapolate: bool = True,
    combinations: Sequence[tuple[float, float, float]] = WEIGHTS,
) -> Choice:  # fmt: skip
    """Choose base, weights, and whether to guess kernels.

    Parameters
    ----------
    train : Rows
    beyond : (n_train,) bool
        The training rows that stand to the others as the queries stand to all of them.
    bases : sequence of str
    seed : int
    extrapolate : bool
        Whether queries lie beyond the training rows.
    combinations : sequence of (float, float, float)
        Weights to choose among.
    """
    rng = np.random.default_rng(seed)
    # a part of many rows is enough to compare
    inner, held = (train.take(rng.permutation(np.flatnonzero(part))[:CHOOSING]) for part in (~beyond, beyond))
    best, chosen = np.inf, Choice()
    known = (False, True) if train.kernel is not None and len(np.unique(train.kernel)) > 1 else (False,)
    for name, kernels in itertools.product(bases, known):
        # a member without weight in any combination is not fitted
        used = (1.0, max(w[1] for w in combinations), max(w[2] for w in combinations))
        tried = Choice(name, used, beyond=extrapolate, kernels=kernels)
        each, base = members(inner, held, tried, seed, quick=True), base_s(name, inner, held)
        for weights in combinations:
            error = float(np.abs(base * np.exp(np.asarray(weights) @ each) / held.latency_s - 1.0).mean())
            if error < best:
                best, chosen = error, replace(tried, weights=weights)
    return chosen


def fit_predict(train: Rows, query: Rows, choice: Choice, seed: int) -> Array:
    """Fit on `train` and return the seconds of `query`, (n,)."""
    log = np.asarray(choice.weights) @ members(train, query, choice, seed)
    return base_s(choice.base, train, query) * np.exp(log)


def kernel_probabilities(train: Rows, query: Rows, seed: int) -> tuple[Array, Array]:
    """Return the probability of each kernel of the training rows, for these (out of fold) and for queries, (n, k).

    The profiler says which kernel ran; nobody can know it of a new shape, but it can be learnt, and a step of the
    latency from one kernel to another is easier to place with a label than with the latency alone.
    """
    assert train.kernel is not None
    _, label = np.unique(train.kernel, return_inverse=True)
    ran = np.eye(label.max() + 1)[label]
    forest = ExtraTreesRegressor(n_estimators=20, max_features=0.3, n_jobs=1, random_state=seed)
    folds = KFold(4, shuffle=True, random_state=seed)
    return cross_val_predict(forest, train.x, ran, cv=folds), forest.fit(train.x, ran).predict(query.x)


def members(train: Rows, query: Rows, choice: Choice, seed: int, quick: bool = False) -> Array:
    """Return log ratios to the base of boosted trees, randomised trees and a linear model, (3, n).

    `quick` takes a third of the trees, which is enough to compare.
    """
    y = np.log(train.latency_s / base_s(choice.base, train, train))
    if choice.beyond:
        train, query = (replace(r, x=r.x[:, ~r.raw]) for r in (train, query))
    if choice.kernels:
        guessed = kernel_probabilities(train, query, seed)
        train, query = (replace(r, x=np.hstack([r.x, p])) for r, p in zip((train, query), guessed, strict=True))
    share = 3 if quick else 1
    trees = FEW_TREES if len(y) < FEW_ROWS else BEYOND_TREES if choice.beyond else BOOSTED["max_iter"]
    changes = {"max_iter": trees // share, "max_features": 1.0 if choice.beyond else BOOSTED["max_features"]}
    boosted = HistGradientBoostingRegressor(**(BOOSTED | changes), random_state=seed).fit(train.x, y)
    out = np.zeros((3, len(query.x)))
    out[0] = boosted.predict(query.x)
    # members without weight are not fitted
    if choice.weights[1]:
        few = RANDOMISED | {"n_estimators": RANDOMISED["n_estimators"] // share}
        out[1] = ExtraTreesRegressor(**few, random_state=seed).fit(train.x, y).predict(query.x)
    if choice.weights[2]:
        linear = make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(train.x, y)
        # a straight line is trusted no further than the ratios that occur
        out[2] = np.clip(linear.predict(query.x), y.min(), y.max())
    return out
