"""Features of convolutions: the implicit GEMM, layouts, and the flags on which libraries change algorithm."""

from __future__ import annotations

import numpy as np

from graphs.hardware.calibration.features.columns import (
    Array,
    Columns,
    add_common,
    alignment,
    ceil_div,
    channels_last,
    device_dtype,
    fill,
    log2,
    param,
)  # fmt: skip
from graphs.hardware.calibration.features.convolution_parts import add_depthwise_parts, add_parts
from graphs.hardware.calibration.features.depthwise import add_kernel
from graphs.hardware.calibration.features.gemm import add_problem
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import add_processor
from graphs.ops.batch import OperatorGroup

OPS = ("conv2d", "conv1d", "conv_transpose2d")
DEPTHWISE_OPS = ("dwconv2d",)
#: Columns of `build` that the estimated parts of GPU calls replace: with fewer, processes generalise better there.
REPLACED_ON_GPUS = (
    "lg_flops", "lg_m", "lg_n", "lg_m_over_n", "lg_min_mn", "lg_max_mn", "m_is_1", "n_bytes_align", "share_right",
    "lg_waves_256x128", "pad_256x128", "busy_128x128", "pad_128x128", "pad_32x32", "best_tile", "best_tile_cost",
    "winograd", "lg_winograd_waves", "winograd_busy", "patch", "strided_pointwise", "lg_serial_groups",
)  # fmt: skip


class Geometry:
    """Sizes of a convolution as columns; a one-dimensional one has height 1."""

    def __init__(self, group: OperatorGroup) -> None:
        name = group.kind.name
        p = group.params
        self.n, self.c, self.o, self.k, self.stride = (p[x] for x in ("n", "c", "o", "k", "stride"))
        if name == "conv1d":
            one = np.ones(len(group))
            self.h, self.w, self.kh, self.kw, self.ph, self.pw = one, p["l"], one, self.k, 0 * one, p["pad"]
        else:
            self.h, self.w, self.kh, self.ph = p["h"], p["w"], self.k, p["pad"]
            self.kw = param(group, "kw", self.k)
            self.pw = param(group, "padw", p["pad"])
        self.groups = param(group, "groups", 1.0)
        sh = np.where(self.h == 1, 1.0, self.stride) if name == "conv1d" else self.stride
        if name == "conv_transpose2d":
            self.ho = np.maximum((self.h - 1) * sh - 2 * self.ph + self.kh, 1)
            self.wo = np.maximum((self.w - 1) * self.stride - 2 * self.pw + self.kw, 1)
        else:
            self.ho = np.maximum(np.floor((self.h + 2 * self.ph - self.kh) / sh) + 1, 1)
            self.wo = np.maximum(np.floor((self.w + 2 * self.pw - self.kw) / self.stride) + 1, 1)
        self.inputs = self.n * self.c * self.h * self.w
        self.outputs = self.n * self.o * self.ho * self.wo
        self.weights = self.o * self.c / self.groups * self.kh * self.kw


