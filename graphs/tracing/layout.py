"""Tensors as shapes and strides, and how an operand lies in memory relative to the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Ints = tuple[int, ...]

#: Dtypes that operators are measured in; sizes in bytes.
FLOATS = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class View:
    """A tensor without its data.  `dtype` is a short name, or the framework's where there is none."""

    shape: Ints
    stride: Ints
    dtype: str
    itemsize: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Distinct bytes: a dimension of stride 0 is read once."""
        return math.prod(n for n, s in zip(self.shape, self.stride, strict=True) if s) * self.itemsize

    @property
    def floating(self) -> bool:
        return self.dtype in ("fp32", "fp16", "bf16", "fp64", "fp8")

    @property
    def measured(self) -> bool:
        """Whether operators are measured in this dtype."""
        return self.dtype in FLOATS

    @property
    def contiguous(self) -> bool:
        expected = 1
        for n, s in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1:
                if s != expected:
                    return False
                expected *= n
        return True

    @property
    def dense(self) -> bool:
        """Whether the elements fill one piece of memory, in any order of dimensions."""
        expected = 1
        for s, n in sorted((s, n) for n, s in zip(self.shape, self.stride, strict=True) if n != 1):
            if s != expected:
                return False
            expected *= n
        return True

    @property
    def channels_last(self) -> bool:
        """Whether a 4-d tensor lies as (n, h, w, c) and not also as (n, c, h, w)."""
        if len(self.shape) != 4 or self.contiguous:
            return False
        shape, stride = (tuple(x[i] for i in (0, 2, 3, 1)) for x in (self.shape, self.stride))
        return View(shape, stride, "", 1).contiguous

    @property
    def fmt(self) -> str:
        return "channels_last" if self.channels_last else "contiguous"

    def rows_cols(self) -> tuple[int, int]:
        """Return the shape as a matrix over the last dimension."""
        cols = self.shape[-1] if self.shape else 1
        return self.numel // max(cols, 1), cols


def coalesce(shape: Ints, strides: Sequence[Ints]) -> tuple[Ints, list[Ints]]:
    """Drop dimensions of 1, order by the first operand's strides, and merge what is one run for all operands.

    >>> coalesce((2, 3, 4), [(12, 4, 1), (12, 4, 1)])
    ((24,), [(1,), (1,)])
    >>> coalesce((2, 3, 4), [(12, 4, 1), (0, 0, 1)])
    ((6, 4), [(4, 1), (0, 1)])
    """
    dims = [i for i, n in enumerate(shape) if n != 1]
    # Of two dimensions of equal stride in the first operand the other operands decide, as the framework does.
    dims.sort(key=lambda i: tuple(-s[i] for s in strides))
    out: list[list[int]] = []
    for i in dims:
        if out and all(out[-1][k + 1] == s[i] * shape[i] for k, s in enumerate(strides)):
            out[-1] = [out[-1][0] * shape[i], *(s[i] for s in strides)]
        else:
            out.append([shape[i], *(s[i] for s in strides)])
    return tuple(d[0] for d in out), [tuple(d[k + 1] for d in out) for k in range(len(strides))]


def broadcast_strides(operand: View, shape: Ints) -> Ints:
    """Return the operand's strides in the output's dimensions, 0 where it is repeated."""
    lead = len(shape) - len(operand.shape)
    pairs = zip(shape[lead:], operand.shape, operand.stride, strict=True)
    return (0,) * lead + tuple(0 if own == 1 and n != 1 else s for n, own, s in pairs)


@dataclass(frozen=True, slots=True)
class Pattern:
    """How an operand lies relative to a dense output.

    `kind` is full, scalar, row (one row of `cols` repeated), column (one number a row), gapped (rows of `cols` with
    gaps of `gap` elements in all), permuted, or repeated (anything else with a stride of 0).
    """

    kind: str
    rows: int = 1
    cols: int = 1
    gap: int = 0


def pattern(out: View, operand: View) -> Pattern:
    """Classify `operand`, broadcast to `out`."""
    if operand.numel == 1:
        return Pattern("scalar")
    shape, (_, own) = coalesce(out.shape, [out.stride, broadcast_strides(operand, out.shape)])
    if len(shape) <= 1:
        return Pattern("full" if own in ((), (1,)) else "gapped", cols=1)
    rows, cols = math.prod(shape[:-1]), shape[-1]
    if all(s == 0 for s in own[:-1]) and own[-1] == 1:
        return Pattern("row", rows, cols)
    if len(shape) == 2 and own == (1, 0):
        return Pattern("column", rows, cols)
    if 0 in own:
        return Pattern("repeated", rows, cols)
    if own[-1] == 1 and list(own) == sorted(own, reverse=True):
        return Pattern("gapped", rows, cols, own[-2])
    return Pattern("permuted", rows, cols)


def as_views(value: Any) -> list[View]:
    """Return the views anywhere inside nested tuples and lists."""
    if isinstance(value, View):
        return [value]
    if isinstance(value, (list, tuple)):
        return [v for item in value for v in as_views(item)]
    return []
