"""Members for hard and for small families: processes that distrust slow outliers, a forest, nested length scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor

from training.fit import family as fitting
from training.fit import gp
from training.fit.family import SMALL_FAMILY, Rows, _Forest, _Processes, recipes_for
from training.fit.gp import fit_gp, fit_hyperparameters, outlier_noise
from training.fit.trees import FOREST, fit_forest


def smooth(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).uniform(-2, 2, (n, 2))
    return x, np.sin(x[:, 0]) + 0.5 * x[:, 1]


def rows_of(n: int, name: str = "none") -> Rows:
    x, y = smooth(n)
    return Rows(
        family=name, names=("a", "b"), x=x, latency_s=1e-5 * np.exp(y), roofline_s=np.full(n, 1e-5),
        fold=np.arange(n) % 5, train=np.ones(n, dtype=bool), own=np.ones(n, dtype=bool), synthetic_x=np.empty((0, 2)),
    )  # fmt: skip


def test_slow_outliers_no_longer_spoil_their_neighbours() -> None:
    x, truth = smooth(300)
    slow = np.arange(300) % 15 == 0
    y = truth + np.where(slow, 1.6, 0.0)  # five times as slow
    hyper = fit_hyperparameters(x, y, seed=0)
    query, expected = smooth(200, seed=1)
    believing = np.abs(fit_gp(x, y, hyper).predict(query) - expected).mean()
    distrusting = np.abs(fit_gp(x, y, hyper, tail=1.5).predict(query) - expected).mean()
    assert distrusting < 0.6 * believing


def test_noise_goes_to_slow_rows_alone_and_reaches_the_stated_deviation() -> None:
    x, y = smooth(60)
    z = torch.tensor(x)
    k = torch.exp(-(torch.cdist(z, z) ** 2)) + 1e-2 * torch.eye(60, dtype=torch.float64)
    for shift in (1.5, -1.5):
        target = torch.tensor(y)
        target[7] += shift
        extra = outlier_noise(k, target, tail=1.5)
        assert (extra[7] > 0.5) == (shift > 0)
        # beside a fast row that is believed, the others look slow: only its own noise is certain then
        assert shift < 0 or (extra[torch.arange(60) != 7] < 0.1).all()
    # leave-one-out by hand: residual and variance of row 7 from the 59 others
    target = torch.tensor(y)
    target[7] += 1.5
    extra = outlier_noise(k, target, tail=1.5)
    others = torch.arange(60) != 7
    solved = torch.linalg.solve(k[others][:, others] + torch.diag(extra[others]), k[others, 7])
    residual = target[7] - solved @ target[others]
    variance = k[7, 7] - solved @ k[others, 7] + extra[7]
    assert float(residual / variance.sqrt()) == pytest.approx(1.5, rel=0.05)


def test_forest_predicts_as_the_library_does() -> None:
    x, y = smooth(200)
    x = x.astype(np.float32).astype(np.float64)  # the library rounds its queries
    mine = fit_forest(x, y, seed=3, n_estimators=7)
    library = ExtraTreesRegressor(**(FOREST | {"n_estimators": 7}), random_state=3).fit(x, y)
    np.testing.assert_allclose(mine.predict(x), library.predict(x), atol=1e-6)


def test_few_rows_bring_a_forest_and_length_scales_of_each_fold() -> None:
    small, large = rows_of(150), rows_of(SMALL_FAMILY)
    y = np.log(small.latency_s)
    _, forest, processes = recipes_for(small, y, 0)
    assert isinstance(forest, _Forest)
    assert isinstance(processes, _Processes)
    assert processes.nested
    part = small.fold != 0
    own = processes.without(small, y, part)
    assert isinstance(own, _Processes)
    assert (own.hyper["", 0].scale != processes.hyper["", 0].scale).any()
    # what the fold's own rows say cannot reach its length scales
    changed = np.where(part, y, y + np.random.default_rng(0).normal(size=150))
    again = processes.without(small, changed, part)
    assert isinstance(again, _Processes)
    np.testing.assert_array_equal(again.hyper["", 0].scale, own.hyper["", 0].scale)
    assert [type(r).__name__ for r in recipes_for(large, np.log(large.latency_s), 0)] == ["_Trees", "_Processes"]
    kept = replace(processes, nested=False)
    assert kept.without(small, y, part) is kept


def test_elsewhere_only_the_named_families_distrust_slow_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(60)
    y = np.log(rows.latency_s)
    assert recipes_for(rows, y, 0)[-1].tail is None  # type: ignore[attr-defined]
    monkeypatch.setitem(fitting.SLOW_OUTLIERS, "none", 2.0)
    assert recipes_for(rows, y, 0)[-1].tail == 2.0  # type: ignore[attr-defined]


def test_processors_distrust_slow_rows_of_every_family_without_further_folds_of_length_scales() -> None:
    rows = rows_of(SMALL_FAMILY)
    processor = replace(rows, names=(*rows.names[:-1], "lg_threads"))
    y = np.log(rows.latency_s)
    assert recipes_for(rows, y, 0)[-1].tail is None  # type: ignore[attr-defined]
    fitted = recipes_for(processor, y, 0)[-1]
    assert (fitted.tail, fitted.nested) == (fitting.PROCESSOR_OUTLIERS, False)  # type: ignore[attr-defined]


def test_distrust_and_length_scales_of_each_fold_are_named_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(SMALL_FAMILY)
    y = np.log(rows.latency_s)
    monkeypatch.setitem(fitting.SLOW_OUTLIERS, "none", 2.0)
    assert not recipes_for(rows, y, 0)[-1].nested  # type: ignore[attr-defined]
    monkeypatch.setattr(fitting, "ADAPTABLE", ("none",))
    assert recipes_for(rows, y, 0)[-1].nested  # type: ignore[attr-defined]


def test_large_processes_do_not_look_for_outliers(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = smooth(120)
    y[::15] += 1.6
    classes = {"half": (np.arange(120) % 2).astype(np.int64)}
    hyper = {("", 0): fit_hyperparameters(x, y, seed=0, most=60, steps=20)}
    hyper["half", 0] = hyper["", 0]
    monkeypatch.setattr(gp, "MOST_TO_DISTRUST", 60)
    believing, mixed = (gp.fit_gps(x, y, classes, hyper, tail).outputs(x, classes) for tail in (None, 1.5))
    np.testing.assert_array_equal(mixed[0], believing[0])
    own = classes["half"] == 0
    assert np.abs(mixed[1, own] - believing[1, own]).max() > 0.05
