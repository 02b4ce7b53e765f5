"""Matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.measure.kernels.core import Bound, Maker, kernel

Params = Mapping[str, Any]


@kernel("linear")
def linear(p: Params, t: Maker) -> Bound:
    x, weight = t.new(p["m"], p["k"]), t.new(p["n"], p["k"])
    return (F.linear, (x, weight, t.new(p["n"]))) if p["bias"] else (F.linear, (x, weight))


@kernel("matmul")
def matmul(p: Params, t: Maker) -> Bound:
    return torch.mm, (t.new(p["m"], p["k"]), t.new(p["k"], p["n"]))


@kernel("addmm")
def addmm(p: Params, t: Maker) -> Bound:
    return torch.addmm, (t.new(p["n"]), t.new(p["m"], p["k"]), t.new(p["k"], p["n"]))


@kernel("bmm")
def bmm(p: Params, t: Maker) -> Bound:
    return torch.bmm, (t.new(p["b"], p["m"], p["k"]), t.new(p["b"], p["k"], p["n"]))


@kernel("conv2d", "dwconv2d")
def conv2d(p: Params, t: Maker) -> Bound:
    k, kw = p["k"], p.get("kw", p["k"])
    stride, pad, groups = p["stride"], (p["pad"], p.get("padw", p["pad"])), p["groups"]
    x = t.image(p["n"], p["c"], p["h"], p["w"], p["fmt"])
    # Weights in the format of the input: otherwise each call would reorder them first.
    weight = t.image(p["o"], p["c"] // groups, k, kw, p["fmt"])

    def call(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, stride, pad, 1, groups)

    return (call, (x, weight, t.new(p["o"]))) if p["bias"] else (call, (x, weight))


@kernel("conv1d")
def conv1d(p: Params, t: Maker) -> Bound:
    stride, pad = p["stride"], p["pad"]

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv1d(x, weight, None, stride, pad)

    return call, (t.new(p["n"], p["c"], p["l"]), t.new(p["o"], p["c"], p["k"]))


@kernel("conv_transpose2d")
def conv_transpose2d(p: Params, t: Maker) -> Bound:
    stride, pad = p["stride"], p["pad"]

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, None, stride, pad)

    x = t.image(p["n"], p["c"], p["h"], p["w"], p["fmt"])
    return call, (x, t.image(p["c"], p["o"], p["k"], p["k"], p["fmt"]))


def _heads(t: Maker, b: int, h: int, s: int, d: int, layout: str) -> Tensor:
    return t.new(b, s, h, d).transpose(1, 2) if layout == "bshd" else t.new(b, h, s, d)


@kernel("sdpa", "sdpa_decode")
def sdpa(p: Params, t: Maker) -> Bound:
    layout, causal, grouped = p.get("layout", "bhsd"), p["causal"], p["hkv"] != p["h"]

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    q = _heads(t, p["b"], p["h"], p["s"], p["d"], layout)
    return call, (q, *(_heads(t, p["b"], p["hkv"], p["skv"], p["d"], layout) for _ in range(2)))


@kernel("sdpa_mask")
def sdpa_mask(p: Params, t: Maker) -> Bound:
    grouped = p["hkv"] != p["h"]

    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)

    shape = (p["b"], 1, p["s"], p["skv"])
    q, k, v = t.new(p["b"], p["h"], p["s"], p["d"]), *(
        t.new(p["b"], p["hkv"], p["skv"], p["d"]) for _ in range(2)
    )  # fmt: skip
    return call, (q, k, v, t.mask(*shape) if p["mask"] == "bool" else t.new(*shape))
