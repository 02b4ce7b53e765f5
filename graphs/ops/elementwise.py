"""Elementwise operators: 1 FLOP an element, whatever the function."""

from __future__ import annotations

from graphs.ops.dtypes import ITEMSIZE
from graphs.ops.shapes import FMT, NCHW, Dim, smaller
from graphs.ops.spec import Cost, Param, operator

#: Length of the row that is broadcast where a kind has `bcast`.
BROADCAST_COLUMNS = 1024
_BCAST = Param("bcast", bool, False)


def one_input(numel: Dim, itemsize: Dim) -> Cost:
    """f(x), one read and one write an element."""
    return Cost(numel, 2 * numel * itemsize)


_UNARY = (
    "relu", "gelu", "silu", "sigmoid", "tanh", "exp", "hardswish", "relu6", "hardsigmoid", "pow2", "rsqrt", "neg",
    "cos", "erf", "abs", "clamp", "add_scalar", "mul_scalar",
)  # fmt: skip
for _name in _UNARY:
    operator(_name, "numel", family="unary")(one_input)


@operator("relu_nd", *NCHW, FMT, family="unary")
def relu_nd(n: Dim, c: Dim, h: Dim, w: Dim, fmt: Dim, itemsize: Dim) -> Cost:
    """relu of a four-dimensional tensor, in either memory format."""
    return one_input(n * c * h * w, itemsize)


@operator("cast", "numel", Param("to", str, choices=tuple(d for d in ITEMSIZE if d != "tf32")), family="unary")
def cast(numel: Dim, to: Dim, itemsize: Dim) -> Cost:
    """Conversion from the row's dtype to `to`; no FLOP."""
    to_size = sum(size * (to == name) for name, size in ITEMSIZE.items())
    return Cost(0 * numel, numel * (itemsize + to_size))


def as_matrix(numel: Dim) -> tuple[Dim, Dim]:
    """Return the (rows, columns) that `numel` elements are cut to for a broadcast; what is left over is dropped.

    >>> as_matrix(2500), as_matrix(100)
    ((2, 1024), (1, 100))
    """
    columns = smaller(numel, BROADCAST_COLUMNS)
    return numel // columns, columns


def _two_inputs(numel: Dim, bcast: Dim, itemsize: Dim, column: bool = False) -> Cost:
    """Return the cost of two tensors of `numel`, or (bcast) a matrix with one of its rows or columns."""
    rows, columns = as_matrix(numel)
    elements = bcast * rows * columns + (1 - bcast) * numel
    second = bcast * (rows if column else columns) + (1 - bcast) * numel
    return Cost(elements, (2 * elements + second) * itemsize)


def _with_row(numel: Dim, bcast: Dim, itemsize: Dim) -> Cost:
    """x op y; with bcast, y is one row of 1024."""
    return _two_inputs(numel, bcast, itemsize)


for _name in ("add", "mul", "div"):
    operator(_name, "numel", _BCAST, family="binary")(_with_row)


@operator("sub", "numel", _BCAST, family="binary")
def sub(numel: Dim, bcast: Dim, itemsize: Dim) -> Cost:
    """x - y; with bcast, y is one column: an element for every row of 1024."""
    return _two_inputs(numel, bcast, itemsize, column=True)


@operator("where", "numel", _BCAST, family="binary")
def where(numel: Dim, bcast: Dim, itemsize: Dim) -> Cost:
    """x where a bool mask holds, else a scalar; with bcast, the mask is one row.  No FLOP; cut to rows in any case."""
    rows, columns = as_matrix(numel)
    mask_bytes = bcast * columns + (1 - bcast) * rows * columns
    return Cost(0 * numel, 2 * rows * columns * itemsize + mask_bytes)


@operator("mul_row", "rows", "cols", family="binary")
def mul_row(rows: Dim, cols: Dim, itemsize: Dim) -> Cost:
    """x(rows, cols) times one row (cols)."""
    return Cost(rows * cols, (2 * rows * cols + cols) * itemsize)


@operator("mul_channel", *NCHW, FMT, family="binary")
def mul_channel(n: Dim, c: Dim, h: Dim, w: Dim, fmt: Dim, itemsize: Dim) -> Cost:
    """x(n, c, h, w) times one number a channel (n, c, 1, 1)."""
    return Cost(n * c * h * w, (2 * n * c * h * w + n * c) * itemsize)


@operator("add_nd", *NCHW, FMT, family="binary")
def add_nd(n: Dim, c: Dim, h: Dim, w: Dim, fmt: Dim, itemsize: Dim) -> Cost:
    """x + y of two four-dimensional tensors, in either memory format."""
    return Cost(n * c * h * w, 3 * n * c * h * w * itemsize)


@operator("add_strided", "rows", "cols", family="binary")
def add_strided(rows: Dim, cols: Dim, itemsize: Dim) -> Cost:
    """x + y, where x is a (rows, cols) view of a (rows, 2 cols) tensor."""
    return Cost(rows * cols, 3 * rows * cols * itemsize)
