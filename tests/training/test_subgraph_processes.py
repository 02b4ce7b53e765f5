"""Processes of several settings: what they share, and length scales that hold for networks not seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors import GaussianProcess
from training.subgraphs import process
from training.subgraphs.fit import fit_cost
from training.subgraphs.process import fit_processes, left_out_error


def predict(p: process.Processes, i: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return GaussianProcess(p.points, p.weights[i], p.shift, p.scale, float(p.means[i])).predict(x)


def test_error_of_groups_left_out_is_that_of_fits_without_them() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    k = np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1)) + 0.1 * np.eye(30)
    groups = [np.arange(30) < 7, (np.arange(30) >= 5) & (np.arange(30) < 20)]
    errors = []
    for g in groups:
        predicted = k[np.ix_(g, ~g)] @ np.linalg.solve(k[np.ix_(~g, ~g)], y[~g])
        errors.append(np.abs(y[g] - predicted).mean())
    everything, nothing = np.ones(30, dtype=bool), np.zeros(30, dtype=bool)
    assert left_out_error(k, y, [*groups, everything, nothing]) == pytest.approx(np.mean(errors))
    assert left_out_error(k, y, [everything]) == 0.0


def settings(seed: int, noise: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2.0, 2.0, (150, 3))
    truth = 0.3 * np.sin(2.0 * x[:, 0]) + 0.2 * x[:, 1]
    return x, truth, truth + rng.normal(0.0, noise, (4, 150)) + np.array([[0.0], [0.5], [-0.3], [0.1]])


def test_settings_learn_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HYPER_STEPS", 30)
    x, truth, noisy = settings(0, 0.1)
    few = noisy.copy()
    few[1, 20:] = np.nan  # this one was measured on few subgraphs
    networks = [np.arange(150) % 5 == i for i in range(5)]
    together = fit_processes(x, few, ["fp32"] * 4, networks, 0)
    alone = fit_processes(x, few[1:2], ["fp32"], networks, 0)
    away = slice(20, None)
    offset = np.median(noisy[1, :20] - truth[:20])
    error = np.abs(predict(together, 1, x[away]) - offset - truth[away]).mean()
    error_alone = np.abs(predict(alone, 0, x[away]) - offset - truth[away]).mean()
    assert error < 0.7 * error_alone


def test_a_setting_keeps_what_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HYPER_STEPS", 30)
    x, _, y = settings(1, 0.01)
    y[2] += 0.6 * (x[:, 2] > 0)
    p = fit_processes(x, y, ["fp32"] * 4, [np.arange(150) % 5 == i for i in range(5)], 0)
    own = predict(p, 2, x) - predict(p, 0, x)
    assert np.median(own[x[:, 2] > 0.3]) - np.median(own[x[:, 2] < -0.3]) == pytest.approx(0.6, abs=0.12)


def test_other_precisions_are_not_mixed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HYPER_STEPS", 30)
    x, truth, _ = settings(2, 0.01)
    both = np.full((2, 150), np.nan)
    both[0, :75], both[1, 75:] = -truth[:75], truth[75:]
    p = fit_processes(x, both, ["fp16", "fp32"], [np.arange(150) % 5 == i for i in range(5)], 0)
    assert (p.weights[0, 75:] == 0).all()
    assert (p.weights[1, :75] == 0).all()
    assert np.corrcoef(predict(p, 0, x[75:]), -truth[75:])[0, 1] > 0.9


def test_length_scales_shrink_where_networks_differ_in_ways_of_their_own() -> None:
    rng = np.random.default_rng(3)
    network = np.repeat(np.arange(10), 20)
    # a network lies far from the others along a feature that says nothing of them, and has an offset of its own
    x = np.stack([rng.uniform(-1.0, 1.0, 200), network + rng.normal(0.0, 0.02, 200)], axis=1)
    members = [network == i for i in range(10)]
    offset = rng.normal(0.0, 0.5, 10)[network]
    smooth = fit_processes(x, (0.5 * x[:, 1] + rng.normal(0.0, 0.02, 200))[None], ["fp32"], members, 0)
    own = fit_processes(x, (offset + rng.normal(0.0, 0.02, 200))[None], ["fp32"], members, 0)
    assert smooth.shortened > own.shortened


def test_a_cost_trusts_outliers_less() -> None:
    rng = np.random.default_rng(4)
    x = rng.uniform(0.1, 1.0, (300, 3)) * np.array([1.0, 1e9, 1e8])
    clean = x @ np.array([1e-3, 2e-12, 1e-11])
    latency = clean.copy()
    latency[:45] /= 3.0  # least squares of the relative error alone is drawn to rows like these
    error = np.abs(x @ fit_cost(x, latency) / clean - 1.0).mean()
    plain = np.linalg.lstsq(x / latency[:, None], np.ones(300), rcond=None)[0]
    assert error < 0.25 * np.abs(x @ plain / clean - 1.0).mean()
