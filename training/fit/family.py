"""One family: cross-validate the learners, weigh them, calibrate the interval, fit on all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from graphs.hardware.calibration.fitted import Interval
from graphs.hardware.calibration.regressors import Regressor
from training.fit.gp import fit_gp, fit_hyperparameters
from training.fit.trees import fit_trees

FOLDS = 5
LEVEL = 0.9
#: Added to the spread, so that members which agree by chance do not claim certainty.
FLOOR = 0.02
Fit = Callable[[NDArray[np.float64], NDArray[np.float64]], Regressor]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one family.

    Attributes
    ----------
    x : (n, f) float64
    latency_s, roofline_s : (n,) float64
    fold : (n,) int
    train : (n,) bool
        False for held-out rows.
    """

    x: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    roofline_s: NDArray[np.float64]
    fold: NDArray[np.int64]
    train: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FittedFamily:
    """Members of one family, fitted without the held-out rows (`twin`) and on all rows (`final`)."""

    t0_s: float
    twin: Sequence[Regressor]
    final: Sequence[Regressor]
    weights: NDArray[np.float64]
    interval: Interval
    scores: dict[str, Any]


def fit_family(rows: Rows, seed: int) -> FittedFamily:
    """Fit one family.

    The weights of the members and the interval come from out-of-fold predictions of training rows alone; nothing
    is chosen on held-out rows.
    """
    with threadpool_limits(limits=1):
        import torch

        torch.set_num_threads(1)
        t0 = float(np.quantile(rows.latency_s[rows.train], 0.01))
        y = np.log(rows.latency_s / (t0 + rows.roofline_s))
        learners = _learners(rows.x[rows.train], y[rows.train], seed)
        out_of_fold = _out_of_fold(rows, y, learners)
        weights = _weigh(out_of_fold, y[rows.train])
        learners = [fit for fit, w in zip(learners, weights, strict=True) if w > 0]
        out_of_fold, weights = out_of_fold[weights > 0], weights[weights > 0]
        residual = np.abs(y[rows.train] - weights @ out_of_fold)
        return FittedFamily(
            t0_s=t0,
            twin=[fit(rows.x[rows.train], y[rows.train]) for fit in learners],
            final=[fit(rows.x, y) for fit in learners],
            weights=weights,
            interval=conformal(residual, out_of_fold.std(axis=0)),
            scores=_scores(np.exp(weights @ out_of_fold - y[rows.train])),
        )


def _learners(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> list[Fit]:
    hyper = fit_hyperparameters(x, y, seed)
    return [lambda a, b: fit_trees(a, b, seed), lambda a, b: fit_gp(a, b, hyper)]


def _out_of_fold(rows: Rows, y: NDArray[np.float64], learners: Sequence[Fit]) -> NDArray[np.float64]:
    """Return out-of-fold predictions of the training rows, (learners, n_train)."""
    x, target, fold = rows.x[rows.train], y[rows.train], rows.fold[rows.train]
    out = np.empty((len(learners), len(target)))
    for k in np.unique(fold):
        inside, outside = fold == k, fold != k
        for i, fit in enumerate(learners):
            out[i, inside] = fit(x[outside], target[outside]).predict(x[inside])
    return out


def _weigh(predictions: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return non-negative weights of sum 1 with the least squared error; small ones become 0."""
    # Centring makes the sum-to-one constraint almost free; a heavy extra row enforces it.
    heavy = 1e3 * np.abs(y).max() + 1.0
    a = np.vstack([predictions.T, np.full(len(predictions), heavy)])
    weights, _ = nnls(a, np.append(y, heavy))
    weights[weights < 0.05] = 0.0
    return np.asarray(weights / weights.sum())


def conformal(residual: NDArray[np.float64], spread: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return the split-conformal interval of scores |residual| / (spread + floor).

    The quantile has rank ceil((n + 1) level), which gives the coverage guarantee for exchangeable rows
    (Lei et al., JASA 113, 2018, theorem 2.2).
    """
    score = np.sort(residual / (spread + FLOOR))
    rank = min(int(np.ceil((len(score) + 1) * level)), len(score))
    return Interval(quantile=float(score[rank - 1]), floor=FLOOR, level=level, rows=len(score))


def _scores(ratio: NDArray[np.float64]) -> dict[str, float]:
    ape = np.abs(ratio - 1.0)
    return {
        "rows": len(ape), "cv_median_ape": round(float(np.median(ape)), 5), "cv_mape": round(float(ape.mean()), 5),
    }  # fmt: skip
