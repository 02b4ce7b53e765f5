"""Which kernel a GPU runs for a depthwise convolution, and roughly how long that one takes.

Libraries hold half a dozen kernels for it, up to ten times apart on the same shape, and pick among them by dtype,
layout, stride and divisibility.  The rules are read off profiles of single calls; the costs are rough, and only their
ratio to moving the tensors once is a feature: the fitted model learns what is true of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.columns import Array, Columns, ceil_div, log2
from graphs.hardware.calibration.features.convolution_layout import LAUNCH_S
from graphs.hardware.calibration.features.machine import Machine

if TYPE_CHECKING:
    from graphs.hardware.calibration.features.convolution import Geometry


class Kernel(NamedTuple):
    """One kernel: seconds of an empty call and of each tap more, shares of peak bandwidth and fp32 peak it reaches."""

    name: str
    empty_s: float
    tap_s: float
    bandwidth: float
    peak: float


#: The framework's own, unrolled for 1, 3 and 5 taps a side and for any; the library's on channels-last tensors, any
#: and those of large batches; its direct one for odd strides; on planar tiles in shared memory; on matrix units.
KERNELS = (
    Kernel("own_3", 1.8e-6, 0.05e-6, 0.75, 0.027),
    Kernel("own_5", 2.0e-6, 0.05e-6, 0.75, 0.045),
    Kernel("own_any", 3.0e-6, 0.07e-6, 0.75, 0.042),
    Kernel("pixels", 1.2e-6, 0.07e-6, 0.75, 0.090),
    Kernel("batch", 4.3e-6, 0.19e-6, 0.65, 0.210),
    Kernel("direct", 2.5e-6, 0.20e-6, 0.60, 0.004),
    Kernel("tiles", 1.8e-6, 0.05e-6, 0.50, 0.180),
    Kernel("matrix", 2.5e-6, 0.05e-6, 0.65, 0.280),
)
OWN_3, OWN_5, OWN_ANY, PIXELS, BATCH, DIRECT, TILES, MATRIX = range(len(KERNELS))
#: Images from which the library takes its kernel for batches, and channels up to which that has no lanes to fill.
LARGE_BATCH, FEW_CHANNELS = 8.0, 8.0
#: Least width of its rows of outputs; pixels from which a single image of few channels gets the direct kernel.
LEAST_WIDTH, FEW_PIXELS = 7.0, 1024.0
#: Output pixels of an image from which matrix units pay, by taps a side, and the blocks of channels they take.
MATRIX_PIXELS = {3: 12544.0, 5: 6400.0}
MATRIX_CHANNELS = 16.0
#: Channels and pixels of a planar tensor from which few images are transformed for matrix units.
TURNED_CHANNELS, TURNED_PIXELS, TURNED_IMAGES = 1024.0, 2500.0, 4.0
#: Threads of a block of the framework's own kernel, bytes of a cache line, lanes of a warp.
_THREADS, _LINE_BYTES, _WARP = 1024.0, 128.0, 32.0
#: Operations of one multiprocessor in the cycle that its cache takes for a line: fused, on each of 128 lanes.
_CYCLE_FLOPS = 256.0
#: Taps of the direct kernel's time for an output.
_DIRECT_TAPS = 9.0
_COSTS = np.array([k[1:] for k in KERNELS])


def kernel_of(
    g: Geometry, dtype: NDArray[np.str_], last: NDArray[np.bool_], library: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the index in `KERNELS` of the kernel of each call.

    Parameters
    ----------
    g : Geometry
    dtype : (n,) str
    last : (n,) bool
        Channels-last tensors.
    library : (n,) bool
        Served by the vendor library.
    """
    half = np.isin(dtype, ("fp16", "bf16"))
    fp16 = dtype == "fp16"
    pixels = g.ho * g.wo
    own = np.select([g.k <= 3, g.k == 5], [OWN_3, OWN_5], OWN_ANY)
    even = np.mod(g.c, 2) == 0
    large = half & (g.n >= LARGE_BATCH)
    # pairs of channels to a lane: odd numbers of them are left to the kernel for any
    batch = large & even & (g.c > FEW_CHANNELS) & (g.wo >= LEAST_WIDTH)
    few = half & even & (g.c <= FEW_CHANNELS) & ((g.n > 1) | (pixels >= FEW_PIXELS))
    direct = (g.stride > 2) | few
    blocked = fp16 & (g.stride == 1) & (np.mod(g.c, MATRIX_CHANNELS) == 0)
    matrix = blocked & ((g.k == 3) & (pixels >= MATRIX_PIXELS[3]) & ~large)
    matrix |= blocked & (g.k == 5) & (pixels >= MATRIX_PIXELS[5]) & (g.n > 1)
    striped = np.select([direct, matrix, batch], [DIRECT, MATRIX, BATCH], PIXELS)
    turned = (g.k == 3) & (g.n > 1) & (g.n <= TURNED_IMAGES) & (g.c >= TURNED_CHANNELS) & (g.h * g.w >= TURNED_PIXELS)
    planar = np.where(turned, MATRIX, TILES)
    return np.where(last, striped, np.where(library, planar, own)).astype(np.int64)


