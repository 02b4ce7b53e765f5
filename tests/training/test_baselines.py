"""Baselines on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from graphs import ops
from graphs.hardware.profile import load_profile
from training.validate.baselines import baselines


def rows(sizes, latency_us, dtype="fp32", op="matmul"):
    params = [{"m": int(s), "n": int(s), "k": int(s)} for s in sizes]
    cost = [ops.evaluate(op, p, ops.itemsize(dtype)) for p in params]
    return pd.DataFrame(
        {"op": op, "dtype": dtype, "params": params, "flops": [c.flops for c in cost], "bytes": [c.bytes for c in cost],
         "median_us": latency_us}
    )  # fmt: skip


PROFILE = load_profile("i7-12700k")


def test_default_and_roofline_by_hand() -> None:
    test = rows([2048], [1.0])
    b = baselines(test.iloc[:0], test, PROFILE)
    assert b["roofline"][0] == pytest.approx(17179869184 / 1e12)
    assert b["default_20pct"][0] == pytest.approx(17179869184 / 0.2e12)
    # a table without rows has nothing to look up
    assert b["lookup"][0] == b["default_20pct"][0] == b["log_linear"][0]


def test_tables_recover_a_power_law() -> None:
    sizes = np.array([100, 200, 400, 800, 1600])
    efficiency = 0.01 * sizes**0.5
    train = rows(sizes, 2.0 * sizes**3.0 / 1e12 / efficiency * 1e6)
    test = rows([800, 1131], [1.0, 1.0])
    b = baselines(train, test, PROFILE)
    assert b["lookup"][0] == pytest.approx(train["median_us"][3] * 1e-6)  # a measured row answers itself
    # a power law is a straight line in logs
    truth = 2.0 * 1131.0**3 / 1e12 / (0.01 * 1131.0**0.5)
    assert b["log_linear"][1] == pytest.approx(truth, rel=0.02)
    # looking up efficiency follows the size, looking up latency does not
    assert abs(np.log(b["lookup"][1] / truth)) < abs(np.log(b["lookup_latency"][1] / truth))


def test_another_dtype_is_used_only_when_the_own_has_too_few_rows() -> None:
    bf = load_profile("h100-sxm")
    train = pd.concat([rows([64, 128, 256, 512], [10.0] * 4, "bf16"), rows([64, 128, 256, 512], [99.0] * 4, "fp32")])
    b = baselines(train.reset_index(drop=True), rows([128], [1.0], "bf16"), bf)
    assert b["lookup_latency"][0] == pytest.approx(10e-6)
