"""CPU mappers: ``create_<sku>_mapper`` for every CPU profile, uncalibrated (20 %) until `calibration` is set.

>>> from graphs.hardware.calibration import load_calibration
>>> from graphs.hardware.mappers.cpu import create_i7_12700k_mapper
>>> mapper = create_i7_12700k_mapper()
>>> mapper.calibration = load_calibration("profiles/i7-12700k.json")
"""

from __future__ import annotations

from graphs.hardware.mappers.base import CPUMapper
from graphs.hardware.mappers.factories import Factories, MapperFactory

__all__ = ["CPUMapper"]

# The older system kept one table for small networks and one for large; one fitted model covers both.
_FACTORIES = Factories(__name__, CPUMapper, "cpu", {"create_i7_12700k_large_mapper": "i7-12700k"})


def __getattr__(name: str) -> MapperFactory[CPUMapper]:
    return _FACTORIES[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACTORIES.names()})
