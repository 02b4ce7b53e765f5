"""Launch rules of the framework's own GPU kernels: blocks, threads of a block, and what each thread does in turn.

PyTorch, aten/src/ATen/native/cuda: Reduce.cuh (setReduceConfig), DilatedMaxPool2d.cu, AveragePool2d.cu,
UpSampleBilinear2d.cu, UpSampleNearest2d.cu, Normalization.cuh, group_norm_kernel.cu.  The rules step with the shape,
and times step with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from graphs.hardware.calibration.features.columns import Array, Columns, ceil_div, fill, log2
from graphs.hardware.calibration.features.machine import Machine

#: Resident threads of one streaming multiprocessor.
THREADS_PER_UNIT = 2048.0
_WARP = 32.0
#: Threads of a block of a reduction; most of a max pooling over channels-last images.
_REDUCE_THREADS, _POOL_THREADS = 512.0, 1024.0
#: Values a thread adds up: below the first a reduction is not spread further, above the second over several blocks.
_FEW_VALUES, _MANY_VALUES = 16.0, 256.0


#: Time of one step of a thread in a full multiprocessor (a load from memory and its use), and of an empty launch.
STEP_S, EMPTY_S = 0.3e-6, 1.5e-6
#: The library's norm of an image: threads of a block, elements of an image up to which it shares it out among blocks of
#: a few steps; beyond, a block takes all of it in vectors, up to a most number of steps.
_NORM_THREADS, _NORM_SHARED, _NORM_STEPS, _NORM_VECTOR, _NORM_MOST = 1024.0, 131072.0, 8.0, 4.0, 300.0


class Launch(NamedTuple):
    """A launch of each of n calls.

    Attributes
    ----------
    blocks, threads : (n,) float64
        Blocks, and threads of one of them.
    work : (n,) float64
        Elements that one thread reads one after another.
    split : (n,) float64
        Blocks that share one output, which they combine through global memory.
    """

    blocks: Array
    threads: Array
    work: Array
    split: Array


def add_launch(c: Columns, launch: Launch, machine: Machine) -> None:
    """Add the columns of a launch on a GPU: waves, steps in turn, and what the busiest multiprocessor does."""
    if machine.kind != "gpu":
        return
    slots = _slots(launch, machine)
    waves, busy = fill(launch.blocks, slots)
    c.log("launch_blocks", launch.blocks)
    c.log("launch_threads", launch.threads)
    c.log("launch_work", launch.work)
    c.log("launch_split", launch.split)
    c.add("lg_launch_waves", waves)
    c.add("launch_busy", np.where(waves > 5, 1.0, busy))
    c.log("launch_steps", launch.work * np.maximum(np.ceil(launch.blocks / slots), 1.0))
    c.log("launch_unit_work", launch.work * launch.threads * ceil_div(launch.blocks, machine.units))


def add_steps(c: Columns, launch: Launch, nbytes: Array, machine: Machine) -> None:
    """Add on a GPU what the steps take one after another over moving `nbytes`: which of the two a call waits for."""
    if machine.kind != "gpu":
        return
    steps_s = STEP_S * launch.work * np.maximum(np.ceil(launch.blocks / _slots(launch, machine)), 1.0)
    bytes_s = nbytes / machine.bandwidth_bytes_per_s
    c.add("lg_steps_over_bytes", log2((EMPTY_S + np.maximum(steps_s, bytes_s)) / (EMPTY_S + bytes_s)))


def _slots(launch: Launch, machine: Machine) -> Array:
    """Return the blocks that are resident at once."""
    resident: Array = np.maximum(np.floor(THREADS_PER_UNIT / np.maximum(launch.threads, 64.0)), 1.0)
    return machine.units * resident


def pow2_below(value: Any) -> Array:
    """Return the largest power of two that is at most `value`, of at least 1."""
    power: Array = 2.0 ** np.floor(log2(np.maximum(value, 1.0)) + 1e-9)
    return power


def simple(elements: Any, threads: Any, work: Any) -> Launch:
    """One thread an element."""
    elements, threads, work = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (elements, threads, work)))
    return Launch(ceil_div(elements, threads), threads, work, np.ones_like(elements))


def reduction(outputs: Any, inputs: Any, across: Any, inner: Any, units: float) -> Launch:
    """Sum or mean of `inputs` values for each output.

    Parameters
    ----------
    outputs, inputs : (n,) float64
        Outputs, and values that each of them sums.
    across : (n,) bool
        Whether neighbours in memory belong to different outputs (channels-last images).
    inner : (n,) float64
        Extent of the fastest dimension of the outputs: up to four of them to a thread where it divides.
    units : float
    """
    vector = np.where(across, np.where(np.mod(inner, 4) == 0, 4.0, np.where(np.mod(inner, 2) == 0, 2.0, 1.0)), 1.0)
    wide = ~across & (inputs >= 128)
    first = np.where(across, outputs / vector, np.where(wide, np.floor(inputs / 4.0), inputs))
    second = np.where(across, inputs, outputs)
    most = _REDUCE_THREADS / vector
    first, second = (pow2_below(np.minimum(d, most)) for d in (first, second))
    width = np.minimum(first, _WARP)
    height = np.minimum(second, most / width)
    width = np.minimum(first, most / height)
    # lanes share the inputs of an output where those are contiguous; warps do where enough is left to each
    step_input = np.where(across, 1.0, width)
    values = ceil_div(inputs, step_input)
    shared = values >= np.minimum(height * _FEW_VALUES, _MANY_VALUES)
    step_input = np.where(shared, step_input * height, step_input)
    step_output = np.where(across, width, 1.0) * np.where(shared, 1.0, height)
    grid = ceil_div(outputs / vector, step_output)
    values = ceil_div(inputs, step_input)
    slots = units * np.floor(THREADS_PER_UNIT / (width * height))
    split = np.maximum(np.minimum(ceil_div(slots, grid), ceil_div(values, _FEW_VALUES)), ceil_div(values, _MANY_VALUES))
    split = np.where(shared & (values >= _MANY_VALUES) & (grid <= slots), split, 1.0)
    return Launch(grid * split, width * height, ceil_div(values, split) * vector, split)


def max_pool_channels_last(n: Array, c: Array, ho: Array, wo: Array, taps: Array) -> Launch:
    """Blocks of channels x columns x rows, each thread twice as many outputs each way and up to four channels."""
    x = np.minimum(pow2_below(c), _WARP)
    y = np.minimum(pow2_below(wo), _POOL_THREADS / x)
    z = np.minimum(pow2_below(ho), _POOL_THREADS / x / y)
    x = np.minimum(pow2_below(c), _POOL_THREADS / y / z)
    shares = ceil_div(c, x * 4.0)
    each = ceil_div(c, x * shares)
    across, down = ceil_div(wo, y * 2.0), ceil_div(ho, z * 2.0)
    turns = ceil_div(ceil_div(wo, across), y) * ceil_div(ceil_div(ho, down), z)
    return Launch(n * shares * across * down, x * y * z, turns * each * taps, np.ones_like(n))


def nearest_planar(planes: Array, ho: Array, wo: Array) -> Launch:
    """Blocks of columns x rows x planes, each thread four planes."""
    x = np.minimum(pow2_below(wo), _REDUCE_THREADS)
    y = np.minimum(pow2_below(ho), _REDUCE_THREADS / x)
    z = np.minimum(planes, np.floor(_REDUCE_THREADS / x / y))
    blocks = ceil_div(wo, x) * ceil_div(ho, y) * ceil_div(planes, z * 4.0)
    return Launch(blocks, x * y * z, np.minimum(ceil_div(planes, z), 4.0), np.ones_like(blocks))


def norm_channels_last(rows: Array, c: Array) -> Launch:
    """Affine transformation of a channels-last image of `rows` pixels: 16 pixels a thread."""
    x = np.minimum(pow2_below(c), _WARP)
    y = np.minimum(pow2_below(ceil_div(rows, 16.0)), _REDUCE_THREADS / x)
    x = np.minimum(pow2_below(c), _REDUCE_THREADS / y)
    down = np.minimum(ceil_div(rows, y * 16.0), 128.0)
    return Launch(ceil_div(c, x) * down, x * y, ceil_div(rows, y * down), np.ones_like(rows))


def norm_planar(n: Array, c: Array, plane: Array) -> Launch:
    """Affine transformation of contiguous images: a block walks planes of one channel."""

    def threads(size: Array) -> Array:
        return np.clip(2.0 ** np.ceil(log2(np.maximum(size, 1.0))), 32.0, 512.0)

    x = np.maximum(threads(plane / 4.0), np.minimum(threads(plane), 64.0))
    y = np.maximum(64.0 / x, 1.0)
    down = np.maximum(1.0, np.minimum(np.floor(256.0 * 1024.0 / c), ceil_div(n, y)))
    return Launch(c * down, x * y, ceil_div(plane, x) * ceil_div(n, y * down), np.ones_like(n))


def norm_library(n: Array, image: Array) -> Launch:
    """Affine transformation of channels-last images of `image` elements in single precision."""
    shared = image <= _NORM_SHARED
    steps = ceil_div(image, np.where(shared, _NORM_THREADS, _NORM_THREADS * _NORM_VECTOR))
    blocks = n * ceil_div(steps, np.where(shared, _NORM_STEPS, _NORM_MOST))
    return Launch(blocks, np.full_like(blocks, _NORM_THREADS), steps * n / blocks, np.ones_like(blocks))
