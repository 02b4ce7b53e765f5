"""DSP mappers: ``create_<sku>_mapper`` for every profile, uncalibrated (20 %) until `calibration` is set."""

from __future__ import annotations

from graphs.hardware.mappers.accelerators.classes import DSPMapper
from graphs.hardware.mappers.factories import Factories, MapperFactory

__all__ = ["DSPMapper"]

_FACTORIES = Factories(__name__, DSPMapper, "dsp")


def __getattr__(name: str) -> MapperFactory[DSPMapper]:
    return _FACTORIES[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACTORIES.names()})
