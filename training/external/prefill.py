"""A law of causal prefill that keeps its slopes beyond the longest prompt measured.

Trees hold the efficiency of the longest prompt they saw, while efficiency goes on rising with length: what is linear
in the prompt (rotary embedding, writing the cache, reading and writing activations) shrinks beside what is quadratic.
So the two are fitted apart, for each head size and window:

    latency = t0 + a Q + k K + c X + sqrt((g W)^2 + (l L)^2)

Q and K are the traffic of queries with output, and of keys and values, at the datasheet's bandwidth; X what of both
exceeds the last-level cache; W the causal FLOP at the peak of the whole machine; L those of the block of queries that
sees the most keys at the peak of one unit, which is the critical path where blocks are fewer than units.  The
coefficients are positive.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from training.external.features import one_peak

Array = NDArray[np.float64]

#: Queries a block of an attention kernel takes at once.
BLOCK = 128
#: Rows weigh (length / longest) ** WEIGHT: the law has to hold where it is asked to go on from.  Chosen with the form
#: on training rows alone, fitted up to 256 and up to 512 tokens and asked for the rest up to 1,536, on two sets.
WEIGHT = 2.0
#: A head size and window with fewer rows is fitted with all others of its set.
FEW = 30
#: Where searches start: of the traffic terms, the excess, compute and the critical path.  The best of them is kept:
#: short prompts can be explained without the quadratic terms, and a search may end there.
_STARTS = ((4.0, 4.0, 1.0, 1.5, 1.5), (2.0, 2.0, 1.0, 3.0, 1.0), (1.0, 1.0, 0.3, 2.0, 3.0))
#: Least coefficient of the work: nothing runs at more than twice the peak.
_LEAST_WORK = 0.5
#: Bounds of every logarithm.
_LEAST, _MOST = -30.0, 6.0
#: Errors beyond this count linearly, in log latency.
_ROBUST = 0.05


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of the law for some calls, seconds, (n,) each."""

    queries: Array
    keys: Array
    excess: Array
    work: Array
    longest: Array

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Terms:
        """Return the terms of rows of one set of causal prefill."""
        machine, peak = one_peak(frame)
        b, h, s, d, window, flops, nbytes = (
            frame[c].to_numpy(dtype=np.float64) for c in ("b", "h", "s", "d", "window", "flops", "bytes")
        )
        size = np.where(frame["dtype"] == "fp8", 1.0, 2.0)
        bandwidth = machine.bandwidth_bytes_per_s
        # the output is bf16 whatever the inputs are
        queries = b * h * s * d * (size + 2.0)
        seen = np.where(window > 0, np.minimum(s, window), s)
        return cls(
            queries / bandwidth,
            (nbytes - queries) / bandwidth,
            np.maximum(nbytes - machine.l2_bytes, 0.0) / bandwidth,
            flops / peak,
            4.0 * BLOCK * seen * d / (peak / machine.units),
        )

    def take(self, some: NDArray[np.generic]) -> Terms:
        """Return those of some of the calls."""
        return Terms(*(getattr(self, f.name)[some] for f in fields(self)))

    def latency_s(self, log: Array) -> Array:
        """Return seconds for the logarithms of t0, a, k, c, g and l."""
        t0, a, k, c, g, length = np.exp(log)
        out: Array = (
            t0 + a * self.queries + k * self.keys + c * self.excess + np.hypot(g * self.work, length * self.longest)
        )
        return out


def fit(terms: Terms, latency_s: Array, length: Array) -> Array:
    """Return the six logarithms that fit measured calls: robust least squares of log latency."""
    weight = (length / length.max()) ** WEIGHT
    log = np.log(latency_s)
    low = np.full(6, _LEAST)
    low[4] = np.log(_LEAST_WORK)
    found = [
        least_squares(
            lambda p: (np.log(terms.latency_s(p)) - log) * weight,
            np.log([float(np.quantile(latency_s, 0.01)), *start]),
            bounds=(low, _MOST), loss="soft_l1", f_scale=_ROBUST, max_nfev=100,
        )
        for start in _STARTS
    ]  # fmt: skip
    return np.asarray(min(found, key=lambda f: f.cost).x)


def fit_predict(train: pd.DataFrame, query: pd.DataFrame) -> Array:
    """Fit on rows of one set and return the seconds of others of it, (n,)."""
    seen, asked = Terms.of(train), Terms.of(query)
    latency, length = (train[c].to_numpy(dtype=np.float64) for c in ("latency_s", "s"))
    whole: Array | None = None
    out = np.empty(len(query))
    classes = train.groupby(["d", "window"]).indices
    for key, rows in query.groupby(["d", "window"]).indices.items():
        mine = classes.get(key, np.zeros(0, dtype=np.int64))
        if len(mine) >= FEW:
            law = fit(seen.take(mine), latency[mine], length[mine])
        else:
            whole = fit(seen, latency, length) if whole is None else whole
            law = whole
        out[rows] = asked.take(rows).latency_s(law)
    return out
