"""Mapper classes of accelerators, one a family.  Nothing was measured on any: the 20 % default answers.

They differ from the base class in what they accept only: no factor is made up for a family without a measurement.
Dtypes without a published peak are refused, which for most is every floating-point dtype.
"""

from __future__ import annotations

from graphs.errors import ProfileError
from graphs.hardware.calibration.calibration import HardwareCalibration
from graphs.hardware.mappers.base import HardwareMapper, Policy
from graphs.hardware.profile import HardwareProfile


class AcceleratorMapper(HardwareMapper):
    """Maps operators onto an accelerator of a family (see `HardwareMapper`).

    Raises
    ------
    ProfileError
        If the profile belongs to another family.
    """

    kinds = ("accelerator",)
    #: Family of the profiles that this mapper is for; empty for any.
    family: str = ""

    def __init__(
        self,
        resource_model: HardwareProfile,
        thermal_profile: str | None = None,
        calibration: HardwareCalibration | None = None,
        out_of_domain: Policy = "default",
    ) -> None:
        if self.family and resource_model.family != self.family:
            raise ProfileError(
                f"{type(self).__name__} does not map hardware '{resource_model.id}'",
                received=resource_model.family,
                allowed=self.family,
                next_step=f"use graphs.create_mapper('{resource_model.id}')",
            )
        super().__init__(resource_model, thermal_profile, calibration, out_of_domain)


class TPUMapper(AcceleratorMapper):
    """Maps operators onto a chip with systolic arrays."""

    family = "tpu"


class KPUMapper(AcceleratorMapper):
    """Maps operators onto a domain-flow processor."""

    family = "kpu"


class HailoMapper(AcceleratorMapper):
    """Maps operators onto a Hailo dataflow processor (int8)."""

    family = "hailo"


class DPUMapper(AcceleratorMapper):
    """Maps operators onto a Vitis AI processor in an FPGA (int8)."""

    family = "dpu"


class CGRAMapper(AcceleratorMapper):
    """Maps operators onto a coarse-grained reconfigurable array."""

    family = "cgra"


class DSPMapper(AcceleratorMapper):
    """Maps operators onto a signal processor with a matrix unit."""

    family = "dsp"
