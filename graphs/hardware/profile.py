"""Hardware profiles: datasheet peaks with their source, measured ceilings beside them, and the roofline they span."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphs.errors import DtypeError, ProfileError, SchemaVersionError, UnknownHardwareError, nearest
from graphs.hardware import assets
from graphs.hardware.catalogue import as_name, fold, resolve
from graphs.hardware.profile_fields import Fields, positive
from graphs.ops.dtypes import canonical

#: Version of the profile files.  Raise it when a reader of the old version would misread a new file, keep reading
#: the old one below, and add a test with an old file.
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its source.  SI units; the unit is in the name of the field that holds it."""

    value: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ThermalProfile:
    """One power mode: what replaces the ceilings of the profile in it.

    Attributes
    ----------
    name : str
    peaks : dict of str to Figure
        FLOP/s.
    bandwidth : Figure
        B/s.
    clock_hz : float or None
    tdp_w : Figure or None
    note : str
    """

    name: str
    peaks: dict[str, Figure]
    bandwidth: Figure
    clock_hz: float | None = None
    tdp_w: Figure | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """One SKU as users buy it.

    Attributes
    ----------
    id, name, vendor : str
    kind : str
        ``"gpu"``, ``"cpu"`` or ``"accelerator"``.
    family : str
        Which accelerator: ``"tpu"``, ``"kpu"``, ``"hailo"``, ``"dpu"``, ``"cgra"`` or ``"dsp"``; else the kind.
    compute_units : int
        SMs of a GPU, cores of a CPU.
    peaks : dict of str to Figure
        Dense datasheet peak per dtype, FLOP/s (multiply-add = 2).
    bandwidth : Figure
        Datasheet memory bandwidth, B/s.
    tdp_w : Figure or None
        Power limit, W.
    caches : dict of str to float
        Cache name (``"l2"``, ``"l3"``) to bytes.
    memory_bytes, clock_hz : float or None
    sources : dict of str to str
        Where `compute_units`, `caches`, `memory_bytes` and `clock_hz` come from, by their name in the file.
    measured_peaks, measured_bandwidth
        Ceilings reached by a large GEMM and a large copy.
    model : str or None
        Folder of the fitted model, relative to the folder that holds ``profiles``.
    subgraph_model : str or None
        Folder of the fitted model of fused subgraphs, likewise.
    thermal : dict of str to ThermalProfile
        Power modes by name; `default_thermal_profile` is the one that the ceilings above hold in.
    related : str or None
        Id of hardware with the same compute units, whose measurements help to train this one's model.
    calibration : dict
        Measured operator points, for hardware calibrated by a table (see `graphs.hardware.calibration`).
    """

    id: str
    name: str
    vendor: str
    kind: str
    compute_units: int
    peaks: dict[str, Figure]
    bandwidth: Figure
    caches: dict[str, float] = field(default_factory=dict)
    memory_bytes: float | None = None
    clock_hz: float | None = None
    measured_peaks: dict[str, Figure] = field(default_factory=dict)
    measured_bandwidth: Figure | None = None
    model: str | None = None
    data: str | None = None
    related: str | None = None
    calibration: dict[str, Any] = field(default_factory=dict, repr=False)
    sources: dict[str, str] = field(default_factory=dict, repr=False)
    aliases: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    family: str = ""
    tdp_w: Figure | None = None
    subgraph_model: str | None = None
    thermal: dict[str, ThermalProfile] = field(default_factory=dict, repr=False)
    default_thermal_profile: str = ""

    @property
    def peak_dtypes(self) -> tuple[str, ...]:
        """Dtypes for which `peak_flops_per_s` answers."""
        return (*self.peaks, "tf32") if "fp32" in self.peaks and "tf32" not in self.peaks else tuple(self.peaks)

    def peak_flops_per_s(self, dtype: str) -> float:
        """Return the dense datasheet peak in FLOP/s.

        tf32 means fp32 tensors on which TF32 units are *allowed*: hardware without such units runs them as fp32.

        Raises
        ------
        DtypeError
            If the profile has no peak for `dtype`; none is invented.
        """
        name = canonical(dtype)
        if name == "tf32" and "tf32" not in self.peaks:
            name = "fp32"
        try:
            return self.peaks[name].value
        except KeyError:
            raise DtypeError(
                f"hardware '{self.id}' has no {name} peak, so its {name} latency cannot be estimated",
                received=dtype,
                allowed=", ".join(self.peak_dtypes),
                next_step="choose one of these dtypes, or add the peak with its source to the profile",
            ) from None

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Datasheet memory bandwidth in B/s."""
        return self.bandwidth.value

    def at(self, thermal_profile: str | None) -> HardwareProfile:
        """Return the profile with the ceilings of a power mode; None for the default.

        Raises
        ------
        ProfileError
            If there is no such mode.
        """
        if thermal_profile is None:
            return self
        mode = self.thermal.get(str(thermal_profile).lower())
        if mode is None:
            raise ProfileError(
                f"hardware '{self.id}' has no thermal profile of this name"
                if self.thermal
                else f"hardware '{self.id}' has no thermal profiles",
                received=thermal_profile,
                allowed=", ".join(self.thermal) or "none",
                next_step="name one of these" if self.thermal else "leave thermal_profile out",
            )
        return replace(
            self, peaks=mode.peaks, bandwidth=mode.bandwidth, clock_hz=mode.clock_hz or self.clock_hz,
            tdp_w=mode.tdp_w or self.tdp_w, default_thermal_profile=mode.name,
        )  # fmt: skip

    @property
    def last_level_cache_bytes(self) -> float:
        """Size of the largest cache in bytes, 0 if unknown."""
        return max(self.caches.values(), default=0.0)

    def ridge_point(self, dtype: str) -> float:
        """Return the arithmetic intensity (FLOP/B) above which `dtype` is compute-bound on the roofline."""
        return self.peak_flops_per_s(dtype) / self.bandwidth_bytes_per_s

    def peak_array(self, dtypes: ArrayLike) -> NDArray[np.float64]:
        """Return `peak_flops_per_s` of an (n,) array of dtype names as (n,) float64."""
        names, index = np.unique(np.asarray(dtypes, dtype=np.str_), return_inverse=True)
        return np.array([self.peak_flops_per_s(str(d)) for d in names], dtype=np.float64)[index]


def from_dict(raw: Mapping[str, Any], origin: str = "profile") -> HardwareProfile:
    """Build a profile from the content of its JSON file, checking every number.

    Raises
    ------
    SchemaVersionError, ProfileError
    """
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"profile '{origin}' has another schema version",
            received=version,
            allowed=SCHEMA_VERSION,
            next_step="upgrade graphs to read newer profiles" if isinstance(version, int) else "add schema_version",
        )

    def figure(value: Any, where: str) -> Figure:
        ok = isinstance(value, Mapping) and {"value", "source"} <= set(value)
        if not ok or not positive(number := value["value"]) or not value["source"]:
            raise ProfileError(
                f"{where} of profile '{origin}' is not usable",
                received=value,
                allowed='{"value": a finite number > 0, "source": where it comes from}',
                next_step="correct the profile",
            )
        return Figure(float(number), str(value["source"]), str(value.get("note", "")))

    def mode(name: str, m: Mapping[str, Any]) -> ThermalProfile:
        where = f"thermal profile '{name}'"
        return ThermalProfile(
            name=name,
            peaks={canonical(d): figure(v, f"{where}: peak {d}") for d, v in m["peak_flops_per_s"].items()},
            bandwidth=figure(m["bandwidth_bytes_per_s"], f"{where}: bandwidth"),
            clock_hz=Fields(m, origin, f"{where}: ").number("clock_hz"),
            tdp_w=figure(m["tdp_w"], f"{where}: tdp_w") if "tdp_w" in m else None,
            note=str(m.get("note", "")),
        )

    fields = Fields(raw, origin)
    try:
        modes = fields.object("thermal_profiles")
        peaks = {canonical(d): figure(v, f"peak_flops_per_s[{d}]") for d, v in raw["peak_flops_per_s"].items()}
        measured = fields.object("measured")
        profile = HardwareProfile(
            id=fields.text("id"),
            name=fields.text("name"),
            vendor=fields.text("vendor"),
            kind=fields.text("kind"),
            compute_units=fields.count("compute_units"),
            peaks=peaks,
            bandwidth=figure(raw["bandwidth_bytes_per_s"], "bandwidth_bytes_per_s"),
            caches=fields.numbers("cache_bytes"),
            memory_bytes=fields.number("memory_bytes"),
            clock_hz=fields.number("clock_hz"),
            measured_peaks={
                canonical(d): figure(v, f"measured peak_flops_per_s[{d}]")
                for d, v in measured.get("peak_flops_per_s", {}).items()
            },
            measured_bandwidth=(
                figure(measured["bandwidth_bytes_per_s"], "measured bandwidth_bytes_per_s")
                if "bandwidth_bytes_per_s" in measured
                else None
            ),
            model=fields.optional_text("model"),
            data=fields.optional_text("data"),
            related=fields.optional_text("related"),
            calibration=fields.object("calibration"),
            sources={k: str(v) for k, v in fields.object("sources").items()},
            aliases=fields.texts("aliases"),
            notes=fields.texts("notes"),
            family=fields.optional_text("family") or raw["kind"],
            tdp_w=figure(raw["tdp_w"], "tdp_w") if "tdp_w" in raw else None,
            subgraph_model=fields.optional_text("subgraph_model"),
            thermal={name.lower(): mode(name.lower(), m) for name, m in modes.items()},
            default_thermal_profile=(fields.optional_text("default_thermal_profile") or "").lower(),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ProfileError):
            raise
        raise ProfileError(
            f"profile '{origin}' cannot be read ({type(error).__name__}: {error})",
            next_step="compare it with a shipped file in profiles/",
        ) from error
    if profile.thermal and profile.default_thermal_profile not in profile.thermal:
        raise ProfileError(
            f"profile '{origin}' names no usable default_thermal_profile",
            received=profile.default_thermal_profile,
            allowed=", ".join(profile.thermal),
            next_step="correct the profile",
        )
    if profile.kind not in ("gpu", "cpu", "accelerator"):
        raise ProfileError(
            f"kind of profile '{origin}' is not usable",
            received=profile.kind,
            allowed="gpu, cpu or accelerator",
            next_step="correct the profile",
        )
    return profile


def read_profile(path: Path) -> HardwareProfile:
    """Read one profile file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProfileError(
            f"profile file '{path}' cannot be read ({error})", next_step="check the path and that it is JSON"
        ) from error
    if not isinstance(raw, dict):
        raise ProfileError(
            f"profile file '{path}' does not hold an object", received=type(raw).__name__, allowed="a JSON object",
            next_step="compare it with a shipped file in profiles/",
        )  # fmt: skip
    return from_dict(raw, origin=path.name)


