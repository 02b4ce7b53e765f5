"""Features of matrix multiplications: sizes, alignment, tile and wave quantisation, split-K."""

from __future__ import annotations

import numpy as np

from graphs.hardware.calibration.features.columns import (
    Array,
    Columns,
    add_common,
    alignment,
    ceil_div,
    fill,
    log2,
    param,
)  # fmt: skip
from graphs.hardware.calibration.features.gemm_tiles import estimate
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import add_processor
from graphs.ops.batch import OperatorGroup

OPS = ("linear", "matmul", "addmm", "bmm")
#: Output tiles (rows, columns) that GEMM libraries choose from, large to small.
TILES = ((256, 128), (128, 128), (64, 128), (128, 64), (64, 64), (32, 32), (8, 64), (64, 8))
WAVE_TILES = ((256, 128), (128, 128), (64, 64), (32, 32))
#: Rows up to which libraries have kernels for matrices that are nearly vectors.
FEW_ROWS = 16
#: Order of magnitude of an empty call, and of one step of a loop that waits for memory, microseconds.
LAUNCH_US, SERIAL_US = 2.0, 0.02


def build(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of linear, matmul, addmm and bmm calls."""
    b = param(group, "b", 1.0)
    m, n, k = (group.params[name] for name in ("m", "n", "k"))
    c = Columns(len(group))
    add_common(c, group, machine, OPS)
    c.add("bias", np.where(group.kind.name == "addmm", 1.0, param(group, "bias", 0.0)))
    add_problem(c, b, m, n, k, group.itemsize, machine)
    # A library of cuBLAS's kind wants rows of 16 bytes: those of the weight, of the input and of the output.
    weight_row = k if group.kind.name == "linear" else n
    c.add("weight_row_align", alignment(weight_row * group.itemsize, 128))
    c.add("operand_align", np.minimum(alignment(weight_row * group.itemsize, 16), alignment(k * group.itemsize, 16)))
    c.add("output_align", alignment(n * group.itemsize, 16))
    c.add("tma_ok", ((weight_row * group.itemsize) % 16 == 0) & ((k * group.itemsize) % 16 == 0))
    if machine.kind == "gpu":
        _add_kernels(c, group, b, m, n, k, machine)
    add_processor(c, group, machine, b * m * n * group.itemsize, b * m * n)
    return c.result()


def _add_kernels(c: Columns, group: OperatorGroup, b: Array, m: Array, n: Array, k: Array, machine: Machine) -> None:
    """Add what an analytic model of GPU kernels says, relative to the roofline, and which special kernel may serve."""
    # rows of the left operand have k elements, those of the right one or of its transpose n or k, of the result n
    aligned = ((k * group.itemsize) % 16 == 0) & ((n * group.itemsize) % 16 == 0)
    times = estimate(group, b, m, n, k, aligned, machine)
    # what the fitted models learn is relative to the roofline as well, after a launch
    roofline_us = LAUNCH_US + 1e6 * machine.attainable_s(group.flops, group.bytes, group.dtype)
    c.add("lg_best_over_roofline", log2(times.best_us / roofline_us))
    c.add("lg_unsplit_over_roofline", log2(times.unsplit_us / roofline_us))
    c.log("split", times.split)
    c.add("few_rows", m <= FEW_ROWS)
    # Without enough threads the loop over k waits for each load, whatever the size of the result.
    c.add("lg_serial_over_roofline", log2((LAUNCH_US + SERIAL_US * k) / roofline_us))
    # Rows of a large power of two of bytes contend for the same sets of caches and banks of memory.
    for name, dim in (("n", n), ("k", k)):
        c.add(f"{name}_far_align", alignment(dim, 4096))


def add_problem(c: Columns, b: Array, m: Array, n: Array, k: Array, itemsize: Array, machine: Machine) -> None:
    """Add the columns of `b` products (m, k) x (k, n); convolutions use them for their implicit GEMM.

    Parameters
    ----------
    b, m, n, k : (rows,) float64
        Batch and dimensions, elements.
    itemsize : (rows,) float64
        Bytes an element.
    """
    for name, dim in (("b", b), ("m", m), ("n", n), ("k", k)):
        c.log(name, dim)
    c.log("mn", m * n)
    c.log("min_mn", np.minimum(m, n))
    c.log("max_mn", np.maximum(m, n))
    c.add("lg_m_over_n", log2(m) - log2(n))
    c.add("m_is_1", m == 1)
    c.add("n_is_1", n == 1)
    for name, dim in (("m", m), ("n", n), ("k", k)):
        c.add(f"{name}_align", alignment(dim, 64))
    c.add("k_bytes_align", alignment(k * itemsize, 128))
    c.add("n_bytes_align", alignment(n * itemsize, 128))

    cost = []
    for tm, tn in TILES:
        tiles = b * ceil_div(m, tm) * ceil_div(n, tn)
        padded = b * m * n / (tiles * tm * tn)
        waves, busy = fill(tiles, machine.units)
        # Time of this tile shape against an ideal machine: padding and the tail of the last wave; a wave of
        # small tiles reads operands more often, which the second term charges.
        cost.append(log2(padded * busy) - log2(1.0 + 24.0 / tm + 24.0 / tn))
        if (tm, tn) in WAVE_TILES:
            c.add(f"lg_waves_{tm}x{tn}", waves)
            c.add(f"busy_{tm}x{tn}", np.where(waves > 6, 1.0, busy))
            c.add(f"pad_{tm}x{tn}", padded)
    stacked = np.stack(cost)
    c.add("best_tile_cost", stacked.max(axis=0))
    c.add("best_tile", stacked.argmax(axis=0))
    # Split-K: idle units left by 64 x 64 tiles, and how much k there is to divide among them.
    idle = machine.units / (b * ceil_div(m, 64) * ceil_div(n, 64))
    c.add("lg_split_k", np.clip(log2(np.minimum(idle, k / 64.0)), 0.0, 8.0))
    c.log("k_steps", ceil_div(k * itemsize, 128))
    operands = itemsize * b * np.stack([m * k, k * n, m * n])
    share = operands / operands.sum(axis=0)
    c.add("share_left", share[0])
    c.add("share_right", share[1])
