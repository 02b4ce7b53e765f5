"""Features of reductions and normalisations over rows: row bytes, threads a row, and kernel switches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features import launches
from graphs.hardware.calibration.features.columns import Array, Columns, add_common, alignment, ceil_div, fill, log2
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import GRAIN, add_processor
from graphs.ops.batch import OperatorGroup

OPS = ("softmax", "layernorm", "rmsnorm", "sum", "mean", "cumsum")
#: Softmax over rows too long for a warp: threads of a block, elements that a thread would keep in registers from
#: which it does not, and bytes of shared memory (PyTorch 2.10, SoftMax.cu).
BLOCK, MOST_REGISTERS, SHARED = 1024.0, 10.0, 49152.0


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
    c.add("warp_row", warp_row(cols, size))
    c.add("rows_is_1", rows == 1)

    kernel = _kernel(group, rows, cols, size, machine)
    threads = kernel.threads
    c.log("threads_per_row", threads)
    c.log("items_per_thread", np.maximum(cols / threads, 1.0 / 64.0))
    c.add("thread_pad", cols / (ceil_div(cols, threads * kernel.vector) * threads * kernel.vector))
    c.add("vectorised", kernel.vector > 1)
    c.add("row_storage", kernel.storage)
    unit_waves, unit_busy = fill(kernel.launch.blocks, machine.units)
    c.add("lg_blocks_per_unit", unit_waves)
    c.add("unit_busy", np.where(unit_waves > 5, 1.0, unit_busy))
    launches.add_launch(c, kernel.launch, machine)
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


class _Kernel(NamedTuple):
    """Launch, threads that share a row, vector width in elements, and how a row is kept (0: in registers)."""

    launch: launches.Launch
    threads: Array
    vector: Array
    storage: Array


def _kernel(group: OperatorGroup, rows: Array, cols: Array, size: Array, machine: Machine) -> _Kernel:
    """Return how each call is launched, as the framework's rules give it."""
    name = group.kind.name
    one, none = np.ones(len(group)), np.zeros(len(group))
    pow2 = 2.0 ** np.ceil(log2(cols))
    if name == "softmax":
        warp = warp_row(cols, size)
        block = np.clip(ceil_div(cols, 32.0) * 32.0, 32.0, BLOCK)
        held = ceil_div(cols, block) < MOST_REGISTERS
        # longer rows are staged in shared memory where they fit and whole vectors cover them, else read three times
        staged = (cols < (SHARED - block / 8.0) / size) & (np.mod(cols, 16.0 / size) == 0)
        threads = np.where(warp, np.minimum(pow2, 32.0), block)
        per_block = np.where(warp, 128.0 / threads * np.where(pow2 <= 128, 2.0, 1.0), 1.0)
        launch = launches.Launch(
            ceil_div(rows, per_block), np.where(warp, 128.0, block), np.where(warp, pow2, cols) / threads, one
        )
        storage = np.where(warp | held, 0.0, np.where(staged, 1.0, 2.0))
        return _Kernel(launch, threads, np.where(storage > 0, 16.0 / size, 1.0), storage)
    if name in ("layernorm", "rmsnorm"):
        vector = np.where(np.mod(cols, 4) == 0, 4.0, 1.0)
        threads = np.where(vector > 1, 128.0, 256.0)
        return _Kernel(launches.Launch(rows, threads, cols / threads, one), threads, vector, none)
    if name == "cumsum":
        threads = scan_threads(rows, cols)
        launch = launches.Launch(ceil_div(rows, 512.0 / threads), 512 * one, ceil_div(cols, 2.0 * threads), one)
        return _Kernel(launch, threads, one, none)
    launch = launches.reduction(rows, cols, none > 0, one, float(machine.units))
    threads = np.maximum(cols / (launch.work * launch.split), 1.0)
    return _Kernel(launch, threads, np.where(cols >= 128, 4.0, 1.0), none)


def warp_row(cols: Array, size: Array) -> NDArray[np.bool_]:
    """Return where one warp serves a whole row of a softmax."""
    return np.asarray((cols <= 2048) & (cols * size <= 8192))


def scan_threads(rows: Array, cols: Array) -> Array:
    """Return the threads of a 512-thread block that share a row of a cumulative sum (ScanUtils.cuh).

    They are shared out between a row and several rows in the ratio of the two extents.  The rule is in unsigned
    arithmetic: where rows outnumber columns too far it wraps around, and one short row gets the whole block.
    """
    lead = 9.0 + np.ceil(log2(cols)) - np.ceil(log2(rows))
    threads: Array = 2.0 ** np.where(lead < 0, 9.0, np.clip(np.floor(lead / 2.0), 4.0, 9.0))
    return threads
