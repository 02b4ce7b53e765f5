"""One family: cross-validate the members, weigh them, calibrate the interval, fit on all rows, distil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from graphs.hardware.calibration import features
from graphs.hardware.calibration.fitted import Interval
from graphs.hardware.calibration.regressors import Regressor
from training.fit.augmented import AugmentedRecipe
from training.fit.gp import (
    FOLD_HYPER_ROWS,
    FOLD_STEPS,
    Hyperparameters,
    Labels,
    fit_class_hyperparameters,
    fit_gps,
)
from training.fit.student import fit_student
from training.fit.trees import fit_forest, fit_trees

Array = NDArray[np.float64]

FOLDS = 5
LEVEL = 0.9
#: Added to the spread, so that members which agree by chance do not claim certainty.
FLOOR = 0.02
#: Outputs of a smaller weight are dropped.
LEAST_WEIGHT = 0.05
WEIGHING_ROUNDS = 15
#: Training rows below which a family gets a forest too, and its processes length scales of their own in each fold:
#: on few rows they would otherwise have adapted to the rows that are to judge them.
SMALL_FAMILY = 600
#: Families whose processes distrust slow outliers, and how many standard deviations they are believed for.
SLOW_OUTLIERS = {"conv2d": 1.5, "dwconv2d": 1.5, "gemm": 1.5}
#: Families whose length scales adapt to single rows more than others', and so get their own in each fold too.
ADAPTABLE = ("conv2d", "dwconv2d", "gemm")
#: Families of GPUs whose length scales are chosen by an objective that a library's poor choices do not rule.
ROBUST = ("conv2d",)
#: The same for every family on processors: their clock, other tenants and threads woken late slow single calls down.
PROCESSOR_OUTLIERS = 1.5


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one family.

    Attributes
    ----------
    family : str
    names : tuple of str
        Features.
    x : (n, f) float64
    latency_s, roofline_s : (n,) float64
    fold : (n,) int
    train : (n,) bool
        False for held-out rows.
    own : (n,) bool
        False for rows carried over from a related machine: learnt from, never scored or calibrated on.
    synthetic_x : (s, f) float64
        Features of synthetic configurations, for the student.
    elsewhere : sequence of Regressor
        Of another processor's efficiency, from these features (`training.fit.augmented`).
    """

    family: str
    names: tuple[str, ...]
    x: Array
    latency_s: Array
    roofline_s: Array
    fold: NDArray[np.int64]
    train: NDArray[np.bool_]
    own: NDArray[np.bool_]
    synthetic_x: Array
    elsewhere: Sequence[Regressor] = ()

    def labels(self, some: NDArray[np.bool_], partitions: Sequence[str] | None = None) -> dict[str, NDArray[np.int64]]:
        """Return the class of each of some rows, by partition."""
        found = features.partitions(self.family, list(self.names), self.x[some])
        return found if partitions is None else {name: found[name] for name in partitions}


@dataclass(frozen=True, slots=True)
class Stack:
    """Members and the weights of their outputs."""

    members: Sequence[Regressor]
    weights: Array

    def predict(self, x: Array, classes: Labels) -> tuple[Array, Array]:
        """Return prediction and spread, both (n,)."""
        each = np.concatenate([m.outputs(x, classes) for m in self.members])
        return self.weights @ each, each.std(axis=0)


@dataclass(frozen=True, slots=True)
class FittedFamily:
    """One family fitted without the held-out rows (`twin`, and the `teacher` it learnt from) and on all (`final`)."""

    t0_s: float
    teacher: Stack
    twin: Stack
    final: Stack
    interval: Interval
    scores: dict[str, Any]


