"""Calls along the last axis of a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.measure.kernels.core import Bound, Maker, kernel

Params = Mapping[str, Any]


@kernel("softmax")
def softmax(p: Params, t: Maker) -> Bound:
    return (lambda x: torch.softmax(x, -1)), (t.new(p["rows"], p["cols"]),)


@kernel("sum")
def total(p: Params, t: Maker) -> Bound:
    return (lambda x: x.sum(-1)), (t.new(p["rows"], p["cols"]),)


@kernel("mean")
def mean(p: Params, t: Maker) -> Bound:
    return (lambda x: x.mean(-1)), (t.new(p["rows"], p["cols"]),)


@kernel("cumsum")
def cumsum(p: Params, t: Maker) -> Bound:
    return (lambda x: x.cumsum(-1)), (t.new(p["rows"], p["cols"]),)


@kernel("layernorm")
def layernorm(p: Params, t: Maker) -> Bound:
    cols = p["cols"]

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (cols,), weight, bias)

    return call, (t.new(p["rows"], cols), t.new(cols), t.new(cols))


@kernel("rmsnorm")
def rmsnorm(p: Params, t: Maker) -> Bound:
    cols = p["cols"]

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (cols,), weight)

    return call, (t.new(p["rows"], cols), t.new(cols))
