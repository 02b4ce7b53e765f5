"""Calls in program order into the subgraphs that the public tables have: convolution + norm + activation and so on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_ACTIVATIONS = frozenset({"relu", "relu_nd", "relu6", "silu", "gelu", "hardswish", "sigmoid", "hardsigmoid", "tanh"})
_RELU = frozenset({"relu", "relu_nd"})
_CONVOLUTIONS = frozenset({"conv2d", "dwconv2d"})
_PRODUCTS = frozenset({"linear", "addmm"})
_ATTENTION = frozenset({"sdpa", "sdpa_mask"})
_INSIDE_ATTENTION = frozenset({"linear", "addmm", "transpose", "permute_copy", "copy", "bmm", "softmax", "mul_scalar"})
_SUMS = frozenset({"add", "add_nd"})
#: Calls of one attention module at most: projections and copies on both sides.
_REACH = 8


@dataclass(frozen=True, slots=True)
class Span:
    """Calls `start` to `stop` (exclusive), and the framework nodes that they come from."""

    start: int
    stop: int
    nodes: int


def fuse(ops: Sequence[str]) -> list[Span]:
    """Return the subgraphs of a program, given the kinds of its calls in order; each call is in one.

    The order stands for the data flow: what follows directly is taken to read what came before.

    >>> [(s.start, s.stop) for s in fuse(["conv2d", "batchnorm", "relu_nd", "maxpool2d", "add_nd", "relu_nd"])]
    [(0, 3), (3, 4), (4, 6)]
    """
    return list(_spans(ops))


def _spans(ops: Sequence[str]) -> Iterator[Span]:
    i = 0
    while i < len(ops):
        stop, nodes = _next(ops, i)
        yield Span(i, stop, nodes)
        i = stop


def _next(ops: Sequence[str], i: int) -> tuple[int, int]:
    """Return the end of the subgraph that starts at call i, and its nodes."""
    op = ops[i]
    if op == "adaptive_avgpool2d" and (end := _squeeze(ops, i)):
        return end, end - i
    if op in _CONVOLUTIONS:
        end = _convolution(ops, i)
        # two in a row are one subgraph where the activation is SiLU
        if end - i == 3 and ops[end - 1] == "silu" and _at(ops, end) in _CONVOLUTIONS:
            second = _convolution(ops, end)
            if second - end == 3 and ops[second - 1] == "silu":
                end = second
        return end, end - i
    if op in _SUMS and _at(ops, i + 1) in _RELU:
        return i + 2, 2
    if op == "layernorm":
        if end := _attention(ops, i + 1):
            return end, 2
        if _at(ops, i + 1) in _PRODUCTS and _at(ops, i + 2) == "gelu":
            return i + 3, 3
    if op in _PRODUCTS and _at(ops, i + 1) in _RELU:
        return i + 2, 2
    return i + 1, 1


def _convolution(ops: Sequence[str], i: int) -> int:
    end = i + 1
    if _at(ops, end) == "batchnorm":
        end += 1
        return end + (_at(ops, end) in _ACTIVATIONS)
    return end + (_at(ops, end) in _RELU)


def _squeeze(ops: Sequence[str], i: int) -> int:
    """Return the end of a squeeze-excitation that starts with the pool at i, 0 if there is none."""
    if _at(ops, i + 1) not in _CONVOLUTIONS or _at(ops, i + 2) not in _ACTIVATIONS:
        return 0
    if ops[i + 2] == "silu" and _at(ops, i + 3) in _CONVOLUTIONS and _at(ops, i + 4) == "sigmoid":
        return i + 5 + (_at(ops, i + 5) == "mul_channel")
    return i + 3


def _attention(ops: Sequence[str], i: int) -> int:
    """Return the end of an attention module that starts at i, 0 if there is none."""
    j = i
    while j < len(ops) and j - i < _REACH and ops[j] in _INSIDE_ATTENTION:
        j += 1
    if j == i or _at(ops, j) not in _ATTENTION:
        return 0
    j += 1
    while _at(ops, j) in _INSIDE_ATTENTION:
        j += 1
        if ops[j - 1] in _PRODUCTS:
            break
    return j


def _at(ops: Sequence[str], i: int) -> str:
    return ops[i] if i < len(ops) else ""
