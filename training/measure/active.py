"""Which configurations to measure next on a machine that resembles another: those that tell most.

The residual between the two machines is a Gaussian process over physical features; its standard deviation at a
configuration is what the other machine's model says of its own uncertainty there.  Greedily, the configuration of the
largest variance left after those chosen so far comes next (a pivoted Cholesky factor of the kernel; Krause, Singh and
Guestrin, "Near-optimal sensor placements in Gaussian processes", JMLR 9, 2008, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import ModelFileError
from training.measure.check import predict
from training.measure.plan import Entry

Array = NDArray[np.float64]
#: Length scale in the standardised features: neighbours within it tell of each other.
_LENGTH = 2.0
#: Log half-width of the interval assumed where the other model does not answer.
_UNKNOWN = 1.0


def most_telling(entries: Sequence[Entry], like: str, count: int) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return up to `count` of the entries' configurations, most telling first.

    Parameters
    ----------
    entries : sequence of Entry
        Candidates; retests and models are passed over.
    like : str
        Id of hardware with a fitted model.

    Raises
    ------
    ModelFileError
        If it has none.
    """
    mapper = fitted(like)
    known = set(mapper.resource_model.peak_dtypes)
    candidates = [e for e in entries if e.what == "op" and e.dtype in known]
    answer = predict(candidates, mapper)
    width = 0.5 * np.log(answer["high_s"] / answer["low_s"])
    width = np.where(np.isfinite(width) & (answer["source"] == "model"), width, _UNKNOWN)
    order = greedy(_features(candidates), width, min(count, len(candidates)))
    return [(candidates[i].op, candidates[i].dtype, candidates[i].params) for i in order]


def fitted(hardware: str) -> Any:
    """Return the mapper of hardware that has a fitted model.

    Raises
    ------
    ModelFileError
        If it has none.
    """
    from graphs.hardware.mappers.registry import create_mapper

    mapper = create_mapper(hardware)
    if mapper.calibration is None or mapper.calibration.model is None:
        raise ModelFileError(f"'{hardware}' has no fitted model to start from", next_step="see `graphs hardware`")
    return mapper


def greedy(x: Array, deviation: Array, count: int) -> list[int]:
    """Return indices of rows x (n, f) by largest remaining variance; `deviation` (n,) is that before any is chosen."""
    left = deviation**2
    factor = np.zeros((len(x), count))
    chosen: list[int] = []
    for j in range(count):
        i = int(np.argmax(np.where(np.isin(np.arange(len(x)), chosen), -np.inf, left)))
        chosen.append(i)
        d2 = ((x - x[i]) ** 2).sum(axis=1)
        kernel = deviation * deviation[i] * np.exp(-0.5 * d2 / _LENGTH**2)
        # A measurement is noisy: a tenth of its variance stays.
        column = (kernel - factor[:, :j] @ factor[i, :j]) / np.sqrt(max(left[i], 0.0) + 0.1 * deviation[i] ** 2)
        factor[:, j] = column
        left = np.maximum(left - column**2, 0.0)
    return chosen


def _features(entries: Sequence[Entry]) -> Array:
    """Return log FLOP, bytes and intensity, standardised, and flags of family and dtype that keep strangers apart."""
    costs = [ops.evaluate(e.op, e.params, ops.itemsize(e.dtype)) for e in entries]
    flops = np.log([max(float(c.flops), 1.0) for c in costs])
    nbytes = np.log([float(c.bytes) for c in costs])
    physical = np.column_stack([flops, nbytes, flops - nbytes])
    physical = (physical - physical.mean(axis=0)) / np.maximum(physical.std(axis=0), 1e-9)
    families = np.array([ops.get(e.op).family for e in entries])
    kinds, dtypes = np.array([e.op for e in entries]), np.array([e.dtype for e in entries])
    flags = [3.0 * (families[:, None] == np.unique(families)), 1.0 * (kinds[:, None] == np.unique(kinds)),
             1.0 * (dtypes[:, None] == np.unique(dtypes))]  # fmt: skip
    return np.column_stack([2.0 * physical, *flags])
