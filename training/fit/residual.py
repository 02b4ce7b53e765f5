"""A Gaussian process for what is left between two machines: few hyperparameters, so that few rows fix them.

k = s0 + s1 M(x) + s2 [family] + s3 [family] M(x) + s4 [kind] + s5 [kind] M(x) + s6 [dtype] M(x) + noise

with [g] = 1 for two rows of one group and M a Matern-3/2 kernel (Rasmussen and Williams, 2006, section 4.2).  Whatever
few rows of a group do not settle is taken from all rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.int64]
#: Rows that the marginal likelihood is maximised on, and steps.
_HYPER_ROWS, _STEPS = 500, 60
#: Residuals further than so many robust deviations from the median are pulled in: a few kernels are unlike any other.
_CLIP = 3.0
_JITTER = 1e-6
_TERMS = 7


@dataclass(frozen=True, slots=True)
class Residual:
    """A fitted residual."""

    x: Array
    groups: Groups
    weights: Array
    mean: float
    log_scale: Array
    log_length: Array

    def predict(self, x: Array, groups: Groups) -> Array:
        """Return the residual (log latency) of rows x (m, f), groups (m, 3)."""
        out = np.empty(len(x))
        for start in range(0, len(x), 2000):
            part = slice(start, start + 2000)
            k = _kernel(_tensor(x[part]), torch.tensor(groups[part]), _tensor(self.x), torch.tensor(self.groups),
                        _tensor(self.log_scale), _tensor(self.log_length))  # fmt: skip
            out[part] = self.mean + k.numpy() @ self.weights
        return out


def fit_residual(x: Array, groups: Groups, y: Array, seed: int = 0) -> Residual:
    """Fit the residual y (n,) of rows x (n, f) with groups (n, 3): family, kind, dtype."""
    mean = float(np.median(y))
    spread = max(1.4826 * float(np.median(np.abs(y - mean))), 0.01)
    clipped = np.clip(y - mean, -_CLIP * spread, _CLIP * spread)
    rows = np.random.default_rng(seed).permutation(len(y))[:_HYPER_ROWS]
    log_scale, log_length, log_noise = _tuned(x[rows], groups[rows], clipped[rows], spread)
    z, g = _tensor(x), torch.tensor(groups)
    k = _kernel(z, g, z, g, log_scale, log_length)
    k.diagonal().add_(float(log_noise.exp()) + _JITTER)
    weights = torch.cholesky_solve(_tensor(clipped)[:, None], torch.linalg.cholesky(k))[:, 0]
    return Residual(x, groups, weights.numpy(), mean, log_scale.numpy(), log_length.numpy())


def _tuned(x: Array, groups: Groups, y: Array, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maximise the log marginal likelihood with weak priors that hold each part of the variance near a tenth."""
    z, g, t = _tensor(x), torch.tensor(groups), _tensor(y)
    start = math.log(0.2 * spread**2)
    log_scale = torch.full((_TERMS,), start, dtype=torch.float64, requires_grad=True)
    log_length = torch.full((x.shape[1],), math.log(3.0), dtype=torch.float64, requires_grad=True)
    log_noise = torch.tensor(math.log(0.5 * spread**2), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([log_scale, log_length, log_noise], lr=0.1)
    for _ in range(_STEPS):
        k = _kernel(z, g, z, g, log_scale, log_length) + (log_noise.exp() + _JITTER) * torch.eye(len(t)).double()
        factor = torch.linalg.cholesky(k)
        half = torch.linalg.solve_triangular(factor, t[:, None], upper=False)
        loss = 0.5 * (half * half).sum() + factor.diagonal().log().sum()
        loss = loss + 0.1 * ((log_scale - start) ** 2).sum() + 0.5 * ((log_length - math.log(3.0)) ** 2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return log_scale.detach(), log_length.detach(), log_noise.detach()


def _kernel(
    a: torch.Tensor, ga: torch.Tensor, b: torch.Tensor, gb: torch.Tensor, log_scale: torch.Tensor,
    log_length: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    s = log_scale.exp()
    d2 = (((a / log_length.exp())[:, None] - (b / log_length.exp())[None]) ** 2).sum(-1).clamp_min(1e-12)
    r = (3.0 * d2).sqrt()
    m = (1.0 + r) * torch.exp(-r)
    family, kind, dtype = ((ga[:, None, i] == gb[None, :, i]).double() for i in range(3))
    return s[0] + s[1] * m + family * (s[2] + s[3] * m) + kind * (s[4] + s[5] * m) + s[6] * dtype * m


def _tensor(x: Array) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float64)
