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
from graphs.hardware.calibration.features.convolution_kernels import Call, main_times, native_s, own_s
from graphs.hardware.calibration.features.convolution_layout import (
    FILLED_GROUPS,
    LAUNCH_S,
    PLANAR_SLICE_SHARE,
    WIDEST_GROUP,
    Costs,
    Tensors,
    around_s,
    gradient_s,
    path_of,
)  # fmt: skip
from graphs.hardware.calibration.features.gemm_tiles import Estimate
from graphs.hardware.calibration.features.machine import Machine

if TYPE_CHECKING:
    from graphs.hardware.calibration.features.convolution import Geometry

#: Channels of a group from which fp32 kernels want those of all images in one piece, alone and where the group has as
#: many outputs; images from which they do not cut out the latter.
PLANAR_CHANNELS, PLANAR_BOTH, PLANAR_IMAGES = 48.0, 32.0, 16.0
#: Channels of a group that fill a kernel's block without others, and how many times slower than groups one after
#: another a few filled ones may be.
FILLED_CHANNELS, FEW_FILLED = 64.0, 1.5
#: Groups that run at once where each leaves most of the machine idle.
STREAMS = 4.0


def add_parts(
    c: Columns,
    g: Geometry,
    dtype: NDArray[np.str_],
    itemsize: Array,
    last: NDArray[np.bool_],
    bias: Array,
    transposed: bool,
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
    transposed : bool
        Transposed convolutions.
    machine : Machine
    """
    if machine.kind != "gpu":
        return
    cg, og = g.c / g.groups, g.o / g.groups
    grouped = g.groups > 1
    whole_call = Tensors(g.n, g.c, g.o, g.kh * g.kw, g.h * g.w, g.ho * g.wo, g.groups, itemsize)
    costs = Costs(machine)
    product = (g.kh * g.kw == 1) & (g.stride == 1) & ~grouped & (not transposed)
    pixels = g.h * g.w if transposed else g.ho * g.wo
    flops = 2.0 * g.n * pixels * og * g.c * g.kh * g.kw
    path = path_of(dtype, last, product, flops, whole_call, transposed)
    added = np.where(bias > 0, costs.bias_s(g.outputs, itemsize), 0.0)
    around = around_s(path, last, whole_call, costs)
    if transposed:
        around = around + gradient_s(path, last, whole_call, costs)

    call = Call(dtype, itemsize, last, path.units, product, transposed)
    share = Tensors(g.n, cg, og, g.kh * g.kw, g.h * g.w, g.ho * g.wo, np.ones_like(cg), itemsize)
    times = main_times(g, call, g.groups, whole_call.nbytes, machine)
    together = one = _unsplit_without_units_s(times, path.units)
    if grouped.any():
        one = _unsplit_without_units_s(main_times(g, call, np.ones_like(cg), share.nbytes, machine), path.units)
    roofline = machine.attainable_s(flops, whole_call.nbytes, dtype)
    # Kernels for groups want equal numbers of channels in and out, powers of two; other groups are filled up by slow
    # kernels where there are many; all else runs group after group, each on its slice of the channels, on a few
    # streams at once.
    units = path.units & (cg > 1)
    equal = grouped & units & (g.c == g.o)
    whole = np.exp2(alignment(cg, 64)) == cg
    widest = np.where(dtype == "tf32", 2.0 * WIDEST_GROUP, WIDEST_GROUP)
    native = equal & whole & (cg <= widest)
    filled = grouped & units & ~native & (equal | (g.groups >= FILLED_GROUPS)) & (cg < FILLED_CHANNELS)
    own = grouped & (cg == 1) & ~last
    turn = path.turned & ~own
    filling = costs.general_s(whole_call.weight_bytes) + np.where(
        turn,
        costs.turn_s(g.n, g.c, g.h * g.w, itemsize) + costs.turn_s(g.n, g.o, g.ho * g.wo, itemsize),
        costs.general_s(whole_call.in_bytes) + costs.general_s(whole_call.out_bytes),
    )
    slices_bytes = share.in_bytes + share.out_bytes
    cut_out = (cg > PLANAR_CHANNELS) | ((np.minimum(cg, og) >= PLANAR_BOTH) & (g.n < PLANAR_IMAGES))
    planar = np.where((g.n > 1) & cut_out, costs.general_s(slices_bytes, PLANAR_SLICE_SHARE), 0.0)
    slices = np.where(last, costs.copy_s(slices_bytes) + LAUNCH_S, np.where(units, 0.0, planar))
    each = one + around_s(path, last, share, costs) + slices
    blocks = ceil_div(g.n * g.ho * g.wo, 64) * ceil_div(og, 64)
    at_once = np.clip(machine.units / blocks, 1.0, STREAMS)
    serial = g.groups * each / np.minimum(at_once, g.groups)
    flipped = np.where(turn, around, 0.0)
    # one channel a group and planar: the framework's own kernel
    peak = machine.peak_flops_per_s(dtype)
    grouped_kernel = native_s(g.outputs, g.kh * g.kw, whole_call.nbytes, peak, machine)
    grouped_kernel = np.where(own, LAUNCH_S + own_s(g.outputs, whole_call.nbytes, machine), grouped_kernel)
    flipped, native = np.where(own, 0.0, flipped), native | own
    filled &= (g.groups >= FILLED_GROUPS) | (grouped_kernel + filling < FEW_FILLED * serial)
    of_groups = np.where(native, grouped_kernel + flipped, np.where(filled, grouped_kernel + filling, serial))
    total = added + np.where(grouped, of_groups, together + around)
    base = roofline + LAUNCH_S
    c.add("lg_around_over_roofline", log2((base + added + around) / base))
    c.add("lg_best_over_roofline", log2(1e-6 * times.best_us / base))
    c.add("lg_unsplit_over_roofline", log2(1e-6 * times.unsplit_us / base))
    c.log("split", times.split)
    c.add("lg_parts_over_roofline", log2(total / base))
    c.add("lg_serial_over_roofline", np.where(grouped, log2(serial / base), 0.0))
    c.add("around_share", around / (together + around + added))
    c.add("bias_share", added / (together + around + added))
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


def _unsplit_without_units_s(times: Estimate, units: NDArray[np.bool_]) -> Array:
    """Return the time of the main kernel, (n,) seconds: libraries split k of convolutions on matrix units only."""
    return 1e-6 * np.where(units, times.best_us, times.unsplit_us)
