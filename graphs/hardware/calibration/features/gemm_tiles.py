"""Analytic time of a matrix product on a GPU: the best of the output tiles and k-splits that kernels come in.

A kernel computes the result in tiles, one block of threads each; blocks run in waves over the units.  Within a block
the loop over k is bound by the arithmetic of its unit, or by the latency of loading the next slices where too few
blocks share the unit to hide it.  Where tiles leave units idle, k is split and partial results are added afterwards.
The times of loads, blocks and launches differ little among GPUs and are constants; arithmetic, bandwidth and the
number of units are the machine's.  Fitted models learn what this leaves out, so its form matters more than its values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.columns import Array, ceil_div
from graphs.hardware.calibration.features.machine import Machine
from graphs.ops.batch import OperatorGroup

#: Parts that k may be divided into; coarse steps, between which the best time changes little.
SPLITS = (3, 8, 24)
#: Least elements of k a part: below, the loop is too short to be worth a second pass.
LEAST_K_A_PART = 64
#: Elements of k that blocks load at once, to which they pad it.
K_STEP = 32
#: Share of the peak memory bandwidth that streams reach.
MEMORY_SHARE = 0.9
#: Bytes of one partial result, which are fp32, written and read again.
PARTIAL_BYTES = 8.0


#: Rows that times are computed of at once.
PIECE = 512


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernels of one kind, as a library has them for some dtypes and alignments.

    The numbers below are fitted by least absolute log error to the training rows of h100-sxm, tiles as kernel names
    there tell them.

    Attributes
    ----------
    tiles : tuple of (int, int)
        Rows and columns, the longer side first: it goes along the longer side of the result.
    resident : float
        Blocks that a unit holds at once, which hide each other's latency.
    launch_us, block_us : float
        Time of an empty call; of a block before and after its loop.
    step_us, byte_us : float
        Latency of a block's loop: an element of k, and a byte of operands it loads.
    peak_share : float
        Share of the peak arithmetic that the loop reaches.
    reduce_us : float
        Time of the second pass that adds the parts of a split k.
    traffic : float
        Operand bytes a second that all units load together, over the memory bandwidth.
    """

    tiles: tuple[tuple[int, int], ...]
    resident: float
    launch_us: float
    block_us: float
    step_us: float
    byte_us: float
    peak_share: float
    reduce_us: float
    traffic: float


