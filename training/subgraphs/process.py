"""Gaussian processes of several settings over shared points: what they have in common, and what each adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from training.fit.gp import Hyperparameters, fit_hyperparameters

#: Rows that the length scales are fitted on, afresh in every fold, and steps of that fit.
HYPER_ROWS, HYPER_STEPS = 500, 100
#: Candidates for shortening the length scales.
SHORTER = (1.0, 0.5, 0.3, 0.15)


@dataclass(frozen=True)
class Processes:
    """Points and, for each of s settings, the weights of its process; see `regressors.GaussianProcess`.

    Attributes
    ----------
    points : (m, f) float32
    shift, scale : (f,) float64
    weights : (s, m) float64
    means : (s,) float64
    shortened : float
        Factor that the length scales were multiplied by, of `SHORTER`.
    """

    points: NDArray[np.float32]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    shortened: float


def fit_processes(
    x: NDArray[np.float64],
    residuals: NDArray[np.float64],
    precisions: Sequence[str],
    members: Sequence[NDArray[np.bool_]],
    seed: int,
) -> Processes:
    """Fit a process to the residuals of each setting.

    The settings of one precision differ in clocks alone.  So one process learns the mean of their residuals, in which
    the disturbances of single settings average out, and one of each setting what is left; both have the same kernel,
    so that their weights add up.

    The marginal likelihood takes rows for independent, but those of one network resemble each other: its length scales
    are too long for the shapes of a network not seen.  They are shortened by the factor that predicts whole networks
    best, each left out in turn.

    Parameters
    ----------
    x : (m, f) float64
        Distinct subgraphs.
    residuals : (s, m) float64
        By setting; NaN where it has no such subgraph.
    precisions : sequence of s str
        The last one is the calmest: its mean residual gives the length scales.
    members : sequence of (m,) bool
        Points of each network.
    seed : int
    """
    means = np.nanmedian(residuals, axis=1)
    centred = residuals - means[:, None]
    group = {p: [i for i, q in enumerate(precisions) if q == p] for p in dict.fromkeys(precisions)}
    known = {p: ~np.isnan(centred[rows]).all(axis=0) for p, rows in group.items()}
    shared = {p: np.nanmean(centred[rows][:, known[p]], axis=0) for p, rows in group.items()}
    calm = precisions[-1]
    hyper = _hyperparameters(x[known[calm]], shared[calm], seed)

    chosen, least = SHORTER[0], np.inf
    for factor in SHORTER:
        error = 0.0
        for p, rows in group.items():
            own = known[p]
            k = _kernel(_scaled(x[own], hyper, factor), hyper.variance) + hyper.noise * np.eye(int(own.sum()))
            y = np.where(np.isnan(centred[rows][:, own]), shared[p], centred[rows][:, own])
            error += left_out_error(k, y.T, [m[own] for m in members])
        if error < least:
            chosen, least = factor, error

    points = _scaled(x, hyper, chosen)
    weights = np.zeros_like(residuals)
    for p, rows in group.items():
        own = known[p]
        k = _kernel(points[own], hyper.variance)
        common = _solve(k, hyper.noise, shared[p])
        explained = k @ common
        for i in rows:
            weights[i, own] = common
            if len(rows) > 1:
                here = ~np.isnan(centred[i, own])
                rest = _solve(k[np.ix_(here, here)], hyper.noise, (centred[i, own] - explained)[here])
                weights[i, np.flatnonzero(own)[here]] += rest
    return Processes(
        points, hyper.shift, _finite(hyper.scale) * chosen, hyper.variance * weights, means, chosen
    )  # fmt: skip


def left_out_error(k: NDArray[np.float64], y: NDArray[np.float64], groups: Sequence[NDArray[np.bool_]]) -> float:
    """Return the mean over groups of the mean absolute error of predicting each from all others.

    In closed form: with a = K^-1 y, the residual of a block b left out is (K^-1)_bb^-1 a_b (Rasmussen and Williams,
    "Gaussian Processes for Machine Learning", 2006, eq. 5.12, for blocks).

    Parameters
    ----------
    k : (m, m) float64
        Covariance, noise included.
    y : (m, s) float64
    groups : sequence of (m,) bool
        Those without a point, or with all, are passed over.
    """
    inverse = np.linalg.inv(k)
    a = inverse @ y
    errors = [
        np.abs(np.linalg.solve(inverse[np.ix_(b, b)], a[b])).mean() for b in groups if 0 < b.sum() < len(b)
    ]  # fmt: skip
    return float(np.mean(errors)) if errors else 0.0


def _hyperparameters(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> Hyperparameters:
    """Fit on a sample of rows; on another one where single precision cannot factorise its kernel."""
    rng = np.random.default_rng(seed)
    for last in (False, False, False, True):
        some = rng.choice(len(y), min(HYPER_ROWS, len(y)), replace=False)
        try:
            return fit_hyperparameters(x[some], y[some], seed, steps=HYPER_STEPS)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            if last:
                raise
    raise AssertionError("the loop returns or raises")


def _finite(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.where(np.isfinite(scale), scale, 1e30))


def _scaled(x: NDArray[np.float64], hyper: Hyperparameters, factor: float) -> NDArray[np.float32]:
    """Return points as they are stored: rounded to single precision."""
    return np.asarray(((x - hyper.shift) / (_finite(hyper.scale) * factor)).astype(np.float32))


def _kernel(points: NDArray[np.float32], variance: float) -> NDArray[np.float64]:
    """Return the Matern-3/2 covariance of points, without noise."""
    z = points.astype(np.float64)
    squares = np.einsum("ij,ij->i", z, z)
    r = np.sqrt(3.0 * np.maximum(squares[:, None] + squares[None] - 2.0 * z @ z.T, 0.0))
    return np.asarray(variance * (1.0 + r) * np.exp(-r))


def _solve(k: NDArray[np.float64], noise: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cho_solve(cho_factor(k + noise * np.eye(len(k)), lower=True), y))
