"""One family: cross-validate the learners, weigh them, calibrate the interval, fit on all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from graphs.hardware.calibration.fitted import Interval
from graphs.hardware.calibration.regressors import Regressor
from training.fit.gp import Hyperparameters, Labels, fit_class_hyperparameters, fit_gps
from training.fit.trees import fit_trees

FOLDS = 5
LEVEL = 0.9
#: Added to the spread, so that members which agree by chance do not claim certainty.
FLOOR = 0.02
#: Outputs of a smaller weight are dropped.
LEAST_WEIGHT = 0.05


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
    labels : dict of (n,) int
        Class of each row by partition.
    """

    x: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    roofline_s: NDArray[np.float64]
    fold: NDArray[np.int64]
    train: NDArray[np.bool_]
    labels: dict[str, NDArray[np.int64]] = field(default_factory=dict)


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
        everything = np.ones(len(y), dtype=bool)
        recipes: list[Recipe] = [_Trees(seed), _Processes.tuned(rows, y, seed)]
        out_of_fold = _out_of_fold(rows, y, recipes)
        weights = _weigh(out_of_fold, y[rows.train])
        recipes, kept = _prune(recipes, weights, rows)
        out_of_fold, weights = out_of_fold[kept], weights[kept] / weights[kept].sum()
        residual = np.abs(y[rows.train] - weights @ out_of_fold)
        return FittedFamily(
            t0_s=t0,
            twin=[r.fit(rows, y, rows.train) for r in recipes],
            final=[r.fit(rows, y, everything) for r in recipes],
            weights=weights,
            interval=conformal(residual, out_of_fold.std(axis=0)),
            scores=_scores(np.exp(weights @ out_of_fold - y[rows.train])),
        )


class Recipe(Protocol):
    """How to fit one member on some of the rows; `n_outputs` is the number of predictions it will give a row."""

    def n_outputs(self, rows: Rows) -> int: ...

    def fit(self, rows: Rows, y: NDArray[np.float64], some: NDArray[np.bool_]) -> Regressor: ...


@dataclass(frozen=True, slots=True)
class _Trees:
    seed: int

    def n_outputs(self, rows: Rows) -> int:
        return 1

    def fit(self, rows: Rows, y: NDArray[np.float64], some: NDArray[np.bool_]) -> Regressor:
        return fit_trees(rows.x[some], y[some], self.seed)


@dataclass(frozen=True, slots=True)
class _Processes:
    hyper: Mapping[tuple[str, int], Hyperparameters]
    partitions: tuple[str, ...]

    @classmethod
    def tuned(cls, rows: Rows, y: NDArray[np.float64], seed: int) -> _Processes:
        """Return the recipe with hyperparameters from the training rows."""
        labels = _some_labels(rows, rows.train, tuple(rows.labels))
        hyper = fit_class_hyperparameters(rows.x[rows.train], y[rows.train], labels, seed)
        # A partition in which no class has enough rows is the joint process again.
        useful = tuple(name for name in rows.labels if any(key[0] == name for key in hyper))
        return cls(hyper, useful)

    def n_outputs(self, rows: Rows) -> int:
        return 1 + len(self.partitions)

    def fit(self, rows: Rows, y: NDArray[np.float64], some: NDArray[np.bool_]) -> Regressor:
        return fit_gps(rows.x[some], y[some], _some_labels(rows, some, self.partitions), self.hyper)


def _some_labels(rows: Rows, some: NDArray[np.bool_], partitions: Sequence[str]) -> Labels:
    return {name: rows.labels[name][some] for name in partitions}


def _out_of_fold(rows: Rows, y: NDArray[np.float64], recipes: Sequence[Recipe]) -> NDArray[np.float64]:
    """Return out-of-fold predictions of the training rows, (outputs, n_train)."""
    out = np.empty((sum(r.n_outputs(rows) for r in recipes), len(y)))
    for k in np.unique(rows.fold[rows.train]):
        inside, outside = rows.train & (rows.fold == k), rows.train & (rows.fold != k)
        classes = {name: label[inside] for name, label in rows.labels.items()}
        fitted = [r.fit(rows, y, outside) for r in recipes]
        out[:, inside] = np.concatenate([m.outputs(rows.x[inside], classes) for m in fitted])
    return out[:, rows.train]


def _prune(
    recipes: Sequence[Recipe], weights: NDArray[np.float64], rows: Rows
) -> tuple[list[Recipe], NDArray[np.bool_]]:
    """Drop members and partitions without weight; return the recipes left and which outputs they give."""
    left: list[Recipe] = []
    kept = np.zeros(len(weights), dtype=bool)
    taken = 0
    for recipe in recipes:
        n = recipe.n_outputs(rows)
        own = weights[taken : taken + n]
        if own.any():
            keep = np.ones(n, dtype=bool)
            if isinstance(recipe, _Processes):
                # the joint process stays: it answers classes with too few rows
                keep[1:] = own[1:] > 0
                names = tuple(p for p, k in zip(recipe.partitions, keep[1:], strict=True) if k)
                hyper = {key: h for key, h in recipe.hyper.items() if key[0] in ("", *names)}
                recipe = _Processes(hyper, names)
            left.append(recipe)
            kept[taken : taken + n] = keep
        taken += n
    return left, kept


def _weigh(predictions: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return non-negative weights of sum 1 with the least squared error; small ones become 0."""
    # Centring makes the sum-to-one constraint almost free; a heavy extra row enforces it.
    heavy = 1e3 * np.abs(y).max() + 1.0
    a = np.vstack([predictions.T, np.full(len(predictions), heavy)])
    weights, _ = nnls(a, np.append(y, heavy))
    weights[weights < LEAST_WEIGHT] = 0.0
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