def fit_family(rows: Rows, seed: int, distil: bool = True) -> FittedFamily:
    """Fit one family.

    The weights of the members and the interval come from out-of-fold predictions of training rows alone; nothing
    is chosen on held-out rows.  With `distil`, a student takes the place of each stack.
    """
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        t0 = float(np.quantile(rows.latency_s[rows.train & rows.own], 0.01))
        y = np.log(rows.latency_s / (t0 + rows.roofline_s))
        everything = np.ones(len(y), dtype=bool)
        recipes = recipes_for(rows, y, seed)
        out_of_fold = _out_of_fold(rows, y, recipes)
        own = rows.own[rows.train]
        weights = _weigh(out_of_fold[:, own], y[rows.train][own])
        recipes, kept = _prune(recipes, weights)
        out_of_fold, weights = out_of_fold[kept], weights[kept] / weights[kept].sum()
        log_error = (weights @ out_of_fold - y[rows.train])[own]
        spread = out_of_fold.std(axis=0)
        teacher = Stack([r.fit(rows, y, rows.train) for r in recipes], weights)
        final = Stack([r.fit(rows, y, everything) for r in recipes], weights)
        twin = teacher
        if distil:
            twin = _student(teacher, rows, y, rows.train, spread, seed)
            # rows that were in no fold get the spread of the teacher that has not seen them
            all_spread = teacher.predict(rows.x, rows.labels(everything))[1]
            all_spread[rows.train] = spread
            final = _student(final, rows, y, everything, all_spread, seed)
        return FittedFamily(
            t0, teacher, twin, final, conformal(np.abs(log_error), spread[own]), _scores(np.exp(log_error))
        )


def _student(teacher: Stack, rows: Rows, y: Array, some: NDArray[np.bool_], spread: Array, seed: int) -> Stack:
    classes = features.partitions(rows.family, list(rows.names), rows.synthetic_x)
    labelled = teacher.predict(rows.synthetic_x, classes)
    return Stack([fit_student(rows.x[some], y[some], spread, rows.synthetic_x, *labelled, seed)], np.ones(1))


