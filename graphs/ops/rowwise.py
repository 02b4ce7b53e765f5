"""Operators along the last axis of a (rows, cols) tensor.  Weights of layernorm and rmsnorm are not counted."""

from __future__ import annotations

from collections.abc import Callable

from graphs.ops.shapes import Dim
from graphs.ops.spec import Cost, operator


def _map(flops_per_element: int) -> Callable[..., Cost]:
    def cost(rows: Dim, cols: Dim, itemsize: Dim) -> Cost:
        """Over each row; the output has the size of the input."""
        return Cost(flops_per_element * rows * cols, 2 * rows * cols * itemsize)

    return cost


for _name, _flops in {"softmax": 5, "layernorm": 8, "rmsnorm": 5, "cumsum": 1}.items():
    operator(_name, "rows", "cols", family="rowwise")(_map(_flops))


def _reduce(rows: Dim, cols: Dim, itemsize: Dim) -> Cost:
    """Over each row; one number a row comes out."""
    return Cost(rows * cols, (rows * cols + rows) * itemsize)


for _name in ("sum", "mean"):
    operator(_name, "rows", "cols", family="rowwise")(_reduce)
