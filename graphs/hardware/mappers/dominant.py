"""The operation that a subgraph's time is mostly spent in, and its exact shape where the subgraph tells it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphs import ops
from graphs.ops.shapes import window_outputs
from graphs.subgraph import Call, FusedSubgraph, OperationType, TensorDescriptor

_T = OperationType
#: Classes from dominant to negligible, and the operations of each.
CLASSES: dict[str, tuple[OperationType, ...]] = {
    "matmul": (_T.MATMUL, _T.LINEAR, _T.ADDMM, _T.BMM, _T.MULTIHEAD_ATTENTION),
    "conv": (_T.CONV2D, _T.CONV2D_POINTWISE, _T.SQUEEZE_EXCITE),
    "depthwise": (_T.CONV2D_DEPTHWISE,),
    "elementwise": (
        _T.SOFTMAX, _T.LAYERNORM, _T.BATCHNORM, _T.GELU, _T.SILU, _T.SWISH, _T.HARDSWISH, _T.SIGMOID, _T.RELU,
        _T.RELU6, _T.ADD, _T.SUB, _T.MUL, _T.DIV, _T.ELEMENTWISE, _T.DROPOUT, _T.STOCHASTIC_DEPTH,
    ),
    "pooling": (_T.MAXPOOL, _T.AVGPOOL, _T.ADAPTIVEAVGPOOL),
    "unknown": (_T.UNKNOWN,),
}  # fmt: skip
_CLASS_OF = {t: name for name, types in CLASSES.items() for t in types}
_RANK = {name: i for i, name in enumerate(CLASSES)}

_UNARY = {
    _T.RELU: "relu", _T.RELU6: "relu6", _T.SILU: "silu", _T.SWISH: "silu", _T.GELU: "gelu",
    _T.HARDSWISH: "hardswish", _T.SIGMOID: "sigmoid",
}  # fmt: skip
_BINARY = {_T.ADD: "add", _T.SUB: "sub", _T.MUL: "mul", _T.DIV: "div"}


@dataclass(frozen=True, slots=True)
class Dominant:
    """The operation that stands for a subgraph.

    Attributes
    ----------
    operation : OperationType
    op_class : str
        Key of `CLASSES`.
    call : (op, params) or None
        Its exact shape, None where the subgraph does not tell it.
    """

    operation: OperationType
    op_class: str
    call: Call | None


def dominant(subgraph: FusedSubgraph, dtype: str) -> Dominant:
    """Return the dominant operation of a subgraph: matmul > conv > depthwise > elementwise > pooling > unknown.

    Within a class the first operation listed counts.
    """
    operation = min(subgraph.operation_types or (_T.UNKNOWN,), key=lambda t: _RANK[_CLASS_OF[t]])
    call = _shape(subgraph, operation, dtype)
    if call is not None:
        kind = ops.get(call[0])
        call = (kind.name, kind.validate(call[1]))
    return Dominant(operation, _CLASS_OF[operation], call)


def _shape(s: FusedSubgraph, operation: OperationType, dtype: str) -> Call | None:
    tensors = (*s.input_tensors, *s.weight_tensors, *s.output_tensors)
    if not tensors:
        return _from_totals(s, operation, ops.itemsize(dtype))
    if operation is _T.MULTIHEAD_ATTENTION:
        return _attention(s)
    if _CLASS_OF[operation] == "matmul":
        return _product(s, operation)
    if operation in (_T.CONV2D, _T.CONV2D_POINTWISE, _T.CONV2D_DEPTHWISE):
        return _convolution(s)
    return _elementwise(s, operation)


def _product(s: FusedSubgraph, operation: OperationType) -> Call | None:
    operands = [t.shape for t in (*s.input_tensors, *s.weight_tensors) if len(t.shape) >= 2]
    if len(operands) < 2:
        return None
    a, b = operands[:2]
    if operation is _T.LINEAR:
        if len(b) != 2 or b[1] != a[-1]:
            return None
        bias = any(t.shape == (b[0],) for t in s.weight_tensors)
        return "linear", {"m": math.prod(a[:-1]), "n": b[0], "k": b[1], "bias": bias}
    if b[-2] != a[-1]:
        return None
    if len(b) == 2:
        op = "addmm" if operation is _T.ADDMM else "matmul"
        return op, {"m": math.prod(a[:-1]), "n": b[1], "k": b[0]}
    if a[:-2] != b[:-2]:
        return None  # a broadcast batch reads one operand less often than bmm does
    return "bmm", {"b": math.prod(a[:-2]), "m": a[-2], "n": b[-1], "k": a[-1]}


def _attention(s: FusedSubgraph) -> Call | None:
    shapes = [t.shape for t in s.input_tensors[:3]]
    if len(shapes) < 3 or any(len(x) != 4 for x in shapes) or shapes[1] != shapes[2]:
        return None
    (b, h, q, d), (kb, hkv, skv, kd), _ = shapes
    if (b, d) != (kb, kd) or h % hkv:
        return None
    return "sdpa", {"b": b, "h": h, "hkv": hkv, "s": q, "skv": skv, "d": d}


def _convolution(s: FusedSubgraph) -> Call | None:
    x, y = _first(s.input_tensors, 4), _first(s.output_tensors, 4)
    weight = _first(s.weight_tensors, 4)
    if x is None or y is None or weight is None:
        return None
    (n, c, h, w), (o, channels, k, kw), (_, yo, oh, ow) = x.shape, weight.shape, y.shape
    if c % channels or yo != o or o % (c // channels):
        return None
    window = _window(h, oh, k, w, ow, kw)
    if window is None:
        return None
    stride, pad, padw = window
    params: dict[str, Any] = {
        "n": n, "c": c, "h": h, "w": w, "o": o, "k": k, "stride": stride, "pad": pad, "groups": c // channels,
        "bias": any(t.shape == (o,) for t in s.weight_tensors), "fmt": _fmt(x),
    }  # fmt: skip
    if channels == 1 and c == o > 1 and (k, pad) == (kw, padw):
        return "dwconv2d", params
    return "conv2d", params | {"kw": kw, "padw": padw}


def _window(h: int, oh: int, k: int, w: int, ow: int, kw: int) -> tuple[int, int, int] | None:
    """Return stride and paddings that give these outputs.

    FLOP and bytes follow from the outputs alone; where several windows fit, the usual ones (half the kernel, then
    no padding) are preferred.
    """
    if (oh, ow) == (1, 1) and (h, w) == (k, kw):
        return 1, 0, 0
    for stride in sorted(range(1, h // max(oh - 1, 1) + 2), key=lambda v: abs(v - h / oh)):
        pad, padw = _padding(h, oh, k, stride), _padding(w, ow, kw, stride)
        if pad is not None and padw is not None:
            return stride, pad, padw
    return None


def _padding(size: int, outputs: int, k: int, stride: int) -> int | None:
    choices: list[int] = sorted(range(k), key=lambda p: (p != k // 2, p))
    return next(
        (p for p in choices if size + 2 * p >= k and window_outputs(size, k, stride, p) == outputs), None
    )  # fmt: skip


def _elementwise(s: FusedSubgraph, operation: OperationType) -> Call | None:
    x = next(iter((*s.input_tensors, *s.output_tensors)))
    image = len(x.shape) == 4
    builders: dict[OperationType, Callable[[], Call | None]] = {
        _T.BATCHNORM: lambda: ("batchnorm", {**_nchw(x), "fmt": _fmt(x)}) if image else None,
        _T.LAYERNORM: lambda: ("layernorm", _rows(x)),
        _T.SOFTMAX: lambda: ("softmax", _rows(x)),
        _T.ADAPTIVEAVGPOOL: lambda: _global_pool(s, x) if image else None,
    }
    if operation in builders:
        return builders[operation]()
    if operation in _UNARY:
        return _UNARY[operation], {"numel": x.numel}
    if operation is _T.ELEMENTWISE:
        # two operands of one size are what an addition moves; anything else is left open
        return ("add", {"numel": x.numel}) if [t.numel for t in s.input_tensors] == [x.numel] * 2 else None
    if operation in _BINARY:
        second = s.input_tensors[1].numel if len(s.input_tensors) > 1 else x.numel
        # A small second operand is broadcast; which one the operator kinds describe, a row or a column, is theirs.
        return _BINARY[operation], {"numel": max(x.numel, second), "bcast": x.numel != second}
    return None


def _global_pool(s: FusedSubgraph, x: TensorDescriptor) -> Call | None:
    if any(t.shape[2:] not in ((), (1, 1)) for t in s.output_tensors):
        return None
    return "adaptive_avgpool2d", {**_nchw(x), "fmt": _fmt(x)}


def _from_totals(s: FusedSubgraph, operation: OperationType, itemsize: int) -> Call | None:
    """Solve for the sides of a lone matrix product: 2 m n k FLOP and the sizes of its operands fix them exactly.

    Whole numbers that reproduce every total, or nothing.  With both operands among the inputs, m and n may be
    exchanged, which changes neither FLOP nor bytes.
    """
    if tuple(s.operation_types) not in ((_T.MATMUL,), (_T.LINEAR,)):
        return None
    x, w, y = (v / itemsize for v in (s.total_input_bytes, s.total_weight_bytes, s.total_output_bytes))
    if not (s.total_flops and x and y):
        return None
    k = s.total_flops / 2 / y
    if w:
        n = w / k
        m, bias = y / n, False
        if operation is _T.LINEAR and not (_whole(m, n, k) and m * k == x):
            n = w / (k + 1)
            m, bias = y / n, True
        found = _whole(m, n, k) and m * k == x
    else:
        both = x / k
        root = math.sqrt(max(both * both - 4 * y, 0.0))
        m, n, bias = (both + root) / 2, (both - root) / 2, False
        found = _whole(m, n, k) and k * (m + n) == x and m * n == y
    if not found:
        return None
    params: dict[str, Any] = {"m": int(m), "n": int(n), "k": int(k)}
    return ("linear", params | {"bias": bias}) if operation is _T.LINEAR else ("matmul", params)


def _whole(*values: float) -> bool:
    return all(v >= 1 and v == int(v) for v in values)


def _first(tensors: Any, rank: int) -> TensorDescriptor | None:
    return next((t for t in tensors if len(t.shape) == rank), None)


def _nchw(t: TensorDescriptor) -> dict[str, int]:
    return dict(zip("nchw", t.shape, strict=True))


def _rows(t: TensorDescriptor) -> dict[str, int]:
    return {"rows": max(t.numel // t.shape[-1], 1), "cols": t.shape[-1]}


def _fmt(t: TensorDescriptor) -> str:
    return "channels_last" if t.layout.upper() == "NHWC" else "contiguous"
