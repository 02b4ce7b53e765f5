"""Physical features of operator calls on a machine: what fitted models see.

All kinds of one family give the same columns, so that one model serves the family.  Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graphs.errors import UnknownOperatorError
from graphs.hardware.calibration.features import (
    attention,
    convolution,
    elementwise,
    gemm,
    memory,
    rowwise,
    spatial,
)
from graphs.hardware.calibration.features.classes import partitions
from graphs.hardware.calibration.features.machine import FITTED_DTYPES, Machine
from graphs.ops.batch import OperatorGroup

__all__ = ["FAMILIES", "FEATURES_VERSION", "FITTED_DTYPES", "Machine", "build", "family_of", "partitions"]

#: Changes whenever a column changes meaning; a fitted model of another version is refused.
FEATURES_VERSION = 4

Builder = Callable[[OperatorGroup, Machine], tuple[list[str], NDArray[np.float64]]]

#: Kinds and builder of each family.
FAMILIES: dict[str, tuple[tuple[str, ...], Builder]] = {
    "gemm": (gemm.OPS, gemm.build),
    "conv2d": (convolution.OPS, convolution.build),
    "dwconv2d": (convolution.DEPTHWISE_OPS, convolution.build_depthwise),
    "sdpa": (attention.OPS, attention.build),
    "sdpa_decode": (attention.DECODE_OPS, attention.build_decode),
    "unary": (elementwise.UNARY_OPS, elementwise.build_unary),
    "binary": (elementwise.BINARY_OPS, elementwise.build_binary),
    "rowwise": (rowwise.OPS, rowwise.build),
    "nchw": (spatial.OPS, spatial.build),
    "mem": (memory.OPS, memory.build),
}
_FAMILY_OF = {op: family for family, (ops, _) in FAMILIES.items() for op in ops}


def family_of(op: str) -> str:
    """Return the family whose model serves this kind, or raise `UnknownOperatorError`."""
    try:
        return _FAMILY_OF[op]
    except KeyError:
        raise UnknownOperatorError(
            "no features are defined for this operator",
            received=op,
            allowed=", ".join(sorted(_FAMILY_OF)),
            next_step="it is priced by the default efficiency",
        ) from None


def build(group: OperatorGroup, machine: Machine) -> tuple[list[str], NDArray[np.float64]]:
    """Return the features of one group of calls.

    Parameters
    ----------
    group : OperatorGroup
        Calls of one kind.
    machine : Machine

    Returns
    -------
    names : list of str, length f
        The same for every kind of one family.
    features : (n, f) float64
        Finite.

    Raises
    ------
    UnknownOperatorError
        For a kind that belongs to no family.
    """
    return FAMILIES[family_of(group.kind.name)][1](group, machine)
