"""Mappers by hardware id."""

from __future__ import annotations

import math
import numbers
import os
from pathlib import Path
from typing import Any

from graphs.errors import ProfileError
from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.catalogue import FAMILIES, as_name, catalogue, resolve
from graphs.hardware.detect import this_hardware
from graphs.hardware.mappers.accelerators import classes
from graphs.hardware.mappers.base import CPUMapper, GPUMapper, HardwareMapper, Policy
from graphs.hardware.profile import load_profile

#: Any real number, numpy's too; typed so because `numbers.Real` has no arithmetic for type checkers.
_REAL: Any = numbers.Real

_MAPPERS: dict[str, type[HardwareMapper]] = {
    "cpu": CPUMapper, "gpu": GPUMapper, "tpu": classes.TPUMapper, "kpu": classes.KPUMapper,
    "hailo": classes.HailoMapper, "dpu": classes.DPUMapper, "cgra": classes.CGRAMapper, "dsp": classes.DSPMapper,
    "accelerator": classes.AcceleratorMapper,
}  # fmt: skip


def create_mapper(
    hardware: str | os.PathLike[str],
    *,
    calibration: HardwareCalibration | str | Path | bool | None = None,
    thermal_profile: str | None = None,
    out_of_domain: Policy = "default",
) -> HardwareMapper:
    """Return the mapper of a hardware id, with its shipped calibration.

    Parameters
    ----------
    hardware : str or path
        Id, alias, or path of a profile; ``ID@PROFILE`` names a thermal profile; ``auto`` is this machine.
    calibration : optional
        None for the shipped one, False for none (the 20 % default answers), a path (profile or fitted model), or a
        loaded calibration.
    thermal_profile : str, optional
    out_of_domain : {"default", "extrapolate", "error"}

    Raises
    ------
    UnknownHardwareError, ProfileError, ModelFileError, SchemaVersionError
    """
    hardware = as_name(hardware)
    if "@" in hardware:
        hardware, named = hardware.split("@", 1)
        if thermal_profile not in (None, named):
            raise ProfileError(
                "two thermal profiles are named",
                received=f"'{hardware}@{named}' and '{thermal_profile}'",
                allowed="one",
                next_step="leave out one of them",
            )
        thermal_profile = named
    if hardware == "auto":
        hardware = this_hardware()
    hardware = resolve(hardware)
    profile = load_profile(hardware)
    if calibration is False:
        loaded = None
    elif isinstance(calibration, HardwareCalibration):
        loaded = calibration
    else:
        loaded = load_calibration(hardware if calibration is None or calibration is True else calibration)
    # A user's own accelerator may be of a family that we have no class for.
    mapper = _MAPPERS.get(profile.family, _MAPPERS[profile.kind])
    return mapper(profile, thermal_profile, loaded, out_of_domain)


def list_all_mappers() -> list[str]:
    """Return the names that `get_mapper_by_name` takes: the hardware ids."""
    return list(catalogue())


def get_mapper_by_name(name: str, thermal_profile: str | None = None) -> HardwareMapper:
    """Return the uncalibrated mapper of a hardware id, alias, or ``ID@PROFILE``.

    Raises
    ------
    UnknownHardwareError
        With the nearest ids, for an unknown name.
    """
    return create_mapper(name, calibration=False, thermal_profile=thermal_profile)


def get_mapper_info(name: str) -> dict[str, Any]:
    """Return what is known of a mapper: id, name, vendor, category, TDP (W) and memory (bytes), None if unknown.

    Raises
    ------
    UnknownHardwareError
    """
    p = load_profile(resolve(name))
    return {
        "id": p.id,
        "name": p.name,
        "vendor": p.vendor,
        "category": p.family,
        "tdp_w": p.tdp_w.value if p.tdp_w else None,
        "memory_bytes": p.memory_bytes,
    }


def list_mappers_by_category(category: str) -> list[str]:
    """Return the ids of a family (``"gpu"``, ``"tpu"``, ...) or of the kind ``"accelerator"``.

    Raises
    ------
    ProfileError
        For a family that does not exist.
    """
    if category not in [*FAMILIES, "accelerator"]:
        raise ProfileError(
            "unknown family of hardware",
            received=category,
            allowed=", ".join([*FAMILIES, "accelerator"]),
            next_step="choose one of these",
        )
    return [e.id for e in catalogue().values() if category in (e.family, e.kind)]


def list_mappers_by_vendor(vendor: str) -> list[str]:
    """Return the ids whose vendor's name contains `vendor`, whatever the case.

    Raises
    ------
    ProfileError
        For a value that is no text.
    """
    if not isinstance(vendor, str):
        raise ProfileError(
            "a vendor is named by text",
            received=vendor,
            allowed="a name or a part of it: " + ", ".join(sorted({e.vendor for e in catalogue().values()})),
            next_step="name one of these",
        )
    return [e.id for e in catalogue().values() if vendor.lower() in e.vendor.lower()]


def list_mappers_by_tdp_range(min_tdp_w: float, max_tdp_w: float) -> list[str]:
    """Return the ids with a power limit within [min_tdp_w, max_tdp_w]; hardware without a known one is left out.

    Raises
    ------
    ProfileError
        For limits that are no numbers.
    """
    for name, limit in (("min_tdp_w", min_tdp_w), ("max_tdp_w", max_tdp_w)):
        if not isinstance(limit, _REAL) or math.isnan(limit):
            raise ProfileError(f"{name} is no power limit", received=limit, allowed="a number of watts",
                               next_step="give both limits, such as 0 and 75")  # fmt: skip
    found = []
    for name in catalogue():
        tdp = load_profile(name).tdp_w
        if tdp is not None and min_tdp_w <= tdp.value <= max_tdp_w:
            found.append(name)
    return found
