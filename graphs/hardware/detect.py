"""Which of the known hardware this machine is."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from graphs.errors import UnknownHardwareError
from graphs.hardware.profile import load_profile


@dataclass(frozen=True, slots=True)
class DetectedHardware:
    """One device of this machine.

    Attributes
    ----------
    kind : str
        ``"cpu"`` or ``"gpu"``.
    name : str
        As the system reports it.
    hardware : str or None
        Id of the matching profile; None if there is none.
    """

    kind: str
    name: str
    hardware: str | None


def detect_hardware() -> list[DetectedHardware]:
    """Return the GPUs and the CPU of this machine, each with its matching profile or None."""
    found = [("gpu", name) for name in _gpu_names()] + [("cpu", _cpu_name())]
    return [DetectedHardware(kind, name, _match(name)) for kind, name in found]


def _match(name: str) -> str | None:
    """Return the id whose profile lists exactly this name.  A similar name is another device."""
    try:
        return load_profile(name).id
    except UnknownHardwareError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []  # no NVIDIA driver: no GPU that could be named
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
