"""Estimated parts of a convolution on a GPU: transforms, bias, groups and tiles, counted by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from graphs import ops
from graphs.hardware.calibration.features import Machine, build
from graphs.hardware.calibration.features.convolution_layout import (
    ADDED_ELEMENTS_PER_S,
    GENERAL_S,
    GENERAL_SHARE,
    LAUNCH_S,
    PAD_SHARE,
    TURN_ELEMENTS_PER_S,
    TURN_SHARE,
)  # fmt: skip

#: 100 units, 2^25 bytes of cache, 2^40 B/s, and matrix units so fast that all convolutions here wait for memory.
GPU = Machine(100, 2.0**25, {"fp32": 2.0**60, "tf32": 2.0**60, "fp16": 2.0**60, "bf16": 2.0**60}, 2.0**40)
SHAPE = {"n": 8, "c": 64, "o": 128, "h": 32, "w": 32, "k": 3, "stride": 1, "pad": 1, "groups": 1, "bias": False}
#: Bytes of its input, output and weights in half precision.
IN, OUT, WEIGHTS = 2.0 * 8 * 64 * 1024, 2.0 * 8 * 128 * 1024, 2.0 * 64 * 128 * 9
BASE_S = LAUNCH_S + (IN + OUT + WEIGHTS) / 2.0**40


def parts(dtype: str = "fp16", layout: str = "contiguous", op: str = "conv2d", **changed: Any) -> dict[str, float]:
    known = {p.name for p in ops.get(op).params}
    params = {k: v for k, v in (SHAPE | {"fmt": layout} | changed).items() if k in known}
    (group,) = ops.group_operators([op], [dtype], [params])
    names, x = build(group, GPU)
    return dict(zip(names, x[0].tolist(), strict=True))


def turn_s(nbytes: float, tiles: float) -> float:
    """Time of turning a tensor: its bytes, or tiles of 32 x 32 elements over 100 units."""
    return LAUNCH_S + max(2.0 * nbytes / (TURN_SHARE * 2.0**40), tiles * 1024 / (TURN_ELEMENTS_PER_S * 100))


def test_planar_half_precision_is_turned_in_and_out_and_so_are_its_weights() -> None:
    # 8 images of 64 or 128 channels by 1024 pixels; 128 filters of 64 channels by 9 taps, which fill a third of a tile
    moved_s = turn_s(IN, 8 * 2 * 32) + turn_s(OUT, 8 * 4 * 32) + turn_s(WEIGHTS, 128 * 2)
    assert parts()["lg_around_over_roofline"] == pytest.approx(math.log2((BASE_S + moved_s) / BASE_S))
    assert parts(layout="channels_last")["lg_around_over_roofline"] == 0


def test_fp32_kernels_read_planar_tensors() -> None:
    assert parts("fp32")["lg_around_over_roofline"] == 0
    assert parts("fp32", "channels_last")["lg_around_over_roofline"] > 0


def test_a_pointwise_convolution_is_a_product_without_transforms_unless_it_strides() -> None:
    assert parts(k=1, pad=0)["lg_around_over_roofline"] == 0
    assert parts(k=1, pad=0, stride=2)["lg_around_over_roofline"] > 0


def test_a_bias_is_another_pass_over_the_output_as_fast_as_its_elements() -> None:
    added_s = LAUNCH_S + OUT / 2.0 / (ADDED_ELEMENTS_PER_S * 100)
    found = parts(layout="channels_last", bias=True)
    assert found["lg_around_over_roofline"] == pytest.approx(math.log2((BASE_S + added_s) / BASE_S))
    assert 0 < found["bias_share"] < 1
    assert parts(layout="channels_last")["bias_share"] == 0


def test_ragged_channels_are_padded_and_so_are_their_weights() -> None:
    found = parts(layout="channels_last", c=63)
    in_bytes, weight_bytes = IN * 63 / 64, WEIGHTS * 63 / 64
    base_s = LAUNCH_S + (in_bytes + OUT + weight_bytes) / 2.0**40
    padding_s = 2 * LAUNCH_S + (1 + 64 / 63) * (in_bytes + weight_bytes) / (PAD_SHARE * 2.0**40)
    assert found["lg_around_over_roofline"] == pytest.approx(math.log2((base_s + padding_s) / base_s))
    assert (found["ragged_c"], found["ragged_o"]) == (1, 0)
    assert parts("fp32", c=63)["ragged_c"] == 0


def test_kernels_for_groups_want_equal_powers_of_two_and_all_else_runs_group_by_group() -> None:
    native = parts(layout="channels_last", c=128, groups=8)
    filled = parts(layout="channels_last", c=192, o=192, groups=8)
    serial = parts(layout="channels_last", c=64, groups=4)
    wide = parts(layout="channels_last", c=64, groups=2)
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


def test_wide_groups_and_a_few_small_ones_are_not_filled_up() -> None:
    def filled(**changed: int) -> float:
        return parts(layout="channels_last", **changed)["filled_groups"]

    assert filled(c=8 * 48, o=8 * 48, groups=8) == 1
    assert filled(c=8 * 64, o=8 * 64, groups=8) == 0
    # two groups one after another take less than filling them up, but not where each takes many steps
    assert filled(c=48, o=48, groups=2) == 0
    assert filled(c=7 * 24, o=7 * 24, groups=7) == 1


def test_weights_of_ragged_outputs_are_transformed_slowly() -> None:
    found, even = parts(o=127), parts(o=128)
    slow_s = GENERAL_S + 2.0 * WEIGHTS * 127 / 128 / (GENERAL_SHARE * 2.0**40)
    base_s = LAUNCH_S + (IN + (OUT + WEIGHTS) * 127 / 128) / 2.0**40
    around_s = turn_s(IN, 8 * 2 * 32) + turn_s(OUT * 127 / 128, 8 * 4 * 32) + slow_s
    assert found["lg_around_over_roofline"] == pytest.approx(math.log2((base_s + around_s) / base_s))
    assert found["lg_around_over_roofline"] > even["lg_around_over_roofline"]


def test_a_transposed_convolution_turns_its_weights_and_without_matrix_units_clears_its_output() -> None:
    shape = {"op": "conv_transpose2d", "stride": 2, "pad": 0, "k": 2}
    weights = 2.0 * 64 * 128 * 4
    base_s = LAUNCH_S + (IN + 4 * OUT + weights) / 2.0**40
    turned_s = LAUNCH_S + 2.0 * weights / 2.0**40
    found = parts(layout="channels_last", **shape)
    assert found["lg_around_over_roofline"] == pytest.approx(math.log2((base_s + turned_s) / base_s))
    cleared_s = LAUNCH_S + 8 * OUT / 2.0**40
    base_s = LAUNCH_S + 2 * (IN + 4 * OUT + weights) / 2.0**40
    found = parts("fp32", **shape)
    assert found["lg_around_over_roofline"] == pytest.approx(math.log2((base_s + cleared_s) / base_s))


def test_few_channels_are_left_as_they_are_unless_transposed() -> None:
    assert parts(c=8)["lg_around_over_roofline"] == 0
    assert parts(op="conv_transpose2d", stride=2, pad=0, k=2, c=8)["lg_around_over_roofline"] > 0


def test_fp32_groups_of_many_channels_and_images_are_cut_out_of_planar_tensors() -> None:
    shape: dict[str, Any] = {"dtype": "fp32", "c": 128, "o": 128, "groups": 4}
    cut, single, many = (parts(**shape, n=n)["lg_serial_over_roofline"] for n in (8, 1, 16))
    assert cut > 2 + max(single, many)
    # few outputs are computed from the whole tensor
    assert parts(**shape | {"o": 64})["lg_serial_over_roofline"] < cut - 2


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
