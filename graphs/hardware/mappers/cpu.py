"""CPU mappers.  They start uncalibrated, at the 20 % default, until `calibration` is set."""

from __future__ import annotations

from graphs.hardware.calibration import HardwareCalibration
from graphs.hardware.mappers.base import CPUMapper
from graphs.hardware.profile import load_profile

__all__ = ["CPUMapper", "create_i7_12700k_mapper", "create_xeon_16c_mapper"]


def create_i7_12700k_mapper(
    thermal_profile: str | None = None, calibration: HardwareCalibration | None = None
) -> CPUMapper:
    """Return the mapper of an Intel Core i7-12700K.

    >>> from graphs.hardware.calibration import load_calibration
    >>> mapper = create_i7_12700k_mapper()
    >>> mapper.calibration = load_calibration("profiles/i7-12700k.json")
    """
    return CPUMapper(load_profile("i7-12700k"), thermal_profile, calibration)


def create_xeon_16c_mapper(
    thermal_profile: str | None = None, calibration: HardwareCalibration | None = None
) -> CPUMapper:
    """Return the mapper of 16 cores of an Intel Xeon (Emerald Rapids)."""
    return CPUMapper(load_profile("xeon-16c"), thermal_profile, calibration)
