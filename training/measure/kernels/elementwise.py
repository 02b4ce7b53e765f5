"""Elementwise calls of one tensor and of two."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphs.ops.elementwise import as_matrix
from training.measure.kernels.core import TORCH_DTYPE, Bound, Maker, kernel

Params = Mapping[str, Any]

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "pow2": lambda x: x.pow(2),
    "rsqrt": torch.rsqrt,
    "neg": torch.neg,
    "cos": torch.cos,
    "erf": torch.erf,
    "abs": torch.abs,
    "clamp": lambda x: torch.clamp(x, -0.5, 0.5),
    "add_scalar": lambda x: x + 1.5,
    "mul_scalar": lambda x: x * 1.5,
}


def _register_unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    @kernel(name)
    def build(p: Params, t: Maker) -> Bound:
        return function, (t.new(p["numel"]),)


for _name, _function in _UNARY.items():
    _register_unary(_name, _function)

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "mul": operator.mul, "div": operator.truediv, "sub": operator.sub,
}  # fmt: skip


def _register_binary(name: str, function: Callable[[Any, Any], Any]) -> None:
    @kernel(name)
    def build(p: Params, t: Maker) -> Bound:
        if not p["bcast"]:
            return function, (t.new(p["numel"]), t.new(p["numel"]))
        rows, columns = as_matrix(p["numel"])
        # `sub` repeats a column, the others a row (graphs.ops.elementwise).
        other = t.new(rows, 1) if name == "sub" else t.new(columns)
        return function, (t.new(rows, columns), other)


for _name, _both in _BINARY.items():
    _register_binary(_name, _both)


@kernel("relu_nd")
def relu_nd(p: Params, t: Maker) -> Bound:
    return torch.relu, (t.image(p["n"], p["c"], p["h"], p["w"], p["fmt"]),)


@kernel("add_nd")
def add_nd(p: Params, t: Maker) -> Bound:
    shape = (p["n"], p["c"], p["h"], p["w"], p["fmt"])
    return operator.add, (t.image(*shape), t.image(*shape))


@kernel("mul_channel")
def mul_channel(p: Params, t: Maker) -> Bound:
    return operator.mul, (t.image(p["n"], p["c"], p["h"], p["w"], p["fmt"]), t.new(p["n"], p["c"], 1, 1))


@kernel("mul_row")
def mul_row(p: Params, t: Maker) -> Bound:
    return operator.mul, (t.new(p["rows"], p["cols"]), t.new(p["cols"]))


@kernel("add_strided")
def add_strided(p: Params, t: Maker) -> Bound:
    return operator.add, (t.new(p["rows"], 2 * p["cols"])[:, : p["cols"]], t.new(p["rows"], p["cols"]))


@kernel("where")
def where(p: Params, t: Maker) -> Bound:
    rows, columns = as_matrix(p["numel"])
    mask = t.mask(columns) if p["bcast"] else t.mask(rows, columns)

    def call(mask: Tensor, x: Tensor) -> Tensor:
        return torch.where(mask, x, 0.0)

    return call, (mask, t.new(rows, columns))


@kernel("cast")
def cast(p: Params, t: Maker) -> Bound:
    to = TORCH_DTYPE[p["to"]] if p["to"] in TORCH_DTYPE else getattr(torch, _OTHER[p["to"]])

    def call(x: Tensor) -> Tensor:
        return x.to(to)

    return call, (t.new(p["numel"]),)


_OTHER = {"fp64": "float64", "fp8": "float8_e4m3fn", "int64": "int64", "int32": "int32", "int16": "int16",
          "int8": "int8", "bool": "bool"}  # fmt: skip
