"""Calls that only move data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.measure.kernels.core import Bound, Maker, kernel

Params = Mapping[str, Any]


@kernel("copy")
def copy(p: Params, t: Maker) -> Bound:
    return torch.clone, (t.new(p["numel"]),)


def _contiguous(x: Tensor) -> Tensor:
    # Not .contiguous(): that returns the tensor itself where an axis of length 1 makes both orders the same.
    return x.clone(memory_format=torch.contiguous_format)


@kernel("transpose")
def transpose(p: Params, t: Maker) -> Bound:
    return (lambda x: _contiguous(x.transpose(1, 2))), (t.new(p["b"], p["s"], p["h"], p["d"]),)


@kernel("permute_copy")
def permute_copy(p: Params, t: Maker) -> Bound:
    perm = tuple(p["perm"])
    return (lambda x: _contiguous(x.permute(perm))), (t.new(*p["shape"]),)


@kernel("cat")
def cat(p: Params, t: Maker) -> Bound:
    return (lambda *parts: torch.cat(parts, 1)), tuple(t.new(p["rows"], p["cols"]) for _ in range(p["parts"]))


@kernel("cat_channels")
def cat_channels(p: Params, t: Maker) -> Bound:
    parts = tuple(t.image(p["n"], c, p["h"], p["w"], p["fmt"]) for c in p["c"])
    return (lambda *parts: torch.cat(parts, 1)), parts


@kernel("pad2d")
def pad2d(p: Params, t: Maker) -> Bound:
    pad = (p["pad"],) * 4
    return (lambda x: F.pad(x, pad)), (t.image(p["n"], p["c"], p["h"], p["w"], p["fmt"]),)


@kernel("roll")
def roll(p: Params, t: Maker) -> Bound:
    shift = (-p["shift"], -p["shift"])
    return (lambda x: torch.roll(x, shift, (1, 2))), (t.new(p["n"], p["h"], p["w"], p["c"]),)


@kernel("embedding")
def embedding(p: Params, t: Maker) -> Bound:
    return F.embedding, (t.index(p["rows"], p["vocab"]), t.new(p["vocab"], p["dim"]))


@kernel("index_select")
def index_select(p: Params, t: Maker) -> Bound:
    return (lambda x, i: torch.index_select(x, 0, i)), (t.new(p["rows"], p["cols"]), t.index(p["take"], p["rows"]))
