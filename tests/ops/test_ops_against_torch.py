"""The formulas against torch: its own FLOP counter where it counts the kind, and the sizes of the tensors.

Everything runs on the meta device: shapes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from graphs import ops

torch = pytest.importorskip("torch")
F = pytest.importorskip("torch.nn.functional")
FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode

DTYPE = torch.float16
ITEMSIZE = 2


def tensor(*shape: int, dtype: Any = DTYPE) -> Any:
    return torch.empty(shape, device="meta", dtype=dtype)


# Each builds the inputs that are counted and the call, for the operator's parameters.
Call = Callable[..., Any]
Build = Callable[[Any], tuple[list[Any], Call]]


def linear(p: Any) -> tuple[list[Any], Call]:
    return [tensor(p.m, p.k), tensor(p.n, p.k), *([tensor(p.n)] if p.bias else [])], F.linear


def conv2d(p: Any) -> tuple[list[Any], Call]:
    inputs = [tensor(p.n, p.c, p.h, p.w), tensor(p.o, p.c // p.groups, p.k, getattr(p, "kw", p.k))]
    inputs += [tensor(p.o)] if p.bias else []
    padding = (p.pad, getattr(p, "padw", p.pad))
    return inputs, lambda *t: F.conv2d(*t, stride=p.stride, padding=padding, groups=p.groups)


def conv1d(p: Any) -> tuple[list[Any], Call]:
    inputs = [tensor(p.n, p.c, p.l), tensor(p.o, p.c, p.k)]
    return inputs, lambda x, w: F.conv1d(x, w, stride=p.stride, padding=p.pad)


def conv_transpose2d(p: Any) -> tuple[list[Any], Call]:
    inputs = [tensor(p.n, p.c, p.h, p.w), tensor(p.c, p.o, p.k, p.k)]
    return inputs, lambda x, w: F.conv_transpose2d(x, w, stride=p.stride, padding=p.pad)


def attention(p: Any) -> tuple[list[Any], Call]:
    inputs = [tensor(p.b, p.h, p.s, p.d), tensor(p.b, p.hkv, p.skv, p.d), tensor(p.b, p.hkv, p.skv, p.d)]
    if hasattr(p, "mask"):
        inputs.append(tensor(p.b, 1, p.s, p.skv, dtype=torch.bool if p.mask == "bool" else DTYPE))
    grouped = p.hkv != p.h
    return inputs, lambda q, k, v, mask=None: F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=grouped)


COUNTED: list[tuple[str, dict[str, Any], Build]] = [
    ("linear", {"m": 8, "n": 360, "k": 4096, "bias": True}, linear),
    ("linear", {"m": 197, "n": 3072, "k": 768}, linear),
    ("matmul", {"m": 131, "n": 57, "k": 260}, lambda p: ([tensor(p.m, p.k), tensor(p.k, p.n)], torch.mm)),
    (
        "addmm",
        {"m": 7, "n": 1000, "k": 512},
        lambda p: ([tensor(p.n), tensor(p.m, p.k), tensor(p.k, p.n)], torch.addmm),
    ),
    (
        "bmm",
        {"b": 12, "m": 33, "n": 65, "k": 64},
        lambda p: ([tensor(p.b, p.m, p.k), tensor(p.b, p.k, p.n)], torch.bmm),
    ),
    ("conv2d", {"n": 2, "c": 3, "h": 224, "w": 200, "o": 64, "k": 7, "stride": 2, "pad": 3}, conv2d),
    ("conv2d", {"n": 2, "c": 64, "h": 15, "w": 14, "o": 96, "k": 3, "stride": 2, "pad": 1, "groups": 32}, conv2d),
    ("conv2d", {"n": 1, "c": 24, "h": 17, "w": 18, "o": 8, "k": 1, "pad": 0, "kw": 7, "padw": 3, "bias": True}, conv2d),
    ("conv2d", {"n": 1, "c": 24, "h": 17, "w": 18, "o": 8, "k": 7, "pad": 3, "kw": 1, "padw": 0}, conv2d),
    ("conv2d", {"n": 1, "c": 3, "h": 224, "w": 224, "o": 768, "k": 16, "stride": 16}, conv2d),
    ("dwconv2d", {"n": 2, "c": 40, "h": 29, "w": 31, "k": 5, "stride": 2, "pad": 2, "bias": True}, conv2d),
    ("conv1d", {"n": 3, "c": 80, "l": 301, "o": 96, "k": 3, "stride": 2, "pad": 1}, conv1d),
    ("conv_transpose2d", {"n": 2, "c": 24, "h": 7, "w": 9, "o": 16, "k": 4, "stride": 2, "pad": 1}, conv_transpose2d),
    ("conv_transpose2d", {"n": 2, "c": 24, "h": 7, "w": 9, "o": 16, "k": 3, "stride": 3}, conv_transpose2d),
    ("sdpa", {"b": 2, "h": 12, "s": 197, "d": 64}, attention),
    ("sdpa", {"b": 2, "h": 32, "hkv": 4, "s": 64, "skv": 77, "d": 80}, attention),
    ("sdpa_mask", {"b": 2, "h": 12, "s": 48, "skv": 64, "d": 32, "mask": "bool"}, attention),
    ("sdpa_mask", {"b": 2, "h": 12, "s": 48, "skv": 64, "d": 32, "mask": "float"}, attention),
    ("sdpa_decode", {"b": 3, "h": 8, "hkv": 2, "skv": 333, "d": 128}, attention),
]


def image(p: Any) -> Any:
    return tensor(p.n, p.c, p.h, p.w)


def matrix(p: Any) -> Any:
    return tensor(p.rows, p.cols)


def flat(fn: Call) -> Build:
    return lambda p: ([tensor(p.numel)], fn)


def rowwise(fn: Call) -> Build:
    return lambda p: ([matrix(p)], fn)


def pool(fn: Call) -> Build:
    return lambda p: ([image(p)], lambda x: fn(x, p.k, p.stride, p.pad))


def upsample(p: Any) -> tuple[list[Any], Call]:
    return [image(p)], lambda x: F.interpolate(x, scale_factor=p.scale, mode=p.mode)


def batchnorm(p: Any) -> tuple[list[Any], Call]:
    return [image(p), *(tensor(p.c) for _ in range(4))], F.batch_norm


def groupnorm(p: Any) -> tuple[list[Any], Call]:
    return [image(p), tensor(p.c), tensor(p.c)], lambda x, w, b: F.group_norm(x, p.groups, w, b)


def cat_channels(p: Any) -> tuple[list[Any], Call]:
    return [tensor(p.n, c, p.h, p.w) for c in p.c], lambda *t: torch.cat(t, 1)


IMAGE = {"n": 2, "c": 24, "h": 15, "w": 17}
MATRIX = {"rows": 37, "cols": 129}
FLAT = {"numel": 4096}
MOVED: list[tuple[str, dict[str, Any], Build]] = [
    ("relu", FLAT, flat(torch.relu)),
    ("gelu", FLAT, flat(F.gelu)),
    ("clamp", FLAT, flat(lambda x: x.clamp(0, 1))),
    ("rsqrt", FLAT, flat(torch.rsqrt)),
    ("mul_scalar", FLAT, flat(lambda x: x * 2.0)),
    ("copy", FLAT, flat(torch.clone)),
    ("cast", {**FLAT, "to": "fp32"}, flat(torch.Tensor.float)),
    ("cast", {**FLAT, "to": "bool"}, flat(torch.Tensor.bool)),
    ("add", FLAT, lambda p: ([tensor(p.numel), tensor(p.numel)], torch.add)),
    ("add", {**FLAT, "bcast": True}, lambda p: ([tensor(4, 1024), tensor(1024)], torch.add)),
    ("sub", {**FLAT, "bcast": True}, lambda p: ([tensor(4, 1024), tensor(4, 1)], torch.sub)),
    (
        "where",
        FLAT,
        lambda p: ([tensor(p.numel, dtype=torch.bool), tensor(p.numel)], lambda m, x: x.masked_fill(m, 0.0)),
    ),
    (
        "where",
        {**FLAT, "bcast": True},
        lambda p: ([tensor(1024, dtype=torch.bool), tensor(4, 1024)], lambda m, x: x.masked_fill(m, 0.0)),
    ),
    ("mul_row", MATRIX, lambda p: ([matrix(p), tensor(p.cols)], torch.mul)),
    ("mul_channel", IMAGE, lambda p: ([image(p), tensor(p.n, p.c, 1, 1)], torch.mul)),
    ("add_nd", IMAGE, lambda p: ([image(p), image(p)], torch.add)),
    ("add_strided", MATRIX, lambda p: ([tensor(p.rows, 2 * p.cols)[:, : p.cols], matrix(p)], torch.add)),
    ("relu_nd", IMAGE, lambda p: ([image(p)], torch.relu)),
    ("softmax", MATRIX, rowwise(lambda x: x.softmax(-1))),
    ("layernorm", MATRIX, rowwise(lambda x: F.layer_norm(x, x.shape[1:]))),
    ("cumsum", MATRIX, rowwise(lambda x: x.cumsum(-1))),
    ("sum", MATRIX, rowwise(lambda x: x.sum(-1))),
    ("mean", MATRIX, rowwise(lambda x: x.mean(-1))),
    ("batchnorm", IMAGE, batchnorm),
    ("groupnorm", {**IMAGE, "groups": 8}, groupnorm),
    ("maxpool2d", {**IMAGE, "k": 3, "stride": 2, "pad": 1}, pool(F.max_pool2d)),
    ("avgpool2d", {**IMAGE, "k": 2}, pool(F.avg_pool2d)),
    ("adaptive_avgpool2d", IMAGE, lambda p: ([image(p)], lambda x: F.adaptive_avg_pool2d(x, 1))),
    ("upsample2d", {**IMAGE, "scale": 3, "mode": "nearest"}, upsample),
    ("upsample2d", {**IMAGE, "scale": 2, "mode": "bilinear"}, upsample),
    (
        "transpose",
        {"b": 2, "s": 5, "h": 3, "d": 8},
        lambda p: ([tensor(p.b, p.s, p.h, p.d)], lambda x: x.transpose(1, 2).contiguous()),
    ),
    (
        "permute_copy",
        {"shape": [2, 3, 5, 7], "perm": [0, 3, 1, 2]},
        lambda p: ([tensor(*p.shape)], lambda x: x.permute(p.perm).contiguous()),
    ),
    ("cat", {**MATRIX, "parts": 3}, lambda p: ([matrix(p) for _ in range(p.parts)], lambda *t: torch.cat(t, 1))),
    ("cat_channels", {**IMAGE, "c": [8, 16, 3]}, cat_channels),
    ("pad2d", {**IMAGE, "pad": 2}, lambda p: ([image(p)], lambda x: F.pad(x, (p.pad,) * 4))),
    (
        "roll",
        {**IMAGE, "shift": 3},
        lambda p: ([tensor(p.n, p.h, p.w, p.c)], lambda x: x.roll((-p.shift, -p.shift), (1, 2))),
    ),
]


class Parameters:
    """Validated parameters as attributes."""

    def __init__(self, op: str, params: dict[str, Any]) -> None:
        self.__dict__.update(ops.get(op).validate(params))


def _run(op: str, params: dict[str, Any], build: Build) -> tuple[int, int]:
    """Return the FLOP that torch counts and the bytes of all inputs and the output."""
    inputs, call = build(Parameters(op, params))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = call(*inputs)
    return counter.get_total_flops(), sum(t.numel() * t.element_size() for t in [*inputs, out])


@pytest.mark.parametrize(("op", "params", "build"), COUNTED, ids=[f"{c[0]}-{i}" for i, c in enumerate(COUNTED)])
def test_flops_and_bytes_are_those_of_torch(op: str, params: dict[str, Any], build: Build) -> None:
    assert ops.evaluate(op, params, ITEMSIZE) == _run(op, params, build)


@pytest.mark.parametrize(("op", "params", "build"), MOVED, ids=[f"{c[0]}-{i}" for i, c in enumerate(MOVED)])
def test_bytes_are_those_of_the_tensors(op: str, params: dict[str, Any], build: Build) -> None:
    assert ops.evaluate(op, params, ITEMSIZE).bytes == _run(op, params, build)[1]


def test_causal_attention_is_half_of_what_torch_counts() -> None:
    shape = {"b": 2, "h": 12, "s": 128, "d": 64}
    counted, nbytes = _run("sdpa", shape, attention)
    assert ops.evaluate("sdpa", {**shape, "causal": True}, ITEMSIZE) == (counted // 2, nbytes)


@pytest.mark.parametrize(("op", "table"), [("embedding", "vocab"), ("index_select", "rows")])
def test_a_gather_reads_only_the_rows_taken(op: str, table: str) -> None:
    taken, width = ("rows", "dim") if op == "embedding" else ("take", "cols")
    index, weights = tensor(37, dtype=torch.int64), tensor(900, 64)
    out = F.embedding(index, weights) if op == "embedding" else weights.index_select(0, index)
    expected = index.numel() * index.element_size() + 2 * out.numel() * out.element_size()
    assert ops.evaluate(op, {taken: 37, width: 64, table: 900}, ITEMSIZE) == (0, expected)
