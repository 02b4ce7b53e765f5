"""The mapper: operator calls onto one machine, by its calibration inside the domain, by the default outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphs.errors import ModelFileError, OutOfDomainError, ProfileError
from graphs.hardware.calibration.calibration import HardwareCalibration
from graphs.hardware.calibration.fitted import Answer
from graphs.hardware.mappers import modelled, subgraphs
from graphs.hardware.mappers.allocation import GraphHardwareAllocation, HardwareAllocation
from graphs.hardware.profile import HardwareProfile
from graphs.hardware.roofline import DEFAULT_EFFICIENCY, Roofline
from graphs.ops.batch import OperatorGroup
from graphs.subgraph import FusedSubgraph, Precision
from graphs.whole_model import WholeModelTerms

Policy = Literal["default", "extrapolate", "error"]
POLICIES: tuple[Policy, ...] = ("default", "extrapolate", "error")


@dataclass(frozen=True, slots=True)
class OperatorEstimates:
    """Estimates of n operator calls, one entry a row of the caller's table.

    Attributes
    ----------
    latency_s : (n,) float64
    efficiency : (n,) float64
        Attainable time / latency; above 1 for cache-resident data or algorithms with fewer operations.
    compute_efficiency : (n,) float64
        flops / (latency x peak).
    interval_low_s, interval_high_s : (n,) float64
        90 % interval; NaN where no model answered.
    source : (n,) str
        ``model``, ``calibrated_roofline``, ``proxy`` or ``default``.
    reason : (n,) object
        Why the default or a substitute answered, or ``""``.
    bound : (n,) str
        ``compute``, ``memory`` or ``overhead``.
    compute_time_s, memory_time_s : (n,) float64
        flops / peak and bytes / bandwidth at the datasheet ceilings.
    flops, bytes : (n,) float64
    """

    latency_s: NDArray[np.float64]
    efficiency: NDArray[np.float64]
    compute_efficiency: NDArray[np.float64]
    interval_low_s: NDArray[np.float64]
    interval_high_s: NDArray[np.float64]
    source: NDArray[np.str_]
    reason: NDArray[np.object_]
    bound: NDArray[np.str_]
    compute_time_s: NDArray[np.float64]
    memory_time_s: NDArray[np.float64]
    flops: NDArray[np.float64]
    bytes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.latency_s)


class HardwareMapper:
    """Maps operators onto one machine.

    Parameters
    ----------
    resource_model : HardwareProfile
    thermal_profile : str, optional
        Power mode, for hardware that has several.
    calibration : HardwareCalibration, optional
        Without one, `default_efficiency` answers everything.
    out_of_domain : {"default", "extrapolate", "error"}
        What to do outside the applicability domain.
    """

    #: Efficiency assumed of the compute peak where no calibration answers.
    default_efficiency: float = DEFAULT_EFFICIENCY
    #: Kinds of hardware that this mapper is for.
    kinds: tuple[str, ...] = ("gpu", "cpu", "accelerator")
    #: Whether launching runs ahead of the device; where both are one machine their times add up.
    host_and_device_overlap: bool = False

    def __init__(
        self,
        resource_model: HardwareProfile,
        thermal_profile: str | None = None,
        calibration: HardwareCalibration | None = None,
        out_of_domain: Policy = "default",
    ) -> None:
        if resource_model.kind not in self.kinds:
            raise ProfileError(
                f"{type(self).__name__} does not map hardware '{resource_model.id}'",
                received=resource_model.kind,
                allowed=", ".join(self.kinds),
                next_step=f"use graphs.create_mapper('{resource_model.id}')",
            )
        if out_of_domain not in POLICIES:
            raise ProfileError(
                "unknown policy outside the domain",
                received=out_of_domain,
                allowed=", ".join(POLICIES),
                next_step="choose one of these",
            )
        self.resource_model = resource_model.at(thermal_profile)
        self.thermal_profile = self.resource_model.default_thermal_profile or None
        self.calibration = calibration
        self.out_of_domain: Policy = out_of_domain

    @property
    def calibration(self) -> HardwareCalibration | None:
        """What was measured of this hardware; None answers everything by the default.

        Raises
        ------
        ModelFileError
            On setting the calibration of other hardware.
        """
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: HardwareCalibration | None) -> None:
        if calibration is not None and calibration.profile.id != self.resource_model.id:
            raise ModelFileError(
                f"the calibration does not belong to hardware '{self.resource_model.id}'",
                received=calibration.profile.id,
                allowed=self.resource_model.id,
                next_step="name the hardware it was made for, or leave calibration out",
            )
        self._calibration = calibration

    def __repr__(self) -> str:
        state = "calibrated" if self.calibration is not None else "uncalibrated"
        return f"{type(self).__name__}({self.resource_model.id!r}, {state})"

    def map_group(self, group: OperatorGroup) -> OperatorEstimates:
        """Estimate calls of one kind; rows in the order of the group.

        Raises
        ------
        DtypeError
            If the hardware has no peak for a dtype that computes.
        OutOfDomainError
            Outside the domain under the policy ``"error"``.
        """
        profile = self.resource_model
        # Moving data needs no arithmetic peak, so any dtype may be copied.
        peak = profile.peak_array(group.dtype) if group.flops.any() else np.inf
        roof = Roofline.of(group.flops, group.bytes, peak, profile.bandwidth_bytes_per_s)
        if self.calibration is None:
            answer = Answer.none(len(group), f"no calibration of {profile.id} is loaded")
        else:
            answer = self.calibration.answer(
                group, extrapolate=self.out_of_domain == "extrapolate", thermal=self.thermal_profile or ""
            )
        unanswered = np.isnan(answer.latency_s)
        if self.out_of_domain == "error" and unanswered.any():
            first = int(np.flatnonzero(unanswered)[0])
            raise OutOfDomainError(
                f"{group.kind.name} {self._row(group, first)} is outside the applicability domain on {profile.id}:"
                f" {answer.reason[first]}",
                next_step='ask with out_of_domain="default" or "extrapolate" to get a number all the same',
            )
        latency = np.where(unanswered, roof.default_s(self.default_efficiency), answer.latency_s)
        silent = unanswered & (answer.reason == "")
        return OperatorEstimates(
            latency_s=latency,
            efficiency=roof.efficiency(latency),
            compute_efficiency=roof.compute_efficiency(latency),
            interval_low_s=answer.low_s,
            interval_high_s=answer.high_s,
            source=np.where(unanswered, "default", answer.source),
            reason=np.where(silent, "the fitted model gave no finite number", answer.reason),
            bound=np.where(
                unanswered,
                roof.bound(latency, self.default_efficiency),
                roof.bound(latency, overhead_s=answer.overhead_s),
            ),
            compute_time_s=roof.compute_s,
            memory_time_s=roof.memory_s,
            flops=group.flops,
            bytes=group.bytes,
        )

    def map_operators(self, groups: Sequence[OperatorGroup]) -> OperatorEstimates:
        """Estimate groups that together cover rows 0 .. n-1; entries in row order (see `map_group`)."""
        parts = [self.map_group(g) for g in groups]
        if not parts:
            empty = np.empty(0)
            text = np.empty(0, dtype="<U20")
            return OperatorEstimates(
                empty, empty, empty, empty, empty, text, np.empty(0, dtype=object), text, empty, empty, empty, empty
            )
        order = np.argsort(np.concatenate([g.rows for g in groups]))
        return OperatorEstimates(
            **{
                name: np.concatenate([getattr(p, name) for p in parts])[order]
                for name in OperatorEstimates.__dataclass_fields__
            }
        )

    def map_trace(self, calls: Sequence[tuple[str, Mapping[str, Any], str]]) -> list[modelled.FusedCall | None]:
        """Price a program subgraph by subgraph (see `modelled.map_trace`); None where a call stands alone."""
        return modelled.map_trace(self, calls)

    def map_subgraph(
        self,
        subgraph: FusedSubgraph,
        execution_stage: int = 0,
        concurrent_subgraphs: int = 1,
        precision: Precision | str = Precision.FP32,
    ) -> HardwareAllocation:
        """Estimate a fused subgraph.

        Its operators count if it lists them, else its dominant operation with the shape of its tensors, else its
        totals: compute time = flops / (peak x efficiency), memory time = bytes / bandwidth.

        Parameters
        ----------
        subgraph : FusedSubgraph
        execution_stage : int
        concurrent_subgraphs : int
            Subgraphs of the same stage, this one included; each gets an equal share of units and bandwidth.
        precision : Precision
            All of the subgraph runs in it.

        Raises
        ------
        DtypeError, OperatorParameterError
        OutOfDomainError
            Outside the domain under the policy ``"error"``.
        """
        return subgraphs.map_subgraph(self, subgraph, execution_stage, concurrent_subgraphs, precision)

    def map_graph(
        self,
        fusion_report: Any,
        execution_stages: Sequence[Sequence[int]] | None = None,
        batch_size: int = 1,
        precision: Precision | str = Precision.FP32,
    ) -> GraphHardwareAllocation:
        """Estimate a graph of fused subgraphs.

        Parameters
        ----------
        fusion_report : sequence of FusedSubgraph, or an object with them as `fused_subgraphs`
            Shapes and totals hold the batch already.
        execution_stages : sequence of sequences of int, optional
            Positions of the subgraphs that run at once, stage after stage; None runs one after the other.
        batch_size : int
            Recorded; a subgraph that states another batch is refused.
        precision : Precision

        Raises
        ------
        DtypeError, OperatorParameterError, OutOfDomainError
        """
        return subgraphs.map_graph(self, fusion_report, execution_stages, batch_size, precision)

    @property
    def measured_kinds(self) -> frozenset[str]:
        """Operator kinds that the fitted model knows; empty without one."""
        model = None if self.calibration is None else self.calibration.model
        return frozenset() if model is None else frozenset(k for f in model.families.values() for k in f.domains)

    @property
    def default_log_error(self) -> float:
        """90 % quantile of |log(measured / default)| on this hardware; NaN if it was never measured."""
        return float("nan") if self.calibration is None else self.calibration.default_log_error

    @property
    def whole_model_terms(self) -> WholeModelTerms:
        """What measured whole models showed on this hardware beyond the sum of operators."""
        return WholeModelTerms.of(None if self.calibration is None else self.calibration.model)

    @staticmethod
    def _row(group: OperatorGroup, i: int) -> str:
        shown = {k: v[i] if v.dtype.kind in "OU" else int(v[i]) for k, v in group.params.items() if v[i] == v[i]}
        return f"{shown} {group.dtype[i]}"


class CPUMapper(HardwareMapper):
    """Maps operators onto a CPU."""

    kinds = ("cpu",)


class GPUMapper(HardwareMapper):
    """Maps operators onto a GPU; latencies are device time, without the host's launch overhead."""

    kinds = ("gpu",)
    host_and_device_overlap = True