@functools.lru_cache(maxsize=64)
def _read_once(path: Path, _changed: int) -> HardwareProfile:
    return read_profile(path)


def hardware_ids() -> list[str]:
    """Return the ids of all known hardware, sorted."""
    return sorted(p.stem for p in assets.profile_files())


def load_profile(hardware: str | os.PathLike[str]) -> HardwareProfile:
    """Return the profile of a hardware id (or alias), or of a path to a profile file.

    Raises
    ------
    UnknownHardwareError
        With the nearest ids.  Another device's numbers are never used instead.
    """
    hardware = as_name(hardware)
    if (shipped := assets.shipped_profiles().get(hardware)) is not None:
        return _read_once(shipped, shipped.stat().st_mtime_ns)
    asked, files = hardware, {p.stem: p for p in (*assets.own_profile_files(), *assets.profile_files())}
    if hardware in files:
        return read_profile(files[hardware])
    path = Path(hardware)
    if path.suffix == ".json":
        if path.is_file():
            profile = read_profile(path)
            if profile.id == path.stem:
                assets.remember_profile(path)
            return profile
        # A shipped profile may be named by its path while the current folder is elsewhere.
        hardware = path.stem
        if hardware in files:
            return read_profile(files[hardware])
    for own in assets.own_profile_files():
        profile = read_profile(own)
        if fold(hardware) in map(fold, (profile.id, *profile.aliases)):
            return profile
    if (known := resolve(hardware)) in files:
        return read_profile(files[known])
    raise UnknownHardwareError(
        "unknown hardware" if path.suffix != ".json" else "there is no such profile file, and no hardware of its name",
        received=asked,
        allowed=nearest(hardware.lower(), files, f"one of {len(files)} ids, such as h100-sxm, i7-12700k, xeon-16c"),
        next_step="`graphs hardware` lists all; a path to your own profile.json works too",
    )
