"""Which device of this machine is measured, and under which hardware id."""

from __future__ import annotations

import re

from graphs.errors import UnknownHardwareError
from graphs.hardware.detect import DetectedHardware, cpu_identity, detect_hardware
from graphs.hardware.profile import load_profile


def chosen_hardware(asked: str, device: str | None) -> tuple[str, str]:
    """Return the kind of device to measure and its hardware id.

    A known id must be a device of this machine; an unknown one is a new name for the GPU, or the CPU if there is none.

    Raises
    ------
    UnknownHardwareError
        For the id of hardware that this machine is not, and a kind of device that the system does not tell of.
    """
    import torch

    found = detect_hardware()
    reached = torch.cuda.is_available()
    default = device or ("gpu" if reached else "cpu")
    if reached:
        found = _as_reached(found, torch.cuda.get_device_name(0))
    if asked == "auto":
        own = next((d for d in found if d.kind == default), None)
        if own is None:
            raise UnknownHardwareError(f"the system tells of no {default}", received=asked,
                                       allowed=", ".join(f"{d.kind}: {d.name}" for d in found),
                                       next_step="give --device cpu, or a name for it with --hardware")  # fmt: skip
        return own.kind, own.hardware or new_id(own.name, own.kind)
    for d in found:
        if asked == d.hardware:
            return d.kind, asked
    try:
        known = load_profile(asked)
    except UnknownHardwareError:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", asked):
            raise UnknownHardwareError("a hardware id is made of small letters, digits and dashes", received=asked,
                                       next_step="choose such a name") from None  # fmt: skip
        return default, asked
    raise UnknownHardwareError(
        f"this machine is not '{known.id}'", received=asked,
        allowed=", ".join(f"{d.name} ({d.hardware or 'no profile'})" for d in found),
        next_step="give --hardware auto, or a new name for this machine",
    )  # fmt: skip


def _as_reached(found: list[DetectedHardware], name: str) -> list[DetectedHardware]:
    """Return the devices with one GPU only: the one torch runs on, which need not be the system's first.

    A slice of a GPU has a name of its own, and so no profile; in a container the system may tell of no GPU at all.
    """
    own = next((d for d in found if d.kind == "gpu" and d.name == name), DetectedHardware("gpu", name, None))
    return [own, *(d for d in found if d.kind != "gpu")]


def new_id(name: str, kind: str) -> str:
    """Return a hardware id made of a device's name.

    >>> new_id("NVIDIA GeForce RTX 4090", "gpu")
    'nvidia-geforce-rtx-4090'
    """
    text = re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", name.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", text).strip("-") or "machine"
    return slug if kind == "gpu" else f"{slug}-{cpu_identity()['cores']}c"
