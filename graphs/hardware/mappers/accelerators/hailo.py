"""Hailo mappers: ``create_<sku>_mapper`` for every profile, uncalibrated (20 %) until `calibration` is set."""

from __future__ import annotations

from graphs.hardware.mappers.accelerators.classes import HailoMapper
from graphs.hardware.mappers.factories import Factories, MapperFactory

__all__ = ["HailoMapper"]

_FACTORIES = Factories(__name__, HailoMapper, "hailo")


def __getattr__(name: str) -> MapperFactory[HailoMapper]:
    return _FACTORIES[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACTORIES.names()})
