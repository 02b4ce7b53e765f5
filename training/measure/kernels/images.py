"""Calls on images that are no convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.measure.kernels.core import Bound, Maker, kernel

Params = Mapping[str, Any]


def _image(p: Params, t: Maker) -> Tensor:
    return t.image(p["n"], p["c"], p["h"], p["w"], p["fmt"])


@kernel("batchnorm")
def batchnorm(p: Params, t: Maker) -> Bound:
    c = p["c"]

    def call(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, mean, var, weight, bias)

    return call, (_image(p, t), t.new(c), t.positive(c), t.new(c), t.new(c))


@kernel("groupnorm")
def groupnorm(p: Params, t: Maker) -> Bound:
    groups = p["groups"]

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.group_norm(x, groups, weight, bias)

    return call, (_image(p, t), t.new(p["c"]), t.new(p["c"]))


@kernel("maxpool2d")
def maxpool2d(p: Params, t: Maker) -> Bound:
    k, stride, pad = p["k"], p["stride"], p["pad"]
    return (lambda x: F.max_pool2d(x, k, stride, pad)), (_image(p, t),)


@kernel("avgpool2d")
def avgpool2d(p: Params, t: Maker) -> Bound:
    k, stride, pad = p["k"], p["stride"], p["pad"]
    return (lambda x: F.avg_pool2d(x, k, stride, pad)), (_image(p, t),)


@kernel("adaptive_avgpool2d")
def adaptive_avgpool2d(p: Params, t: Maker) -> Bound:
    return (lambda x: F.adaptive_avg_pool2d(x, 1)), (_image(p, t),)


@kernel("upsample2d")
def upsample2d(p: Params, t: Maker) -> Bound:
    scale, mode = p["scale"], p["mode"]
    return (lambda x: F.interpolate(x, scale_factor=float(scale), mode=mode)), (_image(p, t),)
