"""Distillation: one small network a family learns the teacher's answers and its spread.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, for regression: measured rows keep
their measured target, synthetic rows get the teacher's prediction.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors import Student

Array = NDArray[np.float64]

WIDTH, MIDDLE_LAYERS, STEPS, BATCH, STEP_SIZE, DECAY = 128, 2, 5000, 512, 3e-3, 1e-3
#: Share of measured rows in a batch, and weight of the spread in the loss.
MEASURED_SHARE, SPREAD_WEIGHT = 0.4, 0.05
#: Standardised features are clipped here, so that the network stays flat far outside its data.
LIMIT = 4.0
_HUBER = 0.3


def fit_student(
    x: Array, y: Array, spread: Array, synthetic_x: Array, synthetic_y: Array, synthetic_spread: Array, seed: int
) -> Student:
    """Fit a student.

    Parameters
    ----------
    x, y, spread : (n, f), (n,), (n,) float64
        Measured rows: features, log(latency / (t0 + roofline)), and the teacher's out-of-fold spread.
    synthetic_x, synthetic_y, synthetic_spread
        Synthetic rows with the teacher's prediction and spread.
    seed : int

    Returns
    -------
    Student
        With weights as they will be stored (half precision).
    """
    generator = torch.Generator().manual_seed(seed)
    used = x.std(axis=0) > 1e-9
    shift = np.where(used, x.mean(axis=0), 0.0)
    scale = np.where(used, np.where(used, x.std(axis=0), 1.0), 1e30)
    mean, size = float(y.mean()), max(float(y.std()), 1e-9)
    log_spread = np.log(np.maximum(np.concatenate([spread, synthetic_spread]), 1e-4))
    spread_mean, spread_size = float(log_spread.mean()), max(float(log_spread.std()), 1e-9)

    def tensor(a: Array) -> torch.Tensor:
        return torch.tensor(a, dtype=torch.float32)

    z = tensor(np.clip((np.concatenate([x, synthetic_x]) - shift) / scale, -LIMIT, LIMIT))
    target = tensor((np.concatenate([y, synthetic_y]) - mean) / size)
    wanted_spread = tensor((log_spread - spread_mean) / spread_size)

    weights, biases = _initialise(z.shape[1], generator)
    matrices = torch.optim.AdamW(weights, weight_decay=DECAY, betas=(0.9, 0.98))
    vectors = torch.optim.AdamW(biases, weight_decay=0.0, betas=(0.9, 0.98))
    parameters = [*weights, *biases]
    average = [torch.zeros_like(p) for p in parameters]
    averaged = 0
    n, n_measured = len(z), int(MEASURED_SHARE * BATCH)
    for step in range(STEPS):
        rate = STEP_SIZE * min(1.0, (step + 1) / 200) * (0.5 * (1.0 + math.cos(math.pi * step / STEPS)) + 1e-3)
        rows = torch.cat(
            [
                torch.randint(0, len(x), (n_measured,), generator=generator),
                torch.randint(len(x), n, (BATCH - n_measured,), generator=generator),
            ]
        )
        out = _forward(z[rows], weights, biases)
        loss = torch.nn.functional.huber_loss(out[:, 0], target[rows], delta=_HUBER) / _HUBER
        loss = loss + SPREAD_WEIGHT * torch.nn.functional.mse_loss(out[:, 1], wanted_spread[rows])
        for optimiser in (matrices, vectors):
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        matrices.step()
        vectors.step()
        if step >= 0.8 * STEPS and step % 5 == 0:
            averaged += 1
            with torch.no_grad():
                for a, p in zip(average, parameters, strict=True):
                    a.add_((p - a) / averaged)
    arrays = [a.numpy() for a in average]
    return Student(
        weights=[a.astype(np.float16) for a in arrays[: len(weights)]],
        biases=[a.astype(np.float32) for a in arrays[len(weights) :]],
        shift=shift,
        scale=scale,
        limit=LIMIT,
        output_mean=np.array([mean, spread_mean]),
        output_scale=np.array([size, spread_size]),
    )


def _initialise(n_features: int, generator: torch.Generator) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    sizes = [(n_features, WIDTH), *[(WIDTH, WIDTH)] * MIDDLE_LAYERS, (WIDTH, 2)]
    gains = [1.4, *[1.0] * MIDDLE_LAYERS, 0.3]
    weights = [
        (torch.randn(a, b, generator=generator) * gain / math.sqrt(a)).requires_grad_()
        for (a, b), gain in zip(sizes, gains, strict=True)
    ]
    return weights, [torch.zeros(b, requires_grad=True) for _, b in sizes]


def _forward(z: torch.Tensor, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> torch.Tensor:
    h = torch.relu(torch.addmm(biases[0], z, weights[0]))
    for w, b in zip(weights[1:-1], biases[1:-1], strict=True):
        h = h + torch.relu(torch.addmm(b, h, w))
    return torch.addmm(biases[-1], h, weights[-1])
