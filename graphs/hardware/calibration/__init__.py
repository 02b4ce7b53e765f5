"""Calibration: what was measured of a machine, fitted, and asked."""

from graphs.hardware.calibration.calibration import CalibrationMetadata, HardwareCalibration, load_calibration
from graphs.hardware.calibration.points import CalibrationWarning, OperationCalibration

__all__ = [
    "CalibrationMetadata",
    "CalibrationWarning",
    "HardwareCalibration",
    "OperationCalibration",
    "load_calibration",
]
