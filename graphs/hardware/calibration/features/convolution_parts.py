"""What a GPU library runs around and inside a convolution, as estimated times: transforms, bias, tiles, groups.

One call of a convolution is a sequence of kernels, and their times add up.  Which of them run follows mostly from
layout, alignment and groups; profiles of single calls show the same few patterns on all shapes.  The estimates are
rough, and only their ratios to the roofline are features: the fitted model learns what is true of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.columns import Array, Columns, alignment, ceil_div, log2
from graphs.hardware.calibration.features.machine import Machine

if TYPE_CHECKING:
    from graphs.hardware.calibration.features.convolution import Geometry

#: A kernel that does next to nothing, seconds.
LAUNCH_S = 1.7e-6
#: A transform of a general kind: its least time, and the share of the bandwidth it reaches.
SLOW_S, SLOW_SHARE = 9e-6, 0.15
#: The same share where fp32 channels of planar tensors are cut out for one group.
PLANAR_SLICE_SHARE = 0.03
#: Channels of a group that kernels for groups take.
WIDEST_GROUP = 32
#: Tiles (rows, columns) of implicit GEMM kernels, and bytes of k that one step of their main loop takes.
TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (32, 32))
STEP_BYTES = 128.0
#: Parts that the k loop may be split in.
SPLITS = (2, 4, 8, 16)
_TILES = np.array(TILES, dtype=np.float64).T[:, :, None]


def add_parts(
    c: Columns,
    g: Geometry,
    dtype: NDArray[np.str_],
    itemsize: Array,
    last: NDArray[np.bool_],
    bias: Array,
    problem: tuple[Array, Array, Array],
    machine: Machine,
) -> None:
    """Add the estimated parts of a convolution on a GPU; nothing for other machines.

    Parameters
    ----------
    c : Columns
    g : Geometry
    dtype : (n,) str
    itemsize : (n,) float64
    last : (n,) bool
        Channels-last tensors.
    bias : (n,) float64
        1 where a bias is added.
    problem : three (n,) float64
        m, n and k of the implicit GEMM of one group.
    machine : Machine
    """
    if machine.kind != "gpu":
        return
    rate = machine.bandwidth_bytes_per_s
    units = dtype != "fp32"
    vector = 16.0 / itemsize
    cg, og = g.c / g.groups, g.o / g.groups
    in_bytes, out_bytes, weight_bytes = (itemsize * x for x in (g.inputs, g.outputs, g.weights))

    def copy_s(nbytes: Any, when: Any) -> Array:
        return np.where(when, LAUNCH_S + 2.0 * np.asarray(nbytes) / rate, 0.0)

    def slow_s(nbytes: Any, when: Any, share: float = SLOW_SHARE) -> Array:
        return np.where(when, SLOW_S + 2.0 * np.asarray(nbytes) / (share * rate), 0.0)

    unit = (g.kh == 1) & (g.kw == 1)
    grouped = g.groups > 1
    product = unit & (g.stride == 1) & ~grouped
    ragged_c, ragged_o = units & (np.mod(cg, vector) != 0), units & (np.mod(og, vector) != 0)
    ragged = ragged_c | ragged_o
    # Matrix-unit kernels read channels-last and fp32 ones planar tensors: the others are turned on the way in and
    # out, and ragged channels padded.
    turned = ~product & (units != last)
    padded = ~product & units & last
    inwards = copy_s(in_bytes, turned | (padded & ragged_c))
    outwards = copy_s(out_bytes, turned | (padded & ragged_o))
    weights = copy_s(weight_bytes, turned & ~unit) + slow_s(weight_bytes, ragged & ~product)
    added = copy_s(out_bytes, bias > 0)
    around = inwards + outwards + weights

    m, n, k = problem
    # a product of planar tensors is one of each image
    m, images = np.where(product & ~last, g.ho * g.wo, m), np.where(product & ~last, g.n, 1.0)
    peak = machine.peak_flops_per_s(dtype) / machine.units
    together = _tiles_s(images * g.groups, m, n, k, itemsize, peak, machine)
    one = _tiles_s(images, m, n, k, itemsize, peak, machine) if grouped.any() else together
    roofline = machine.attainable_s(2.0 * m * images * n * k * g.groups, in_bytes + out_bytes + weight_bytes, dtype)
    main = np.maximum(together, roofline)
    # Kernels for groups want equal numbers of channels in and out, powers of two; others of equal number are
    # filled up by slow kernels; all else runs group after group, each on its slice of the channels.
    equal = grouped & units & (g.c == g.o)
    whole = np.exp2(alignment(cg, 64)) == cg
    native, filled = equal & whole & (cg <= WIDEST_GROUP), equal & ~whole
    filling = slow_s(weight_bytes, filled) + slow_s(in_bytes, filled & last) + slow_s(out_bytes, filled & last)
    part = (in_bytes + out_bytes) / g.groups
    slices = np.where(units, copy_s(part, grouped), slow_s(part, grouped & (g.n > 1), PLANAR_SLICE_SHARE))
    serial = g.groups * (one + LAUNCH_S + slices) + around + (g.groups - 1) * LAUNCH_S
    flipped = np.where(equal & ~last, inwards + outwards, 0.0)
    of_groups = np.where(native, main + flipped, np.where(filled, main + flipped + filling, serial))
    total = LAUNCH_S + added + np.where(grouped, of_groups, main + around)
    base = roofline + LAUNCH_S
    c.add("lg_around_over_roofline", log2((base + added + around) / base))
    c.add("lg_tiles_over_roofline", log2((LAUNCH_S + together) / base))
    c.add("lg_parts_over_roofline", log2(total / base))
    c.add("lg_serial_over_roofline", np.where(grouped, log2(serial / base), 0.0))
    c.add("around_share", around / (LAUNCH_S + main + around + added))
    c.add("bias_share", added / (LAUNCH_S + main + around + added))
    c.add("native_groups", native)
    c.add("filled_groups", filled)
    c.log("weight_bytes", weight_bytes)
    c.log("weight_channels", cg * og)
    # rows of the operands of a product: of the output channels, or of a plane
    row = np.where(last, og, g.ho * g.wo)
    c.add("ragged_product", product & units & ((np.mod(row, vector) != 0) | (ragged_c & last)))
    c.add("ragged_c", ragged_c)
    c.add("ragged_o", ragged_o)


def add_depthwise_parts(
    c: Columns,
    g: Geometry,
    itemsize: Array,
    last: NDArray[np.bool_],
    bias: Array,
    library: NDArray[np.bool_],
    machine: Machine,
) -> None:
    """Add what a GPU library runs around a depthwise convolution; arguments as for `add_parts`."""
    if machine.kind != "gpu":
        return
    rate = machine.bandwidth_bytes_per_s
    in_bytes, out_bytes, weight_bytes = (itemsize * x for x in (g.inputs, g.outputs, g.weights))
    ragged = last & (np.mod(g.c, 16.0 / itemsize) != 0)
    added_s = np.where(library & (bias > 0), LAUNCH_S + 2.0 * out_bytes / rate, 0.0)
    padding_s = np.where(ragged, 2.0 * LAUNCH_S + 2.0 * (in_bytes + out_bytes) / rate, 0.0)
    base = LAUNCH_S + (in_bytes + out_bytes + weight_bytes) / rate
    c.add("patch", g.stride == g.k)
    c.add("ragged_last", ragged)
    c.add("lg_added_over_bytes", log2((base + added_s) / base))
    c.add("lg_around_over_bytes", log2((base + added_s + padding_s) / base))


def _tiles_s(b: Array, m: Array, n: Array, k: Array, itemsize: Array, peak: Array, machine: Machine) -> Array:
    """Return the least time of `b` products over tiles and splits of k, seconds.

    Parameters
    ----------
    b, m, n, k : (rows,) float64
    itemsize : (rows,) float64
    peak : (rows,) float64
        Of one unit, FLOP/s.
    machine : Machine

    Returns
    -------
    (rows,) float64
    """
    steps = ceil_div(k * itemsize, STEP_BYTES)
    tm, tn = _TILES
    tiles = b * ceil_div(m, tm) * ceil_div(n, tn)
    # small tiles leave the matrix units waiting for operands
    step_s = 2.0 * tm * tn * (STEP_BYTES / itemsize) / peak * (1.0 + 24.0 / tm + 24.0 / tn) + 0.1e-6
    merge_s = 4.0 * b * m * n / machine.bandwidth_bytes_per_s
    best: Array = (ceil_div(tiles, machine.units) * step_s).min(axis=0) * steps
    for split in SPLITS:
        waves_s = (ceil_div(tiles * split, machine.units) * step_s).min(axis=0)
        best = np.minimum(best, waves_s * ceil_div(steps, split) + LAUNCH_S + split * merge_s)
    return best
