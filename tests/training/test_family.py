"""Fitting: recovers what it should, deterministic, and its intervals cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from graphs.hardware.calibration.regressors import Student
from training.fit import family, student, trees
from training.fit.family import FLOOR, Rows, _weigh, conformal, fit_family


def synthetic(n: int, noise: float, seed: int = 0, foreign: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, 4))
    # real features hold the size too, from which the fixed cost of a call is learnt
    roofline = 10.0 ** (-4.5 + 0.75 * x[:, 3])
    log_ratio = 0.5 + 0.4 * x[:, 0] + 0.3 * np.sin(2 * x[:, 1]) + rng.normal(0, noise, n)
    latency = (1e-6 + roofline) * np.exp(log_ratio)
    return Rows(
        family="none", names=("a", "b", "c", "d"), x=x, latency_s=latency, roofline_s=roofline,
        fold=rng.integers(0, 5, n), train=rng.random(n) < 0.7, own=np.arange(n) < n - foreign,
        synthetic_x=rng.uniform(-2, 2, (2000, 4)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    rows = synthetic(900, noise=0.05)
    return rows, fit_family(rows, seed=0, distil=False)


def test_held_out_error_is_near_the_noise(fitted) -> None:
    rows, f = fitted
    held_out = ~rows.train
    prediction, _ = f.twin.predict(rows.x[held_out], {})
    truth = np.log(rows.latency_s / (f.t0_s + rows.roofline_s))[held_out]
    # a normal error of 0.05 has a median absolute deviation of 0.034
    assert np.median(np.abs(prediction - truth)) < 0.05


def test_interval_covers_held_out_rows(fitted) -> None:
    rows, f = fitted
    held_out = ~rows.train
    prediction, spread = f.twin.predict(rows.x[held_out], {})
    residual = np.abs(prediction - np.log(rows.latency_s / (f.t0_s + rows.roofline_s))[held_out])
    coverage = (residual <= f.interval.half_width(spread)).mean()
    # about 270 rows: 90 % +- 4 standard errors
    assert 0.9 - 4 * 0.0183 < coverage < 0.9 + 4 * 0.0183


def test_same_seed_same_model(fitted) -> None:
    rows, f = fitted
    again = fit_family(rows, seed=0, distil=False)
    assert again.scores == f.scores
    np.testing.assert_array_equal(f.final.predict(rows.x[:50], {})[0], again.final.predict(rows.x[:50], {})[0])


def test_weights_prefer_the_better_member_and_sum_to_one() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=400)
    good, bad = y + rng.normal(0, 0.1, 400), rng.normal(size=400)
    w = _weigh(np.stack([good, bad]), y)
    assert w.sum() == pytest.approx(1.0)
    assert w[0] > 0.9


def test_conformal_quantile_against_a_hand_made_case() -> None:
    # scores 1..19 (spread + floor = 1): rank ceil(20 * 0.9) = 18
    interval = conformal(np.arange(1.0, 20.0), np.full(19, 1.0 - 0.02))
    assert interval.quantile == pytest.approx(18.0)


def test_conformal_coverage_is_as_promised_over_many_draws() -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(300):
        spread = rng.uniform(0.05, 0.3, 250)
        residual = np.abs(rng.normal(0, spread))
        interval = conformal(residual[:200], spread[:200])
        covered.append((residual[200:] <= interval.half_width(spread[200:])).mean())
    # theory: between 0.9 and 0.9 + 1/201; 300 x 50 rows have a standard error of about 0.003
    assert 0.9 - 0.012 < np.mean(covered) < 0.905 + 0.012


def test_rows_of_another_machine_are_learnt_from_but_never_scored() -> None:
    rows = synthetic(500, noise=0.02, foreign=200)
    f = fit_family(rows, seed=0, distil=False)
    assert f.scores["rows"] == (rows.train & rows.own).sum() == f.interval.rows


def test_student_learns_prediction_and_spread_of_its_teacher(fitted, monkeypatch) -> None:
    # a fifth of the steps, which is enough for four features
    monkeypatch.setattr(student, "STEPS", 1000)
    rows, f = fitted
    y = np.log(rows.latency_s / (f.t0_s + rows.roofline_s))
    spread = f.teacher.predict(rows.x[rows.train], rows.labels(rows.train))[1]
    taught_by = family._student(f.teacher, rows, y, rows.train, spread, seed=0)
    held_out = rows.x[~rows.train]
    taught, spread = taught_by.members[0].predict_with_spread(held_out)
    teacher, teacher_spread = f.teacher.predict(held_out, {})
    # far closer to the teacher than the targets are spread (0.45)
    assert np.median(np.abs(taught - teacher)) < 0.05
    # Here the members differ by chance alone (or one of them answers alone, with no spread), so only the size of their
    # difference can be learnt; an interval sees it with the floor added.
    assert 0.4 < (np.median(spread) + FLOOR) / (np.median(teacher_spread) + FLOOR) < 2.5


def test_distilling_ships_one_student_of_each_stack(monkeypatch) -> None:
    monkeypatch.setattr(student, "STEPS", 40)
    monkeypatch.setitem(trees.PARAMETERS, "max_iter", 20)
    monkeypatch.setattr(family, "recipes_for", lambda rows, y, seed: [family._Trees(seed), family._Trees(seed + 1)])
    f = fit_family(synthetic(300, noise=0.05), seed=0)
    for stack in (f.twin, f.final):
        assert [type(m) for m in stack.members] == [Student]
        np.testing.assert_array_equal(stack.weights, [1.0])
    assert not any(isinstance(m, Student) for m in f.teacher.members)
    # that of the shipped model has seen the held-out rows, that of the twin has not
    both = zip(f.twin.members[0].arrays().values(), f.final.members[0].arrays().values(), strict=True)
    assert any(not np.array_equal(a, b) for a, b in both)
