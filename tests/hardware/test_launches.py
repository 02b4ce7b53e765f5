"""Launch rules: the framework's own integer arithmetic, written out again call by call, and cases by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import ops
from graphs.hardware.calibration.features import Machine, build, launches, rowwise
from graphs.hardware.calibration.features.columns import Columns
from graphs.hardware.calibration.features.launches import Launch

TOY = Machine(100, 2.0**25, {"fp32": 2.0**45, "fp16": 2.0**48, "bf16": 2.0**48}, 2.0**40)
EXTENT = st.integers(1, 5000)


def last_pow2(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def up(a: int, b: int) -> int:
    return -(-a // b)


def column(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


def only(launch: Launch) -> tuple[float, ...]:
    return tuple(float(v[0]) for v in launch)


def reduce_config(outputs: int, inputs: int, across: bool, inner: int, units: int) -> tuple[int, int, int, int]:
    """setReduceConfig of Reduce.cuh: blocks, threads, values of a thread, blocks of an output."""
    vector = 1
    if across:
        vector = 4
        while inner % vector:
            vector //= 2
    dim0, dim1 = (outputs // vector, inputs) if across else (inputs // 4 if inputs >= 128 else inputs, outputs)
    most = 512 // vector
    dim0, dim1 = (last_pow2(d) if d < most else most for d in (dim0, dim1))
    width = min(dim0, 32)
    height = min(dim1, most // width)
    width = min(dim0, most // height)
    step_input, step_output = (1, width) if across else (width, 1)
    shared = up(inputs, step_input) >= min(height * 16, 256)
    if shared:
        step_input *= height
    else:
        step_output *= height
    grid, values, split = up(outputs // vector, step_output), up(inputs, step_input), 1
    target = units * (2048 // (width * height))
    if shared and values >= 256 and grid <= target:
        split = max(min(up(target, grid), up(values, 16)), up(values, 256))
    return grid * split, width * height, up(values, split) * vector, split


@settings(deadline=None, max_examples=300)
@given(outputs=EXTENT, inputs=st.integers(1, 200_000), across=st.booleans(), n=st.integers(1, 16))
def test_reductions_are_launched_as_the_framework_does(outputs: int, inputs: int, across: bool, n: int) -> None:
    total = outputs * n
    got = launches.reduction(column(total), column(inputs), np.array([across]), column(outputs), 132.0)
    assert only(got) == reduce_config(total, inputs, across, outputs, 132)


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, 64), c=EXTENT, h=st.integers(1, 128), w=st.integers(1, 128))
def test_channels_last_pooling_is_launched_as_the_framework_does(n: int, c: int, h: int, w: int) -> None:
    x = min(last_pow2(c), 32)
    y = min(last_pow2(w), 1024 // x)
    z = min(last_pow2(h), 1024 // x // y)
    x = min(last_pow2(c), 1024 // y // z)
    stride_c = up(c, x * 4)
    grid = n * stride_c, up(w, y * 2), up(h, z * 2)
    turns = up(up(w, grid[1]), y) * up(up(h, grid[2]), z) * up(c, x * stride_c) * 9
    got = launches.max_pool_channels_last(column(n), column(c), column(h), column(w), column(9))
    assert only(got) == (grid[0] * grid[1] * grid[2], x * y * z, turns, 1)


def inner_scan_threads(rows: int, cols: int) -> int:
    """get_log_num_threads_x_inner_scan of ScanUtils.cuh in uint32."""
    x, y = (cols - 1).bit_length(), (rows - 1).bit_length()
    lead = ((9 + x - y) % 2**32) // 2
    return 1 << min(max(4, lead), 9)


@given(rows=st.integers(1, 2**20), cols=st.integers(1, 2**16))
def test_a_scan_shares_its_block_out_as_the_framework_does(rows: int, cols: int) -> None:
    assert rowwise.scan_threads(column(rows), column(cols))[0] == inner_scan_threads(rows, cols)


def test_too_many_short_rows_to_scan_get_a_block_each() -> None:
    # 2^17 rows of 2^7: 9 + 7 - 17 wraps around
    assert rowwise.scan_threads(column(72414, 29603), column(128, 128)).tolist() == [512, 16]


def softmax(cols: int, dtype: str) -> dict[str, float]:
    (group,) = ops.group_operators(["softmax"], [dtype], [{"rows": 1000, "cols": cols}])
    names, x = build(group, TOY)
    return dict(zip(names, x[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("cols", "dtype", "warp", "threads", "storage"),
    [
        (100, "fp16", 1, 32, 0),
        (2048, "fp32", 1, 32, 0),
        (2049, "fp32", 0, 1024, 0),
        (9216, "fp16", 0, 1024, 0),  # nine elements a thread
        (9224, "fp16", 0, 1024, 1),  # ten: shared memory
        (9225, "fp16", 0, 1024, 2),  # whole vectors do not cover it
        (16384, "fp32", 0, 1024, 2),  # 64 KiB
        (16384, "fp16", 0, 1024, 1),
    ],
)
def test_how_a_softmax_keeps_its_rows(cols: int, dtype: str, warp: int, threads: int, storage: int) -> None:
    f = softmax(cols, dtype)
    assert (f["warp_row"], 2 ** f["lg_threads_per_row"], f["row_storage"]) == (warp, threads, storage)


def test_waves_and_steps_of_a_launch_by_hand() -> None:
    params = {"n": 1000, "c": 64, "h": 8, "w": 8, "k": 2, "stride": 1, "pad": 0, "fmt": "channels_last"}
    (group,) = ops.group_operators(["maxpool2d"], ["fp16"], [params])
    names, x = build(group, TOY)
    f = dict(zip(names, x[0].tolist(), strict=True))
    # 7 x 7 outputs: 32 (then 64) x 4 x 4 threads in one block an image, each twice both ways, one channel, four taps
    assert 2 ** f["lg_launch_threads"] == 1024
    assert 2 ** f["lg_launch_blocks"] == 1000
    assert 2 ** f["lg_launch_work"] == pytest.approx(2 * 2 * 1 * 4)
    assert 2 ** f["lg_launch_waves"] == pytest.approx(5)  # two blocks on each of 100 units
    assert 2 ** f["lg_launch_steps"] == pytest.approx(5 * 16)
    assert 2 ** f["lg_launch_unit_work"] == pytest.approx(10 * 1024 * 16)


@pytest.mark.parametrize(
    ("n", "image", "wanted"),
    [
        (3, 1024, (3, 1024, 1, 1)),
        (2, 65536, (16, 1024, 8, 1)),  # blocks of eight steps
        (1, 262144, (1, 1024, 64, 1)),  # one block of vectors
        (2, 4915200, (8, 1024, 300, 1)),  # four of the most steps an image
    ],
)
def test_norms_of_a_library_by_hand(n: int, image: int, wanted: tuple[float, ...]) -> None:
    assert only(launches.norm_library(column(n), column(image))) == pytest.approx(wanted)


def test_steps_that_take_longer_than_the_bytes_count() -> None:
    # two blocks a unit at once: 400 of them are two waves of 10 steps, 6 us
    launch = Launch(column(400.0), column(1024.0), column(10.0), column(1.0))
    for nbytes, wanted in ((0.0, 7.5 / 1.5), (2.0**40 * 6e-6, 1.0)):
        columns = Columns(1)
        launches.add_steps(columns, launch, column(nbytes), TOY)
        names, x = columns.result()
        assert names == ["lg_steps_over_bytes"]
        assert x[0, 0] == pytest.approx(np.log2(wanted))


@pytest.mark.parametrize(
    ("op", "params", "steps"),
    [
        # four outputs of four taps for each of four channels to a thread
        ("maxpool2d", {"n": 1, "c": 128, "h": 56, "w": 56, "k": 2, "stride": 2, "pad": 0}, 16 * (8 + 0.4 * 4)),
        # 784 pixels by four rows of lanes, in vectors of four channels
        ("adaptive_avgpool2d", {"n": 64, "c": 128, "h": 28, "w": 28}, 196 * 0.5),
    ],
)
def test_steps_of_image_kernels_by_hand(op: str, params: dict[str, Any], steps: float) -> None:
    (group,) = ops.group_operators([op], ["fp32"], [params | {"fmt": "channels_last"}])
    names, x = build(group, TOY)
    columns = dict(zip(names, x[0].tolist(), strict=True))
    bytes_s = float(group.bytes[0]) / 2.0**40
    wanted = (1.5e-6 + max(steps * 0.3e-6, bytes_s)) / (1.5e-6 + bytes_s)
    assert columns["lg_steps_over_bytes"] == pytest.approx(np.log2(wanted))
