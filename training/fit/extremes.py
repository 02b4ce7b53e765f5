"""Rows at the extremes of a physical quantity, held out, and what a quick stand-in of the recipe makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from graphs import ops
from graphs.hardware.calibration import features
from graphs.hardware.calibration.domain import effective_dtype, physical
from graphs.hardware.calibration.features import Machine
from graphs.hardware.profile import load_profile
from graphs.ops.batch import OperatorGroup
from training.dataset.splits import fold_of
from training.fit import gp
from training.fit.family import SLOW_OUTLIERS
from training.fit.prepare import machine_of, read_frame

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Shares of the rows of a kind that are held out at an extreme, one after the other; the larger one reaches further.
SHARES = (0.05, 0.1)
#: A quantity of few values is held out by whole values; never more than this share of a kind, nor fewer rows.
MOST_HELD_OUT, FEWEST_HELD_OUT = 0.45, 20
#: Rows that the stand-in's process is conditioned on, and that its hyperparameters are fitted on.
GP_ROWS, HYPER_ROWS = 2500, 500
#: Rows at no extreme that hyperparameters need; below, all rows serve.
INNER_ROWS = 200
_TREES = {"max_iter": 120, "learning_rate": 0.12, "max_leaf_nodes": 24, "min_samples_leaf": 6, "early_stopping": False}


@dataclass(frozen=True, slots=True)
class Table:
    """Training rows of one family.

    Attributes
    ----------
    family : str
    x : (n, f) float64
    y : (n,) float64
        log(latency / (t0 + roofline time)), the target of the real recipe.
    kind : (n,) str
    fold : (n,) int
    quantities : dict of (n,) float64
        Physical quantities in log2; NaN where a kind does not have one.
    rows : (n,) int64
        Positions in the frame.
    """

    family: str
    x: Array
    y: Array
    kind: NDArray[np.str_]
    fold: NDArray[np.int64]
    quantities: dict[str, Array]
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Extreme:
    """Errors of rows held out at one extreme of one quantity.

    Attributes
    ----------
    distance : (h,) float64
        Factors of two beyond the range that was left to the stand-in.
    ape : (h,) float64
        |predicted / measured - 1| by the stand-in that did not see the extreme.
    inside_ape : (h,) float64
        The same rows' cross-validated error, where their like was seen.
    """

    family: str
    quantity: str
    side: str
    share: float
    distance: Array
    ape: Array
    inside_ape: Array


def training_rows(hardware: str, data: Path) -> tuple[pd.DataFrame, pd.DataFrame, Machine]:
    """Return the training rows, the rows held out for validation, and the machine."""
    profile = load_profile(hardware)
    frame = read_frame(profile, data)[0]
    train = frame["split"] == "train"
    return frame[train].reset_index(drop=True), frame[~train].reset_index(drop=True), machine_of(profile)


def tables(frame: pd.DataFrame, machine: Machine) -> dict[str, Table]:
    """Return the rows of a frame (op, dtype, params, median_us) by family."""
    by_family: dict[str, list[OperatorGroup]] = {}
    for group in ops.group_operators(frame["op"], frame["dtype"], frame["params"]):
        by_family.setdefault(group.kind.family, []).append(group)
    return {name: _table(name, groups, frame, machine) for name, groups in by_family.items()}


def _table(family: str, groups: list[OperatorGroup], frame: pd.DataFrame, machine: Machine) -> Table:
    rows = np.concatenate([g.rows for g in groups])
    some = frame.iloc[rows]
    latency = some["median_us"].to_numpy(dtype=np.float64) * 1e-6
    roofline = np.concatenate([machine.attainable_s(g.flops, g.bytes, effective_dtype(g)) for g in groups])
    each = [physical(g) for g in groups]
    names = list(dict.fromkeys(name for q in each for name in q))
    missing = [np.full(len(g), np.nan) for g in groups]
    return Table(
        family=family,
        x=np.concatenate([features.build(g, machine)[1] for g in groups]),
        y=np.log(latency / (np.quantile(latency, 0.01) + roofline)),
        kind=some["op"].to_numpy(dtype=np.str_),
        fold=np.array([fold_of(o, d, p, 5) for o, d, p in zip(some["op"], some["dtype"], some["params"], strict=True)]),
        quantities={n: np.concatenate([q.get(n, m) for q, m in zip(each, missing, strict=True)]) for n in names},
        rows=rows,
    )


class StandIn:
    """A quick stand-in of the recipe: the mean of boosted trees and a Gaussian process, in log space.

    Its process distrusts slow outliers in the families where the recipe's do.
    """

    def __init__(self, family: str, x: Array, y: Array, hyper: gp.Hyperparameters) -> None:
        rows = np.random.default_rng(0).permutation(len(y))[:GP_ROWS]
        self._gp = gp.fit_gp(x[rows], y[rows], hyper, SLOW_OUTLIERS.get(family))
        self._trees = HistGradientBoostingRegressor(**_TREES, random_state=0).fit(x, y)

    def predict(self, x: Array) -> Array:
        """Return the log ratio of rows (n, f)."""
        return np.asarray(0.5 * (self._gp.predict(x) + self._trees.predict(x)), dtype=np.float64)


def hyperparameters(x: Array, y: Array) -> gp.Hyperparameters:
    """Return those of the stand-in's process."""
    rows = np.random.default_rng(1).permutation(len(y))[:HYPER_ROWS]
    return gp.fit_hyperparameters(x[rows], y[rows], seed=0)