#: fp32 on the ordinary arithmetic units.
SIMT = Kernels(
    ((32, 32), (64, 32), (64, 64), (128, 32), (128, 64), (128, 128), (256, 128)),
    4, 2.1, 0.23, 1.5e-3, 8.6e-5, 0.72, 3.3, 0.60,
)  # fmt: skip
#: tf32 on the matrix units.
TF32 = Kernels(
    ((32, 32), (64, 64), (128, 64), (128, 128), (256, 64), (256, 128)),
    3, 2.0, 1.4, 1.3e-3, 2.1e-5, 0.72, 3.2, 2.4,
)  # fmt: skip
#: Half precision whose rows do not start at multiples of 16 bytes: older kernels with narrow loads.
NARROW_LOADS = Kernels(
    ((16, 16), (32, 32), (64, 64), (128, 64), (128, 128), (256, 64), (256, 128)),
    3, 1.6, 0.85, 3.2e-3, 5.9e-5, 0.47, 3.0, 0.44,
)  # fmt: skip
#: Half precision with bulk loads: a unit holds one deeply buffered block, in many widths of tile.
BULK_LOADS = Kernels(
    (
        (64, 8), (64, 16), (64, 32), (64, 64), (128, 8), (128, 64), (128, 96), (128, 128), (192, 128), (256, 8),
        (256, 128),
    ),
    1, 1.6, 0.80, 6.3e-4, 9.4e-6, 0.79, 3.8, 3.4,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """Times of products.

    Attributes
    ----------
    best_us : (n,) float64
        With the tile and split that take least.
    unsplit_us : (n,) float64
        With the best tile and k in one part.
    split : (n,) float64
        Parts of k that take least.
    """

    best_us: Array
    unsplit_us: Array
    split: Array


def estimate(
    group: OperatorGroup, b: Array, m: Array, n: Array, k: Array, aligned: NDArray[np.bool_], machine: Machine
) -> Estimate:
    """Return the times of `b` products (m, k) x (k, n) a call, by the kernels that serve its dtype.

    Parameters
    ----------
    b, m, n, k : (rows,) float64
    aligned : (rows,) bool
        All rows of operands and result start at multiples of 16 bytes.
    """
    half, tf32 = np.isin(group.dtype, ("bf16", "fp16")), group.dtype == "tf32"
    parts = ((SIMT, ~half & ~tf32), (TF32, tf32), (NARROW_LOADS, half & ~aligned), (BULK_LOADS, half & aligned))
    columns = np.stack((b, m, n, k, group.itemsize, group.bytes, machine.peak_flops_per_s(group.dtype)))
    out = np.empty((3, len(group)))
    for kernels, mine in parts:
        if mine.any():
            some = columns[:, mine]
            # in pieces whose intermediate results, one a tile, stay in cache
            pieces = [some[:, i : i + PIECE] for i in range(0, some.shape[1], PIECE)]
            out[:, mine] = np.concatenate([times(kernels, piece, machine) for piece in pieces], axis=1)
    return Estimate(*out)


def times(kernels: Kernels, columns: Array, machine: Machine) -> tuple[Array, Array, Array]:
    """Return the best time, the best without split, microseconds, and the split of the best.

    Parameters
    ----------
    columns : (7, rows) float64
        Batch, m, n, k, bytes an element, bytes of the call and peak FLOP/s.
    """
    b, k = columns[0], columns[3]
    unsplit = _parted(kernels, columns, 1, machine)
    best, split = unsplit.copy(), np.ones(len(b))
    for parts in SPLITS:
        # libraries do not split batches
        some = np.flatnonzero((b == 1) & (k >= parts * LEAST_K_A_PART))
        time = _parted(kernels, columns[:, some], parts, machine)
        better = time < best[some]
        best[some[better]], split[some[better]] = time[better], parts
    return best, unsplit, split


def _parted(kernels: Kernels, columns: Array, parts: int, machine: Machine) -> Array:
    """Return the least time of any tile with k in so many parts, microseconds."""
    b, m, n, k, itemsize, nbytes, peak = columns
    bandwidth = machine.bandwidth_bytes_per_s * 1e-6
    unit_peak = peak * 1e-6 * kernels.peak_share / machine.units
    memory = nbytes / (bandwidth * MEMORY_SHARE)
    long, short = np.maximum(m, n), np.minimum(m, n)
    depth = ceil_div(ceil_div(k, parts), K_STEP) * K_STEP
    rows, width = np.array(kernels.tiles, dtype=np.float64).T[:, :, None]  # (tiles, 1): all of them at once
    blocks = b * ceil_div(long, rows) * ceil_div(short, width) * parts
    per_unit, rounds = waves(blocks, machine.units, kernels.resident)
    arithmetic = per_unit * (2.0 * rows * width / unit_peak)
    latency = rounds * (kernels.step_us + kernels.byte_us * (rows + width) * itemsize)
    loads = blocks * (rows + width) * depth * itemsize / (kernels.traffic * bandwidth)
    loop = np.maximum(depth * np.maximum(arithmetic, latency), loads)
    best: Array = (kernels.block_us * rounds + np.maximum(loop, memory)).min(axis=0)
    if parts > 1:
        best += kernels.reduce_us + parts * b * m * n * PARTIAL_BYTES / (kernels.traffic * bandwidth)
    return best + kernels.launch_us


def waves(blocks: Array, units: int, resident: float) -> tuple[Array, Array]:
    """Return the most blocks that one unit gets, and the rounds it takes them in, `resident` at once."""
    per_unit = ceil_div(blocks, units)
    return per_unit, ceil_div(blocks, units * resident)
