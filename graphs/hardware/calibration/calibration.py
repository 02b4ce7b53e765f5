"""What is known of one machine beyond its datasheet, and the answer it gives to a query."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import ModelFileError, UnknownHardwareError
from graphs.hardware import assets
from graphs.hardware.calibration.artifact import HEADER, load_model
from graphs.hardware.calibration.fitted import Answer, EfficiencyModel
from graphs.hardware.calibration.points import OperationCalibration, SaturatingCurve, usable_points
from graphs.hardware.calibration.subgraph_model import HEADER as SUBGRAPH_HEADER
from graphs.hardware.calibration.subgraph_model import SubgraphModel, load_subgraphs
from graphs.hardware.calibration.subgraph_operators import fill
from graphs.hardware.profile import HardwareProfile, load_profile
from graphs.hardware.roofline import DEFAULT_EFFICIENCY, Roofline
from graphs.ops.batch import OperatorGroup

#: Kinds that may be answered by the curve of another kind of the same arithmetic; marked ``proxy``.
_PROXIES = {"linear": "matmul", "addmm": "matmul", "matmul": "linear"}


@dataclass(frozen=True, slots=True)
class CalibrationMetadata:
    """Where a calibration comes from."""

    hardware_id: str
    source: str
    date: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HardwareCalibration:
    """Measured points, measured bandwidth and the fitted model of one machine.

    Attributes
    ----------
    metadata : CalibrationMetadata
    profile : HardwareProfile
        The peaks to which every efficiency refers.
    operations : tuple of OperationCalibration
        Measured points (hardware calibrated by a table).
    curves : dict of (kind, dtype) to SaturatingCurve
    model : EfficiencyModel or None
    subgraphs : SubgraphModel or None
        Answers fused subgraphs, and single operators that nothing above answers.
    """

    metadata: CalibrationMetadata
    profile: HardwareProfile = field(repr=False)
    operations: tuple[OperationCalibration, ...] = ()
    curves: dict[tuple[str, str], SaturatingCurve] = field(default_factory=dict, repr=False)
    model: EfficiencyModel | None = field(default=None, repr=False)
    subgraphs: SubgraphModel | None = field(default=None, repr=False)

    @property
    def theoretical_bandwidth_gbps(self) -> float:
        """Datasheet bandwidth, GB/s."""
        return self.profile.bandwidth_bytes_per_s / 1e9

    @property
    def measured_bandwidth_gbps(self) -> float | None:
        """Bandwidth reached by a large copy, GB/s; None if it was not measured."""
        measured = self.profile.measured_bandwidth
        return None if measured is None else measured.value / 1e9

    @property
    def bandwidth_efficiency(self) -> float | None:
        """Measured over theoretical bandwidth."""
        measured = self.measured_bandwidth_gbps
        return None if measured is None else measured / self.theoretical_bandwidth_gbps

    @property
    def default_log_error(self) -> float:
        """90 % quantile of |log(measured / 20 % default)| over the measured rows; NaN if unknown."""
        fitted = self.model or self.subgraphs
        header = {} if fitted is None else fitted.header
        return float(header.get("default_log_error_90", float("nan")))

    def get_efficiency(self, operation_type: str, dtype: str = "fp32", **params: Any) -> float:
        """Return flops / (latency x peak) of one operator; the default 0.20 where nothing measured covers it.

        Parameters
        ----------
        operation_type : str
            Operator kind, such as ``"matmul"``.
        dtype : str
        **params
            The exact parameters; ``matrix_size=s`` stands for ``m=s, n=s, k=s``.

        Raises
        ------
        UnknownOperatorError, OperatorParameterError, DtypeError
        """
        if "matrix_size" in params:
            params |= dict.fromkeys(("m", "n", "k"), params.pop("matrix_size"))
        (group,) = ops.group_operators([operation_type], [dtype], [params])
        latency = float(self.answer(group).latency_s[0])
        if np.isnan(latency):
            return DEFAULT_EFFICIENCY
        return float(group.flops[0] / (latency * self.profile.peak_flops_per_s(dtype)))

    def answer(self, group: OperatorGroup, extrapolate: bool = False, thermal: str = "") -> Answer:
        """Return what this calibration says of calls of one kind (see `Answer`).

        Operators measured as such come first; what they leave open is asked of the model of subgraphs.
        """
        if self.model is not None:
            out = self.model.answer(group, extrapolate)
        else:
            out = self._answer_from_points(group, extrapolate)
        if self.subgraphs is not None:
            kind = group.kind.name
            measured = any(k in (kind, _PROXIES.get(kind)) for k, _ in self.curves)
            before = out.source.copy()
            fill(self.subgraphs, group, out, thermal, extrapolate, measured)
            self._refuse_impossible(group, out, (out.source == "model") & (before != "model"))
        return out

    def _refuse_impossible(self, group: OperatorGroup, out: Answer, some: NDArray[np.bool_]) -> None:
        """Take back answers whose whole interval is faster than the machine can be.

        Subgraphs of this kind and size were not measured: the nearest ones did other work.  What fits the cache may
        beat the memory's bandwidth; what is beyond it, and the arithmetic's peak, nothing can.
        """
        if not some.any():
            return
        cache = self.profile.last_level_cache_bytes
        beyond = np.maximum(group.bytes - cache, 0.0) if cache > 0 else np.zeros(len(group))
        floor_s = beyond / self.profile.bandwidth_bytes_per_s
        if group.flops.any():
            floor_s = np.maximum(floor_s, group.flops / self.profile.peak_array(group.dtype))
        impossible = some & (out.high_s < floor_s)
        out.reason[impossible] = "the model of subgraphs would answer faster than the roofline"
        out.source[impossible] = ""
        for column in (out.latency_s, out.low_s, out.high_s):
            column[impossible] = np.nan

    def _answer_from_points(self, group: OperatorGroup, extrapolate: bool) -> Answer:
        name = group.kind.name
        # moving data needs no arithmetic peak
        peak = self.profile.peak_array(group.dtype) if group.flops.any() else np.inf
        out = Answer.none(len(group), f"nothing was measured for operator '{name}' on {self.profile.id}")
        for dtype in np.unique(group.dtype).tolist():
            for measured in (name, _PROXIES.get(name, name)):
                # hardware without TF32 units runs tf32 as fp32
                curve = self.curves.get((measured, "fp32" if dtype == "tf32" else dtype))
                if curve is None:
                    continue
                rows = group.dtype == dtype
                as_measured = _as_kind(group, measured, "fp32" if dtype == "tf32" else dtype)
                reasons = curve.domain.reasons(as_measured)
                inside = rows & ((reasons == "") | extrapolate)
                latency = group.flops / (curve.efficiency(as_measured) * peak)
                out.latency_s[inside] = latency[inside]
                out.source[inside] = "model" if measured == name else "proxy"
                out.reason[rows] = reasons[rows]
                if measured != name:
                    out.reason[inside] = f"no {name} was measured; priced as a {measured} of the same size"
                break
        self._answer_from_bandwidth(group, peak, out)
        return out

    def _answer_from_bandwidth(self, group: OperatorGroup, peak: Any, out: Answer) -> None:
        """Price memory-bound calls without a model at the measured bandwidth."""
        if self.profile.measured_bandwidth is None:
            return
        roof = Roofline.of(group.flops, group.bytes, peak, self.profile.measured_bandwidth.value)
        free = np.isnan(out.latency_s) & (roof.memory_s >= roof.compute_s / DEFAULT_EFFICIENCY)
        free &= ~np.isin(group.kind.name, [kind for kind, _ in self.curves])
        out.latency_s[free] = roof.memory_s[free]
        out.source[free] = "calibrated_roofline"
        out.reason[free] = (
            f"memory-bound; measured bandwidth {self.profile.measured_bandwidth.value / 1e9:.4g} GB/s,"
            f" no efficiency model of {group.kind.name}"
        )


def _as_kind(group: OperatorGroup, kind: str, dtype: str) -> OperatorGroup:
    """Return the calls as those of another kind with the same dimensions."""
    other = ops.get(kind)
    missing = {p.name: p.default for p in other.params if p.name not in group.params}
    params = {**group.params, **{name: np.full(len(group), float(default)) for name, default in missing.items()}}
    return replace(group, kind=other, dtype=np.full(len(group), dtype), params=params)


def load_calibration(source: str | Path) -> HardwareCalibration:
    """Load the calibration of a hardware id, a profile file, or a folder with a fitted model.

    Parameters
    ----------
    source : str or Path
        ``"h100-sxm"``, ``"profiles/i7-12700k.json"`` (found among the shipped ones when the current folder has
        none; names of the older system such as ``intel_i7_12700k.json`` are aliases), or ``"models/h100-sxm"``
        (of operators, or of subgraphs where that is all the folder holds).

    Raises
    ------
    UnknownHardwareError, ProfileError, ModelFileError, SchemaVersionError
    """
    if not isinstance(source, (str, Path)):
        raise ModelFileError("a calibration is named by a path or a hardware id", received=repr(source),
                             allowed="a str or Path", next_step="see graphs.hardware_ids()")  # fmt: skip
    path = Path(source)
    if path.name in (HEADER, SUBGRAPH_HEADER):
        path = path.parent
    if not (path / HEADER).is_file() and (path / SUBGRAPH_HEADER).is_file():
        subgraphs = load_subgraphs(path)
        return replace(build_calibration(load_profile(subgraphs.hardware), None), subgraphs=subgraphs)
    if (path / HEADER).is_file() or (path.is_dir() and str(source) not in ("", ".")):
        return _of_model(path)
    try:
        profile = load_profile(str(source))
    except UnknownHardwareError as error:
        raise UnknownHardwareError(
            "there is no calibration of this name, neither a file nor a folder nor known hardware",
            received=str(source),
            allowed=f"a profile.json, a folder that `graphs train` wrote, or a hardware id ({error.allowed})",
            next_step="check the path; `graphs hardware` lists the ids",
        ) from error
    return _of_profile(profile, origin=path if path.suffix == ".json" else None)


def _of_model(folder: Path) -> HardwareCalibration:
    model = load_model(folder)
    return build_calibration(load_profile(model.hardware), model)


def _of_profile(profile: HardwareProfile, origin: Path | None) -> HardwareCalibration:
    folder = _folder(profile.model, HEADER, origin)
    if folder is None and profile.model is not None and not profile.calibration:
        # measured points may serve until a model is fitted; answering by the default would hide that one is missing
        raise ModelFileError(
            f"the profile of '{profile.id}' points to a fitted model that is not there", received=profile.model,
            allowed=f"a folder with {HEADER}, beside the profile's folder or shipped",
            next_step="fit it with `graphs train --out`, or take the pointer out of the profile",
        )  # fmt: skip
    model = None if folder is None else _load_cached(folder, (folder / HEADER).stat().st_mtime_ns)
    return build_calibration(profile, model, origin)


def _folder(pointer: str | None, header: str, origin: Path | None) -> Path | None:
    """Return where a profile's pointer leads: beside its own folder first, then among the shipped assets."""
    if pointer is None:
        return None
    candidates = [origin.resolve().parent.parent / pointer] if origin and origin.is_file() else []
    shipped = assets.find_asset(pointer)
    candidates += [shipped] if shipped else []
    return next((c for c in candidates if (c / header).is_file()), None)


