"""What the latency of a fused subgraph depends on: features of its operator calls, as one row of numbers.

The subgraphs were timed node by node, eagerly: a latency is the sum over nodes of a dispatch and a kernel.  So a row
holds how many nodes there are, what each class of operators moves and computes, and the exact shape of the two calls
with most work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import ops
from graphs.ops.shapes import window_outputs

#: Raise it when the columns change: a stored model then says that it was made with others.
SUBGRAPH_FEATURES_VERSION = 1

#: Classes of operators, and the families of kinds in each; convolutions are divided by `_class_of`.
CLASSES = ("conv", "pointwise", "depthwise", "product", "attention", "norm", "activation", "binary", "pool", "move")
_FAMILIES = {
    "gemm": "product", "sdpa": "attention", "sdpa_decode": "attention", "dwconv2d": "depthwise", "unary": "activation",
    "binary": "binary", "mem": "move", "rowwise": "norm", "nchw": "pool",
}  # fmt: skip
_KINDS = {
    "batchnorm": "norm",
    "groupnorm": "norm",
    "relu_nd": "activation",
    "add_nd": "binary",
    "mul_channel": "binary",
}
#: Activations by what they cost beyond a comparison.
_SMOOTH = {"silu", "gelu", "sigmoid", "tanh", "softmax", "exp", "erf", "hardswish", "hardsigmoid"}
_TINY = 1e-9

_SHAPE = ("batch", "rows", "columns", "depth", "groups", "kernel", "stride", "spatial", "outputs")
NAMES: tuple[str, ...] = (
    "nodes", "idle nodes", "calls", "flops", "bytes", "weights", "intensity", "largest call bytes",
    *(f"{c} count" for c in CLASSES), *(f"{c} bytes" for c in CLASSES), "smooth bytes", "product flops share",
    *(f"first {s}" for s in _SHAPE), *(f"first is {c}" for c in CLASSES),
    *(f"second {s}" for s in _SHAPE),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Described:
    """Features of one subgraph and the totals that its roofline needs.

    Attributes
    ----------
    row : (f,) float64
        In the order of `NAMES`.
    flops, nbytes : float
        Of its calls; bytes at the itemsize asked for.
    classes : tuple of str
        Classes of its calls, each once, sorted.
    main : str
        Class of the call with most work; ``"idle"`` without calls.
    nodes : int
    """

    row: NDArray[np.float64]
    flops: float
    nbytes: float
    classes: tuple[str, ...]
    main: str
    nodes: int


def describe(calls: Sequence[tuple[str, Mapping[str, Any]]], nodes: int, itemsize: int) -> Described:
    """Return the features of a subgraph.

    Parameters
    ----------
    calls : sequence of (op, params)
    nodes : int
        Framework nodes, those that run no operator included.
    itemsize : int
        Bytes of an element.
    """
    parts = [_part(op, _frozen(params), itemsize) for op, params in calls]
    ranked = sorted(parts, key=lambda p: (p.work, p.nbytes), reverse=True)
    flops, nbytes = sum(p.flops for p in parts), sum(p.nbytes for p in parts)
    row: list[float] = [
        math.log2(nodes), max(nodes - len(parts), 0), len(parts), _log(flops), _log(nbytes),
        _log(sum(p.weights for p in parts)), _log(flops / nbytes if nbytes else 0.0),
        _log(max((p.nbytes for p in parts), default=0.0)),
    ]  # fmt: skip
    row += [float(sum(p.op_class == c for p in parts)) for c in CLASSES]
    row += [_log(sum(p.nbytes for p in parts if p.op_class == c)) for c in CLASSES]
    row.append(_log(sum(p.nbytes for p in parts if p.smooth)))
    row.append(ranked[0].work / max(flops, 1.0) if parts else 0.0)
    first = ranked[0] if parts else None
    second = ranked[1] if len(parts) > 1 and ranked[1].shape else None
    row += list(first.shape) if first and first.shape else [0.0] * len(_SHAPE)
    row += [float(first is not None and first.op_class == c) for c in CLASSES]
    row += list(second.shape) if second else [0.0] * len(_SHAPE)
    return Described(
        np.array(row), flops, nbytes, tuple(sorted({p.op_class for p in parts})),
        first.op_class if first else "idle", nodes,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    op_class: str
    flops: float
    nbytes: float
    weights: float
    work: float
    shape: tuple[float, ...]
    smooth: bool


@lru_cache(maxsize=65536)
def _part(op: str, frozen: tuple[tuple[str, Any], ...], itemsize: int) -> _Part:
    kind = ops.get(op)
    p = kind.validate(dict(frozen))
    cost = kind.cost(**p, itemsize=itemsize)
    name = _class_of(kind.name, kind.family, p)
    shape, weights, work = _shape(kind.name, kind.family, p)
    return _Part(
        name, float(cost.flops), float(cost.bytes), float(weights * itemsize), float(cost.flops) * work, shape,
        kind.name in _SMOOTH,
    )  # fmt: skip


def _class_of(op: str, family: str, p: Mapping[str, Any]) -> str:
    if family == "conv2d":
        return "pointwise" if p["k"] == 1 else "conv"
    return _KINDS.get(op) or _FAMILIES[family]


def _shape(op: str, family: str, p: Mapping[str, Any]) -> tuple[tuple[float, ...], int, float]:
    """Return the shape columns (log2), weight elements, and 1 for kinds that count as work (0 for the rest)."""
    if op == "conv_transpose2d":
        # the gradient of a convolution: its product has a row for each pixel of the input
        depth, pixels = p["o"] * p["k"] ** 2, p["h"] * p["w"]
        sizes = (p["n"], p["n"] * pixels, depth, p["c"], 1, p["k"], p["stride"], pixels, p["o"])
        return tuple(math.log2(s) for s in sizes), p["c"] * depth, 1.0
    if family in ("conv2d", "dwconv2d"):
        kw = p.get("kw", p["k"]) if "w" in p else 1
        oh = window_outputs(p.get("h", p.get("l", 1)), p["k"], p["stride"], p["pad"])
        ow = window_outputs(p["w"], kw, p["stride"], p.get("padw", p["pad"])) if "w" in p else 1
        groups = p.get("groups") or (p["c"] if family == "dwconv2d" else 1)
        outputs = p.get("o") or p["c"]
        depth = p["c"] // groups * p["k"] * kw
        area = p.get("h", p.get("l", 1)) * p.get("w", 1)
        sizes = (p["n"], p["n"] * oh * ow, outputs / groups, depth, groups, p["k"], p["stride"], area, outputs)
        return tuple(math.log2(s) for s in sizes), outputs * depth, 1.0
    if family == "gemm":
        b = p.get("b", 1)
        sizes = (1, p["m"], p["n"], p["k"], b, 1, 1, p["m"], p["n"])
        return tuple(math.log2(s) for s in sizes), p["n"] * p["k"] if b == 1 else 0, 1.0
    if family in ("sdpa", "sdpa_decode"):
        rows = p.get("s", 1)
        sizes = (p["b"], rows, p["skv"], p["d"], p["h"], 1, 1, rows, p["d"])
        return tuple(math.log2(s) for s in sizes), 0, 1.0
    if "w" in p and isinstance(p.get("c"), int):
        sizes = (p["n"], p["n"] * p["h"] * p["w"], p["c"], 1, 1, p.get("k", 1), p.get("stride", 1), p["h"] * p["w"], 1)
        return tuple(math.log2(s) for s in sizes), 0, 1e-6
    if "rows" in p and "cols" in p:
        return (0.0, math.log2(p["rows"]), math.log2(p["cols"]), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0, 1e-6
    return (), 0, 1e-6


def _frozen(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in params.items()))


def _log(value: float) -> float:
    """Return log2(1 + value): 0 for nothing."""
    return math.log2(1.0 + value)
