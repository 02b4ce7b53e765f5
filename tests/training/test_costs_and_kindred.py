"""Fitting the sum of costs, the members that see it, and another processor's efficiency."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graphs import ops
from graphs.hardware.calibration.features import Machine, build
from graphs.hardware.calibration.features.costs import costs
from training.fit import kindred
from training.fit.augmented import AugmentedRecipe
from training.fit.costs import fit_costs
from training.fit.family import Rows, recipes_for
from training.fit.kindred import KINDRED, Kindred, fit_elsewhere
from training.fit.prepare import Table

HERE = Machine(units=16, l2_bytes=2.0**25, peaks={"fp32": 2.0**40}, bandwidth_bytes_per_s=2.0**38, kind="cpu")
THERE = replace(HERE, units=2, peaks={"fp32": 2.0**37}, bandwidth_bytes_per_s=2.0**35)
T0_S = 1e-6


def unary_rows(n: int = 120) -> tuple[Rows, np.ndarray]:
    """Return rows whose latency is a call of 3 us, half the ordinary time of an element, and twice a fault's."""
    sizes = np.unique(np.geomspace(100, 2**25, n).astype(int))
    kinds = ["relu", "exp"]
    groups = ops.group_operators(
        [kinds[i % 2] for i in range(len(sizes))], ["fp32"] * len(sizes), [{"numel": int(s)} for s in sizes]
    )
    names, _ = build(groups[0], HERE)
    x = np.concatenate([build(g, HERE)[1] for g in groups])
    us = np.exp(costs("unary", names, x)[0])
    latency_us = 3.0 * us[:, 0] + 0.5 * us[:, 4] + 2.0 * us[:, 6]
    roofline_s = 1e-6 * 2.0 ** x[:, names.index("lg_roofline_us")]
    rows = Rows(
        family="unary", names=tuple(names), x=x, latency_s=1e-6 * latency_us, roofline_s=roofline_s,
        fold=np.arange(len(x)) % 5, train=np.ones(len(x), dtype=bool), own=np.ones(len(x), dtype=bool),
        synthetic_x=np.empty((0, x.shape[1])),
    )  # fmt: skip
    return rows, np.log(rows.latency_s / (T0_S + roofline_s))


def test_rates_are_found_from_rows() -> None:
    rows, y = unary_rows()
    some = rows.fold != 0
    model = fit_costs("unary", rows.names, rows.x[some], y[some], T0_S)
    error = model.predict(rows.x[~some]) - y[~some]
    # the prior holds rates near the ordinary ones
    assert np.abs(error).max() < 0.1
    # rows in a slow spell do not pull the others along
    slow = y + np.where(np.arange(len(y)) % 10 == 3, 2.0, 0.0)
    robust = fit_costs("unary", rows.names, rows.x[some], slow[some], T0_S)
    assert np.median(np.abs(robust.predict(rows.x[~some]) - y[~some])) < 0.1


def test_processors_alone_get_the_members_that_see_costs() -> None:
    rows, y = unary_rows()
    kinds = [type(r).__name__ for r in recipes_for(rows, y, 0)]
    assert kinds == ["_Trees", "_Forest", "AugmentedRecipe", "_Processes"]
    gpu = replace(rows, names=tuple(n.replace("lg_threads", "other") for n in rows.names))
    assert "AugmentedRecipe" not in [type(r).__name__ for r in recipes_for(gpu, y, 0)]


def test_the_members_follow_the_costs() -> None:
    rows, y = unary_rows()
    recipe = AugmentedRecipe((), 0)
    some = rows.fold != 0
    assert recipe.without(rows, y, some) is recipe
    fitted = recipe.fit(rows, y, some)
    out = fitted.outputs(rows.x[~some], {})
    assert out.shape == (recipe.n_outputs(), (~some).sum())
    assert np.abs(out[0] - y[~some]).mean() < 0.1


def table_there(n: int = 60) -> Table:
    """Return rows of another processor: 5 us and a quarter of its bandwidth; held-out rows are nonsense."""
    sizes = np.geomspace(1000, 2**22, n).astype(int)
    frame = pd.DataFrame({"op": "relu", "dtype": "fp32", "params": [{"numel": int(s)} for s in sizes]})
    held_out = np.arange(n) % 6 == 0
    true_us = 5.0 + 4.0 * 1e6 * 8.0 * sizes / THERE.bandwidth_bytes_per_s
    frame["median_us"] = np.where(held_out, 1e9, true_us)
    frame["split"] = np.where(held_out, "random", "train")
    return Table.of(frame)


def test_efficiency_elsewhere_is_learnt_from_training_rows_in_the_features_here() -> None:
    regressors = fit_elsewhere(table_there(), "unary", {"relu"}, HERE, THERE, 0)
    assert len(regressors) == 2
    (query,) = ops.group_operators(["relu"], ["fp32"], [{"numel": 2**21}])
    x = build(query, HERE)[1]
    roofline_us = 1e6 * 8.0 * 2**21 / THERE.bandwidth_bytes_per_s
    # t0 is the 1 % quantile of the latencies, about 6 us
    expected = np.log((5.0 + 4.0 * roofline_us) / (6.0 + roofline_us))
    for regressor in regressors:
        assert regressor.outputs(x, {})[0, 0] == pytest.approx(expected, abs=0.15)


def test_too_few_rows_elsewhere_tell_nothing() -> None:
    assert fit_elsewhere(table_there(), "unary", {"exp"}, HERE, THERE, 0) == ()
    assert fit_elsewhere(table_there(30), "unary", {"relu"}, HERE, THERE, 0) == ()
    assert fit_elsewhere(table_there(), "gemm", {"linear"}, HERE, THERE, 0) == ()


def test_a_processor_without_kin_or_without_its_rows_asks_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Kindred.of("epyc-2c", tmp_path / "epyc-2c") is None
    assert Kindred.of("xeon-16c", tmp_path / "xeon-16c") is None
    found = Kindred.of("xeon-16c", Path("data/xeon-16c"))
    assert found is not None
    assert found.hardware == KINDRED["xeon-16c"] == "epyc-2c"
    assert found.machine.units == 2
    seen = []
    monkeypatch.setattr(kindred, "fit_elsewhere", lambda *a: seen.append(a[1:]) or ())
    groups = ops.group_operators(["relu", "relu"], ["fp32", "bf16"], [{"numel": 8}, {"numel": 9}])
    assert found.elsewhere("unary", groups, HERE, 3) == ()
    assert seen == [("unary", {"relu"}, HERE, found.machine, 3)]
