"""Estimated parts of a convolution on a GPU: transforms, bias, groups and tiles, counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from graphs import ops
from graphs.hardware.calibration.features import Machine, build
from graphs.hardware.calibration.features.convolution_parts import LAUNCH_S, SLOW_S, _tiles_s

#: 100 units, 2^25 bytes of cache, 2^40 B/s, and matrix units so fast that all convolutions here wait for memory.
GPU = Machine(100, 2.0**25, {"fp32": 2.0**60, "tf32": 2.0**60, "fp16": 2.0**60, "bf16": 2.0**60}, 2.0**40)
SHAPE = {"n": 8, "c": 64, "o": 128, "h": 32, "w": 32, "k": 3, "stride": 1, "pad": 1, "groups": 1, "bias": False}
#: Bytes of its input, output and weights in half precision.
IN, OUT, WEIGHTS = 2.0 * 8 * 64 * 1024, 2.0 * 8 * 128 * 1024, 2.0 * 64 * 128 * 9
BASE_S = LAUNCH_S + (IN + OUT + WEIGHTS) / 2.0**40


def parts(dtype: str = "fp16", layout: str = "contiguous", op: str = "conv2d", **changed: Any) -> dict[str, float]:
    (group,) = ops.group_operators([op], [dtype], [SHAPE | {"fmt": layout} | changed])
    names, x = build(group, GPU)
    return dict(zip(names, x[0].tolist(), strict=True))


def test_planar_half_precision_is_transformed_in_and_out_and_so_are_its_weights() -> None:
    moved_s = 3 * LAUNCH_S + 2.0 * (IN + OUT + WEIGHTS) / 2.0**40
    assert parts()["lg_around_over_roofline"] == pytest.approx(math.log2((BASE_S + moved_s) / BASE_S))
    assert parts(layout="channels_last")["lg_around_over_roofline"] == 0


def test_fp32_kernels_read_planar_tensors() -> None:
    assert parts("fp32")["lg_around_over_roofline"] == 0
    assert parts("fp32", "channels_last")["lg_around_over_roofline"] > 0


def test_a_pointwise_convolution_is_a_product_without_transforms_unless_it_strides() -> None:
    assert parts(k=1, pad=0)["lg_around_over_roofline"] == 0
    assert parts(k=1, pad=0, stride=2)["lg_around_over_roofline"] > 0


def test_a_bias_is_another_pass_over_the_output() -> None:
    added_s = LAUNCH_S + 2.0 * OUT / 2.0**40
    found = parts(layout="channels_last", bias=True)
    assert found["lg_around_over_roofline"] == pytest.approx(math.log2((BASE_S + added_s) / BASE_S))
    assert 0 < found["bias_share"] < 1
    assert parts(layout="channels_last")["bias_share"] == 0


def test_ragged_channels_are_padded_and_their_weights_slowly_so() -> None:
    found = parts(layout="channels_last", c=63)
    in_bytes, weight_bytes = IN * 63 / 64, WEIGHTS * 63 / 64
    base_s = LAUNCH_S + (in_bytes + OUT + weight_bytes) / 2.0**40
    padding_s = LAUNCH_S + 2.0 * in_bytes / 2.0**40 + SLOW_S + 2.0 * weight_bytes / (0.15 * 2.0**40)
    assert found["lg_around_over_roofline"] == pytest.approx(math.log2((base_s + padding_s) / base_s))
    assert (found["ragged_c"], found["ragged_o"]) == (1, 0)
    assert parts("fp32", c=63)["ragged_c"] == 0


def test_kernels_for_groups_want_equal_powers_of_two_and_all_else_runs_group_by_group() -> None:
    native = parts(layout="channels_last", c=128, groups=8)
    filled = parts(layout="channels_last", c=192, o=192, groups=8)
    serial = parts(layout="channels_last", c=64, groups=8)
    wide = parts(layout="channels_last", c=128, groups=2)
    assert [f["native_groups"] for f in (native, filled, serial, wide)] == [1, 0, 0, 0]
    assert [f["filled_groups"] for f in (native, filled, serial, wide)] == [0, 1, 0, 0]
    assert native["lg_parts_over_roofline"] < native["lg_serial_over_roofline"]
    assert filled["lg_parts_over_roofline"] > native["lg_parts_over_roofline"]
    # launch and roofline aside, the estimate of the last two is that of the groups one after another
    for f in (serial, wide):
        assert 2 ** f["lg_parts_over_roofline"] == pytest.approx(2 ** f["lg_serial_over_roofline"], rel=0.2)
    assert parts("fp32", c=128, groups=8)["native_groups"] == 0
    more = parts(layout="channels_last", c=64, groups=16)
    assert more["lg_serial_over_roofline"] > serial["lg_serial_over_roofline"]


def tiles_s(b: float, m: float, n: float, k: float) -> float:
    columns = (np.array([v]) for v in (b, m, n, k, 2.0, 1e13))
    return float(_tiles_s(*columns, Machine(100, 2.0**25, {"fp16": 1e15}, 1e12))[0])


def test_one_full_wave_of_the_largest_tile_by_hand() -> None:
    # 100 tiles of 256 x 128 on 100 units; 4096 bytes of k are 32 steps of 64 elements
    step_s = 2.0 * 256 * 128 * 64 / 1e13 * (1 + 24 / 256 + 24 / 128) + 1e-7
    assert tiles_s(100, 256, 128, 2048) == pytest.approx(32 * step_s)
    # one tile more begins another wave, but smaller tiles quantise less
    assert 1.0 < tiles_s(101, 256, 128, 2048) / tiles_s(100, 256, 128, 2048) < 2.0


def test_a_long_k_is_split_where_units_idle() -> None:
    # a single tile: 16 parts of 1/16, one more launch, and their sum through memory
    whole = 2.0 * 32 * 32 * 64 / 1e13 * (1 + 24 / 32 + 24 / 32) + 1e-7
    expected = 1024 / 16 * whole + LAUNCH_S + 16 * 4.0 * 32 * 32 / 1e12
    assert tiles_s(1, 32, 32, 65536) == pytest.approx(expected)


def test_a_depthwise_convolution_in_the_vendor_library_adds_its_bias_in_another_pass() -> None:
    depthwise = {"o": 64, "groups": 64, "op": "dwconv2d"}
    plain, biased = (parts(layout="channels_last", bias=b, **depthwise) for b in (False, True))
    added_s, base_s = LAUNCH_S + 2.0 * IN / 2.0**40, LAUNCH_S + (2.0 * IN + 2.0 * 64 * 9) / 2.0**40
    assert plain["lg_added_over_bytes"] == 0
    assert biased["lg_added_over_bytes"] == pytest.approx(math.log2((base_s + added_s) / base_s))
    # planar bf16 runs the framework's own kernel, which adds the bias itself
    assert parts("bf16", bias=True, **depthwise)["lg_added_over_bytes"] == 0
    ragged = parts(layout="channels_last", **depthwise | {"c": 60, "o": 60, "groups": 60})
    assert (ragged["ragged_last"], plain["ragged_last"]) == (1, 0)
    assert ragged["lg_around_over_bytes"] > 0
