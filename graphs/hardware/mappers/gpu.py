"""GPU mappers.  They start uncalibrated, at the 20 % default, until `calibration` is set."""

from __future__ import annotations

from graphs.hardware.calibration import HardwareCalibration
from graphs.hardware.mappers.base import GPUMapper
from graphs.hardware.profile import load_profile

__all__ = ["GPUMapper", "create_h100_sxm_mapper", "create_h200_sxm_mapper"]


def create_h100_sxm_mapper(
    thermal_profile: str | None = None, calibration: HardwareCalibration | None = None
) -> GPUMapper:
    """Return the mapper of an NVIDIA H100 SXM5."""
    return GPUMapper(load_profile("h100-sxm"), thermal_profile, calibration)


def create_h200_sxm_mapper(
    thermal_profile: str | None = None, calibration: HardwareCalibration | None = None
) -> GPUMapper:
    """Return the mapper of an NVIDIA H200 SXM."""
    return GPUMapper(load_profile("h200-sxm"), thermal_profile, calibration)
