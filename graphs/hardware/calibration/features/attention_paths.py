"""How a GPU runs attention without matrix units and masks it, as estimated times.

Half precision runs a kernel of the vendor's library whose tiles the family's other columns cover.  Single precision
runs the framework's memory-efficient kernel, blocks of 64 queries that walk tiles of keys one after another, or, with
grouped heads, a dozen kernels that each read or write all scores.  Profiles of single calls show which; only the
ratios of the rough estimates to the roofline are features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.columns import Array, Columns, ceil_div, log2
from graphs.hardware.calibration.features.machine import Machine

Flags = NDArray[np.bool_]

#: An empty kernel between others.
LAUNCH_S = 1.5e-6
#: The fused kernel: queries of a block; head size up to which it is the narrow one, then keys of a tile and blocks that
#: a multiprocessor holds at once (registers allow no more), narrow and wide; share of the peak without matrix units.
QUERIES, NARROW = 64.0, 64.0
KEYS, RESIDENT = (64.0, 128.0), (3.0, 1.0)
FUSED_SHARE = 0.6
#: Blocks whose arithmetic a multiprocessor has time for while a lone one waits.
LONE = 2.0
#: Kernels of the separate path, with a causal mask more; times they read or write the scores; share of the peaks.
KERNELS, CAUSAL_KERNELS = 11.0, 17.0
PASSES, CAUSAL_PASSES = 7.5, 10.0
SEPARATE_SHARE, COPY_SHARE = 0.5, 0.75
#: Keys that rows of a mask are padded to where the fused kernel reads them.
MASK_KEYS = 8.0


class Calls(NamedTuple):
    """Sizes of calls, each (n,)."""

    b: Array
    h: Array
    hkv: Array
    s: Array
    skv: Array
    d: Array
    itemsize: Array
    dtype: NDArray[np.str_]


def add_paths(c: Columns, calls: Calls, masks: tuple[Flags, Flags, Flags], unfused: Flags, machine: Machine) -> None:
    """Add the estimated time over the roofline, and that of the masks; nothing for other machines.

    Parameters
    ----------
    c : Columns
    calls : Calls
    masks : three (n,) bool
        Causal, a tensor of truth values, and one of numbers.
    unfused : (n,) bool
        Run as separate kernels.
    machine : Machine
    """
    if machine.kind != "gpu":
        return
    b, h, hkv, s, skv, d, itemsize, dtype = calls
    causal, truth, _ = masks
    rate = machine.bandwidth_bytes_per_s
    half = itemsize < 4
    flops = 4.0 * b * h * s * skv * d
    nbytes = itemsize * d * b * (2.0 * h * s + 2.0 * hkv * skv)
    base = LAUNCH_S + machine.attainable_s(np.where(causal, 0.5, 1.0) * flops, nbytes, dtype)
    turns, tile_s = fused_turns(calls, causal, machine)
    fused_s = turns * tile_s
    scores_s = b * h * s * skv * itemsize / rate
    copied_s = itemsize * d * b * h * (2.0 * s + 6.0 * skv) / rate
    separate_s = (
        np.where(causal, CAUSAL_KERNELS, KERNELS) * LAUNCH_S
        + (copied_s + np.where(causal, CAUSAL_PASSES, PASSES) * scores_s) / COPY_SHARE
        + flops / (SEPARATE_SHARE * machine.peak_flops_per_s(dtype))
    )
    # truth values become numbers, and ragged rows are copied to whole vectors
    entries = b * s * skv
    ragged = ~half & (np.mod(skv, MASK_KEYS) != 0) & (truth | masks[2])
    mask_s = np.where(truth, 3.0 * LAUNCH_S + entries * (1.0 + itemsize) / rate, 0.0)
    mask_s += np.where(ragged, 2.0 * LAUNCH_S + 3.0 * entries * itemsize / rate, 0.0)
    path_s = np.where(unfused, separate_s, np.where(half, 0.0, fused_s))
    c.add("lg_path_over_roofline", log2(np.maximum(LAUNCH_S + path_s, base) / base))
    c.add("lg_mask_over_path", log2(1.0 + mask_s / np.maximum(LAUNCH_S + path_s, base)))


def fused_turns(calls: Calls, causal: Flags, machine: Machine) -> tuple[Array, Array]:
    """Return the tiles of keys that the fused kernel walks one after another, and the time of one of them.

    Blocks that share a multiprocessor share its arithmetic.  With a causal mask blocks walk half the keys on average,
    the last of each head all of them.
    """
    narrow = calls.d <= NARROW
    keys, resident = (np.where(narrow, *pair) for pair in (KEYS, RESIDENT))
    tiles = ceil_div(calls.skv, keys)
    waves = calls.b * calls.h * ceil_div(calls.s, QUERIES) / (machine.units * resident)
    uneven = np.where(waves > 1, waves * (tiles + 1.0) / 2.0 + (tiles - 1.0) / 2.0, tiles)
    turns = np.where(causal, uneven, np.ceil(waves) * tiles)
    # rows of queries are padded to the kernel's head size
    flops = 4.0 * QUERIES * keys * np.where(narrow, NARROW, 2.0 * NARROW)
    peak = machine.peak_flops_per_s(np.full(len(calls.b), "fp32")) / machine.units
    sharing = np.clip(np.ceil(waves * resident), np.minimum(resident, LONE), resident)
    return turns, np.asarray(flops * sharing / (FUSED_SHARE * peak), dtype=np.float64)
