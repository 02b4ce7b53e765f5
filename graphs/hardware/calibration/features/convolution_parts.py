"""What a GPU library runs around and inside a convolution, as estimated times: transforms, bias, tiles, groups.

One call of a convolution is a sequence of kernels, and their times add up.  Which of them run follows mostly from
layout, alignment and groups; profiles of single calls show the same few patterns on all shapes.  The estimates are
rough, and only their ratios to the roofline are features: the fitted model learns what is true of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.columns import Array, Columns, alignment, ceil_div, log2
from graphs.hardware.calibration.features.convolution_layout import (
    FILLED_GROUPS,
    LAUNCH_S,
    PLANAR_SLICE_SHARE,
    WIDEST_GROUP,
    Costs,
    Tensors,
    around_s,
    path_of,
)  # fmt: skip
from graphs.hardware.calibration.features.machine import Machine

if TYPE_CHECKING:
    from graphs.hardware.calibration.features.convolution import Geometry

#: Channels of a group up to which fp32 kernels find them in the planar tensor.
PLANAR_CHANNELS = 48.0
#: Groups that run at once where each leaves most of the machine idle.
STREAMS = 4.0
#: Tiles (rows, columns) of implicit GEMM kernels, and bytes of k that one step of their main loop takes; a block of
#: channels that it does not share with the next tap.
TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (32, 32))
STEP_BYTES, BLOCK_BYTES = 128.0, 64.0
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
    cg, og = g.c / g.groups, g.o / g.groups
    grouped = g.groups > 1
    m, n, k = problem
    whole_call = Tensors(g.n, g.c, g.o, g.kh * g.kw, g.h * g.w, g.ho * g.wo, g.groups, itemsize)
    costs = Costs(machine)
    unit = g.kh * g.kw == 1
    product = unit & (g.stride == 1) & ~grouped
    flops = 2.0 * m * n * k * g.groups
    path = path_of(dtype, last, product, flops, whole_call)
    added = np.where(bias > 0, costs.copy_s(whole_call.out_bytes), 0.0)
    around = around_s(path, last, whole_call, costs)

    # a product of planar tensors is one of each image
    m, images = np.where(product & ~last, g.ho * g.wo, m), np.where(product & ~last, g.n, 1.0)
    kernels = np.where(path.units, dtype, "fp32")
    peak = machine.peak_flops_per_s(kernels) / machine.units
    # the loop goes over the taps, and over whole blocks of channels at each
    blocks = ceil_div(cg * itemsize, BLOCK_BYTES) * BLOCK_BYTES / itemsize
    k = np.where(path.units & ~product, g.kh * g.kw * blocks, k)
    together = _tiles_s(images * g.groups, m, n, k, itemsize, peak, machine, path.units)
    one = _tiles_s(images, m, n, k, itemsize, peak, machine, path.units) if grouped.any() else together
    nbytes = whole_call.in_bytes + whole_call.out_bytes + whole_call.weight_bytes
    roofline = machine.attainable_s(flops, nbytes, dtype)
    main = np.maximum(together, roofline)
    # Kernels for groups want equal numbers of channels in and out, powers of two; other groups are filled up by slow
    # kernels where there are many; all else runs group after group, each on its slice of the channels, on a few
    # streams at once.
    units = path.units & (cg > 1)
    equal = grouped & units & (g.c == g.o)
    whole = np.exp2(alignment(cg, 64)) == cg
    widest = np.where(dtype == "tf32", 2.0 * WIDEST_GROUP, WIDEST_GROUP)
    native = equal & whole & (cg <= widest)
    filled = grouped & units & ~native & (equal | (g.groups >= FILLED_GROUPS))
    own = grouped & (cg == 1) & ~last
    turn = path.turned & ~own
    filling = costs.general_s(whole_call.weight_bytes) + np.where(
        turn,
        costs.turn_s(g.n, g.c, g.h * g.w, itemsize) + costs.turn_s(g.n, g.o, g.ho * g.wo, itemsize),
        costs.general_s(whole_call.in_bytes) + costs.general_s(whole_call.out_bytes),
    )
    share = Tensors(g.n, cg, og, g.kh * g.kw, g.h * g.w, g.ho * g.wo, np.ones_like(cg), itemsize)
    slices_bytes = share.in_bytes + share.out_bytes
    planar = np.where((g.n > 1) & (cg > PLANAR_CHANNELS), costs.general_s(slices_bytes, PLANAR_SLICE_SHARE), 0.0)
    slices = np.where(last, costs.copy_s(slices_bytes) + LAUNCH_S, np.where(units, 0.0, planar))
    each = one + LAUNCH_S + around_s(path, last, share, costs) + slices
    at_once = np.clip(machine.units / np.maximum(images * ceil_div(m, 64) * ceil_div(n, 64), 1.0), 1.0, STREAMS)
    serial = g.groups * each / np.minimum(at_once, g.groups)
    flipped = np.where(turn, around, 0.0)
    # one channel a group and planar: the framework's own kernel
    flipped, native = np.where(own, 0.0, flipped), native | own
    of_groups = np.where(native, main + flipped, np.where(filled, main + filling, serial))
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
    c.add("without_units", (dtype != "fp32") & ~path.units)
    c.add("turned", turn)
    c.log("weight_bytes", whole_call.weight_bytes)
    c.log("weight_channels", cg * og)
    # rows of the operands of a product: of the output channels, or of a plane
    row = np.where(last, og, g.ho * g.wo)
    vector = 16.0 / itemsize
    half_or_tf32 = dtype != "fp32"
    ragged_c = half_or_tf32 & (np.mod(cg, vector) != 0)
    c.add("ragged_product", product & half_or_tf32 & ((np.mod(row, vector) != 0) | (ragged_c & last)))
    c.add("ragged_c", ragged_c)
    c.add("ragged_o", half_or_tf32 & (np.mod(og, vector) != 0))


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


def _tiles_s(
    b: Array, m: Array, n: Array, k: Array, itemsize: Array, peak: Array, machine: Machine, units: NDArray[np.bool_]
) -> Array:
    """Return the least time of `b` products over tiles and splits of k, seconds.

    Parameters
    ----------
    b, m, n, k : (rows,) float64
    itemsize : (rows,) float64
    peak : (rows,) float64
        Of one unit, FLOP/s.
    machine : Machine
    units : (rows,) bool
        On matrix units: only those kernels split k.

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
        parts_s = waves_s * ceil_div(steps, split) + LAUNCH_S + split * merge_s
        best = np.where(units, np.minimum(best, parts_s), best)
    return best
