"""Mappers by hardware id."""

from __future__ import annotations

from pathlib import Path

from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.mappers.base import CPUMapper, GPUMapper, HardwareMapper, Policy
from graphs.hardware.profile import hardware_ids, load_profile

_MAPPERS: dict[str, type[HardwareMapper]] = {"cpu": CPUMapper, "gpu": GPUMapper, "accelerator": HardwareMapper}


def create_mapper(
    hardware: str,
    *,
    calibration: HardwareCalibration | str | Path | bool | None = None,
    thermal_profile: str | None = None,
    out_of_domain: Policy = "default",
) -> HardwareMapper:
    """Return the mapper of a hardware id, with its shipped calibration.

    Parameters
    ----------
    hardware : str
        Id, alias, or path of a profile; ``ID@PROFILE`` names a thermal profile.
    calibration : optional
        None for the shipped one, False for none (the 20 % default answers), a path (profile or fitted model), or a
        loaded calibration.
    thermal_profile : str, optional
    out_of_domain : {"default", "extrapolate", "error"}

    Raises
    ------
    UnknownHardwareError, ProfileError, ModelFileError, SchemaVersionError
    """
    if "@" in hardware:
        hardware, thermal_profile = hardware.split("@", 1)
    profile = load_profile(hardware)
    if calibration is False:
        loaded = None
    elif isinstance(calibration, HardwareCalibration):
        loaded = calibration
    else:
        loaded = load_calibration(hardware if calibration is None or calibration is True else calibration)
    return _MAPPERS[profile.kind](profile, thermal_profile, loaded, out_of_domain)


def list_all_mappers() -> list[str]:
    """Return the names that `get_mapper_by_name` takes: the hardware ids."""
    return hardware_ids()


def get_mapper_by_name(name: str, thermal_profile: str | None = None) -> HardwareMapper:
    """Return the uncalibrated mapper of a hardware id, alias, or ``ID@PROFILE``.

    Raises
    ------
    UnknownHardwareError
        With the nearest ids, for an unknown name.
    """
    return create_mapper(name, calibration=False, thermal_profile=thermal_profile)