def add_kernel(
    c: Columns,
    g: Geometry,
    dtype: NDArray[np.str_],
    itemsize: Array,
    last: NDArray[np.bool_],
    library: NDArray[np.bool_],
    machine: Machine,
) -> None:
    """Add the kernel and its estimated time on a GPU; nothing for other machines.

    Parameters
    ----------
    c : Columns
    g : Geometry
    dtype : (n,) str
    itemsize : (n,) float64
    last, library : (n,) bool
        As for `kernel_of`.
    machine : Machine
    """
    if machine.kind != "gpu":
        return
    kernel = kernel_of(g, dtype, last, library)
    for index, named in enumerate(KERNELS):
        if index != OWN_3:  # the one that is left
            c.add(f"kernel_{named.name}", kernel == index)
    taps = g.kh * g.kw
    tensors_s = itemsize * (g.inputs + g.outputs) / machine.bandwidth_bytes_per_s
    empty_s, tap_s, bandwidth, peak = _COSTS[kernel].T
    fp32_peak = machine.peak_flops_per_s(np.full(c.n, "fp32"))
    # the direct kernel waits for memory at every output, however many taps are in flight
    flops = 2.0 * g.outputs * np.where(kernel == DIRECT, _DIRECT_TAPS, taps)
    work_s = np.maximum(tensors_s / bandwidth, flops / (peak * fp32_peak))
    lines = _own_lines(g, itemsize, taps, float(machine.units))
    lines_s = np.where(kernel <= OWN_ANY, lines * _CYCLE_FLOPS * machine.units / fp32_peak, 0.0)
    work_s = np.maximum(work_s, lines_s)
    # planar tensors are turned on the way in and out
    turned_s = np.where((kernel == MATRIX) & ~last, 2.0 * LAUNCH_S + 2.0 * tensors_s / bandwidth, 0.0)
    c.add("lg_kernel_over_bytes", log2((empty_s + tap_s * taps + work_s + turned_s) / (LAUNCH_S + tensors_s)))
    c.add("lg_kernel_work", log2(1.0 + work_s / (empty_s + tap_s * taps)))
    c.add("lg_own_lines", np.where(kernel <= OWN_ANY, log2(lines), 0.0))


def _own_lines(g: Geometry, itemsize: Array, taps: Array, units: float) -> Array:
    """Return the cache lines that the busiest multiprocessor asks for where each thread makes one output.

    Strided windows of neighbouring outputs lie apart: a warp then asks for up to one line a lane at every tap.
    """
    rows = np.maximum(_WARP / g.wo, 1.0)
    across = rows * np.maximum(np.minimum(g.wo, _WARP) * g.stride * itemsize / _LINE_BYTES, 1.0)
    span = _WARP * itemsize * (g.h * g.w) / (g.ho * g.wo) / _LINE_BYTES
    lines = np.clip(np.minimum(span, across), 1.0, _WARP)
    warps = ceil_div(np.minimum(g.outputs, _THREADS), _WARP) * ceil_div(ceil_div(g.outputs, _THREADS), units)
    return np.asarray(warps * taps * lines, dtype=np.float64)
