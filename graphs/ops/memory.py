"""Operators that only move data: no FLOP, every element read once and written once."""

from __future__ import annotations

import math

from graphs.ops.shapes import FMT, NCHW, Dim, Rules
from graphs.ops.spec import Cost, Param, operator

#: Bytes of an index (int64).
INDEX_BYTES = 8


@operator("copy", "numel", family="mem")
def copy(numel: Dim, itemsize: Dim) -> Cost:
    """Copy of a contiguous tensor."""
    return Cost(0 * numel, 2 * numel * itemsize)


@operator("transpose", "b", "s", "h", "d", family="mem")
def transpose(b: Dim, s: Dim, h: Dim, d: Dim, itemsize: Dim) -> Cost:
    """(b, s, h, d) to (b, h, s, d), contiguous."""
    return Cost(0 * b, 2 * b * s * h * d * itemsize)


@operator(
    "permute_copy",
    Param("shape", tuple),
    Param("perm", tuple, low=0),
    family="mem",
    check=Rules({"perm names every axis of shape once": lambda p: sorted(p["perm"]) == list(range(len(p["shape"])))}),
)
def permute_copy(shape: tuple[int, ...], perm: tuple[int, ...], itemsize: int) -> Cost:
    """Contiguous copy of the permuted tensor."""
    return Cost(0, 2 * math.prod(shape) * itemsize)


@operator("cat", "parts", "rows", "cols", family="mem")
def cat(parts: Dim, rows: Dim, cols: Dim, itemsize: Dim) -> Cost:
    """`parts` tensors (rows, cols) joined along cols."""
    return Cost(0 * parts, 2 * parts * rows * cols * itemsize)


@operator("cat_channels", "n", Param("c", tuple), "h", "w", FMT, family="mem")
def cat_channels(n: int, c: tuple[int, ...], h: int, w: int, fmt: str, itemsize: int) -> Cost:
    """Tensors (n, c[i], h, w) joined along the channels."""
    return Cost(0, 2 * n * sum(c) * h * w * itemsize)


@operator("pad2d", *NCHW, FMT, Param("pad", low=0), family="mem")
def pad2d(n: Dim, c: Dim, h: Dim, w: Dim, fmt: Dim, pad: Dim, itemsize: Dim) -> Cost:
    """(n, c, h, w) with `pad` elements more on each of the four sides."""
    return Cost(0 * n, n * c * (h * w + (h + 2 * pad) * (w + 2 * pad)) * itemsize)


@operator("roll", "n", "h", "w", "c", Param("shift", low=0), family="mem")
def roll(n: Dim, h: Dim, w: Dim, c: Dim, shift: Dim, itemsize: Dim) -> Cost:
    """(n, h, w, c) rolled by -shift over h and w."""
    return Cost(0 * n, 2 * n * h * w * c * itemsize)


@operator("embedding", "rows", "vocab", "dim", family="mem")
def embedding(rows: Dim, vocab: Dim, dim: Dim, itemsize: Dim) -> Cost:
    """`rows` rows looked up in a table (vocab, dim); only the rows taken are counted, and their indices."""
    return Cost(0 * rows, 2 * rows * dim * itemsize + INDEX_BYTES * rows)


@operator("index_select", "rows", "take", "cols", family="mem")
def index_select(rows: Dim, take: Dim, cols: Dim, itemsize: Dim) -> Cost:
    """`take` rows of a (rows, cols) tensor, each as often as its index occurs."""
    return Cost(0 * take, 2 * take * cols * itemsize + INDEX_BYTES * take)
