"""Features of elementwise operators: bytes, vector width, blocks and waves, and how operands broadcast."""

from __future__ import annotations

import numpy as np

from graphs.hardware.calibration.features.columns import (
    Array,
    Columns,
    add_common,
    alignment,
    ceil_div,
    channels_last,
    fill,
    log2,
    param,
)  # fmt: skip
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import add_processor
from graphs.ops.batch import OperatorGroup
from graphs.ops.dtypes import ITEMSIZE

UNARY_OPS = (
    "relu", "gelu", "silu", "sigmoid", "tanh", "exp", "hardswish", "relu6", "hardsigmoid", "pow2", "rsqrt", "neg",
    "cos", "erf", "abs", "clamp", "add_scalar", "mul_scalar", "cast", "relu_nd",
)  # fmt: skip
BINARY_OPS = (
    "add", "mul", "div", "sub", "mul_row", "mul_channel", "add_nd", "add_strided", "where",
)  # fmt: skip
#: Columns of a broadcast second operand.
BROADCAST_COLUMNS = 1024.0


def build_unary(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of one-operand kinds."""
    c = Columns(len(group))
    add_common(c, group, machine, UNARY_OPS)
    numel = elements(group)
    to = param(group, "to", "same")
    wide = np.array([ITEMSIZE.get(str(name), 0) for name in np.unique(to)], dtype=np.float64)
    out_size = wide[np.unique(to, return_inverse=True)[1]]
    out_size = np.where(out_size == 0, group.itemsize, out_size)
    _add_sizes(c, group, machine, numel)
    c.add("lg_in_over_out", log2(group.itemsize / out_size))
    transcendental = group.kind.name in ("gelu", "silu", "sigmoid", "tanh", "exp", "rsqrt", "cos", "erf")
    c.add("transcendental", float(transcendental))
    add_processor(c, group, machine, numel * out_size, numel)
    return c.result()


def build_binary(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of two-operand kinds and where."""
    c = Columns(len(group))
    add_common(c, group, machine, BINARY_OPS)
    numel = elements(group)
    _add_sizes(c, group, machine, numel)
    name = group.kind.name
    p = group.params
    last = channels_last(group)
    broadcast = param(group, "bcast", 0.0) > 0
    # The inner extent after which the second operand repeats or jumps; numel where nothing does.
    inner = numel
    if name in ("mul_row", "add_strided"):
        inner = p["cols"]
        broadcast = np.full(len(group), name == "mul_row")
    elif name == "mul_channel":
        inner = np.where(last, p["c"], p["h"] * p["w"])
        broadcast = np.ones(len(group), dtype=bool)
    elif "bcast" in p:
        inner = np.where(broadcast, np.minimum(BROADCAST_COLUMNS, numel), numel)
    c.add("broadcast", broadcast)
    c.log("inner", inner)
    c.log("outer", numel / inner)
    c.add("inner_align", alignment(inner, 64))
    c.add("lg_bytes_over_elements", log2(group.bytes / (numel * group.itemsize)))
    c.add("channels_last", last)
    add_processor(c, group, machine, numel * group.itemsize, numel)
    return c.result()


def elements(group: OperatorGroup) -> Array:
    """Return the elements of the output."""
    p = group.params
    if "numel" in p:
        return np.asarray(p["numel"])
    if "rows" in p:
        return np.asarray(p["rows"] * p["cols"])
    return np.asarray(p["n"] * p["c"] * p["h"] * p["w"])


def _add_sizes(c: Columns, group: OperatorGroup, machine: Machine, numel: Array) -> None:
    c.log("numel", numel)
    c.add("numel_align", alignment(numel, 64))
    c.add("itemsize", group.itemsize)
    for per_block in (512, 1024, 2048):
        waves, busy = fill(ceil_div(numel, per_block), 8.0 * machine.units)
        c.add(f"busy_{per_block}", np.where(waves > 5, 1.0, busy))
    c.log("blocks_per_unit", ceil_div(numel, 1024) / machine.units)
    c.add("lg_l2_fit", np.clip(log2(group.bytes / machine.cache_bytes), -2.0, 3.0))
