"""Clock and throttle state of a GPU, asked of NVML at every sample."""

from __future__ import annotations

import importlib
from typing import Any

import torch

#: NVML's reasons for lower clocks that make a sample useless: hardware slowdown, thermal (software and hardware),
#: power brake.  The software power cap is not among them: a device at its power cap runs so in use.
THROTTLE_BITS = 0x8 | 0x20 | 0x40 | 0x80
#: A sample below this share of the largest clock does not count either, unless the power cap or a clock that was set
#: (NVML's software power cap and application clocks) explains it.
_LOW_CLOCK, _EXPLAINED = 0.5, 0x4 | 0x2
#: So many low samples in a row are a device that wakes up; if it is still low then, it goes no faster.
_PATIENCE = 20
#: What `Clocks.verdict` says.
GOOD, THROTTLED, ASLEEP = "good", "throttled", "asleep"
#: The function that tells the reasons, under its name since 2023 and before; a library may know what the driver does
#: not.
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


class Clocks:
    """Clock and throttle state of one GPU through NVML; `missing` says why where it cannot be asked.

    Parameters
    ----------
    index : int
        torch's number of the device.  NVML counts all devices of the machine, torch those that are visible: the device
        is looked up by its UUID, and by its place on the bus where that is no GPU of its own (a MIG slice shares the
        clock of its GPU).
    """

    def __init__(self, index: int = 0) -> None:
        self.handle: Any = None
        self.missing, self.patience, self.max_hz = "", _PATIENCE, 0.0
        self._reasons: Any = None
        try:
            # Not a dependency: any version that is installed beside the driver will do.
            self.nvml: Any = importlib.import_module("pynvml")
            self.nvml.nvmlInit()
            self.handle = self._found(torch.cuda.get_device_properties(index))
            self.max_hz = 1e6 * self.nvml.nvmlDeviceGetMaxClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
            self._reasons = self._function()
            self.read()
        except Exception as error:  # NVML has many ways to be missing; each row then says that nobody watched
            self.handle, self.missing = None, f"{type(error).__name__}: {error}"

    def _found(self, properties: Any) -> Any:
        uuid = str(properties.uuid)
        try:
            return self.nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        except self.nvml.NVMLError:
            address = bus_address(properties)
            if address is None:
                raise
            return self.nvml.nvmlDeviceGetHandleByPciBusId(address)

    def _function(self) -> Any:
        known = [getattr(self.nvml, name) for name in _REASONS if hasattr(self.nvml, name)]
        for ask in known[:-1]:
            try:
                ask(self.handle)
            except self.nvml.NVMLError:
                continue  # a driver that is older than the library
            return ask
        return known[-1]

    def read(self) -> tuple[float | None, int]:
        """Return the SM clock in Hz (None if unknown) and the bits of NVML's throttle reasons.

        Raises
        ------
        RuntimeError
            If NVML answered before and does not now.
        """
        if self.handle is None:
            return None, 0
        try:
            hz = 1e6 * self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
            return hz, int(self._reasons(self.handle))
        except self.nvml.NVMLError as error:
            raise RuntimeError(f"NVML tells no clock: {error}") from error

    def verdict(self, hz: float | None, reasons: int) -> str:
        """Return whether a sample taken in this state counts (`GOOD`), or why not (`THROTTLED`, `ASLEEP`)."""
        if hz is None:
            return GOOD
        if reasons & THROTTLE_BITS:
            return THROTTLED
        if hz >= _LOW_CLOCK * self.max_hz or reasons & _EXPLAINED:
            self.patience = _PATIENCE
            return GOOD
        if not self.patience:
            return GOOD
        self.patience -= 1
        return ASLEEP


def bus_address(properties: Any) -> str | None:
    """Return where a device sits on the PCI bus, as NVML and nvidia-smi write it; None where torch does not tell.

    >>> from types import SimpleNamespace
    >>> bus_address(SimpleNamespace(pci_domain_id=0, pci_bus_id=27, pci_device_id=0))
    '00000000:1B:00.0'
    """
    try:
        return f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"
    except AttributeError:
        return None
