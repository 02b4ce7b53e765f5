"""Which of the known hardware this machine is, and whether its model was fitted on the same software."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graphs.errors import UnknownHardwareError
from graphs.hardware import assets
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
    model : str or None
        Folder of the fitted model, relative to the shipped assets; None if there is none.
    warnings : tuple of str
        What differs from the machine the model was fitted on, such as the version of torch, with both values.
    """

    kind: str
    name: str
    hardware: str | None
    model: str | None = None
    warnings: tuple[str, ...] = ()


def detect_hardware() -> list[DetectedHardware]:
    """Return the GPUs and the CPU of this machine, each with its matching profile and model or None."""
    cpu = cpu_identity()
    found = [_described("gpu", name, _by_name(name)) for name in _gpu_names()]
    return [*found, _described("cpu", str(cpu["name"]), _by_machine(cpu) or _by_name(str(cpu["name"])))]


def this_hardware() -> str:
    """Return the id that ``hardware="auto"`` stands for: the first GPU with a profile, else the CPU.

    Raises
    ------
    UnknownHardwareError
        If no device of this machine has a profile, with the command that makes one.
    """
    found = detect_hardware()
    for device in found:
        if device.hardware is not None:
            return device.hardware
    raise UnknownHardwareError(
        "no device of this machine has a profile",
        received=", ".join(d.name for d in found),
        next_step=MEASURE_COMMAND,
    )


#: What makes a profile and a model of a machine that has none.
MEASURE_COMMAND = (
    "measure it with `graphs measure --hardware ID --out DIR --budget 10m` (ID: a name of your choice), then fit it"
    " with `graphs train --hardware DIR/ID.json --data DIR --out DIR/model`"
)


def cpu_identity() -> dict[str, Any]:
    """Return name, vendor, family, model and the number of cores of the CPU, as far as the system tells.

    Virtual machines often hide the SKU behind a generic name: family, model and cores then tell machines apart.
    """
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())

    def number(key: str) -> int | None:
        return int(fields[key]) if fields.get(key, "").isdigit() else None

    return {
        "name": fields.get("model name") or platform.processor() or platform.machine(),
        "vendor": fields.get("vendor_id", ""),
        "family": number("cpu family"),
        "model": number("model"),
        "cores": os.cpu_count(),
    }


def software_warnings(model_software: Mapping[str, Any], here: Mapping[str, str]) -> tuple[str, ...]:
    """Return what differs between the software a model was fitted on and the software here, with both versions.

    Builds of one version (``2.11.0+cu130`` and ``2.11.0``) count as the same.
    """
    out = []
    for name, theirs in model_software.items():
        ours = here.get(name)
        if ours and theirs and str(theirs).split("+")[0] != ours.split("+")[0]:
            out.append(f"the model was fitted on {name} {theirs}, here is {name} {ours}: run `graphs measure --check`")
    return tuple(out)


def _described(kind: str, name: str, hardware: str | None) -> DetectedHardware:
    if hardware is None:
        return DetectedHardware(kind, name, None)
    folder = load_profile(hardware).model
    found = assets.find_asset(folder) if folder else None
    if found is None:
        return DetectedHardware(kind, name, hardware)
    return DetectedHardware(kind, name, hardware, folder, software_warnings(_software_of(found), _software_here()))


def _software_of(model: Path) -> dict[str, Any]:
    """Return the software that a fitted model's rows were measured with, empty if its header does not tell."""
    for header in sorted(model.glob("*.json")):
        try:
            provenance = json.loads(header.read_text(encoding="utf-8"))["provenance"]
            return dict(provenance.get("software") or {})
        except (KeyError, TypeError, ValueError):
            continue  # another file of the folder
    return {}


def _software_here() -> dict[str, str]:
    try:
        return {"torch": version("torch")}
    except PackageNotFoundError:
        return {}


def _by_machine(cpu: Mapping[str, Any]) -> str | None:
    """Return the profile whose `machine` entry agrees with this CPU in every field it names."""
    for path in (*assets.profile_files(), *assets.own_profile_files()):
        try:
            wanted = json.loads(path.read_text(encoding="utf-8")).get("machine")
        except (ValueError, AttributeError):
            continue  # reading it by name reports what is wrong with it
        if isinstance(wanted, dict) and wanted and all(cpu.get(k) == v for k, v in wanted.items()):
            return path.stem
    return None


def _by_name(name: str) -> str | None:
    """Return the id whose profile lists exactly this name.  A similar name is another device."""
    try:
        return load_profile(re.sub(r"\s+", " ", name)).id
    except UnknownHardwareError:
        return None


def _gpu_names() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return _told_by_the_driver()
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _told_by_the_driver(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return the names in the driver's own files, for containers without nvidia-smi; empty without a driver."""
    found = []
    for path in sorted(folder.glob("*/information")):
        if named := re.search(r"^Model:\s*(.+?)\s*$", path.read_text(encoding="utf-8", errors="replace"), re.M):
            found.append(named[1])
    return found
