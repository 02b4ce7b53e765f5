"""Gaussian processes: hyperparameters by marginal likelihood in torch, kept as plain arrays.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors import Expert, GaussianProcess, GaussianProcesses

#: Rows that the marginal likelihood is maximised on, steps of Adam, and its first step size.
HYPER_ROWS, STEPS, STEP_SIZE = 1000, 150, 0.1
#: The same where each fold has length scales of its own.
FOLD_HYPER_ROWS, FOLD_STEPS = 600, 80
#: Steps of the robust objective, which adapts to the subset if it is followed for longer.
ROBUST_STEPS = 80
#: Degrees of freedom of the distribution that leave-one-out residuals are judged by there.
ROBUST_FREEDOM = 3.0
#: Rows that a class needs for hyperparameters of its own, and for a process of its own in one fold.
CLASS_ROWS, FOLD_ROWS = 40, 20
#: Rows above which a process does not look for slow outliers: it takes several inverses of its covariance.
MOST_TO_DISTRUST = 3000
_JITTER = 1e-4
#: Rounds of finding slow outliers.
_ROUNDS = 3

Labels = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Of an ARD Matern-3/2 kernel on standardised features and a standardised target.

    Attributes
    ----------
    shift, scale : (f,) float64
        Standardisation of the features, length scales inside `scale` (infinite for constant features).
    variance, noise : float
        Of the kernel and of the observations.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    variance: float
    noise: float


def _kernel(z: torch.Tensor) -> torch.Tensor:
    squares = (z * z).sum(1)
    d2 = (squares[:, None] + squares[None] - 2.0 * z @ z.T).clamp_min(1e-10)
    r = (3.0 * d2).sqrt()
    return (1.0 + r) * torch.exp(-r)


def fit_hyperparameters(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    seed: int,
    most: int = HYPER_ROWS,
    steps: int = STEPS,
    robust: bool = False,
) -> Hyperparameters:
    """Choose length scales, variance and noise on a random subset of at most `most` rows.

    They maximise the log marginal likelihood (their eq. 5.8) or, with `robust`, the leave-one-out predictive density of
    a Student t distribution, which rows of another kind (a poor choice of the library) do not rule.  A weak prior holds
    each length scale near sqrt(f), so that features the subset says nothing about stay calm.
    """
    shift, spread = x.mean(axis=0), x.std(axis=0)
    used = spread > 1e-9
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(y), min(most, len(y)), replace=False)
    z = torch.tensor((x[rows][:, used] - shift[used]) / spread[used], dtype=torch.float32)
    t = torch.tensor((y[rows] - y.mean()) / max(float(y.std()), 1e-9), dtype=torch.float32)
    start = 0.5 * math.log(max(int(used.sum()), 1))
    log_length = torch.full((int(used.sum()),), start, requires_grad=True)
    log_variance = torch.tensor(0.0, requires_grad=True)
    log_noise = torch.tensor(math.log(0.03), requires_grad=True)
    optimiser = torch.optim.Adam([log_length, log_variance, log_noise], lr=STEP_SIZE)
    eye = torch.eye(len(rows))
    slope = _leave_one_out_slope if robust else _likelihood_slope
    steps = min(steps, ROBUST_STEPS) if robust else steps
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = STEP_SIZE * (1.0 - 0.9 * step / steps)
        k = log_variance.exp() * _kernel(z / log_length.exp()) + (log_noise.exp() + _JITTER) * eye
        # The gradient with respect to K in closed form spares a backward pass through Cholesky.
        gradient = slope(torch.cholesky_inverse(torch.linalg.cholesky(k.detach())), t)
        optimiser.zero_grad()
        prior = 0.01 * ((log_length - start) ** 2).sum()
        ((k * gradient).sum() + prior).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    scale = np.full(x.shape[1], np.inf)
    scale[used] = spread[used] * np.exp(log_length.detach().numpy().astype(np.float64))
    return Hyperparameters(shift, scale, log_variance.exp().item(), log_noise.exp().item() + _JITTER)


def _likelihood_slope(inverse: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the slope of the negative log marginal likelihood with K, (n, n): their eq. 5.9."""
    alpha = inverse @ t
    return 0.5 * (inverse - torch.outer(alpha, alpha))


