"""Analytic times of matrix products: waves, tiles and splits that can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import ops
from graphs.hardware.calibration.features import Machine, build
from graphs.hardware.calibration.features.gemm_tiles import BULK_LOADS, MEMORY_SHARE, SIMT, Estimate, estimate, waves

#: A made-up machine with round numbers: 100 units, 2^25 bytes of cache, 2^40 B/s.
TOY = Machine(100, 2.0**25, {"fp32": 2.0**45, "tf32": 2.0**47, "fp16": 2.0**48, "bf16": 2.0**48}, 2.0**40)


def times(op: str, dtype: str, b: float = 1.0, **params: Any) -> Estimate:
    (group,) = ops.group_operators([op], [dtype], [params | ({"b": b} if op == "bmm" else {})])
    dims = (np.array([float(params[name])]) for name in ("m", "n", "k"))
    aligned = np.array([all(params[name] * group.itemsize[0] % 16 == 0 for name in ("n", "k"))])
    return estimate(group, np.array([b]), *dims, aligned, TOY)


def test_waves_by_hand() -> None:
    # blocks that one of 100 units gets, and rounds of four at once
    per_unit, rounds = waves(np.array([1.0, 100.0, 101.0, 400.0, 401.0]), 100, 4)
    assert per_unit.tolist() == [1, 1, 2, 4, 5]
    assert rounds.tolist() == [1, 1, 1, 1, 2]


def test_a_product_of_one_small_tile_waits_for_its_loads() -> None:
    # one block of 32 x 32: 64 elements of k, each at the latency of a step and of 64 rows and columns of 4 bytes
    expected = SIMT.launch_us + SIMT.block_us + 64 * (SIMT.step_us + SIMT.byte_us * 64 * 4)
    small = times("matmul", "fp32", m=32, n=32, k=64)
    assert small.best_us[0] == pytest.approx(expected)
    assert small.unsplit_us[0] == small.best_us[0]
    assert small.split[0] == 1
    # k is padded to whole steps of 32
    assert times("matmul", "fp32", m=32, n=32, k=33).best_us[0] == pytest.approx(expected)


def test_a_large_product_takes_the_arithmetic_of_full_waves() -> None:
    # 1280 x 1280 in 128 x 128 are 100 blocks, one a unit: 2 x 128 x 128 x k operations at its share of the peak
    k = 8192
    loop = 2.0 * 128 * 128 * k / (2.0**48 * 1e-6 * BULK_LOADS.peak_share / 100)
    full = times("matmul", "bf16", m=1280, n=1280, k=k)
    assert full.best_us[0] == pytest.approx(BULK_LOADS.launch_us + BULK_LOADS.block_us + loop)
    # one more row does not fit into the wave
    assert times("matmul", "bf16", m=1281, n=1280, k=k).best_us[0] > 1.1 * full.best_us[0]


def test_deep_products_of_few_tiles_are_split_unless_batched() -> None:
    deep = times("matmul", "fp32", m=64, n=64, k=16384)
    assert deep.split[0] > 1
    assert deep.best_us[0] < 0.5 * deep.unsplit_us[0]
    assert times("bmm", "fp32", b=2.0, m=64, n=64, k=16384).split[0] == 1
    # a part has at least 64 elements
    assert times("matmul", "fp32", m=64, n=64, k=127).split[0] == 1


def test_a_product_cannot_beat_the_memory() -> None:
    wide = times("matmul", "bf16", m=8, n=65536, k=4096)
    nbytes = 2.0 * (8 * 4096 + 65536 * 4096 + 8 * 65536)
    assert wide.best_us[0] >= nbytes / (2.0**40 * 1e-6 * MEMORY_SHARE)


def test_rows_that_bulk_loads_cannot_take_are_slower() -> None:
    aligned, odd = (times("matmul", "bf16", m=2048, n=2048, k=k).best_us[0] for k in (2048, 2047))
    assert odd > 1.5 * aligned


def test_columns_of_one_product_by_hand() -> None:
    (group,) = ops.group_operators(["linear"], ["fp32"], [{"m": 16, "n": 1024, "k": 96, "bias": True}])
    names, x = build(group, TOY)
    f = dict(zip(names, x[0].tolist(), strict=True))
    assert f["few_rows"] == 1.0
    assert (f["n_far_align"], f["k_far_align"]) == (10, 5)
    roofline_us = 2.0 + 2 ** f["lg_roofline_us"]
    assert 2 ** f["lg_serial_over_roofline"] * roofline_us == pytest.approx(2.0 + 96 * 0.02)
    assert f["lg_best_over_roofline"] <= f["lg_unsplit_over_roofline"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(("fp32", "tf32", "bf16")),
    st.integers(1, 4096),
    *(st.integers(1, 2**20) for _ in range(3)),
)
def test_times_are_finite_and_the_best_is_best(dtype: str, b: int, m: int, n: int, k: int) -> None:
    t = times("bmm", dtype, b=float(b), m=m, n=n, k=k)
    assert 0 < t.best_us[0] <= t.unsplit_us[0] < np.inf
    assert t.split[0] >= 1
