"""Products of three tensors, as bilinear layers and their gradients ask for them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from graphs.tracing.layout import View
from graphs.tracing.rules.core import Call, Priced, product_dtype, rule, storage

_NOTE = "_trilinear as the products it runs"


@rule("_trilinear", whole=True)
def trilinear(call: Call) -> list[Priced]:
    """Price what the framework runs for each slice along one dimension: two products, and a sum with what is there.

    Each of the three operands lacks the dimensions in its `expand`; those in `sumdim` are summed over, the first
    product over those that the third operand lacks.
    """
    operands: list[View] = list(call.args[:3])
    expands = [set(e) for e in call.args[3:6]]
    summed, unrolled = set(call.args[6]), call.arg(7, "unroll_dim", 1)
    if not call.result.numel:
        return []
    ndim = len(operands[0].shape) + len(expands[0])
    has = [[d for d in range(ndim) if d not in e] for e in expands]
    sizes = {d: n for dims, x in zip(has, operands, strict=True) for d, n in zip(dims, x.shape, strict=True)}
    times = sizes.get(unrolled, 1)
    sizes = {**dict.fromkeys(range(ndim), 1), **sizes, unrolled: 1}
    one, two, three = (set(dims) for dims in has)
    left = one | two
    first = _product(sizes, one, two, (summed & left) - three, operands[0])
    second = _product(sizes, left - (summed - three), three, summed & three, operands[0])
    kept = math.prod(n for d, n in sizes.items() if d not in summed)
    return [first, second, _elementwise("add", kept, operands[0])] * times


def _product(sizes: dict[int, int], x: set[int], y: set[int], summed: set[int], like: View) -> Priced:
    """Return the product of tensors with the dimensions `x` and `y`, summed over `summed`."""

    def count(dims: Iterable[int]) -> int:
        return math.prod(sizes[d] for d in dims)

    if not summed:
        return _elementwise("mul", count(x | y), like)
    # A dimension that one operand alone has is summed before: what is left is a dimension of 1.
    params = {
        "b": count((x & y) - summed), "m": count((x - y) - summed), "n": count((y - x) - summed),
        "k": count(summed & x & y),
    }  # fmt: skip
    return Priced("bmm", params, product_dtype(like)[0], "near", _NOTE)


def _elementwise(kind: str, numel: int, like: View) -> Priced:
    dtype, elements = storage(like.dtype, like.itemsize)
    return Priced(kind, {"numel": max(1, round(numel * elements)), "bcast": False}, dtype, "near", _NOTE)
