"""Features of reductions and normalisations over rows: row bytes, threads a row, and kernel switches."""

from __future__ import annotations

import numpy as np

from graphs.hardware.calibration.features.columns import Array, Columns, add_common, alignment, ceil_div, fill, log2
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import GRAIN, add_processor
from graphs.ops.batch import OperatorGroup

OPS = ("softmax", "layernorm", "rmsnorm", "sum", "mean", "cumsum")
#: Resident threads of one streaming multiprocessor.
THREADS_PER_UNIT = 2048.0


def build(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of softmax, layernorm, rmsnorm, sum, mean and cumsum calls."""
    c = Columns(len(group))
    add_common(c, group, machine, OPS)
    rows, cols = group.params["rows"], group.params["cols"]
    size = group.itemsize
    c.log("rows", rows)
    c.log("cols", cols)
    c.add("lg_rows_over_cols", log2(rows) - log2(cols))
    c.log("row_bytes", cols * size)
    c.add("row_align", alignment(cols * size, 256))
    c.add("cols_align", alignment(cols, 64))
    c.add("itemsize", size)
    c.add("lg_cols_over_pow2", np.ceil(log2(cols)) - log2(cols))
    c.add("warp_row", (cols <= 1024) & (cols * size <= 4096))
    c.add("rows_is_1", rows == 1)

    threads, row_blocks, vector, split = _kernel(group, rows, cols, size, machine)
    c.log("threads_per_row", threads)
    c.log("items_per_thread", np.maximum(cols / threads, 1.0 / 64.0))
    c.add("thread_pad", cols / (ceil_div(cols, threads * vector) * threads * vector))
    c.add("vectorised", vector > 1)
    c.log("split", split)
    waves, busy = fill(row_blocks, machine.units * np.maximum(THREADS_PER_UNIT / np.maximum(threads, 128.0), 1.0))
    c.add("lg_waves", waves)
    c.add("busy", np.where(waves > 5, 1.0, busy))
    unit_waves, unit_busy = fill(row_blocks, machine.units)
    c.add("lg_blocks_per_unit", unit_waves)
    c.add("unit_busy", np.where(unit_waves > 5, 1.0, unit_busy))
    _add_processor(c, group, machine, rows, cols)
    return c.result()


def _add_processor(c: Columns, group: OperatorGroup, machine: Machine, rows: Array, cols: Array) -> None:
    if group.kind.name in ("sum", "mean"):  # may split a row, and allocate next to nothing
        add_processor(c, group, machine, rows * group.itemsize, rows * cols)
        return
    grain: Array | float = GRAIN
    scratch: tuple[Array, ...] = ()
    if group.kind.name == "rmsnorm":
        # a composite: the square and the product in single precision, and half precision widened first
        wide = rows * cols * np.maximum(group.itemsize, 4.0)
        scratch = (wide, wide, np.where(group.itemsize < 4, wide, 0.0))
    elif group.kind.name == "softmax":
        grain = np.maximum(np.floor(GRAIN / (16.0 * cols)), 1.0) * cols
    elif group.kind.name == "layernorm":
        grain = 1.0
    add_processor(c, group, machine, rows * cols * group.itemsize, rows * cols, rows, grain, scratch)


def _kernel(
    group: OperatorGroup, rows: Array, cols: Array, size: Array, machine: Machine
) -> tuple[Array, Array, Array, Array]:
    """Return threads a row, blocks, vector width in elements and blocks a row, as the framework's launch rules give."""
    name = group.kind.name
    one = np.ones(len(group))
    pow2 = 2.0 ** np.ceil(log2(cols))
    if name == "softmax":
        vector = 16.0 / size
        warp = (cols <= 1024) & (cols * size <= 4096)
        block = np.clip(ceil_div(2.0 ** np.floor(log2(np.maximum(cols / vector, 1.0))), 32) * 32, 32, 1024)
        threads = np.where(warp, np.minimum(pow2, 32), block)
        per_block = np.where(warp, 128.0 / threads * np.where(pow2 <= 128, 2.0, 1.0), 1.0)
        aligned = np.mod(cols, vector) == 0
        return threads, ceil_div(rows, per_block), np.where(warp | ~aligned, 1.0, vector), one
    if name in ("layernorm", "rmsnorm"):
        vector = np.where(np.mod(cols, 4) == 0, 4.0, 1.0)
        return np.where(vector > 1, 128.0, 256.0), rows, vector, one
    if name == "cumsum":
        # Threads of a block are shared out between a row and several rows in the ratio of the two extents.
        lead = np.floor((9.0 + np.ceil(log2(cols)) - np.ceil(log2(rows))) / 2.0)
        threads = 2.0 ** np.clip(lead, 4.0, 9.0)
        return threads, ceil_div(rows, 512.0 / threads), one, one
    # Reductions: the vector form needs 128 columns; the rest of a 512-thread block takes further rows, or the
    # same row where it is long, and few long rows are split over blocks.
    vector = np.where(cols >= 128, 4.0, 1.0)
    extent = np.maximum(np.floor(cols / vector), 1.0)
    width = np.minimum(2.0 ** np.floor(log2(np.minimum(extent, 512.0))), 32.0)
    height = np.minimum(2.0 ** np.floor(log2(np.minimum(rows, 512.0))), 512.0 / width)
    width = np.minimum(2.0 ** np.floor(log2(np.minimum(extent, 512.0))), 512.0 / height)
    per_thread = cols / width
    across = (per_thread >= 16.0 * height) | (per_thread >= 256.0)
    threads = np.where(across, width * height, width)
    blocks = np.where(across, rows, ceil_div(rows, height))
    slots = machine.units * np.floor(THREADS_PER_UNIT / np.maximum(width * height, 32.0))
    per_thread = cols / threads
    splittable = across & (per_thread >= 16.0) & (blocks <= slots)
    split = np.clip(np.minimum(slots / blocks, per_thread / 16.0), 1.0, None)
    split = np.where(splittable, np.floor(split), 1.0)
    return threads, blocks * split, vector, split
