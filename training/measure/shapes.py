"""Random parameters of every operator kind, in the ranges that networks use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
Params = dict[str, Any]
Draw = Callable[[Rng], Params]

_COMMON = (32, 64, 96, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 8192)
_HEAD = (32, 40, 64, 64, 64, 80, 96, 128)
DRAWS: dict[str, Draw] = {}


def size(rng: Rng, low: int, high: int) -> int:
    """Return a size, log-uniform, mixing widths of networks, powers of two, multiples of 64 and 8, and odd ones."""
    value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    how = rng.random()
    if how < 0.25:
        value = min(_COMMON, key=lambda c: abs(np.log(c / value)))
    elif how < 0.45:
        value = 2 ** round(np.log2(value))
    elif how < 0.65:
        value = 64 * max(1, round(value / 64))
    elif how < 0.85:
        value = 8 * max(1, round(value / 8))
    return int(min(max(round(value), low), high))


def _pick(rng: Rng, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _flip(rng: Rng, share: float = 0.5) -> bool:
    return bool(rng.random() < share)


def _draws(*names: str) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        for name in names:
            DRAWS[name] = draw
        return draw

    return register


def _image(rng: Rng, channels: tuple[int, int] = (8, 1536), fmt: bool = True) -> Params:
    side = _pick(rng, (7, 8, 14, 16, 28, 32, 56, 64, 112, 128, 224))
    out = {"n": _pick(rng, (1, 1, 2, 4, 8, 16)), "c": size(rng, *channels), "h": side, "w": side}
    if _flip(rng, 0.2):
        out["w"] = size(rng, 4, 256)
    return {**out, "fmt": _pick(rng, ("contiguous", "contiguous", "channels_last"))} if fmt else out


@_draws(
    "relu", "gelu", "silu", "sigmoid", "tanh", "exp", "hardswish", "relu6", "hardsigmoid", "pow2", "rsqrt", "neg",
    "cos", "erf", "abs", "clamp", "add_scalar", "mul_scalar", "copy",
)  # fmt: skip
def _unary(rng: Rng) -> Params:
    return {"numel": size(rng, 512, 1 << 26)}


@_draws("cast")
def _cast(rng: Rng) -> Params:
    return {**_unary(rng), "to": _pick(rng, ("fp32", "fp32", "bf16", "fp16"))}


@_draws("add", "mul", "div", "sub", "where")
def _binary(rng: Rng) -> Params:
    # Rows of 1024 are cut: other sizes would name another call than the one that runs.
    return {"numel": 1024 * max(2, size(rng, 512, 1 << 26) // 1024), "bcast": _flip(rng, 0.3)}


@_draws("mul_row", "add_strided")
def _matrix(rng: Rng) -> Params:
    return {"rows": size(rng, 2, 65536), "cols": size(rng, 16, 8192)}


@_draws("softmax", "layernorm", "rmsnorm", "sum", "mean", "cumsum")
def _rowwise(rng: Rng) -> Params:
    return {"rows": size(rng, 1, 131072), "cols": size(rng, 16, 16384)}


@_draws("relu_nd", "add_nd", "mul_channel", "batchnorm", "adaptive_avgpool2d")
def _nchw(rng: Rng) -> Params:
    return _image(rng)


@_draws("groupnorm")
def _groupnorm(rng: Rng) -> Params:
    image = _image(rng, (32, 1536))
    return {**image, "c": 32 * max(1, image["c"] // 32), "groups": 32}


@_draws("maxpool2d", "avgpool2d")
def _pool(rng: Rng) -> Params:
    k, stride, pad = _pick(rng, ((2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), (3, 2, 0), (5, 1, 2), (7, 7, 0)))
    return {**_image(rng), "k": k, "stride": stride, "pad": pad}


@_draws("upsample2d")
def _upsample(rng: Rng) -> Params:
    image = _image(rng, (8, 768))
    return {**image, "scale": _pick(rng, (2, 2, 2, 4)), "mode": _pick(rng, ("nearest", "bilinear"))}


@_draws("pad2d")
def _pad(rng: Rng) -> Params:
    return {**_image(rng), "pad": _pick(rng, (1, 1, 2, 3))}


@_draws("linear")
def _linear(rng: Rng) -> Params:
    m = size(rng, 1, 16384) if _flip(rng, 0.8) else _pick(rng, (1, 2, 4, 8))
    return {"m": m, "n": size(rng, 16, 12288), "k": size(rng, 16, 12288), "bias": _flip(rng)}


@_draws("matmul", "addmm")
def _matmul(rng: Rng) -> Params:
    return {"m": size(rng, 1, 16384), "n": size(rng, 16, 12288), "k": size(rng, 16, 12288)}


@_draws("bmm")
def _bmm(rng: Rng) -> Params:
    return {"b": size(rng, 2, 512), "m": size(rng, 1, 2048), "n": size(rng, 8, 2048), "k": size(rng, 8, 2048)}


@_draws("conv2d")
def _conv2d(rng: Rng) -> Params:
    k, stride, pad = _pick(
        rng, ((1, 1, 0), (1, 1, 0), (3, 1, 1), (3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 1, 2), (7, 2, 3), (4, 4, 0))
    )
    image = _image(rng, (3, 1024))
    groups = 1
    if _flip(rng, 0.15):
        groups = _pick(rng, (2, 4, 8, 32))
        image["c"] = groups * max(1, image["c"] // groups)
    o = groups * max(1, size(rng, 8, 1024) // groups)
    out = {**image, "o": o, "k": k, "stride": stride, "pad": pad, "groups": groups, "bias": _flip(rng, 0.3)}
    if _flip(rng, 0.05):
        out |= {"k": 1, "kw": 7, "stride": 1, "pad": 0, "padw": 3}
    # Depthwise convolutions are a kind of their own.
    return out if not groups == out["c"] == o or groups == 1 else {**out, "o": 2 * o}


@_draws("dwconv2d")
def _dwconv2d(rng: Rng) -> Params:
    k = _pick(rng, (3, 3, 3, 5, 7))
    image = _image(rng, (8, 1536))
    c = image["c"]
    return {**image, "o": c, "groups": c, "k": k, "stride": _pick(rng, (1, 1, 2)), "pad": k // 2, "bias": _flip(rng)}


@_draws("conv1d")
def _conv1d(rng: Rng) -> Params:
    k = _pick(rng, (1, 3, 5, 7, 9))
    shape = {"n": _pick(rng, (1, 2, 4, 8)), "c": size(rng, 8, 768), "l": size(rng, 32, 8192), "o": size(rng, 8, 768)}
    return {**shape, "k": k, "stride": _pick(rng, (1, 1, 2)), "pad": k // 2}


@_draws("conv_transpose2d")
def _conv_transpose2d(rng: Rng) -> Params:
    k, stride, pad = _pick(rng, ((2, 2, 0), (4, 2, 1), (3, 2, 1), (3, 1, 1)))
    image = {**_image(rng, (8, 512)), "n": _pick(rng, (1, 1, 2, 4))}
    side = _pick(rng, (7, 8, 14, 16, 28, 32, 56, 64))
    return {**image, "h": side, "w": side, "o": size(rng, 8, 512), "k": k, "stride": stride, "pad": pad}


def _attention(rng: Rng, longest: int) -> Params:
    h = _pick(rng, (1, 4, 8, 12, 16, 20, 32))
    s = size(rng, 16, longest)
    return {"b": _pick(rng, (1, 1, 2, 4, 8)), "h": h, "hkv": h, "s": s, "skv": s, "d": _pick(rng, _HEAD)}


@_draws("sdpa")
def _sdpa(rng: Rng) -> Params:
    out = {**_attention(rng, 4096), "causal": _flip(rng), "layout": _pick(rng, ("bhsd", "bhsd", "bshd"))}
    if out["layout"] == "bshd" and out["h"] == 1:
        out["layout"] = "bhsd"
    if out["h"] % 4 == 0 and _flip(rng, 0.15):
        out["hkv"] = out["h"] // 4
    if not out["causal"] and _flip(rng, 0.15):
        out["skv"] = size(rng, 16, 2048)
    return out


@_draws("sdpa_mask")
def _sdpa_mask(rng: Rng) -> Params:
    return {**_attention(rng, 2048), "mask": _pick(rng, ("bool", "float"))}


@_draws("sdpa_decode")
def _sdpa_decode(rng: Rng) -> Params:
    out = {**_attention(rng, 2048), "s": 1, "skv": size(rng, 16, 16384), "causal": False}
    if out["h"] % 4 == 0 and _flip(rng, 0.4):
        out["hkv"] = out["h"] // 4
    return out


@_draws("transpose")
def _transpose(rng: Rng) -> Params:
    h = _pick(rng, (2, 4, 8, 12, 16, 32))
    return {"b": _pick(rng, (1, 1, 2, 4, 8, 16)), "s": size(rng, 8, 4096), "h": h, "d": _pick(rng, _HEAD)}


@_draws("permute_copy")
def _permute_copy(rng: Rng) -> Params:
    # Forms that do not merge into fewer axes; (b, s, h, d) to (b, h, s, d) is `transpose`.
    if _flip(rng, 0.7):
        return {"shape": [_pick(rng, (1, 2, 8, 32)), size(rng, 8, 4096), size(rng, 8, 2048)], "perm": [0, 2, 1]}
    shape = [size(rng, 2, 64), size(rng, 2, 128), size(rng, 2, 128), size(rng, 8, 512)]
    return {"shape": shape, "perm": list(_pick(rng, ((0, 3, 2, 1), (1, 0, 3, 2), (2, 1, 0, 3))))}


@_draws("cat")
def _cat(rng: Rng) -> Params:
    return {"parts": int(rng.integers(2, 5)), "rows": size(rng, 1, 32768), "cols": size(rng, 8, 4096)}


@_draws("cat_channels")
def _cat_channels(rng: Rng) -> Params:
    image = _image(rng, (8, 512))
    return {**image, "c": [size(rng, 8, 512) for _ in range(int(rng.integers(2, 7)))]}


@_draws("roll")
def _roll(rng: Rng) -> Params:
    side = _pick(rng, (14, 16, 28, 32, 56, 64))
    return {"n": _pick(rng, (1, 1, 2, 4, 8)), "h": side, "w": side, "c": size(rng, 32, 1024), "shift": 3}


@_draws("embedding")
def _embedding(rng: Rng) -> Params:
    vocab = _pick(rng, (1000, 30522, 32000, 50257, 50265))
    return {"rows": size(rng, 1, 16384), "vocab": vocab, "dim": size(rng, 64, 4096)}


@_draws("index_select")
def _index_select(rng: Rng) -> Params:
    return {"rows": size(rng, 16, 32768), "take": size(rng, 1, 65536), "cols": size(rng, 8, 4096)}


def draw(op: str, rng: Rng) -> Params:
    """Return random parameters of a kind."""
    return DRAWS[op](rng)
