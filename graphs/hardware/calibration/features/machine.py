"""The few facts about a machine that features need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Dtypes that a fitted model tells apart, in the order of their one-hot columns.
FITTED_DTYPES = ("fp32", "tf32", "fp16", "bf16")


@dataclass(frozen=True, slots=True)
class Machine:
    """What features know of a machine.

    Attributes
    ----------
    units : int
        Streaming multiprocessors of a GPU, physical cores of a CPU.
    l2_bytes : float
        Last-level cache that all units share, in bytes; 0 where it is unknown.
    peaks : mapping of str to float
        Dense peak by dtype, FLOP/s.
    bandwidth_bytes_per_s : float
        Peak memory bandwidth.
    kind : "gpu" or "cpu"
    """

    units: int
    l2_bytes: float
    peaks: Mapping[str, float] = field(hash=False)
    bandwidth_bytes_per_s: float
    kind: Literal["gpu", "cpu"] = "gpu"

    @property
    def cache_bytes(self) -> float:
        """`l2_bytes`, or 1 where it is unknown: sizes relative to it stay finite."""
        return max(self.l2_bytes, 1.0)

    def peak_flops_per_s(self, dtype: NDArray[np.str_]) -> NDArray[np.float64]:
        """Return the peak of each dtype in FLOP/s; where it is unknown, that of fp32 or else the smallest.

        The stand-in only keeps features finite: whether a dtype without a peak may be priced at all is
        decided before features are built.
        """
        known = [v for v in self.peaks.values() if np.isfinite(v) and v > 0]
        stand_in = self.peaks.get("fp32") or (min(known) if known else 1e12)
        out = np.full(dtype.shape, float(stand_in))
        for name, peak in self.peaks.items():
            if np.isfinite(peak) and peak > 0:
                out[dtype == name] = peak
        return out

    def attainable_s(
        self, flops: NDArray[np.float64], nbytes: NDArray[np.float64], dtype: NDArray[np.str_]
    ) -> NDArray[np.float64]:
        """Return the roofline time max(flops / peak, bytes / bandwidth) in seconds."""
        return np.maximum(flops / self.peak_flops_per_s(dtype), nbytes / self.bandwidth_bytes_per_s)