def ape(predicted: Array, y: Array) -> Array:
    """Return |predicted / measured - 1| of two log ratios."""
    return np.abs(np.exp(predicted - y) - 1.0)


def cross_validate(t: Table, hyper: gp.Hyperparameters) -> Array:
    """Return the out-of-fold error of the stand-in, (n,)."""
    out = np.empty(len(t.y))
    for k in np.unique(t.fold):
        mine = t.fold == k
        out[mine] = ape(StandIn(t.family, t.x[~mine], t.y[~mine], hyper).predict(t.x[mine]), t.y[mine])
    return out


def beyond(t: Table, quantity: str, side: str, share: float) -> Array:
    """Return how far each row lies beyond what is left of its kind, log2; 0 for the rows that are left.

    The outermost values of each kind are cut off until `share` of its rows is; a kind of too few values is left whole.
    """
    value = t.quantities[quantity] * (1.0 if side == "high" else -1.0)
    out = np.zeros(len(value))
    for kind in np.unique(t.kind):
        own = (t.kind == kind) & np.isfinite(value)
        if not own.any():
            continue
        v = np.round(value[own], 9)
        distinct = np.unique(v)[1:]  # at least two values stay: one is no range to go beyond
        above = np.array([(v > d).mean() for d in distinct])
        enough = np.flatnonzero((above >= share) & (above <= MOST_HELD_OUT))
        if len(enough):
            out[own] = np.maximum(v - distinct[enough[-1]], 0.0)
    return out


def extremes(t: Table, inside: Array, hyper: gp.Hyperparameters) -> Iterator[Extreme]:
    """Hold out each extreme of each quantity in turn."""
    for quantity in t.quantities:
        for side in ("low", "high"):
            done = -1
            for share in SHARES:
                distance = beyond(t, quantity, side, share)
                out = distance > 0
                if out.sum() < FEWEST_HELD_OUT or out.sum() == done:
                    continue
                done = int(out.sum())
                error = ape(StandIn(t.family, t.x[~out], t.y[~out], hyper).predict(t.x[out]), t.y[out])
                yield Extreme(t.family, quantity, side, share, distance[out], error, inside[out])


def inner(t: Table) -> Mask:
    """Return the rows that lie at no extreme."""
    out = np.ones(len(t.y), dtype=bool)
    for quantity in t.quantities:
        for side in ("low", "high"):
            out &= beyond(t, quantity, side, SHARES[0]) == 0
    return out


def measure(t: Table) -> tuple[Array, list[Extreme]]:
    """Return the cross-validated errors of a family, (n,), and those at its extremes."""
    mask = inner(t)
    if mask.sum() < INNER_ROWS:
        mask = np.ones(len(t.y), dtype=bool)
    hyper = hyperparameters(t.x[mask], t.y[mask])
    cv = cross_validate(t, hyper)
    return cv, list(extremes(t, cv, hyper))
