"""Elementwise operators of one tensor and of several."""

from __future__ import annotations

import math
from typing import Any

from graphs.tracing.layout import View, pattern
from graphs.tracing.rules.core import Call, Priced, both, free, nchw, rule, storage, traffic

UNARY = (
    "gelu", "silu", "sigmoid", "tanh", "exp", "hardswish", "relu6", "hardsigmoid", "rsqrt", "neg", "cos", "erf", "abs",
)  # fmt: skip
#: Of the same class as a measured kind: one read, one write, a comparable function.
ALIKE = {
    "sin": "cos", "sqrt": "rsqrt", "reciprocal": "rsqrt", "log": "exp", "log2": "exp", "log10": "exp", "log1p": "exp",
    "exp2": "exp", "expm1": "exp", "tan": "cos", "sinh": "tanh", "cosh": "tanh", "atan": "tanh", "asin": "cos",
    "acos": "cos", "softplus": "silu", "mish": "silu", "elu": "exp", "celu": "exp", "selu": "exp", "erfc": "erf",
    "erfinv": "erf", "leaky_relu": "relu", "log_sigmoid_forward": "silu", "logit": "sigmoid", "floor": "abs",
    "ceil": "abs", "round": "abs", "trunc": "abs", "frac": "abs", "sign": "abs", "sgn": "abs", "threshold": "clamp",
    "softshrink": "clamp", "hardshrink": "clamp", "square": "pow2", "clamp_min": "clamp", "clamp_max": "clamp",
    "nan_to_num": "clamp", "digamma": "erf", "lgamma": "erf", "asinh": "tanh", "atanh": "tanh", "positive": "abs",
    "rad2deg": "mul_scalar", "deg2rad": "mul_scalar", "bernoulli": "abs", "sinc": "cos", "i0": "erf", "rrelu": "relu",
}  # fmt: skip


def one(call: Call, x: View, kind: str, notes: list[str] | None = None) -> list[Priced]:
    """Price f(x) as `kind`."""
    if not x.numel:
        return []
    notes = list(notes or [])
    if not x.measured:
        return traffic(call, f"{call.base} of {x.dtype}")
    if not x.dense:
        notes.append("a strided input")
    if kind == "relu" and len(x.shape) == 4 and x.dense and (x.contiguous or x.channels_last) and not notes:
        return [Priced("relu_nd", nchw(x), x.dtype)]
    return [Priced(kind, {"numel": x.numel}, x.dtype, *both(notes))]


@rule("relu", *UNARY)
def unary(call: Call) -> list[Priced]:
    notes = ["tanh form"] if call.base == "gelu" and call.arg(1, "approximate", "none") == "tanh" else []
    return one(call, call.args[0], call.base, notes)


@rule(*ALIKE)
def alike(call: Call) -> list[Priced]:
    kind = ALIKE[call.base]
    return one(call, call.args[0], kind, [f"{call.base} as {kind}"])


@rule("hardtanh", "clamp")
def clamp(call: Call) -> list[Priced]:
    if any(isinstance(a, View) and a.numel > 1 for a in call.args[1:]):
        return traffic(call, "clamp to tensors")
    limits = (call.arg(1, "min_val", -1.0), call.arg(2, "max_val", 1.0))
    return one(call, call.args[0], "relu6" if call.base == "hardtanh" and limits == (0, 6) else "clamp")


@rule("pow")
def power(call: Call) -> list[Priced]:
    x, exponent = call.args[0], call.args[1]
    if not isinstance(x, View) or isinstance(exponent, View):
        return several(call, "mul", call.inputs, ["pow of two tensors"])
    if exponent == 2:
        return one(call, x, "pow2")
    if exponent in (-0.5, 0.5, -1, -2):
        return one(call, x, "rsqrt", [] if exponent == -0.5 else [f"power {exponent}"])
    return one(call, x, "pow2", [f"power {exponent}"])