@functools.lru_cache(maxsize=8)
def _load_cached(folder: Path, _changed: int) -> EfficiencyModel:
    return load_model(folder)


@functools.lru_cache(maxsize=8)
def _load_subgraphs_cached(folder: Path, _changed: int) -> SubgraphModel:
    return load_subgraphs(folder)


def _subgraphs(profile: HardwareProfile, origin: Path | None) -> SubgraphModel | None:
    folder = _folder(profile.subgraph_model, SUBGRAPH_HEADER, origin)
    if folder is None:
        return None
    model = _load_subgraphs_cached(folder, (folder / SUBGRAPH_HEADER).stat().st_mtime_ns)
    if model.hardware != profile.id:
        raise ModelFileError(
            "the subgraph model belongs to other hardware",
            received=model.hardware,
            allowed=profile.id,
            next_step="correct the profile's pointer to its subgraph model",
        )
    return model


def build_calibration(
    profile: HardwareProfile, model: EfficiencyModel | None, origin: Path | None = None
) -> HardwareCalibration:
    """Return the calibration of a profile with a fitted model, or without one; no shipped model is read.

    Parameters
    ----------
    profile : HardwareProfile
    model : EfficiencyModel or None
        Of operators.
    origin : Path, optional
        File of the profile: its pointer to a subgraph model is looked for beside it first.

    Raises
    ------
    ModelFileError
        If the model belongs to other hardware.
    """
    if model is not None and model.hardware != profile.id:
        raise ModelFileError(
            "the fitted model belongs to other hardware",
            received=model.hardware,
            allowed=profile.id,
            next_step="correct the profile's pointer to its model",
        )
    points = usable_points(profile.calibration.get("operations", ()), profile.id)
    by_kind: dict[tuple[str, str], list[OperationCalibration]] = {}
    for point in points:
        by_kind.setdefault((point.operation_type, point.dtype), []).append(point)
    provenance = model.header.get("provenance", {}) if model is not None else {}
    return HardwareCalibration(
        metadata=CalibrationMetadata(
            hardware_id=profile.id,
            source=str(provenance.get("data", profile.calibration.get("source", "datasheet only"))),
            date=str(provenance.get("date", profile.calibration.get("date", ""))),
            details=dict(provenance),
        ),
        profile=profile,
        operations=tuple(points),
        curves={key: SaturatingCurve.fit(some) for key, some in by_kind.items()},
        model=model,
        subgraphs=_subgraphs(profile, origin),
    )
