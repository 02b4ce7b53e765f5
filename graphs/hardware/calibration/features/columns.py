"""Building blocks of features: named columns, alignment, tiles and waves, and what every family shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.machine import FITTED_DTYPES, Machine
from graphs.ops.batch import OperatorGroup

Array = NDArray[np.float64]


class Columns:
    """Named feature columns of `n` rows, in the order they were added."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._columns: dict[str, Array] = {}

    def add(self, name: str, value: Any) -> None:
        """Add one column; a scalar is repeated."""
        self._columns[name] = np.asarray(value, dtype=np.float64)

    def log(self, name: str, value: Any) -> None:
        """Add the base-2 logarithm of a positive quantity."""
        self.add("lg_" + name, log2(value))

    def one_hot(self, prefix: str, values: NDArray[np.str_] | str, choices: Sequence[str]) -> None:
        """Add one 0/1 column for each of `choices`."""
        for choice in choices:
            self.add(f"{prefix}_{choice}", np.asarray(values == choice, dtype=np.float64))

    def drop(self, names: Sequence[str]) -> None:
        """Take columns out again."""
        for name in names:
            del self._columns[name]

    def result(self) -> tuple[list[str], Array]:
        """Return the names and the (n, f) matrix."""
        out = np.empty((self.n, len(self._columns)))
        for i, column in enumerate(self._columns.values()):
            out[:, i] = column
        return list(self._columns), out


def log2(value: Any) -> Array:
    """Return the base-2 logarithm, of at least 1e-12 so that zeros stay finite."""
    logs: Array = np.log2(np.maximum(np.asarray(value, dtype=np.float64), 1e-12))
    return logs


def param(group: OperatorGroup, name: str, default: Any = None) -> NDArray[Any]:
    """Return a parameter column; `default` (scalar or column) where the kind lacks it or the row leaves it out."""
    n = len(group)
    if name not in group.params:
        return np.broadcast_to(np.asarray(default), (n,))
    column = group.params[name]
    if column.dtype.kind == "f" and default is not None:
        return np.where(np.isnan(column), default, column)
    return column


def channels_last(group: OperatorGroup) -> NDArray[np.bool_]:
    """Return where the tensors are stored channels-last."""
    return np.asarray(param(group, "fmt", "contiguous") == "channels_last")


def device_dtype(group: OperatorGroup) -> NDArray[np.str_]:
    """Return the dtypes with tf32 as fp32 where no matrix unit takes part: the kernels are the same."""
    if getattr(group.kind, "uses_matrix_units", False):
        return group.dtype
    return np.where(group.dtype == "tf32", "fp32", group.dtype)


def ceil_div(a: Any, b: Any) -> Array:
    """Return a / b rounded up."""
    quotient: Array = np.ceil(np.asarray(a, dtype=np.float64) / b)
    return quotient


def alignment(value: Any, cap: int) -> Array:
    """Return log2 of the largest power of two, at most `cap`, that divides `value`."""
    steps = 2.0 ** np.arange(1, cap.bit_length())
    whole: Array = (np.mod(np.asarray(value, dtype=np.float64)[..., None], steps) == 0.0).sum(axis=-1, dtype=np.float64)
    return whole


def fill(tasks: Any, slots: Any) -> tuple[Array, Array]:
    """Return log2 of the waves that `tasks` equal pieces of work make on `slots`, and the share of slots busy.

    The share is tasks / (ceil(tasks / slots) x slots): the tail of the last wave, 1 when it is full.
    """
    waves = np.asarray(tasks, dtype=np.float64) / slots
    return log2(waves), waves / np.maximum(np.ceil(waves), 1.0)


def add_common(c: Columns, group: OperatorGroup, machine: Machine, ops: Sequence[str]) -> None:
    """Add what every family shares: work, roofline position, cache ratio, dtype and kind of operator."""
    dtype = device_dtype(group)
    compute_s = group.flops / machine.peak_flops_per_s(dtype)
    memory_s = group.bytes / machine.bandwidth_bytes_per_s
    c.log("flops", np.maximum(group.flops, 1.0))
    c.log("bytes", group.bytes)
    c.log("roofline_us", 1e6 * np.maximum(compute_s, memory_s))
    # Log of arithmetic intensity over the ridge point, bounded where there is no arithmetic at all.
    c.add("lg_ai_over_ridge", np.clip(log2(compute_s) - log2(memory_s), -20.0, 20.0))
    c.add("lg_bytes_over_l2", np.clip(log2(group.bytes / machine.cache_bytes), -8.0, 6.0))
    c.one_hot("dtype", dtype, FITTED_DTYPES)
    if len(ops) > 1:
        c.one_hot("op", group.kind.name, ops)