def _leave_one_out_slope(inverse: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the slope with K, (n, n), of the negative log density of leave-one-out residuals (their eq. 5.10 to 5.12).

    The density is Student's t of their predictive scale.
    """
    precision = inverse.clone().requires_grad_(True)
    variance = 1.0 / precision.diagonal()
    residual = (precision @ t) * variance
    heavy = 0.5 * (ROBUST_FREEDOM + 1.0) * torch.log1p(residual**2 / (ROBUST_FREEDOM * variance))
    (slope,) = torch.autograd.grad((0.5 * variance.log() + heavy).sum(), precision)
    slope = 0.5 * (slope + slope.T)
    return -inverse @ slope @ inverse  # d K^-1 = -K^-1 dK K^-1


def outlier_noise(k: torch.Tensor, target: torch.Tensor, tail: float) -> torch.Tensor:
    """Return noise to add to the diagonal, (n,): on rows far slower than the others say, 0 elsewhere.

    A library that picks a poor kernel makes a call several times slower than its neighbours, and a process that
    believes such a row spoils theirs.  A row whose leave-one-out residual (their eq. 5.10 to 5.12) is above `tail`
    predictive standard deviations gets the noise that makes it `tail` of them.  Fast outliers are believed: the
    measured time is evidence of what the machine can do.

    Parameters
    ----------
    k : (n, n) float64
        Covariance of the observations, noise included.
    target : (n,) float64
        Standardised.
    tail : float
    """
    extra = torch.zeros(len(target), dtype=torch.float64)
    for _ in range(_ROUNDS):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(k + torch.diag(extra)))
        precision = inverse.diagonal()
        residual = (inverse @ target) / precision  # measured minus predicted
        wanted = (residual / tail) ** 2 - (1.0 / precision - extra)
        extra = torch.where(residual > 0, wanted.clamp_min(0.0), torch.zeros_like(extra))
    return extra


def fit_gp(
    x: NDArray[np.float64], y: NDArray[np.float64], hyper: Hyperparameters, tail: float | None = None
) -> GaussianProcess:
    """Condition on rows (n, f), (n,): their eq. 2.25, by a Cholesky factor.

    With `tail`, slow outliers get noise of their own (see `outlier_noise`).
    """
    scale = np.where(np.isfinite(hyper.scale), hyper.scale, 1e30)
    points = ((x - hyper.shift) / scale).astype(np.float32)
    mean, spread = float(y.mean()), max(float(y.std()), 1e-9)
    z = torch.tensor(points, dtype=torch.float64)
    k = hyper.variance * _kernel(z)
    k.diagonal().add_(hyper.noise)
    target = torch.tensor((y - mean) / spread, dtype=torch.float64)
    if tail is not None:
        k.diagonal().add_(outlier_noise(k, target, tail))
    alpha = torch.cholesky_solve(target[:, None], torch.linalg.cholesky(k))[:, 0]
    return GaussianProcess(points, spread * hyper.variance * alpha.numpy(), hyper.shift, scale, mean)


def fit_class_hyperparameters(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    labels: Labels,
    seed: int,
    most: int = HYPER_ROWS,
    steps: int = STEPS,
    robust: bool = False,
) -> dict[tuple[str, int], Hyperparameters]:
    """Return hyperparameters of the joint process, key ``("", 0)``, and of each class with enough rows.

    Each partition draws subsets of its own, so that one that has all rows in one class is another joint process.
    """
    out = {("", 0): fit_hyperparameters(x, y, seed, most, steps, robust)}
    for i, (name, label) in enumerate(labels.items(), 1):
        for value, count in zip(*np.unique(label, return_counts=True), strict=True):
            if count >= CLASS_ROWS:
                mine = label == value
                out[name, int(value)] = fit_hyperparameters(x[mine], y[mine], seed + i, most, steps, robust)
    return out


def fit_gps(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    labels: Labels,
    hyper: Mapping[tuple[str, int], Hyperparameters],
    tail: float | None = None,
) -> GaussianProcesses:
    """Condition the joint process and one per class on rows (n, f), (n,).

    `tail` is as for `fit_gp`, for processes of at most `MOST_TO_DISTRUST` rows.
    """
    # rounded first, so that a process is conditioned on the very points that are stored
    points = x.astype(np.float32)
    experts = []
    for (name, value), h in hyper.items():
        mine = np.ones(len(y), dtype=bool) if name == "" else labels.get(name, np.full(len(y), -1)) == value
        if name == "" or mine.sum() >= FOLD_ROWS:
            own_tail = tail if mine.sum() <= MOST_TO_DISTRUST else None
            gp = fit_gp(points[mine].astype(np.float64), y[mine], h, own_tail)
            experts.append(Expert(name, value, gp.weights, gp.shift, gp.scale, gp.mean))
    return GaussianProcesses(points, {n: v.astype(np.int16) for n, v in labels.items()}, tuple(experts))
