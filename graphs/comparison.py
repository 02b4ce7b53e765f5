"""One model on one machine, with and without its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphs.estimates import LatencyEstimate
from graphs.estimation import Calibration, Mode, estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two estimates of the same model: `calibrated`, and `uncalibrated` at the 20 % default."""

    calibrated: LatencyEstimate
    uncalibrated: LatencyEstimate

    @property
    def ratio(self) -> float:
        """Calibrated over uncalibrated latency."""
        return self.calibrated.latency_s / self.uncalibrated.latency_s


def compare_uncalibrated(
    module: Any,
    inputs: Any = None,
    *,
    hardware: str,
    dtype: str | None = None,
    mode: Mode = "device",
    calibration: Calibration = None,
    thermal_profile: str | None = None,
) -> Comparison:
    """Return the estimates with and without calibration (arguments as in `graphs.estimate`).

    The module is traced once.

    Raises
    ------
    GraphsError
        As `graphs.estimate`.
    """
    from graphs.tracing import Trace, trace

    if not isinstance(module, Trace):
        module, dtype = trace(module, inputs, dtype=dtype), None
    both = [
        estimate(module, hardware=hardware, dtype=dtype, mode=mode, calibration=c, thermal_profile=thermal_profile)
        for c in (calibration, False)
    ]
    return Comparison(*both)
