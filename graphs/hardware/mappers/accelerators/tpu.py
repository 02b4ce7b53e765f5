"""TPU mappers: ``create_<sku>_mapper`` for every profile, uncalibrated (20 %) until `calibration` is set."""

from __future__ import annotations

from graphs.hardware.mappers.accelerators.classes import TPUMapper
from graphs.hardware.mappers.factories import Factories, MapperFactory

__all__ = ["TPUMapper"]

_FACTORIES = Factories(__name__, TPUMapper, "tpu")


def __getattr__(name: str) -> MapperFactory[TPUMapper]:
    return _FACTORIES[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACTORIES.names()})
