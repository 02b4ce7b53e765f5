"""Analytic times of main kernels of convolutions: tiles, blocks of channels and phases that can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import ops
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.features.convolution import Geometry
from graphs.hardware.calibration.features.convolution_kernels import (
    HALF_CONVOLUTION,
    HALF_TRANSPOSED,
    HALF_WITHOUT_UNITS,
    NATIVE_S,
    SIMT_CONVOLUTION,
    TF32_CONVOLUTION,
    Call,
    main_times,
    native_s,
    own_s,
)  # fmt: skip
from graphs.hardware.calibration.features.gemm_tiles import BULK_LOADS, NARROW_LOADS, Estimate, Kernels

#: 100 units that are never short of arithmetic, and a memory that is never waited for.
FAST = Machine(100, 2.0**25, {"fp32": 2.0**70, "tf32": 2.0**70, "fp16": 2.0**70}, 2.0**70)
SHAPE = {"n": 1, "c": 64, "o": 32, "h": 4, "w": 4, "k": 3, "stride": 1, "pad": 1}


def times(dtype: str = "fp16", op: str = "conv2d", units: bool = True, last: bool = True, **changed: Any) -> Estimate:
    params = SHAPE | changed
    (group,) = ops.group_operators([op], [dtype], [params | {"fmt": "channels_last" if last else "contiguous"}])
    product = (params["k"], params["stride"]) == (1, 1)
    flags = (np.array([flag]) for flag in (last, units, product))
    call = Call(np.array([dtype]), group.itemsize, *flags, transposed=op == "conv_transpose2d")
    return main_times(Geometry(group), call, np.ones(1), np.ones(1), FAST)


def one_block_us(kernels: Kernels, depth: int, rows: int, width: int, itemsize: int) -> float:
    step_us = kernels.step_us + kernels.byte_us * (rows + width) * itemsize
    return kernels.launch_us + kernels.block_us + depth * step_us


def test_implicit_gemm_takes_whole_blocks_of_channels_at_each_tap() -> None:
    expected = one_block_us(HALF_CONVOLUTION, 9 * 64, 64, 32, 2)
    assert times().unsplit_us[0] == pytest.approx(expected)
    assert times(c=8).unsplit_us[0] == pytest.approx(expected)
    assert times(c=72).unsplit_us[0] == pytest.approx(one_block_us(HALF_CONVOLUTION, 18 * 64, 64, 32, 2))
    # blocks are of 128 bytes
    assert times("tf32", c=32).unsplit_us[0] == pytest.approx(one_block_us(TF32_CONVOLUTION, 9 * 32, 64, 32, 4))


def test_without_matrix_units_the_loop_goes_over_channels_and_taps_alone() -> None:
    # 9 x 8 = 72 are 96 in steps of 32, for tiles of 32 x 32
    expected = one_block_us(SIMT_CONVOLUTION, 96, 32, 32, 4)
    assert times("fp32", units=False, c=8).unsplit_us[0] == pytest.approx(expected)
    # in half precision they wait for each load
    slow = one_block_us(HALF_WITHOUT_UNITS, 96, 32, 32, 2)
    assert times(units=False, c=8).unsplit_us[0] == pytest.approx(slow)


def test_a_pointwise_convolution_is_a_product_by_rows_as_they_start() -> None:
    one = {"k": 1, "pad": 0, "c": 64}
    assert times(**one, o=8).unsplit_us[0] == pytest.approx(one_block_us(BULK_LOADS, 64, 64, 8, 2))
    assert times(**one, o=7).unsplit_us[0] == pytest.approx(one_block_us(NARROW_LOADS, 64, 16, 16, 2))
    # rows of planar tensors are planes, of 16 or 15 pixels, whatever the channels
    assert times(**one, o=7, last=False).unsplit_us[0] == pytest.approx(one_block_us(BULK_LOADS, 64, 64, 8, 2))
    assert times(**one, w=3, h=5, last=False).unsplit_us[0] > times(**one, last=False).unsplit_us[0]


def test_a_transposed_convolution_has_a_product_for_each_phase_with_its_taps() -> None:
    # stride 2 and 4 x 4 taps: 4 blocks at once, each with 2 x 2 taps
    found = times(op="conv_transpose2d", k=4, stride=2)
    assert found.unsplit_us[0] == pytest.approx(one_block_us(HALF_TRANSPOSED, 4 * 64, 64, 32, 2))
    assert found.split[0] == 1


def test_kernels_for_groups_by_hand() -> None:
    machine = Machine(100, 2.0**25, {"fp16": 1e15}, 1e12)
    slow, fast = np.array([1e9]), np.array([0.0])
    # 1e6 outputs of 9 taps, each of 200 multiply-adds
    assert native_s(np.array([1e6]), np.array([9.0]), fast, np.array([1e15]), machine)[0] == pytest.approx(
        NATIVE_S + 1e6 * 9 * 400 / 1e15
    )
    assert native_s(np.array([1.0]), np.array([9.0]), slow, np.array([1e15]), machine)[0] == pytest.approx(
        NATIVE_S + 1e9 / 0.55e12
    )
    assert own_s(np.array([7.5e10]), fast, machine)[0] == pytest.approx(1.0)
    assert own_s(np.array([1.0]), slow, machine)[0] == pytest.approx(1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(("fp32", "tf32", "fp16")),
    st.sampled_from(("conv2d", "conv_transpose2d")),
    st.booleans(),
    *(st.integers(1, 2048) for _ in range(3)),
    st.integers(11, 300),
    st.integers(1, 11),
    st.integers(1, 4),
)
def test_times_are_finite_and_the_best_is_best(
    dtype: str, op: str, last: bool, n: int, c: int, o: int, side: int, k: int, stride: int
) -> None:
    shape = {"n": n, "c": c, "o": o, "h": side, "w": side, "k": k, "stride": stride, "pad": 0}
    t = times(dtype, op, dtype != "fp32", last, **shape)
    assert 0 < t.best_us[0] <= t.unsplit_us[0] < np.inf