@rule("add", "sub", "mul", "div", "rsub", "true_divide")
def binary(call: Call) -> list[Priced]:
    name = {"rsub": "sub", "true_divide": "div"}.get(call.base, call.base)
    operands = [a for a in call.args[:2] if isinstance(a, View)]
    notes = ["scaled by alpha"] if call.arg(99, "alpha", 1) not in (1, None) else []
    if call.arg(99, "rounding_mode"):
        notes.append("rounded")
    return several(call, name, operands, notes)


#: Of two tensors or a tensor and a number; the kind of the same class.
ALSO = {
    "maximum": "add", "minimum": "add", "fmod": "div", "remainder": "div", "floor_divide": "div", "atan2": "div",
    "lerp": "add", "addcmul": "add", "addcdiv": "add", "_prelu_kernel": "mul", "bitwise_and": "add",
    "bitwise_or": "add", "bitwise_xor": "add", "logical_and": "add", "logical_or": "add", "logical_xor": "add",
    "xlogy": "mul", "hypot": "mul", "heaviside": "add", "copysign": "mul", "fmax": "add", "fmin": "add",
    "logaddexp": "add", "glu": "mul", "silu_backward": "mul", "gelu_backward": "mul", "sigmoid_backward": "mul",
    "tanh_backward": "mul", "threshold_backward": "mul", "__and__": "add", "__or__": "add",
}  # fmt: skip


@rule(*ALSO)
def also(call: Call) -> list[Priced]:
    kind = ALSO[call.base]
    if call.base == "glu":
        # Both halves of one tensor, each a strided view of it.
        rows, cols = call.result.rows_cols()
        x = call.args[0]
        return [Priced("add_strided", {"rows": rows, "cols": cols}, storage(x.dtype, x.itemsize)[0], "near", "glu")]
    operands = [v for v in call.inputs if v.numel > 1]
    return several(call, kind, operands[:2] if len(operands) == 2 else call.inputs, [f"{call.base} as {kind}"])


@rule("eq", "ne", "lt", "le", "gt", "ge", "logical_not", "bitwise_not", "isnan", "isinf", "isfinite", "signbit",
      whole=True)  # fmt: skip
def compare(call: Call) -> list[Priced]:
    return traffic(call, f"{call.base} gives bytes")


@rule("where", "masked_fill")
def where(call: Call) -> list[Priced]:
    out = call.result
    if not out.numel:
        return []
    at = 0 if call.base == "where" else 1
    mask, others = call.args[at], (*call.args[:at], *call.args[at + 1 :])
    big = [v for v in others if isinstance(v, View) and v.numel > 1]
    if not out.measured:
        return traffic(call, f"{call.base} of {out.dtype}")
    shape = pattern(out, mask)
    notes = []
    if len(big) != 1 or any(pattern(out, v).kind != "full" for v in big):
        notes.append(f"{len(big)} tensors of other layouts to choose from")
    if shape.kind != "full" and not (shape.kind == "row" and shape.cols == 1024):
        notes.append(f"a mask lying {shape.kind}")
    return [Priced("where", {"numel": out.numel, "bcast": shape.kind != "full"}, out.dtype, *both(notes))]


def several(call: Call, kind: str, operands: list[View], notes: list[str]) -> list[Priced]:
    """Price an elementwise operator of two tensors, `kind` one of add, sub, mul and div."""
    out = call.result
    if not out.numel:
        return []
    # Numbers and 0-d tensors are no operands that are read; what is left decides.
    tensors = [v for v in operands if v.numel > 1 or out.numel == 1]
    if not out.measured:
        return traffic(call, f"{call.base} of {out.dtype}")
    mixed = {v.dtype for v in tensors} - {out.dtype}
    notes = notes + ([f"an operand in {', '.join(sorted(mixed))}"] if mixed else [])
    if len(tensors) <= 1:
        scalar = "mul_scalar" if kind in ("mul", "div") else "add_scalar"
        if tensors and pattern(out, tensors[0]).kind != "full":
            notes.append("a strided input")
        return [Priced(scalar, {"numel": out.numel}, out.dtype, *both(notes))]
    if len(tensors) > 2:
        return traffic(call, f"{call.base} of {len(tensors)} tensors")
    shapes = [pattern(out, v) for v in tensors]
    # The operand that lies as the output first: only then is the other one the exception.
    if shapes[0].kind != "full" and shapes[1].kind == "full":
        tensors, shapes = tensors[::-1], shapes[::-1]
    return [_two(kind, out, tensors, shapes, notes)]


