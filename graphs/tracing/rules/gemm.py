"""Matrix products."""

from __future__ import annotations

import itertools
from typing import Any

from graphs.tracing.layout import View
from graphs.tracing.rules.core import Call, Priced, both, product_dtype, proxies, rule, traffic
from graphs.tracing.rules.memory import copied


def matrix_ready(x: View) -> bool:
    """Whether a library can read the last two dimensions as they lie: one of them is a run."""
    (rows, cols), (s0, s1) = x.shape[-2:], x.stride[-2:]
    return (s1 == 1 and (s0 >= cols or rows == 1)) or (s0 == 1 and (s1 >= rows or cols == 1)) or 1 in (rows, cols)


def made_ready(x: View) -> list[Priced]:
    """Return the copy that a product makes first of an operand no library can read."""
    return [] if matrix_ready(x) else copied(x)


@rule("linear", whole=True)
def linear(call: Call) -> list[Priced]:
    x, weight, bias = call.args[0], call.args[1], call.arg(2, "bias")
    k, n = x.shape[-1], weight.shape[0] if len(weight.shape) == 2 else 1
    m = x.numel // k if k else 0
    if not m or not n:
        return []
    # Leading dimensions that do not merge into one are copied together first.
    first = [] if mergeable(x) else copied(x)
    return [*first, _matrix(call, "linear", {"m": m, "n": n, "k": k, "bias": bias is not None}, x, weight)]


def mergeable(x: View) -> bool:
    """Whether all dimensions but the last can be viewed as one, and rows are runs."""
    dims = [(n, s) for n, s in zip(x.shape[:-1], x.stride[:-1], strict=True) if n != 1]
    steps = all(a[1] == b[0] * b[1] for a, b in itertools.pairwise(dims))
    return steps and (x.stride[-1] == 1 or (len(dims) == 1 and dims[0][1] == 1))


@rule("mm", "_int_mm")
def mm(call: Call) -> list[Priced]:
    x, y = call.args[:2]
    params: dict[str, Any] = {"m": x.shape[0], "n": y.shape[1], "k": x.shape[1]}
    first = [*made_ready(x), *made_ready(y)]
    if y.stride[0] == 1 and x.stride[1] == 1 and min(y.shape) > 1:
        # As in addmm.
        return [*first, _matrix(call, "linear", {**params, "bias": False}, x, y)]
    notes = ["a transposed first operand"] if x.stride[0] == 1 and min(x.shape) > 1 else []
    return [*first, _matrix(call, "matmul", params, x, y, notes)]


@rule("addmm", "_addmm_activation")
def addmm(call: Call) -> list[Priced]:
    bias, x, y = call.args[:3]
    params = {"m": x.shape[0], "n": y.shape[1], "k": x.shape[1]}
    notes = [] if len(bias.shape) == 1 else ["the first operand is no row"]
    first = [*made_ready(x), *made_ready(y)]
    if y.stride[0] == 1 and y.shape[0] > 1 and y.shape[1] > 1:
        # The transposed weight of a linear layer that was taken apart.
        return [*first, _matrix(call, "linear", {**params, "bias": True}, x, y, notes)]
    return [*first, _matrix(call, "addmm", params, x, y, notes)]


@rule("bmm", "baddbmm")
def bmm(call: Call) -> list[Priced]:
    x, y = call.args[:2] if call.base == "bmm" else call.args[1:3]
    params = {"b": x.shape[0], "m": x.shape[1], "n": y.shape[2], "k": x.shape[2]}
    notes = ["adds a tensor to the product"] if call.base == "baddbmm" else []
    return [*made_ready(x), *made_ready(y), _matrix(call, "bmm", params, x, y, notes)]


@rule("mv", "dot", "vdot", "addmv", "addr")
def matrix_vector(call: Call) -> list[Priced]:
    views = call.inputs
    if call.base == "addr":
        return traffic(call, "outer product")
    x = views[1] if call.base == "addmv" else views[0]
    m, k = x.shape if len(x.shape) == 2 else (1, x.shape[0])
    return [_matrix(call, "matmul", {"m": m, "n": 1, "k": k}, x, x, ["a product with a vector"])]


@rule("_scaled_mm")
def scaled(call: Call) -> list[Priced]:
    x, y, out = call.args[0], call.args[1], call.result
    params = {"m": out.numel // out.shape[-1], "n": out.shape[-1], "k": x.shape[-1]}
    return [_matrix(call, "matmul", params, x, y, [f"{call.base} as one product"])]


@rule("_grouped_mm")
def grouped(call: Call) -> list[Priced]:
    """Price the products of a mixture of experts: where the rows go depends on data, so they are spread evenly."""
    x, y = call.args[:2]
    if len(x.shape) == 2 and len(y.shape) == 3:
        # Rows are in groups; with fewer rows than groups the others are idle.
        groups = max(1, min(y.shape[0], x.shape[0]))
        params = {"b": groups, "m": -(-x.shape[0] // groups), "n": y.shape[2], "k": x.shape[1]}
    elif len(x.shape) == 3 and len(y.shape) == 2:
        groups = max(1, min(x.shape[0], y.shape[1]))
        params = {"b": groups, "m": x.shape[1], "n": -(-y.shape[1] // groups), "k": x.shape[2]}
    elif len(x.shape) == 2:
        # What is summed over is in groups: gradients of the weights.
        groups = max(1, min(call.result.shape[0], x.shape[1]))
        params = {"b": groups, "m": x.shape[0], "n": y.shape[1], "k": -(-x.shape[1] // groups)}
    else:
        params = {"b": x.shape[0], "m": x.shape[1], "n": y.shape[2], "k": x.shape[2]}
    if not all(params.values()):
        return []
    return [_matrix(call, "bmm", params, x, y, ["rows spread evenly over the groups, as a batch of products"])]


def _matrix(call: Call, op: str, params: dict[str, int], x: View, y: View, notes: list[str] | None = None) -> Priced:
    notes = list(notes or [])
    dtype, stand_in = product_dtype(x)
    if stand_in:
        return proxies([Priced(op, params, dtype, *both(notes))], stand_in)[0]
    if y.dtype != dtype:
        notes.append(f"operands are {dtype} and {y.dtype}")
    return Priced(op, params, dtype, *both(notes))
