"""Analytic time of a convolution's main kernel on a GPU: the product it amounts to, by the kernels that serve it.

Implicit GEMM multiplies pixels by taps and channels: its loop goes over the taps, and over whole blocks of channels at
each, whatever there are.  A transposed convolution of stride s is s x s such products, one for each phase of the
output, each with the taps that hit it.  Kernels for groups hold a tile of channels several times that of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.columns import Array, ceil_div
from graphs.hardware.calibration.features.gemm_tiles import BULK_LOADS, NARROW_LOADS, TF32, Estimate, Kernels, times
from graphs.hardware.calibration.features.machine import Machine

if TYPE_CHECKING:
    from graphs.hardware.calibration.features.convolution import Geometry

#: Bytes of channels that a step of implicit GEMM takes.
BLOCK_BYTES = 128.0
#: Implicit GEMM, by the profiles of h100-sxm: fitted as the kernels of products are, to the main kernels' durations.
SIMT_CONVOLUTION = Kernels(
    ((32, 32), (128, 32), (256, 64), (128, 128)),
    4, 2.7, 1.0, 3.0e-3, 7.5e-5, 0.46, 3.3, 0.61,
)  # fmt: skip
#: Half precision that runs without matrix units: plain loops, which wait for every load.
HALF_WITHOUT_UNITS = Kernels(
    ((32, 32), (128, 32), (256, 64)),
    2, 1.5, 0.87, 4.8e-2, 6.7e-5, 0.37, 3.3, 0.60,
)  # fmt: skip
SIMT_TRANSPOSED = Kernels(
    ((32, 32), (128, 32), (128, 128)),
    4, 1.2, 4.2, 4.4e-3, 8.6e-5, 0.15, 3.3, 0.60,
)  # fmt: skip
TF32_CONVOLUTION = Kernels(
    ((64, 32), (64, 64), (128, 64), (128, 128), (192, 64), (256, 64), (256, 128)),
    2, 4.1, 2.4, 6.6e-4, 3.0e-6, 0.67, 3.2, 2.0,
)  # fmt: skip
HALF_CONVOLUTION = Kernels(
    ((64, 32), (64, 64), (128, 32), (128, 64), (128, 128), (256, 64), (256, 128)),
    2, 3.7, 0.34, 2.0e-4, 1.1e-5, 0.83, 13.0, 2.0,
)  # fmt: skip
HALF_TRANSPOSED = Kernels(
    HALF_CONVOLUTION.tiles,
    2, 6.2, 2.2, 3.9e-4, 5.0e-6, 0.55, 3.0, 1.6,
)  # fmt: skip
#: Kernels for groups: an empty call, seconds; multiply-adds that the peak could do in the time of one tap of an output;
#: share of the bandwidth.
NATIVE_S, NATIVE_MACS, NATIVE_SHARE = 3e-6, 200.0, 0.55
#: Outputs a second on each unit of the framework's own kernel for groups of one channel.
OWN_OUTPUTS_PER_S = 7.5e8


@dataclass(frozen=True, slots=True)
class Call:
    """How calls run, as columns (n,).

    Attributes
    ----------
    dtype : str
    itemsize : float64
    last : bool
        Channels-last tensors.
    units : bool
        On matrix units.
    product : bool
        One tap, stride 1, one group.
    transposed : bool
        All of them are transposed convolutions.
    """

    dtype: NDArray[np.str_]
    itemsize: Array
    last: NDArray[np.bool_]
    units: NDArray[np.bool_]
    product: NDArray[np.bool_]
    transposed: bool


def main_times(g: Geometry, call: Call, groups: Array, nbytes: Array, machine: Machine) -> Estimate:
    """Return the times of the products of so many of the groups in one kernel.

    Parameters
    ----------
    g : Geometry
    call : Call
    groups, nbytes : (n,) float64
        Groups, and bytes of their tensors.
    machine : Machine
    """
    size, cg, og = call.itemsize, g.c / g.groups, g.o / g.groups
    # a product of planar tensors is one of each image
    by_image = call.product & ~call.last & (not call.transposed)
    b = groups * np.where(by_image, g.n, 1.0)
    m = np.where(by_image, 1.0, g.n) * g.ho * g.wo
    taps = g.kh * g.kw
    if call.transposed:
        b = groups * g.stride**2
        m = g.n * ceil_div(g.ho, g.stride) * ceil_div(g.wo, g.stride)
        taps = ceil_div(g.kh, g.stride) * ceil_div(g.kw, g.stride)
    aligned = np.where(
        call.last, (np.mod(cg * size, 16.0) == 0) & (np.mod(og * size, 16.0) == 0), np.mod(m * size, 16.0) == 0
    )
    blocks = ceil_div(cg * size, BLOCK_BYTES) * BLOCK_BYTES / size
    k = taps * np.where(call.units & ~call.product, blocks, cg)
    peak = machine.peak_flops_per_s(np.where(call.units, call.dtype, "fp32"))
    columns = np.stack((b, m, og, k, size, nbytes, peak))
    half, tf32, narrow = call.units & (size == 2), call.units & (call.dtype == "tf32"), ~call.units & (size == 2)
    kinds = (
        (SIMT_TRANSPOSED if call.transposed else SIMT_CONVOLUTION, ~half & ~tf32 & ~narrow),
        (HALF_WITHOUT_UNITS, narrow),
        (TF32, tf32 & call.product),
        (TF32_CONVOLUTION, tf32 & ~call.product),
        (BULK_LOADS, half & call.product & aligned),
        (NARROW_LOADS, half & call.product & ~aligned),
        (HALF_TRANSPOSED if call.transposed else HALF_CONVOLUTION, half & ~call.product),
    )
    out = np.empty((3, len(size)))
    for kernels, mine in kinds:
        if mine.any():
            out[:, mine] = times(kernels, columns[:, mine], machine)
    return Estimate(*out)


def native_s(outputs: Array, taps: Array, nbytes: Array, peak: Array, machine: Machine) -> Array:
    """Return the time of a kernel for groups; arguments (n,), the peak that of the whole machine in FLOP/s."""
    arithmetic = outputs * taps * 2.0 * NATIVE_MACS / peak
    return np.asarray(NATIVE_S + np.maximum(arithmetic, nbytes / (NATIVE_SHARE * machine.bandwidth_bytes_per_s)))


def own_s(outputs: Array, nbytes: Array, machine: Machine) -> Array:
    """Return the time of the framework's own kernel for groups of one channel; arguments (n,)."""
    return np.maximum(outputs / (OWN_OUTPUTS_PER_S * machine.units), nbytes / machine.bandwidth_bytes_per_s)
