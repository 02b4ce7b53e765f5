"""Features of operators that only move data: contiguous runs of source and destination, gather sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

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
from graphs.hardware.calibration.features.launches import EMPTY_S
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import add_processor
from graphs.ops.batch import OperatorGroup

OPS = (
    "copy", "transpose", "cat", "cat_channels", "permute_copy", "pad2d", "roll", "embedding", "index_select",
)  # fmt: skip

#: Lanes of a warp, outputs of a block of the framework's copy (128 threads of 4), and bytes of a cache line.
LANES, BLOCK_OUTPUTS, LINE_BYTES = 32, 512, 128
#: Bytes of a lane's widest load, most threads of a block of the gather in vectors, and time from one small block to the
#: next on a multiprocessor.
VECTOR_BYTES, GATHER_THREADS, BLOCK_S = 16.0, 1024.0, 80e-9


def build(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of copies, layout changes, concatenations and gathers."""
    c = Columns(len(group))
    add_common(c, group, machine, OPS)
    size = group.itemsize
    numel, source, target, inner, parts, outer = _extents(group)
    table = param(group, "vocab", 0.0) * param(group, "dim", 0.0)
    if group.kind.name == "index_select":
        table = group.params["rows"] * group.params["cols"]
    c.log("numel", numel)
    c.add("itemsize", size)
    c.log("source_run_bytes", source * size)
    c.log("target_run_bytes", target * size)
    c.add("source_align", alignment(source * size, 128))
    c.add("target_align", alignment(target * size, 128))
    c.log("inner", inner)
    c.add("inner_align", alignment(inner * size, 128))
    c.log("outer", outer)
    c.add("parts", parts)
    c.log("part_bytes", numel * size / parts)
    c.add("channels_last", channels_last(group))
    # One launch copies all parts: in vectors where every part allows, and for as long as the largest takes.
    widest, narrowest = _parts(group, numel / parts)
    c.log("largest_part_bytes", widest * size)
    c.add("part_vector", alignment(narrowest * size, 16))
    c.log("table_bytes", 1.0 + table * size)
    c.add(
        "lg_table_over_l2", np.where(table > 0, np.clip(log2((1.0 + table * size) / machine.cache_bytes), -8, 8), 0.0)
    )
    c.add("runs_kept", source == target)
    # Gathers of up to 16 rows run a kernel of their own, and rows of whole 16-byte vectors another.
    gather = group.kind.name in ("embedding", "index_select")
    c.add("small_gather", gather & (outer <= 16))
    c.add("vector_gather", gather & (np.mod(inner * size, 16) == 0) & (outer > 16))
    c.add("lg_run_share", log2(np.minimum(source, target)) - log2(numel))
    c.add("lg_l2_fit", np.clip(log2(group.bytes / machine.cache_bytes), -2.0, 3.0))
    for per_block in (512, 2048):
        waves, busy = fill(ceil_div(numel, per_block), 8.0 * machine.units)
        c.add(f"lg_waves_{per_block}", waves)
        c.add(f"busy_{per_block}", np.where(waves > 5, 1.0, busy))
    _add_lines(c, group, machine)
    _add_gather(c, outer, np.where(gather & (outer > 16), inner * size, 0.0), group.bytes, machine)
    # parts of a concatenation are copied one after another
    add_processor(c, group, machine, numel * size, numel / parts)
    return c.result()


def _add_gather(c: Columns, rows: Array, row_bytes: Array, nbytes: Array, machine: Machine) -> None:
    """Add on a GPU what the blocks of a gather in vectors cost, one or more a row however short, over moving the bytes.

    `row_bytes` is 0 where the call is no such gather.
    """
    if machine.kind != "gpu":
        return
    vectors = (row_bytes > 0) & (np.mod(row_bytes, VECTOR_BYTES) == 0)
    blocks = np.where(vectors, rows * ceil_div(row_bytes, VECTOR_BYTES * GATHER_THREADS), 0.0)
    blocks_s = BLOCK_S * blocks / machine.units
    bytes_s = nbytes / machine.bandwidth_bytes_per_s
    c.add("lg_blocks_over_bytes", log2((EMPTY_S + np.maximum(blocks_s, bytes_s)) / (EMPTY_S + bytes_s)))


def _add_lines(c: Columns, group: OperatorGroup, machine: Machine) -> None:
    """Add on a GPU the cache lines that a warp and a block of a permuting copy read, over the least they could."""
    if machine.kind != "gpu":
        return
    for name, outputs in (("warp", LANES), ("block", BLOCK_OUTPUTS)):
        lines = np.ones(len(group))
        if group.kind.name == "permute_copy":
            lines = lines_read(list(group.params["shape"]), list(group.params["perm"]), group.itemsize, outputs)
            lines /= outputs * group.itemsize / LINE_BYTES
        c.log(f"{name}_lines", lines)


