"""Gaussian processes: hyperparameters by marginal likelihood in torch, kept as plain arrays.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors import GaussianProcess

#: Rows that the marginal likelihood is maximised on, and steps of Adam.
HYPER_ROWS, STEPS = 1000, 60


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


def fit_hyperparameters(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> Hyperparameters:
    """Maximise the log marginal likelihood (their eq. 5.8) on a random subset of rows.

    A weak prior holds each length scale near sqrt(f), so that features the subset says nothing about stay calm.
    """
    shift, spread = x.mean(axis=0), x.std(axis=0)
    used = spread > 1e-9
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(y), min(HYPER_ROWS, len(y)), replace=False)
    z = torch.tensor((x[rows][:, used] - shift[used]) / spread[used], dtype=torch.float32)
    t = torch.tensor((y[rows] - y.mean()) / max(float(y.std()), 1e-9), dtype=torch.float32)
    start = 0.5 * math.log(used.sum())
    log_length = torch.full((int(used.sum()),), start, requires_grad=True)
    log_variance = torch.tensor(0.0, requires_grad=True)
    log_noise = torch.tensor(math.log(0.05), requires_grad=True)
    optimiser = torch.optim.Adam([log_length, log_variance, log_noise], lr=0.08)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS, eta_min=0.008)
    eye = torch.eye(len(rows))
    for _ in range(STEPS):
        optimiser.zero_grad()
        k = log_variance.exp() * _kernel(z / log_length.exp()) + (log_noise.exp() + 1e-4) * eye
        factor = torch.linalg.cholesky(k)
        alpha = torch.cholesky_solve(t[:, None], factor)[:, 0]
        loss = 0.5 * t @ alpha + factor.diagonal().log().sum() + 0.01 * ((log_length - start) ** 2).sum()
        loss.backward()
        optimiser.step()
        schedule.step()
    scale = np.full(x.shape[1], np.inf)
    scale[used] = spread[used] * np.exp(log_length.detach().numpy().astype(np.float64))
    return Hyperparameters(shift, scale, log_variance.exp().item(), log_noise.exp().item() + 1e-4)


def fit_gp(x: NDArray[np.float64], y: NDArray[np.float64], hyper: Hyperparameters) -> GaussianProcess:
    """Condition on rows (n, f), (n,): their eq. 2.25, by a Cholesky factor."""
    used = np.isfinite(hyper.scale)
    shift, scale = hyper.shift, np.where(used, hyper.scale, 1e30)
    points = ((x - shift) / scale).astype(np.float32)
    mean, spread = float(y.mean()), max(float(y.std()), 1e-9)
    z = torch.tensor(points, dtype=torch.float64)
    k = hyper.variance * _kernel(z)
    k.diagonal().add_(hyper.noise)
    target = torch.tensor((y - mean) / spread, dtype=torch.float64)
    alpha = torch.cholesky_solve(target[:, None], torch.linalg.cholesky(k))[:, 0]
    return GaussianProcess(points, spread * hyper.variance * alpha.numpy(), shift, scale, mean)
