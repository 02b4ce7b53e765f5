"""The roofline: attainable time, the bound, and the two meanings of efficiency.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Efficiency that the 20 % default assumes of the compute peak.
DEFAULT_EFFICIENCY = 0.20


@dataclass(frozen=True, slots=True)
class Roofline:
    """Times of n operators at the ceilings of one machine.

    Attributes
    ----------
    compute_s, memory_s : (n,) float64
        flops / peak and bytes / bandwidth, in seconds.
    """

    compute_s: NDArray[np.float64]
    memory_s: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        flops: NDArray[np.float64],
        nbytes: NDArray[np.float64],
        peak_flops_per_s: NDArray[np.float64] | float,
        bandwidth_bytes_per_s: float,
    ) -> Roofline:
        """Build from FLOP, bytes, FLOP/s and B/s."""
        return cls(flops / peak_flops_per_s, nbytes / bandwidth_bytes_per_s)

    @property
    def attainable_s(self) -> NDArray[np.float64]:
        """max(compute, memory): the shortest time the ceilings allow."""
        return np.maximum(self.compute_s, self.memory_s)

    def default_s(self, efficiency: float = DEFAULT_EFFICIENCY) -> NDArray[np.float64]:
        """max(compute / efficiency, memory): the default where no model answers."""
        return np.maximum(self.compute_s / efficiency, self.memory_s)

    def efficiency(self, latency_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Attainable time / latency.  Above 1 is possible (cache-resident data, Winograd) and never clipped."""
        return self.attainable_s / latency_s

    def compute_efficiency(self, latency_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """flops / (latency x peak)."""
        return self.compute_s / latency_s

    def bound(
        self, latency_s: NDArray[np.float64], compute_efficiency: float = 1.0, overhead_s: float = 0.0
    ) -> NDArray[np.str_]:
        """Return what limits each operator: ``compute``, ``memory`` or ``overhead``.

        ``overhead`` where the fixed cost of a call is more than half of its latency.  `compute_efficiency` is
        the share of the peak that the caller takes for attainable.
        """
        bound = np.where(self.compute_s / compute_efficiency >= self.memory_s, "compute", "memory")
        if overhead_s > 0.0:
            bound = np.where(overhead_s > 0.5 * latency_s, "overhead", bound)
        return bound.astype(np.str_)