def _two(kind: str, out: View, tensors: list[View], shapes: list[Any], notes: list[str]) -> Priced:
    numel, dtype = out.numel, out.dtype
    first, other = shapes
    if first.kind == "full" and other.kind == "full":
        if kind == "add" and len(out.shape) == 4 and (out.contiguous or out.channels_last):
            return Priced("add_nd", nchw(out), dtype, *both(notes))
        return Priced(kind, {"numel": numel, "bcast": False}, dtype, *both(notes))
    if first.kind == "gapped" and other.kind == "gapped":
        # Both are halves of something: the first one stands for them.
        notes = [*notes, "two strided inputs"]
        other = first
    elif first.kind != "full":
        notes = [*notes, f"operands lying {first.kind} and {other.kind}"]
    if len(out.shape) == 4 and (out.contiguous or out.channels_last) and first.kind == "full":
        lead = (1,) * (4 - len(tensors[1].shape)) + tensors[1].shape
        if lead[1:] == (out.shape[1], 1, 1) and lead[0] in (1, out.shape[0]) and out.shape[2] * out.shape[3] > 1:
            if kind != "mul":
                notes = [*notes, f"{kind} as mul"]
            if lead[0] != out.shape[0]:
                notes = [*notes, "one vector for all images"]
            return Priced("mul_channel", nchw(out), dtype, *both(notes))
    if other.kind == "row":
        if other.cols == 1024 and kind in ("add", "mul", "div"):
            return Priced(kind, {"numel": numel, "bcast": True}, dtype, *both(notes))
        notes = notes if kind == "mul" else [*notes, f"{kind} as mul"]
        return Priced("mul_row", {"rows": other.rows, "cols": other.cols}, dtype, *both(notes))
    if other.kind == "column":
        if kind != "sub" or other.cols != 1024:
            notes = [*notes, f"{kind} with a column, rows of {other.cols}"]
        return Priced("sub", {"numel": numel, "bcast": True}, dtype, *both(notes))
    if other.kind == "gapped":
        if kind != "add" or other.gap != 2 * other.cols:
            notes = [*notes, f"{kind} of rows {other.gap} apart"]
        return Priced("add_strided", {"rows": other.rows, "cols": other.cols}, dtype, *both(notes))
    if other.kind == "repeated" and other.cols > 1 and math.prod(out.shape) % other.cols == 0:
        return Priced("mul_row", {"rows": numel // other.cols, "cols": other.cols}, dtype,
                      *both([*notes, f"{kind} with an operand repeated along inner dimensions"]))  # fmt: skip
    return Priced(kind, {"numel": numel, "bcast": False}, dtype, *both([*notes, f"an operand lying {other.kind}"]))


@rule("native_dropout", "alpha_dropout", "feature_dropout")
def dropout(call: Call) -> list[Priced]:
    return traffic(call, "dropout")


#: Views that the schema does not call so, allocations, and questions: nothing runs.
FREE = (
    "detach alias lift_fresh lift _unsafe_view empty empty_like empty_strided new_empty new_empty_strided "
    "_reshape_alias _local_scalar_dense scalar_tensor set resize empty_permuted _conj record_stream _assert_async "
    "_assert_tensor_metadata sym_size _functional_sym_constrain_range split unsafe_split unsafe_chunk "
    "unsafe_split_with_sizes"
)
rule(*FREE.split())(free)
