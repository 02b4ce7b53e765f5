"""ONNX nodes that multiply: convolutions, matrix products, attention, recurrent layers; and pools."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from graphs.tracing.layout import View
from graphs.tracing.onnx_nodes import Done, Ints, Node, call, first, given, node, reshaped
from graphs.tracing.rules.core import Call
from graphs.tracing.rules.memory import contiguous_like


def windows(n: Node, kernel: Ints) -> tuple[View, Ints, Ints, Ints, tuple[Call, ...]]:
    """Return input, strides, padding and dilation of a node with windows, and the copy that uneven padding takes."""
    x, ndim = first(n), len(kernel)
    stride = tuple(n.attributes.get("strides") or (1,) * ndim)
    dilation = tuple(n.attributes.get("dilations") or (1,) * ndim)
    pads = tuple(n.attributes.get("pads") or (0,) * (2 * ndim))
    mode = n.attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (o - 1) * s + (k - 1) * d + 1 - i)
            for i, o, s, k, d in zip(x.shape[2:], n.outputs[0].shape[2:], stride, kernel, dilation, strict=True)
        ]
        pads = (*(t // 2 for t in total), *(t - t // 2 for t in total))
    low, high = pads[:ndim], pads[ndim:]
    if low == high:
        return x, stride, low, dilation, ()
    extra = tuple(b - a for a, b in zip(low, high, strict=True))
    if min(extra) < 0:
        low, extra = tuple(min(a, b) for a, b in zip(low, high, strict=True)), tuple(abs(e) for e in extra)
    wide = contiguous_like(View((*x.shape[:2], *(s + e for s, e in zip(x.shape[2:], extra, strict=True))), (0,) * (
        ndim + 2), x.dtype, x.itemsize))  # fmt: skip
    amounts = tuple(v for e in reversed(extra) for v in (0, e))
    return wide, stride, low, dilation, (Call("aten.constant_pad_nd.default", (x, amounts), {}, wide),)


@node("Conv", "ConvTranspose")
def convolution(n: Node) -> Done:
    weight, bias = n.inputs[1], n.inputs[2] if len(n.inputs) > 2 else None
    assert weight is not None
    transposed = n.op == "ConvTranspose"
    before: tuple[Call, ...] = ()
    if transposed:
        ndim = len(weight.shape) - 2
        x, stride = first(n), tuple(n.attributes.get("strides") or (1,) * ndim)
        dilation = tuple(n.attributes.get("dilations") or (1,) * ndim)
        pad = tuple((n.attributes.get("pads") or (0,) * ndim)[:ndim])
        output_pad = tuple(n.attributes.get("output_padding") or (0,) * ndim)
    else:
        x, stride, pad, dilation, before = windows(n, weight.shape[2:])
        output_pad = (0,) * len(stride)
    args = (x, weight, bias, stride, pad, dilation, transposed, output_pad, n.attributes.get("group", 1))
    return Done((*before, Call("aten.convolution.default", args, {}, n.outputs)), n.outputs)


@node("MaxPool", "AveragePool")
def pool(n: Node) -> Done:
    kernel = tuple(n.attributes["kernel_shape"])
    x, stride, padding, dilation, before = windows(n, kernel)
    largest = n.op == "MaxPool"
    name = {2: "max_pool2d_with_indices" if largest else "avg_pool2d", 1: "max_pool1d" if largest else "avg_pool1d"}
    args: tuple[Any, ...] = (x, kernel, stride, padding, *((dilation,) if largest else ()))
    pooled = Call(f"aten.{name.get(len(kernel), 'avg_pool3d')}.default", args, {}, n.outputs)
    return Done((*before, pooled), n.outputs)


@node("GlobalAveragePool", "GlobalMaxPool")
def global_pool(n: Node) -> Done:
    x = first(n)
    if len(x.shape) != 4:
        return call("mean", n, x, dim=tuple(range(2, len(x.shape))))
    return call("adaptive_avg_pool2d" if n.op == "GlobalAveragePool" else "adaptive_max_pool2d", n, x, (1, 1))


def turned(x: View) -> View:
    """Return the transposed matrix."""
    return View(x.shape[::-1], x.stride[::-1], x.dtype, x.itemsize)


@node("Gemm")
def gemm(n: Node) -> Done:
    x, y = given(n)[:2]
    x = turned(x) if n.attributes.get("transA") else x
    y = turned(y) if n.attributes.get("transB") else y
    bias = n.inputs[2] if len(n.inputs) > 2 else None
    return call("mm", n, x, y) if bias is None else call("addmm", n, bias, x, y)


@node("MatMul")
def matmul(n: Node) -> Done:
    x, y = given(n)[:2]
    bias = n.attributes.get("bias")
    if len(y.shape) == 2 and len(x.shape) >= 2:
        rows = math.prod(x.shape[:-1])
        flat = View((rows, x.shape[-1]), (x.stride[-2], x.stride[-1]), x.dtype, x.itemsize)
        out = contiguous_like(View((rows, y.shape[1]), (0, 0), x.dtype, x.itemsize))
        before: tuple[Call, ...] = ()
        if len(x.shape) > 2 and not x.contiguous:
            before, flat = (Call("aten.clone.default", (x,), {}, contiguous_like(x)),), contiguous_like(flat)
        if bias is not None:
            # The weight lies as the framework's linear layer has it, whichever way the file stores it.
            weight = turned(contiguous_like(turned(y)))
            return Done((*before, Call("aten.addmm.default", (bias, flat, weight), {}, out)), n.outputs)
        return Done((*before, Call("aten.mm.default", (flat, y), {}, out)), n.outputs)
    if len(x.shape) == 1 or len(y.shape) == 1:
        return call("mv", n, *((x, y) if len(x.shape) > 1 else (y, x)))
    lead = n.outputs[0].shape[:-2]
    (one, *copies), (two, *more) = _batched(x, lead), _batched(y, lead)
    product = Call("aten.bmm.default", (one, two), {}, n.outputs)
    return Done((*copies, *more, product), n.outputs)


def _batched(x: View, lead: Ints) -> tuple[Any, ...]:
    """Return the matrices as one batch, and the copy that takes where their batch dimensions do not merge."""
    gap = len(lead) + 2 - len(x.shape)
    sizes = (1,) * gap + x.shape[:-2]
    own = (0,) * gap + x.stride[:-2]
    strides = tuple(0 if a == 1 and b != 1 else s for a, b, s in zip(sizes, lead, own, strict=True))
    whole = View((*lead, *x.shape[-2:]), (*strides, *x.stride[-2:]), x.dtype, x.itemsize)
    shape = (math.prod(lead), *x.shape[-2:])
    merged = reshaped(View(lead, strides, "", 1), (shape[0],))
    if merged is not None:
        return (View(shape, (merged.stride[0], *x.stride[-2:]), x.dtype, x.itemsize),)
    fresh = contiguous_like(whole)
    flat = contiguous_like(View(shape, (0, 0, 0), x.dtype, x.itemsize))
    return flat, Call("aten.clone.default", (whole,), {}, fresh)


@node("Einsum")
def einsum(n: Node) -> Done:
    """Return a sum of products of two operands as a batch of matrix products."""
    equation = str(n.attributes["equation"]).replace(" ", "")
    left, _, right = equation.partition("->")
    terms, values = left.split(","), given(n)
    if len(values) != 2 or "." in equation or not right:
        raise NotImplementedError("an Einsum of other than two operands")
    size = {c: s for term, v in zip(terms, values, strict=True) for c, s in zip(term, v.shape, strict=True)}
    a, b, out = set(terms[0]), set(terms[1]), set(right)

    def product(names: set[str]) -> int:
        return math.prod(size[c] for c in names)

    batch, k = product(a & b & out), product((a & b) - out)
    one, other = product(a - b), product(b - a)
    x, y = values

    def matrices(like: View, rows: int, cols: int) -> View:
        return contiguous_like(View((batch, rows, cols), (0, 0, 0), like.dtype, like.itemsize))

    return call("bmm", n, matrices(x, one, k), matrices(y, k, other))


@node("Attention")
def attention(n: Node) -> Done:
    if any(x is not None for x in n.inputs[4:6]):
        # Keys and values of earlier tokens would be left out.
        raise NotImplementedError("an Attention over past keys and values")
    q, k, v = (_heads(x, n.attributes.get(name)) for x, name in zip(
        given(n)[:3], ("q_num_heads", "kv_num_heads", "kv_num_heads"), strict=True))  # fmt: skip
    mask = n.inputs[3] if len(n.inputs) > 3 else None
    causal = bool(n.attributes.get("is_causal", 0))
    return call("scaled_dot_product_attention", n, q, k, v, mask, 0.0, causal)


def _heads(x: View, heads: int | None) -> View:
    """Return (b, s, h d) as (b, h, s, d)."""
    if len(x.shape) == 4 or not heads:
        return x
    (b, s, width), (step_b, step_s, step) = x.shape, x.stride
    d = width // heads
    return View((b, heads, s, d), (step_b, d * step, step_s, step), x.dtype, x.itemsize)


@node("LSTM", "GRU", "RNN")
def recurrent(n: Node) -> Done:
    x, of_input, of_state = given(n)[:3]
    directions = of_input.shape[0]
    weights = [
        replace(w, shape=w.shape[1:], stride=w.stride[1:]) for _ in range(directions) for w in (of_input, of_state)
    ]
    name = {"LSTM": "lstm", "GRU": "gru"}.get(n.op, "rnn_tanh")
    return call(name, n, x, params=tuple(weights), batch_first=bool(n.attributes.get("layout", 0)))
