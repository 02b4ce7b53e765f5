"""How long deep-learning operators and models take on hardware you may not have."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graphs.estimation import LatencyEstimate, OperatorEstimate, estimate, estimate_operator, estimate_operators
    from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
    from graphs.hardware.detect import detect_hardware
    from graphs.hardware.mappers.registry import create_mapper
    from graphs.hardware.profile import HardwareProfile, hardware_ids, load_profile

# Names are resolved on first use, which keeps `import graphs` fast.
_HOMES = {
    "LatencyEstimate": "graphs.estimation",
    "OperatorEstimate": "graphs.estimation",
    "estimate": "graphs.estimation",
    "estimate_operator": "graphs.estimation",
    "estimate_operators": "graphs.estimation",
    "HardwareCalibration": "graphs.hardware.calibration.calibration",
    "load_calibration": "graphs.hardware.calibration.calibration",
    "detect_hardware": "graphs.hardware.detect",
    "create_mapper": "graphs.hardware.mappers.registry",
    "HardwareProfile": "graphs.hardware.profile",
    "hardware_ids": "graphs.hardware.profile",
    "load_profile": "graphs.hardware.profile",
}

__all__ = [
    "HardwareCalibration",
    "HardwareProfile",
    "LatencyEstimate",
    "OperatorEstimate",
    "create_mapper",
    "detect_hardware",
    "estimate",
    "estimate_operator",
    "estimate_operators",
    "hardware_ids",
    "load_calibration",
    "load_profile",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'graphs' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
