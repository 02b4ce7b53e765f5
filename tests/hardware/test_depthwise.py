"""Depthwise convolutions on GPUs: which kernel runs, as in profiles of single calls, and its estimated time by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import ops
from graphs.hardware.calibration.features import Machine, build, partitions
from graphs.hardware.calibration.features.depthwise import KERNELS

#: 100 units of one fp32 operation of 256 a nanosecond.
TOY = Machine(100, 2.0**25, {"fp32": 25.6e12, "fp16": 1e15, "bf16": 1e15}, 1e12)


def features_of(dtype: str, last: bool, machine: Machine = TOY, **sizes: int) -> dict[str, float]:
    params: dict[str, Any] = {"stride": 1, "w": sizes["h"], "pad": sizes["k"] // 2, "bias": False} | sizes
    params |= {"o": sizes["c"], "groups": sizes["c"], "fmt": "channels_last" if last else "contiguous"}
    (group,) = ops.group_operators(["dwconv2d"], [dtype], [params])
    names, x = build(group, machine)
    return dict(zip(names, x[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("dtype", "last", "sizes", "kernel"),
    [
        ("bf16", False, {"n": 1, "c": 64, "h": 28, "k": 3}, "own_3"),
        ("fp32", False, {"n": 1, "c": 64, "h": 28, "k": 5}, "own_5"),
        ("fp16", False, {"n": 1, "c": 64, "h": 28, "k": 7}, "own_any"),
        ("fp16", False, {"n": 1, "c": 64, "h": 28, "k": 3}, "tiles"),
        ("fp16", False, {"n": 4, "c": 1024, "h": 160, "k": 3}, "matrix"),
        ("fp32", True, {"n": 64, "c": 64, "h": 28, "k": 7}, "pixels"),
        ("bf16", True, {"n": 4, "c": 64, "h": 28, "k": 3}, "pixels"),
        ("bf16", True, {"n": 8, "c": 64, "h": 28, "k": 3}, "batch"),
        ("bf16", True, {"n": 8, "c": 49, "h": 28, "k": 3}, "pixels"),
        ("bf16", True, {"n": 8, "c": 8, "h": 28, "k": 3}, "direct"),
        ("fp32", True, {"n": 8, "c": 64, "h": 56, "k": 3, "stride": 3}, "direct"),
        ("fp16", True, {"n": 8, "c": 64, "h": 128, "k": 5}, "matrix"),
        ("bf16", True, {"n": 8, "c": 64, "h": 128, "k": 5}, "batch"),
    ],
)
def test_the_kernel_is_the_one_that_profiles_show(dtype: str, last: bool, sizes: dict[str, int], kernel: str) -> None:
    columns = features_of(dtype, last, **sizes)
    flags = {k.name: columns[f"kernel_{k.name}"] for k in KERNELS if k.name != "own_3"}
    assert flags == {name: float(name == kernel) for name in flags}


def test_the_time_of_a_kernel_over_moving_the_tensors_by_hand() -> None:
    columns = features_of("fp32", True, n=1, c=100, h=100, k=3)
    tensors_s = 2 * 4 * 1e6 / 1e12
    flops_s = 2 * 9 * 1e6 / (0.09 * 25.6e12)
    wanted = (1.2e-6 + 9 * 0.07e-6 + max(tensors_s / 0.75, flops_s)) / (2e-6 + tensors_s)
    assert columns["lg_kernel_over_bytes"] == pytest.approx(np.log2(wanted), abs=0.2)
    assert columns["lg_own_lines"] == 0.0


def test_outputs_of_strided_windows_ask_for_a_line_each() -> None:
    columns = features_of("fp32", False, n=1, c=2048, h=7, k=7, stride=7, pad=0)
    # a block of 32 warps on each of two units; 49 taps; 32 windows of 196 bytes apart
    assert columns["lg_own_lines"] == pytest.approx(np.log2(32 * 49 * 32))


def test_the_library_and_the_frameworks_own_kernels_are_classes() -> None:
    sizes = {"n": 1, "c": 8, "o": 8, "groups": 8, "h": 8, "w": 8, "k": 3, "stride": 1, "pad": 1, "bias": False}
    calls = [sizes | {"fmt": fmt} for fmt in ("contiguous", "channels_last")]
    (group,) = ops.group_operators(["dwconv2d"] * 2, ["fp32"] * 2, calls)
    names, x = build(group, TOY)
    assert partitions("dwconv2d", names, x)["kernel"].tolist() == [0, 1]
