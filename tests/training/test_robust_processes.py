"""Length scales by a leave-one-out objective that outliers do not rule, and joint processes of other subsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphs.hardware.calibration import calibration as loading
from graphs.hardware.calibration.features.classes import partitions
from training.fit import family as fitting
from training.fit.family import Rows, _Processes
from training.fit.gp import (
    ROBUST_FREEDOM,
    _leave_one_out_slope,
    _likelihood_slope,
    fit_class_hyperparameters,
    fit_gp,
    fit_hyperparameters,
)
from training.fit.model import calibration_with


def covariance(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((n, 2), generator=generator, dtype=torch.float64)
    k = torch.exp(-(torch.cdist(z, z) ** 2)) + 0.1 * torch.eye(n, dtype=torch.float64)
    return k, torch.randn(n, generator=generator, dtype=torch.float64)


def by_leaving_each_out(k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Negative log density of each row given the others, n solves: a second way to the same number."""
    total = torch.zeros((), dtype=k.dtype)
    for i in range(len(t)):
        others = torch.arange(len(t)) != i
        solved = torch.linalg.solve(k[others][:, others], k[others, i])
        mean, variance = solved @ t[others], k[i, i] - solved @ k[others, i]
        scaled = (t[i] - mean) ** 2 / (ROBUST_FREEDOM * variance)
        total = total + 0.5 * variance.log() + 0.5 * (ROBUST_FREEDOM + 1) * torch.log1p(scaled)
    return total


def test_the_slope_is_that_of_leaving_each_row_out() -> None:
    k, t = covariance()
    k.requires_grad_(True)
    (expected,) = torch.autograd.grad(by_leaving_each_out(k, t), k)
    found = _leave_one_out_slope(torch.linalg.inv(k.detach()), t)
    torch.testing.assert_close(found, 0.5 * (expected + expected.T), rtol=1e-6, atol=1e-9)


def test_the_slope_of_the_likelihood_is_that_of_a_normal_density() -> None:
    k, t = covariance()
    k.requires_grad_(True)
    density = torch.distributions.MultivariateNormal(torch.zeros_like(t), covariance_matrix=k).log_prob(t)
    (expected,) = torch.autograd.grad(-density, k)
    torch.testing.assert_close(_likelihood_slope(torch.linalg.inv(k.detach()), t), expected, rtol=1e-6, atol=1e-9)


def test_gross_errors_of_a_few_rows_do_not_rule_the_length_scales() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (300, 2))
    truth = np.sin(2 * x[:, 0])
    y = truth + np.where(rng.random(300) < 0.08, rng.normal(0, 4, 300), rng.normal(0, 0.02, 300))
    query = rng.uniform(-2, 2, (300, 2))
    errors = {}
    for robust in (False, True):
        hyper = fit_hyperparameters(x, y, seed=0, robust=robust)
        errors[robust] = np.median(np.abs(fit_gp(x, y, hyper).predict(query) - np.sin(2 * query[:, 0])))
    assert errors[True] < 0.85 * errors[False]


def test_a_partition_of_one_class_is_another_joint_process() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    everyone = {"again": np.zeros(120, dtype=np.int64)}
    hyper = fit_class_hyperparameters(x, np.sin(x[:, 0]), everyone, seed=0, most=60, steps=20)
    assert set(hyper) == {("", 0), ("again", 0)}
    assert not np.allclose(hyper["", 0].scale, hyper["again", 0].scale)


def test_convolutions_of_gpus_alone_have_further_joint_processes_and_the_robust_objective() -> None:
    x = np.random.default_rng(0).normal(size=(50, 8))
    names = ["op_a", "grouped", "lg_taps", "dtype_bf16", "dtype_fp16", "dtype_tf32", "dtype_fp32", "more"]
    gpu, cpu = partitions("conv2d", names, x), partitions("conv2d", [*names[:-1], "lg_threads"], x)
    assert set(gpu) - set(cpu) == {"again", "once_more"}
    assert not gpu["again"].any()

    def rows(last: str, family: str) -> Rows:
        every = np.ones(50, dtype=bool)
        return Rows(
            family=family, names=(*names[:-1], last), x=x, latency_s=np.exp(x[:, 0]), roofline_s=np.ones(50),
            fold=np.arange(50) % 5, train=every, own=every, synthetic_x=np.empty((0, 8)),
        )  # fmt: skip

    tuned = {key: _Processes.tuned(rows(*key), x[:, 1], 0).robust
             for key in (("more", "conv2d"), ("lg_threads", "conv2d"), ("more", "other"))}  # fmt: skip
    assert tuned == {("more", "conv2d"): True, ("lg_threads", "conv2d"): False, ("more", "other"): False}
    assert set(fitting.ROBUST) <= set(fitting.ADAPTABLE)


def test_a_model_just_fitted_is_scored_without_the_shipped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loading.load_calibration("h100-sxm").model
    assert model is not None

    def refuse(*_: object) -> None:
        raise AssertionError("the shipped model may be of older features")

    monkeypatch.setattr(loading, "load_model", refuse)
    monkeypatch.setattr(loading, "_load_cached", refuse)
    assert calibration_with(model).model is model
