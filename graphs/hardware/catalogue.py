"""What hardware is known, from the profile files alone: names, families and where each file lies."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from graphs.errors import ProfileError, UnknownHardwareError
from graphs.hardware import assets

#: Families in the order in which they are listed, with their headings.
FAMILIES = {
    "gpu": "GPUs", "cpu": "CPUs", "tpu": "TPUs", "kpu": "KPUs", "hailo": "Hailo", "dpu": "DPUs (FPGA)",
    "cgra": "CGRAs", "dsp": "DSPs and NPU cores",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One profile file, its numbers unread.

    Attributes
    ----------
    id, name, vendor : str
    kind : str
        ``"gpu"``, ``"cpu"`` or ``"accelerator"``.
    family : str
        One of `FAMILIES`.
    aliases : tuple of str
    path : Path
    """

    id: str
    name: str
    vendor: str
    kind: str
    family: str
    aliases: tuple[str, ...]
    path: Path


def catalogue() -> dict[str, CatalogueEntry]:
    """Return the shipped hardware by id, sorted; read again when a profile file changes.

    Raises
    ------
    ProfileError
        If a file is not a profile.
    """
    return _read(tuple((p, p.stat().st_mtime_ns) for p in assets.profile_files()))


def fold(name: str) -> str:
    """Return `name` without case and separators, as aliases are compared.

    >>> fold("Intel_i7 12700K")
    'intel-i7-12700k'
    """
    return name.lower().replace("_", "-").replace(" ", "-")


def as_name(hardware: object) -> str:
    """Return how hardware is named: an id, an alias, or the path of a profile as text.

    Raises
    ------
    UnknownHardwareError
        For a value of another type.
    """
    if isinstance(hardware, os.PathLike):
        hardware = os.fspath(hardware)
    if isinstance(hardware, str):
        return hardware
    raise UnknownHardwareError(
        "hardware is named by its id or by the path of its profile", received=hardware,
        allowed="text such as 'h100-sxm', or a path", next_step="graphs.hardware_ids() lists all ids;"
        " detect_hardware() finds none for a device without a profile",
    )  # fmt: skip


def resolve(name: str) -> str:
    """Return the id that an id or alias means; anything else (a path, an unknown name) as it is."""
    name = as_name(name)
    if name in assets.shipped_profiles():  # no file need be read for an id
        return name
    entries = catalogue()
    return name if name in entries else _names(tuple(entries.values())).get(fold(name), name)


@functools.lru_cache(maxsize=2)
def _names(entries: tuple[CatalogueEntry, ...]) -> dict[str, str]:
    return {fold(name): e.id for e in entries for name in (*e.aliases, e.id)}


@functools.lru_cache(maxsize=2)
def _read(files: tuple[tuple[Path, int], ...]) -> dict[str, CatalogueEntry]:
    entries = [_entry(path) for path, _ in files]
    return {e.id: e for e in sorted(entries, key=lambda e: e.id)}


def _entry(path: Path) -> CatalogueEntry:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return CatalogueEntry(
            id=path.stem,
            name=str(raw["name"]),
            vendor=str(raw["vendor"]),
            kind=str(raw["kind"]),
            family=str(raw.get("family", raw["kind"])),
            aliases=tuple(map(str, raw.get("aliases", ()))),
            path=path,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProfileError(
            f"profile file '{path}' cannot be read ({type(error).__name__}: {error})",
            next_step="compare it with a shipped file in profiles/",
        ) from error
