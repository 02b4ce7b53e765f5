"""The prior helps where there are few rows, and is never asked about what it has seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from graphs import ops
from graphs.hardware.calibration.features import Machine
from graphs.hardware.profile import load_profile
from training.dataset.splits import assign_splits, identities
from training.fewshot import Prior, base_log_s, known_of, learning_curve, prior_of, shared_features, virtual_table
from training.fit.prepare import machine_of
from training.fit.residual import fit_residual
from training.validate import holdout

THERE = Machine(8, 4e7, {"fp32": 1e12, "bf16": 2e12}, 1e11, "cpu")
HERE = Machine(2, 1e7, {"fp32": 2e11, "bf16": 4e11}, 2e10, "cpu")


def table(machine, rows=300, seed=0, slower=1.0):
    """Products and norms whose efficiency is a function of the shape that both machines share."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(rows):
        dtype = ("fp32", "bf16")[i % 2]
        if i % 3:
            op, params = "linear", {k: int(2 ** rng.uniform(4, 11)) for k in "mnk"}
            efficiency = 0.8 / (1 + 60 / params["k"] + 20 / params["n"]) * (0.6 if params["m"] % 2 else 1.0)
        else:
            op, params = "softmax", {"rows": int(2 ** rng.uniform(2, 13)), "cols": int(2 ** rng.uniform(4, 12))}
            efficiency = 0.7 / (1 + 100 / params["cols"])
        cost = ops.evaluate(op, params, ops.itemsize(dtype))
        roof = max(cost.flops / machine.peaks[dtype], cost.bytes / machine.bandwidth_bytes_per_s)
        took_us = 1e6 * slower * (2e-6 + roof / efficiency)
        work = {"flops": float(cost.flops), "bytes": float(cost.bytes), "roof": roof}
        records.append({"op": op, "dtype": dtype, "params": params, **work, "median_us": took_us})
    frame = pd.DataFrame(records)
    return frame.assign(split=assign_splits(frame, "cpu"))


@pytest.fixture(scope="module")
def toy():
    there, here = table(THERE), table(HERE, slower=1.3)
    n = len(there)
    return here, Prior(there["median_us"].to_numpy() * 1e-6, np.full(n, 2e-6), there["roof"].to_numpy())


@pytest.fixture(scope="module")
def xeon():
    return known_of("xeon-16c")


def test_few_rows_with_a_prior_beat_as_many_without(toy) -> None:
    here, prior = toy
    none, few = learning_curve(here, HERE, prior, (0, 30), (0,))
    (alone,) = learning_curve(here, HERE, None, (30,), (0,))
    assert few.median_ape < 0.6 * alone.median_ape
    # And the rows teach what the prior cannot know: this machine takes 1.3 times as long.
    assert few.median_ape < 0.5 * none.median_ape
    assert abs(few.bias) < 0.05 < abs(none.bias)


def test_the_base_scales_by_the_rooflines(toy) -> None:
    here, prior = toy
    ratio = np.exp(base_log_s(prior, shared_features(here, HERE))) / prior.there_s
    # A fifth of the peak and of the bandwidth: five times the time where the fixed cost does not count.
    assert ratio.max() == pytest.approx(5.0, rel=0.01)
    assert (ratio > 1).all()


def test_held_out_configurations_get_the_twins_word_and_training_ones_the_measurement(xeon) -> None:
    held_out = xeon.frame[xeon.frame["split"] != "train"].head(40).reset_index(drop=True)
    train = xeon.frame[xeon.frame["split"] == "train"].head(40).reset_index(drop=True)
    said = prior_of(xeon, held_out).there_s
    measured = held_out["median_us"].to_numpy() * 1e-6
    assert said == pytest.approx([xeon.twin_s[k] for k in identities(held_out)])
    assert (np.abs(said / measured - 1) > 1e-3).mean() > 0.9  # predictions, not a look-up
    assert prior_of(xeon, train).there_s == pytest.approx(train["median_us"].to_numpy() * 1e-6)


def test_the_shipped_model_answers_only_for_configurations_it_was_not_fitted_on(xeon) -> None:
    row = {"op": "linear", "dtype": "fp32", "params": {"m": 333, "n": 444, "k": 555, "bias": False}, "split": "train"}
    strange = pd.DataFrame([row, {**row, "op": "roll", "params": {"n": 1, "h": 8, "w": 8, "c": 8, "shift": 3}}])
    said = prior_of(xeon, strange).there_s
    (expected, _) = holdout.predict(strange, xeon.calibration)["extrapolated_s"]
    assert said[0] == pytest.approx(expected)
    assert np.isnan(said[1])  # a kind that was not measured there


def test_carried_over_rows_have_this_machines_speed_and_no_held_out_row_taught_it(xeon) -> None:
    machine = machine_of(load_profile("xeon-16c"))
    frame = xeon.frame.copy()
    train = (frame["split"] == "train").to_numpy()
    frame.loc[train, "median_us"] *= 3  # a machine like the other one, three times slower
    frame.loc[~train, "median_us"] *= 1000  # nobody may look at these
    some = pd.concat([frame[train].sample(120, random_state=1), frame[~train]]).reset_index(drop=True)
    virtual = virtual_table(some, machine, "xeon-16c")
    assert virtual.virtual
    ratio = virtual.frame["median_us"].to_numpy() / xeon.frame["median_us"].to_numpy()
    assert np.median(ratio) == pytest.approx(3.0, rel=0.03)
    assert ratio.max() < 5


def test_the_residual_is_calm_far_from_its_rows_and_not_moved_by_an_outlier() -> None:
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(60, 3)), np.zeros((60, 3), dtype=np.int64)
    y = 0.3 + 0.02 * rng.normal(size=60)
    y[0] = 8.0
    fitted = fit_residual(x, groups, y)
    assert fitted.predict(100 + x[:5], groups[:5] + 1) == pytest.approx(0.3, abs=0.05)
    assert fitted.predict(x[1:20], groups[1:20]) == pytest.approx(0.3, abs=0.08)


def test_a_prior_that_learnt_from_the_other_machine_says_so() -> None:
    from training.fewshot_report import flattered

    assert "training rows of epyc-2c" in flattered("xeon-16c", "epyc-2c", known_of("xeon-16c"))
    assert flattered("h100-sxm", "h200-sxm", known_of("h100-sxm")) == ""
