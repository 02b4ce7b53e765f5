"""A run that extends a data set: what it asks for, and when the rows may be pooled."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from training.measure import extend
from training.measure.plan import Limits, config_key, make_plan

LIMITS = Limits({"fp32": 5e13, "tf32": 4e14, "bf16": 8e14}, 3e12, 5e7, 0.05, 4e9)


@pytest.fixture(scope="module")
def h200(root):
    """A few rows of each kind, each dtype."""
    whole = pd.read_parquet(root / "data" / "h200-sxm" / "ops.parquet", columns=["op", "dtype", "params"])
    some = whole.groupby(["op", "dtype"]).head(4).reset_index(drop=True)
    return some.assign(params=[p if isinstance(p, dict) else json.loads(p) for p in some["params"]])


def test_a_sample_of_every_kind_comes_first_and_then_what_is_short(h200, monkeypatch) -> None:
    monkeypatch.setattr(extend, "FEW", 3)
    asked = extend.asked(h200, LIMITS, seed=0)
    again, new = asked[: extend.SAMPLE], asked[extend.SAMPLE :]
    have = {config_key(*row) for row in zip(h200["op"], h200["dtype"], h200["params"], strict=True)}
    assert all(config_key(*a) in have for a in again)
    assert not any(config_key(*a) in have for a in new)
    assert {op for op, _, _ in again} == set(h200.loc[h200["dtype"].isin(LIMITS.peaks), "op"])
    assert {d for _, d, _ in asked} <= set(LIMITS.peaks)
    assert asked == extend.asked(h200, LIMITS, seed=0)
    # Kinds of the second campaign on the H100, which the H200 never ran, and the shapes that are few.
    assert {"relu_nd", "permute_copy", "cumsum", "index_select", "addmm", "cat_channels"} <= {op for op, _, _ in new}
    assert sum(op == "conv2d" and p["groups"] > 1 for op, _, p in new) >= 40
    assert sum(op == "sdpa" and d == "tf32" and p["hkv"] < p["h"] for op, d, p in new) >= 10
    # The plan keeps the order, within the limits.
    planned = [e for e in make_plan(LIMITS, 0, asked=asked) if e.what == "op"]
    assert planned[0].key == config_key(*asked[0])
    assert len(planned) > 0.8 * len(asked)


def frame(times, retest):
    return pd.DataFrame({
        "op": "relu", "dtype": "fp32", "params": [{"numel": 1000 + i} for i in range(len(times))], "median_us": times,
        "retest_us": times * (1 + retest),
    })  # fmt: skip


@pytest.mark.parametrize(("off", "rows", "noise", "pool"), [
    (0.005, 60, 0.002, True), (0.007, 60, 0.002, False), (0.0, 20, 0.002, False), (0.0, 60, np.nan, False),
])  # fmt: skip
def test_rows_are_pooled_within_three_times_the_retest_noise_only(off, rows, noise, pool) -> None:
    times = np.linspace(10, 20, 80)
    found = extend.agreement(frame(times, noise), frame(times[:rows] * (1 + off), noise))
    assert (found["rows"], found["pool"]) == (rows, pool)
    assert found["factor"] == pytest.approx(1 + off)
    assert found["difference"] == pytest.approx(off, abs=1e-9)


def test_tables_without_a_common_row_are_never_pooled() -> None:
    times = np.linspace(10, 20, 80)
    other = frame(times, 0.01).assign(dtype="bf16")
    assert extend.agreement(frame(times, 0.01), other) == {
        "rows": 0, "difference": None, "factor": None, "noise": pytest.approx(0.01), "pool": False,
    }  # fmt: skip