class Recipe(Protocol):
    """How to fit one member on some of the rows; `n_outputs` is the number of predictions it will give a row.

    `without` is the recipe as it would be had only these rows been there to choose its settings by.
    """

    def n_outputs(self) -> int: ...

    def without(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> Recipe: ...

    def fit(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> Regressor: ...


def recipes_for(rows: Rows, y: Array, seed: int) -> list[Recipe]:
    """Return the members of a family before weighing.

    Trees and processes; where rows are few a forest, and on processors members that know of costs.
    """
    more: list[Recipe] = []
    if rows.train.sum() < SMALL_FAMILY:
        more.append(_Forest(seed))
        if "lg_threads" in rows.names:
            more.append(AugmentedRecipe(rows.elsewhere, seed))
    return [_Trees(seed), *more, _Processes.tuned(rows, y, seed)]


@dataclass(frozen=True, slots=True)
class _Trees:
    seed: int

    def n_outputs(self) -> int:
        return 1

    def without(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> _Trees:
        return self

    def fit(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> Regressor:
        return fit_trees(rows.x[some], y[some], self.seed)


@dataclass(frozen=True, slots=True)
class _Forest:
    seed: int

    def n_outputs(self) -> int:
        return 1

    def without(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> _Forest:
        return self

    def fit(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> Regressor:
        return fit_forest(rows.x[some], y[some], self.seed)


@dataclass(frozen=True, slots=True)
class _Processes:
    hyper: Mapping[tuple[str, int], Hyperparameters]
    partitions: tuple[str, ...]
    seed: int = 0
    nested: bool = False
    tail: float | None = None
    robust: bool = False

    @classmethod
    def tuned(cls, rows: Rows, y: Array, seed: int, robust: bool | None = None) -> _Processes:
        """Return the recipe with hyperparameters from the training rows; `robust` is the family's own unless given."""
        labels = rows.labels(rows.train)
        if robust is None:
            robust = rows.family in ROBUST and "lg_threads" not in rows.names
        hyper = fit_class_hyperparameters(rows.x[rows.train], y[rows.train], labels, seed, robust=robust)
        # A partition in which no class has enough rows is the joint process again.
        useful = tuple(name for name in labels if any(key[0] == name for key in hyper))
        nested = rows.family in ADAPTABLE or bool(rows.train.sum() < SMALL_FAMILY)
        tail = SLOW_OUTLIERS.get(rows.family, PROCESSOR_OUTLIERS if "lg_threads" in rows.names else None)
        return cls(hyper, useful, seed, nested, tail, robust)

    def without(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> _Processes:
        if not self.nested:
            return self
        labels = rows.labels(some, self.partitions)
        settings = (self.seed, FOLD_HYPER_ROWS, FOLD_STEPS, self.robust)
        return replace(self, hyper=fit_class_hyperparameters(rows.x[some], y[some], labels, *settings))

    def n_outputs(self) -> int:
        return 1 + len(self.partitions)

    def fit(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> Regressor:
        return fit_gps(rows.x[some], y[some], rows.labels(some, self.partitions), self.hyper, self.tail)


def _out_of_fold(rows: Rows, y: Array, recipes: Sequence[Recipe]) -> Array:
    """Return out-of-fold predictions of the training rows, (outputs, n_train)."""
    out = np.empty((sum(r.n_outputs() for r in recipes), len(y)))
    for k in np.unique(rows.fold[rows.train]):
        inside, outside = rows.train & (rows.fold == k), rows.train & (rows.fold != k)
        classes = rows.labels(inside)
        fitted = [r.without(rows, y, outside).fit(rows, y, outside) for r in recipes]
        out[:, inside] = np.concatenate([m.outputs(rows.x[inside], classes) for m in fitted])
    return out[:, rows.train]


def _prune(recipes: Sequence[Recipe], weights: Array) -> tuple[list[Recipe], NDArray[np.bool_]]:
    """Drop members and partitions without weight; return the recipes left and which outputs they give."""
    left: list[Recipe] = []
    kept = np.zeros(len(weights), dtype=bool)
    taken = 0
    for recipe in recipes:
        n = recipe.n_outputs()
        own = weights[taken : taken + n]
        if own.any():
            keep = np.ones(n, dtype=bool)
            if isinstance(recipe, _Processes):
                # the joint process stays: it answers classes with too few rows
                keep[1:] = own[1:] > 0
                names = tuple(p for p, k in zip(recipe.partitions, keep[1:], strict=True) if k)
                hyper = {key: h for key, h in recipe.hyper.items() if key[0] in ("", *names)}
                recipe = replace(recipe, hyper=hyper, partitions=names)
            left.append(recipe)
            kept[taken : taken + n] = keep
        taken += n
    return left, kept


def _weigh(predictions: Array, y: Array) -> Array:
    """Return non-negative weights of sum 1 with the least absolute error; small ones become 0.

    Least absolute values by iteratively reweighted least squares: a few rows of a library's worst choices would
    rule squares.
    """
    weights = np.full(len(predictions), 1.0 / len(predictions))
    for _ in range(WEIGHING_ROUNDS):
        scale = 1.0 / np.sqrt(np.maximum(np.abs(weights @ predictions - y), FLOOR))
        # a heavy extra row enforces the sum
        heavy = 1e3 * np.abs(y * scale).max() + 1.0
        a = np.vstack([predictions.T * scale[:, None], np.full(len(predictions), heavy)])
        weights, _ = nnls(a, np.append(y * scale, heavy))
        weights /= weights.sum()
    weights[weights < LEAST_WEIGHT] = 0.0
    return np.asarray(weights / weights.sum())


def conformal(residual: Array, spread: Array, level: float = LEVEL) -> Interval:
    """Return the split-conformal interval of scores |residual| / (spread + floor).

    The quantile has rank ceil((n + 1) level), which gives the coverage guarantee for exchangeable rows
    (Lei et al., JASA 113, 2018, theorem 2.2).
    """
    score = np.sort(residual / (spread + FLOOR))
    rank = min(int(np.ceil((len(score) + 1) * level)), len(score))
    return Interval(quantile=float(score[rank - 1]), floor=FLOOR, level=level, rows=len(score))


def _scores(ratio: Array) -> dict[str, float]:
    ape = np.abs(ratio - 1.0)
    return {
        "rows": len(ape), "cv_median_ape": round(float(np.median(ape)), 5), "cv_mape": round(float(ape.mean()), 5),
    }  # fmt: skip