def build(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of conv2d, conv1d and conv_transpose2d calls."""
    g = Geometry(group)
    c = Columns(len(group))
    add_common(c, group, machine, OPS)
    cg, og = g.c / g.groups, g.o / g.groups
    # A transposed convolution is the data gradient: its GEMM reduces over c and scatters o x k x k.
    m, n, k = g.n * g.ho * g.wo, og, cg * g.kh * g.kw
    if group.kind.name == "conv_transpose2d":
        m, n, k = g.n * g.h * g.w, og * g.kh * g.kw, cg
    add_problem(c, g.groups, m, n, k, group.itemsize, machine)
    _add_shape(c, group, g)
    for name, dim in (("c_per_group", cg), ("o_per_group", og), ("o", g.o), ("c", g.c)):
        c.log(name, dim)
    c.add("c_align", alignment(cg, 32))
    c.add("o_align", alignment(og, 32))
    c.add("grouped", g.groups > 1)
    c.add("depthwise", (g.groups > 1) & (cg == 1))

    last = channels_last(group)
    vector = 16.0 / group.itemsize
    ragged = (np.mod(cg, vector) != 0) | (np.mod(og, vector) != 0)
    c.add("ragged_channels", ragged)
    # Matrix-unit kernels read channels-last: planar tensors are transformed on the way in and out, and
    # channels are padded to whole vectors.
    dtype = device_dtype(group)
    matrix_units = dtype != "fp32"
    moved = 2.0 * group.itemsize * (g.inputs + g.outputs) * (matrix_units & ~last)
    padded_c, padded_o = ceil_div(g.c, vector) * vector, ceil_div(g.o, vector) * vector
    padding = group.itemsize * (g.inputs * padded_c / g.c + g.outputs * padded_o / g.o) * (matrix_units & ragged)
    c.add("lg_extra_bytes", log2((group.bytes + moved + padding) / group.bytes))
    c.log("extra_us", 0.1 + 1e6 * (moved + padding) / machine.bandwidth_bytes_per_s)

    unit = (g.kh == 1) & (g.kw == 1)
    winograd = (g.kh == 3) & (g.kw == 3) & (g.stride == 1) & (g.groups == 1) & (g.ph <= 1)
    c.add("pointwise", unit & (g.stride == 1))
    c.add("strided_pointwise", unit & (g.stride > 1))
    c.add("winograd", winograd)
    tiles = g.n * ceil_div(g.ho, 2) * ceil_div(g.wo, 2)
    waves, busy = fill(ceil_div(tiles, 32) * ceil_div(g.o, 32), machine.units)
    c.add("lg_winograd_waves", np.where(winograd, waves, 0.0))
    c.add("winograd_busy", np.where(winograd, busy, 0.0))
    c.add("patch", (g.stride == g.kh) & (g.kh > 1))
    c.add("asymmetric", g.kh != g.kw)
    c.log("output_plane", g.ho * g.wo)
    c.add("plane_align", alignment(g.ho * g.wo, 32))
    # Without a grouped kernel the groups run one after another: waves of one group, times the groups.
    one_group, _ = fill(ceil_div(m, 64) * ceil_div(n, 64), machine.units)
    c.add("lg_serial_groups", np.where(g.groups > 1, log2(g.groups) + np.maximum(one_group, 0.0), 0.0))
    steps = ceil_div(cg, 64 / group.itemsize) * g.kh * g.kw
    c.log("k_steps_padded", steps)
    c.add("lg_padded_work", log2(steps * 64 / group.itemsize / (cg * g.kh * g.kw)) + log2(ceil_div(og, 64) * 64 / og))
    c.add("wide_image", (g.wo >= 64).astype(float))
    transposed = group.kind.name == "conv_transpose2d"
    add_parts(c, g, dtype, group.itemsize, last, param(group, "bias", 0.0), transposed, machine)
    _add_processor(c, group, g, machine)
    if machine.kind == "gpu":
        c.drop(REPLACED_ON_GPUS)
    return c.result()


def build_depthwise(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of dwconv2d calls."""
    g = Geometry(group)
    c = Columns(len(group))
    add_common(c, group, machine, DEPTHWISE_OPS)
    _add_shape(c, group, g)
    c.log("c", g.c)
    c.add("c_align", alignment(g.c, 64))
    c.add("multiplier", g.o / g.c)
    c.log("outputs", g.outputs)
    c.log("planes", g.n * g.c)
    c.log("output_plane", g.ho * g.wo)
    for threads in (64, 256, 1024):
        waves, busy = fill(ceil_div(g.outputs, threads), machine.units)
        c.add(f"busy_{threads}", np.where(waves > 6, 1.0, busy))
    for side in (8, 16, 32):
        c.add(f"plane_pad_{side}", g.ho * g.wo / (ceil_div(g.ho, side) * ceil_div(g.wo, side) * side * side))
        c.add(f"row_pad_{side}", g.wo / (ceil_div(g.wo, side) * side))
    last = channels_last(group)
    half = group.itemsize == 2
    fp16 = device_dtype(group) == "fp16"
    # The framework sends planar fp16 to the vendor library only for these shapes; the rest runs its own kernel.
    small = (g.k == 1) | (g.k == 3) | (g.k == 5)
    wide = ((g.n == 1) & (g.k > 1)) | ((g.k > 1) & ((g.c >= 512) | ((g.c >= 256) & (g.w >= 28))))
    wide |= (g.k == 1) & (g.n <= 16) & (g.c >= 128) & (g.w <= 7)
    library = fp16 & ~last & (g.c >= 32) & small & (g.w >= 7) & ((g.stride == 1) | ((g.stride == 2) & wide))
    c.add("library", library | last)
    c.add("library_planar", library)
    c.add("half_last", half & last)
    c.add("last_c_align", np.where(last, alignment(g.c, 64), 0.0))
    c.add("taps_per_byte", log2(g.kh * g.kw / group.itemsize))
    c.log("row_bytes", np.where(last, g.c, g.wo) * group.itemsize)
    add_depthwise_parts(c, g, group.itemsize, last, param(group, "bias", 0.0), library | last, machine)
    add_kernel(c, g, device_dtype(group), group.itemsize, last, library | last, machine)
    _add_processor(c, group, g, machine)
    return c.result()


def _add_shape(c: Columns, group: OperatorGroup, g: Geometry) -> None:
    """Add sizes, kernel, stride and layout."""
    c.log("batch", g.n)
    c.log("h", g.h)
    c.log("w", g.w)
    c.log("ho", g.ho)
    c.log("wo", g.wo)
    c.log("taps", g.kh * g.kw)
    c.log("stride", g.stride)
    c.add("kernel", g.kw)
    c.add("pad_over_kernel", g.pw / g.kw)
    c.add("bias", param(group, "bias", 0.0))
    c.add("channels_last", channels_last(group))
    c.add("wo_align", alignment(g.wo, 16))
    c.add("lg_in_over_out", log2(g.inputs) - log2(g.outputs))
    c.add("lg_weights_over_in", log2(g.weights) - log2(g.inputs))


#: Input elements of one image up to which the framework convolves with its own kernel (at::native use_mkldnn), and
#: channels in a block of the vendor library's layout (16 lanes of single precision).
_OWN_KERNEL, _BLOCK = 20480.0, 16.0


def _add_processor(c: Columns, group: OperatorGroup, g: Geometry, machine: Machine) -> None:
    """Add the columns of a CPU: the library blocks planar tensors on the way in and out, weights at every call."""
    if machine.kind != "cpu":
        return
    small = (g.n == 1) & (g.inputs <= _OWN_KERNEL) & ((g.kh <= 3) | (g.kw <= 3))
    own = (group.dtype == "fp32") & (g.groups == 1) & small
    size, planar = group.itemsize, ~own & ~channels_last(group)
    wide_c, wide_o = ceil_div(g.c, _BLOCK) * _BLOCK / g.c, ceil_div(g.o, _BLOCK) * _BLOCK / g.o
    # up to three channels are read as they are
    source = np.where(planar & (g.c > 3), g.inputs * wide_c * size, 0.0)
    target = np.where(planar, g.outputs * wide_o * size, 0.0)
    weights = np.where(own, 0.0, g.weights * size)
    reorder_s = 2.0 * (source + target + weights) / machine.bandwidth_bytes_per_s
    roofline_s = machine.attainable_s(group.flops, group.bytes, group.dtype)
    c.add("own_kernel", own)
    c.add("lg_reorder_over_roofline", log2(1.0 + reorder_s / (roofline_s + 1e-6)))
    add_processor(c, group, machine, g.outputs * size, g.outputs, scratch=(source, target, weights))
