"""ONNX nodes in the framework's words: which of its calls does what a node does.

Views cost nothing and are followed by their strides, as the framework would; what a node computes is then priced by the
same rules as a traced call.  Needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphs.tracing.layout import View
from graphs.tracing.rules.core import Call
from graphs.tracing.rules.memory import contiguous_like

Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A node with its tensors as views; `data` holds the inputs whose values are known, None elsewhere."""

    op: str
    inputs: tuple[View | None, ...]
    data: tuple[Any, ...]
    outputs: tuple[View, ...]
    attributes: Mapping[str, Any]
    weights: tuple[bool, ...] = ()

    def ints(self, index: int, name: str) -> Ints | None:
        """Return integers given as an input (newer operator sets) or as an attribute."""
        value = self.data[index] if index < len(self.data) else None
        value = self.attributes.get(name) if value is None else value
        return None if value is None else tuple(int(v) for v in (value.ravel() if hasattr(value, "ravel") else value))


@dataclass(frozen=True, slots=True)
class Done:
    """What a node comes to: framework calls, and its outputs, of which `views` share memory with the first input."""

    calls: tuple[Call, ...]
    outputs: tuple[View, ...]
    views: bool = False


Rule = Callable[[Node], Done]
NODES: dict[str, Rule] = {}


def node(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of the ONNX operators `names`."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in NODES, name
            NODES[name] = function
        return function

    return register


def call(name: str, n: Node, *args: Any, **kwargs: Any) -> Done:
    """Return one framework call whose outputs are the node's, fresh and contiguous."""
    return Done((Call(f"aten.{name}.default", args, kwargs, n.outputs),), n.outputs)


def first(n: Node) -> View:
    x = n.inputs[0]
    assert x is not None
    return x


def given(n: Node) -> list[View]:
    return [v for v in n.inputs if v is not None]


# Views ----------------------------------------------------------------------------------------------------------


def reshaped(x: View, shape: Ints) -> View | None:
    """Return `x` in another shape without a copy, or None where its memory does not allow it.

    >>> reshaped(View((2, 3, 4), (12, 4, 1), "fp32", 4), (6, 4)).stride
    (4, 1)
    >>> reshaped(View((3, 2), (1, 3), "fp32", 4), (6,)) is None
    True
    """
    dims = [(n, s) for n, s in zip(x.shape, x.stride, strict=True) if n != 1]
    runs: list[list[int]] = []
    for n, s in dims:
        if runs and runs[-1][1] == n * s:
            runs[-1] = [runs[-1][0] * n, s]
        else:
            runs.append([n, s])
    strides: list[int] = []
    for n in reversed(shape):
        if n == 1:
            strides.append(1)
            continue
        if not runs or runs[-1][0] % n:
            return None
        size, step = runs.pop()
        strides.append(step)
        if size > n:
            runs.append([size // n, step * n])
    return None if runs else View(shape, tuple(reversed(strides)), x.dtype, x.itemsize)


@node("Reshape", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth")
def reshape(n: Node) -> Done:
    x, out = first(n), n.outputs[0]
    if n.op in ("DepthToSpace", "SpaceToDepth"):
        return call("pixel_shuffle" if n.op == "DepthToSpace" else "pixel_unshuffle", n, x)
    view = reshaped(x, out.shape)
    if view is not None:
        return Done((), (view,), views=True)
    copy = contiguous_like(x)
    return Done((Call("aten.clone.default", (x,), {}, copy),), (out,))


@node("Transpose")
def transpose(n: Node) -> Done:
    x = first(n)
    perm = n.attributes.get("perm") or range(len(x.shape))[::-1]
    view = View(tuple(x.shape[i] for i in perm), tuple(x.stride[i] for i in perm), x.dtype, x.itemsize)
    return Done((), (view,), views=True)


@node("Identity", "Dropout")
def same(n: Node) -> Done:
    return Done((), (first(n), *n.outputs[1:]), views=True)


@node("Constant", "Shape", "Size")
def known(n: Node) -> Done:
    return Done((), n.outputs)


@node("Slice", "Split")
def part(n: Node) -> Done:
    x = first(n)
    steps = [1] * len(x.shape)
    if n.op == "Slice":
        given_steps, axes = n.ints(4, "steps"), n.ints(3, "axes")
        for i, step in enumerate(given_steps or ()):
            steps[axes[i] if axes else i] = abs(step)
    strides = tuple(s * k for s, k in zip(x.stride, steps, strict=True))
    return Done((), tuple(View(o.shape, strides, x.dtype, x.itemsize) for o in n.outputs), views=True)


@node("Expand")
def expand(n: Node) -> Done:
    x, out = first(n), n.outputs[0]
    lead = len(out.shape) - len(x.shape)
    own = (0,) * lead + x.stride
    sizes = (1,) * lead + x.shape
    strides = tuple(0 if a == 1 and b != 1 else s for a, b, s in zip(sizes, out.shape, own, strict=True))
    return Done((), (replace(out, stride=strides),), views=True)


# Elementwise ----------------------------------------------------------------------------------------------------

UNARY = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf", "Exp": "exp", "Log": "log", "Sqrt": "sqrt",
    "Neg": "neg", "Abs": "abs", "LeakyRelu": "leaky_relu", "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid",
    "Clip": "clamp", "Elu": "elu", "Selu": "selu", "Celu": "celu", "Softplus": "softplus", "Mish": "mish",
    "Sin": "sin", "Cos": "cos", "Tan": "tan", "Reciprocal": "reciprocal", "Floor": "floor", "Ceil": "ceil",
    "Round": "round", "Sign": "sign", "Softsign": "sigmoid", "ThresholdedRelu": "threshold", "Not": "logical_not",
    "IsNaN": "isnan", "IsInf": "isinf", "Swish": "silu", "Atan": "atan", "Asin": "asin", "Acos": "acos",
    "Sinh": "sinh", "Cosh": "cosh",
}  # fmt: skip
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "maximum", "Min": "minimum", "Mod": "remainder",
    "PRelu": "_prelu_kernel", "Equal": "eq", "Greater": "gt", "Less": "lt", "GreaterOrEqual": "ge",
    "LessOrEqual": "le", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
}  # fmt: skip


@node(*UNARY)
def unary(n: Node) -> Done:
    limits = tuple(float(d) for d in n.data[1:3] if d is not None) if n.op == "Clip" else ()
    limits = limits or tuple(n.attributes[k] for k in ("min", "max") if k in n.attributes)
    # From 0 to 6 is the framework's hardtanh.
    return call("hardtanh" if limits == (0, 6) else UNARY[n.op], n, first(n), *limits)


@node("Gelu")
def gelu(n: Node) -> Done:
    return call("gelu", n, first(n), approximate=n.attributes.get("approximate", "none"))


@node(*BINARY)
def binary(n: Node) -> Done:
    values = given(n)
    if len(values) == 1:
        return same(n)
    calls = [Call(f"aten.{BINARY[n.op]}.default", (values[0], v), {}, n.outputs) for v in values[1:]]
    return Done(tuple(calls), n.outputs)


@node("Sum", "Mean")
def several(n: Node) -> Done:
    values = given(n)
    return Done(tuple(Call("aten.add.default", (values[0], v), {}, n.outputs) for v in values[1:]), n.outputs)


@node("Pow")
def power(n: Node) -> Done:
    exponent = n.data[1]
    value = float(exponent) if exponent is not None and exponent.size == 1 else n.inputs[1]
    return call("pow", n, first(n), value)


@node("Where")
def where(n: Node) -> Done:
    return call("where", n, *given(n))


@node("Cast", "CastLike")
def cast(n: Node) -> Done:
    x, out = first(n), n.outputs[0]
    # The whole model was converted: a cast between floats may be none any more.
    return Done((), (x,), views=True) if x.dtype == out.dtype else call("_to_copy", n, x)


# Reductions, norms ----------------------------------------------------------------------------------------------

REDUCE = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin", "ReduceProd": "prod",
    "ReduceL2": "linalg_vector_norm", "ReduceL1": "linalg_vector_norm", "ReduceSumSquare": "linalg_vector_norm",
    "ReduceLogSumExp": "logsumexp", "ReduceLogSum": "logsumexp",
}  # fmt: skip


@node(*REDUCE)
def reduce(n: Node) -> Done:
    axes = n.ints(1, "axes")
    if axes is None and n.attributes.get("noop_with_empty_axes"):
        return same(n)
    return call(REDUCE[n.op], n, first(n), dim=axes or ())


@node("ArgMax", "ArgMin")
def argument(n: Node) -> Done:
    return call(n.op.lower(), n, first(n), dim=n.attributes.get("axis", 0))


@node("Softmax", "LogSoftmax")
def softmax(n: Node) -> Done:
    return call("softmax" if n.op == "Softmax" else "_log_softmax", n, first(n), n.attributes.get("axis", -1))


@node("CumSum")
def cumsum(n: Node) -> Done:
    return call("cumsum", n, first(n), int(n.data[1]) if n.data[1] is not None else -1)


@node("BatchNormalization")
def batch_norm(n: Node) -> Done:
    return call("native_batch_norm", n, *given(n), bool(n.attributes.get("training_mode", 0)))


@node("LayerNormalization", "RMSNormalization")
def row_norm(n: Node) -> Done:
    x, axis = first(n), n.attributes.get("axis", -1)
    name = "native_layer_norm" if n.op == "LayerNormalization" else "rms_norm"
    return call(name, n, x, x.shape[axis:], *given(n)[1:])


@node("InstanceNormalization", "GroupNormalization")
def group_norm(n: Node) -> Done:
    x = first(n)
    groups = n.attributes.get("num_groups", x.shape[1])
    return call("native_group_norm", n, *(x, None, None, x.shape[0], x.shape[1], math.prod(x.shape[2:]), groups))


@node("LRN", "LpNormalization", "MeanVarianceNormalization")
def normalise(n: Node) -> Done:
    """Return a norm of the framework's elementwise calls: squares, their sums, a quotient."""
    x = first(n)
    names = ("mul", "avg_pool1d", "div") if n.op == "LRN" else ("mul", "mean", "div")
    return Done(tuple(Call(f"aten.{name}.default", (x, x) if name != "mean" else (x,), {}, n.outputs)
                      for name in names), n.outputs)  # fmt: skip


# Moving data ----------------------------------------------------------------------------------------------------


@node("Concat")
def concat(n: Node) -> Done:
    return call("cat", n, tuple(given(n)), n.attributes["axis"])


@node("Gather")
def gather(n: Node) -> Done:
    x, index, axis = first(n), n.inputs[1], n.attributes.get("axis", 0)
    assert index is not None
    if not index.shape:
        strides = tuple(s for i, s in enumerate(x.stride) if i != axis % len(x.shape))
        return Done((), (replace(n.outputs[0], stride=strides),), views=True)
    if axis == 0 and len(x.shape) == 2 and n.weights[0]:
        return call("embedding", n, x, index)
    return call("index_select", n, x, axis, replace(index, shape=(index.numel,), stride=(1,)))


MOVES = {
    "GatherElements": "gather", "GatherND": "take", "ScatterND": "index_copy", "ScatterElements": "scatter",
    "TopK": "topk", "OneHot": "one_hot", "Tile": "repeat", "Trilu": "tril", "EyeLike": "eye", "Unique": "unique",
    "ConstantOfShape": "full", "Range": "arange", "RandomNormal": "normal", "RandomUniform": "uniform",
    "GridSample": "grid_sampler_2d", "Compress": "masked_select", "ReverseSequence": "flip", "Col2Im": "col2im",
}  # fmt: skip


@node(*MOVES)
def moves(n: Node) -> Done:
    if n.op == "GatherElements":
        return call("gather", n, first(n), n.attributes.get("axis", 0), index=n.inputs[1])
    return call(MOVES[n.op], n, *given(n))


@node("Pad")
def pad(n: Node) -> Done:
    x, amounts = first(n), n.ints(1, "pads") or ()
    axes = n.ints(3, "axes") or tuple(range(len(x.shape)))
    half = len(amounts) // 2
    sides = {a % len(x.shape): (amounts[i], amounts[half + i]) for i, a in enumerate(axes)}
    # The framework names the last dimension first, and leaves out leading ones that stay.
    pairs = [sides.get(i, (0, 0)) for i in reversed(range(len(x.shape)))]
    while pairs and pairs[-1] == (0, 0):
        pairs.pop()
    return call("constant_pad_nd", n, x, tuple(v for pair in pairs for v in pair))


@node("Resize", "Upsample")
def resize(n: Node) -> Done:
    x, mode = first(n), n.attributes.get("mode", "nearest")
    name = {"linear": "upsample_bilinear2d", "cubic": "upsample_bicubic2d"}.get(mode, "upsample_nearest2d")
    if len(x.shape) != 4 or x.shape[:2] != n.outputs[0].shape[:2]:
        name = "upsample_trilinear3d" if mode == "linear" else "upsample_nearest3d"
    return call(name, n, x)