def lines_read(shapes: Sequence[Sequence[int]], perms: Sequence[Sequence[int]], itemsize: Array, outputs: int) -> Array:
    """Return the cache lines that `outputs` neighbours of a permuted tensor are read from.

    Parameters
    ----------
    shapes, perms : n sequences of int
        Of each tensor, and which of its dimensions each of the copy's is.
    itemsize : (n,) float64
    outputs : int

    Returns
    -------
    (n,) float64
    """
    rank = max(len(p) for p in perms)
    extents, strides = np.ones((len(perms), rank), dtype=np.int64), np.zeros((len(perms), rank), dtype=np.int64)
    for i, (shape, perm) in enumerate(zip(shapes, perms, strict=True)):
        steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        extents[i, rank - len(perm) :] = [shape[axis] for axis in perm]
        strides[i, rank - len(perm) :] = [steps[axis] for axis in perm]
    # tensors smaller than that are read once
    rest = np.minimum(np.arange(outputs), extents.prod(axis=1, keepdims=True) - 1)
    offset = np.zeros_like(rest)
    for axis in reversed(range(rank)):
        offset += rest % extents[:, axis, None] * strides[:, axis, None]
        rest //= extents[:, axis, None]
    line = np.sort(offset * itemsize[:, None].astype(np.int64) // LINE_BYTES, axis=1)
    return np.asarray(1.0 + (np.diff(line, axis=1) > 0).sum(axis=1), dtype=np.float64)


def _extents(group: OperatorGroup) -> tuple[Array, ...]:
    """Return elements moved, contiguous run in source and in target, innermost extent, parts and outer count."""
    p, name = group.params, group.kind.name
    one = np.ones(len(group))
    if name == "copy":
        x = p["numel"]
        return x, x, x, x, one, one
    if name == "transpose":  # (b, s, h, d) -> (b, h, s, d)
        x = p["b"] * p["s"] * p["h"] * p["d"]
        run = np.where((p["s"] == 1) | (p["h"] == 1), x, p["d"])
        return x, run, run, p["d"], one, x / run
    if name == "cat":
        x = p["parts"] * p["rows"] * p["cols"]
        return x, p["rows"] * p["cols"], p["cols"], p["cols"], p["parts"], p["rows"]
    if name == "cat_channels":
        return _cat_channels(group)
    if name == "permute_copy":
        rows = [permuted_runs(s, q) for s, q in zip(p["shape"], p["perm"], strict=True)]
        x, source, inner, first = np.array(rows, dtype=np.float64).T
        return x, source, inner, first, one, x / np.minimum(source, inner)
    if name == "pad2d":
        last = channels_last(group)
        inner = np.where(last, p["w"] * p["c"], p["w"])
        side = np.where(last, p["c"], 1.0)
        grown = (p["h"] + 2 * p["pad"]) * (p["w"] + 2 * p["pad"])
        return p["n"] * p["c"] * grown, inner, inner + 2 * p["pad"] * side, inner, one, p["n"] * p["c"] * p["h"]
    if name == "roll":
        x = p["n"] * p["h"] * p["w"] * p["c"]
        kept = np.maximum(p["w"] - np.mod(p["shift"], p["w"]), 1) * p["c"]
        return x, kept, kept, p["c"], one, p["n"] * p["h"]
    cols = p["dim"] if name == "embedding" else p["cols"]
    taken = p["rows"] if name == "embedding" else p["take"]
    return taken * cols, cols, taken * cols, cols, one, taken


def _cat_channels(group: OperatorGroup) -> tuple[Array, ...]:
    p = group.params
    lists = p["c"]
    total = np.array([sum(x) for x in lists], dtype=np.float64)
    smallest = np.array([min(x) for x in lists], dtype=np.float64)
    parts = np.array([len(x) for x in lists], dtype=np.float64)
    plane = p["h"] * p["w"]
    last = channels_last(group)
    mean = total / parts
    run = np.where(last, mean, mean * plane)
    inner = np.where(last, smallest, smallest * plane)
    x = p["n"] * total * plane
    return x, x / parts, run, inner, parts, np.where(last, p["n"] * plane, p["n"])


def _parts(group: OperatorGroup, whole: Array) -> tuple[Array, Array]:
    """Return the elements of the largest part, and the largest run that divides those of all parts."""
    if group.kind.name != "cat_channels":
        return whole, group.params["cols"] if group.kind.name == "cat" else whole
    p = group.params
    plane = p["h"] * p["w"]
    run = np.where(channels_last(group), 1.0, plane)
    largest = np.array([max(x) for x in p["c"]], dtype=np.float64)
    common = np.array([math.gcd(*(int(v) for v in x)) for x in p["c"]], dtype=np.float64)
    return p["n"] * largest * plane, common * run


def permuted_runs(shape: Sequence[int], perm: Sequence[int]) -> tuple[float, float, float, float]:
    """Return elements, longest contiguous run read in source order, run kept in the target, and innermost extent.

    Dimensions of extent 1 are dropped and neighbours that stay neighbours are merged first, as copy
    kernels do.
    """
    order = [q for q in perm if shape[q] != 1]
    merged: list[list[int]] = []
    kept = sorted(order)
    follows = dict(itertools.pairwise(kept))
    for axis in order:
        if merged and follows.get(merged[-1][-1]) == axis:
            merged[-1].append(axis)
        else:
            merged.append([axis])
    extents = [float(np.prod([shape[a] for a in block])) for block in merged]
    total = float(np.prod([float(v) for v in shape]))
    if len(extents) <= 1:
        return total, total, total, total
    # The block that is innermost in the source has stride 1; the innermost of the target is written in runs.
    innermost = max(range(len(merged)), key=lambda i: merged[i][-1])
    source = extents[innermost]
    target = extents[-1]
    same = innermost == len(merged) - 1
    return total, source, target, target if same else 1.0
