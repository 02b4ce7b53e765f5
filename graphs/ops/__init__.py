"""Operator kinds: what each computes, in FLOP and bytes, as pure functions of shapes."""

# The first line is for its effect: each of these registers its kinds.
from graphs.ops import attention, convolution, elementwise, gemm, memory, rowwise, spatial  # noqa: F401
from graphs.ops.batch import OperatorGroup, group_operators, parse_params
from graphs.ops.dtypes import ITEMSIZE, canonical, itemsize
from graphs.ops.spec import Cost, OperatorKind, Param, evaluate, get, kinds, operator, unregister

__all__ = [
    "ITEMSIZE",
    "Cost",
    "OperatorGroup",
    "OperatorKind",
    "Param",
    "canonical",
    "evaluate",
    "get",
    "group_operators",
    "itemsize",
    "kinds",
    "operator",
    "parse_params",
    "unregister",
]
