"""GPU mappers: ``create_<sku>_mapper`` for every profile, uncalibrated (20 %) until `calibration` is set."""

from __future__ import annotations

from graphs.hardware.mappers.base import GPUMapper
from graphs.hardware.mappers.factories import Factories, MapperFactory

__all__ = ["GPUMapper"]

_FACTORIES = Factories(__name__, GPUMapper, "gpu")


def __getattr__(name: str) -> MapperFactory[GPUMapper]:
    return _FACTORIES[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACTORIES.names()})
