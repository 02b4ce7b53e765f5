"""Estimates of operators and whole models: trace and mapper together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphs import ops
from graphs.errors import GraphsError, OperatorParameterError
from graphs.hardware.calibration.calibration import HardwareCalibration
from graphs.hardware.mappers.base import HardwareMapper, OperatorEstimates, Policy
from graphs.hardware.mappers.registry import create_mapper

if TYPE_CHECKING:
    from graphs.tracing.trace import Trace, TracedOperator

Calibration = HardwareCalibration | str | Path | bool | None
Mode = Literal["device", "eager"]
MODES: tuple[Mode, ...] = ("device", "eager")


@dataclass(frozen=True, slots=True)
class OperatorEstimate:
    """One operator call.

    Attributes
    ----------
    op, params, dtype
        The call, in the words of `graphs.ops`.
    flops, bytes : int
    latency_s : float
    efficiency : float
        Attainable time / latency.
    compute_efficiency : float
        flops / (latency x peak).
    bound : str
        ``compute``, ``memory`` or ``overhead``.
    source : str
        ``model``, ``calibrated_roofline``, ``proxy``, ``default``, ``overhead``, ``unmodelled``.
    reason : str
        Why another source than the model answered, or a remark.
    interval_s : (float, float)
        90 % interval; NaN where no model answered.
    module : str
        Path of the module that made the call.
    """

    op: str
    params: dict[str, Any]
    dtype: str
    flops: int
    bytes: int
    latency_s: float
    efficiency: float
    compute_efficiency: float
    bound: str
    source: str
    reason: str
    interval_s: tuple[float, float]
    module: str = ""


@dataclass(frozen=True)
class LatencyEstimate:
    """Latency of a whole model on one machine.

    Attributes
    ----------
    latency_s : float
    interval_s : (float, float)
        90 % interval; NaN where nothing was calibrated.
    operators : tuple of OperatorEstimate
        One a call, in program order; their latencies add up to `latency_s`.
    name, hardware, dtype, mode, batch
        What was asked.
    notes : tuple of str
        What was assumed while tracing.
    """

    latency_s: float
    interval_s: tuple[float, float]
    operators: tuple[OperatorEstimate, ...] = field(repr=False)
    name: str
    hardware: str
    dtype: str
    mode: str
    batch: int
    notes: tuple[str, ...] = ()

    @cached_property
    def coverage(self) -> dict[str, dict[str, float]]:
        """Shares by source: ``{"operators": {source: share}, "time": {source: share}}``.

        Host overhead is no operator: it has a share of time alone.
        """
        count: dict[str, float] = {}
        time: dict[str, float] = {}
        for o in self.operators:
            if o.source != "overhead":
                count[o.source] = count.get(o.source, 0.0) + 1.0
            time[o.source] = time.get(o.source, 0.0) + o.latency_s
        return {
            "operators": {s: c / max(sum(count.values()), 1.0) for s, c in count.items()},
            "time": {s: t / max(sum(time.values()), 1e-300) for s, t in time.items()},
        }

    @property
    def flops(self) -> int:
        """Algorithmic FLOP of all operators (multiply-add = 2)."""
        return sum(o.flops for o in self.operators)


def estimate_operators(
    frame: Any,
    hardware: str,
    *,
    calibration: Calibration = None,
    thermal_profile: str | None = None,
    out_of_domain: Policy = "default",
) -> OperatorEstimates:
    """Return latencies of many operators at once.

    Parameters
    ----------
    frame : DataFrame or mapping of columns
        Columns ``op``, ``dtype`` and ``params`` (dict or JSON text), n rows.
    hardware : str
        Hardware id.
    calibration : optional
        None for the shipped calibration, False for none, or a path.
    thermal_profile : str, optional
    out_of_domain : {"default", "extrapolate", "error"}

    Returns
    -------
    OperatorEstimates
        Arrays of n entries in row order; latencies in seconds.

    Raises
    ------
    GraphsError
        For unknown hardware, operators, dtypes, or unusable parameters.
    """
    mapper = _mapper(hardware, calibration, thermal_profile, out_of_domain)
    missing = [c for c in ("op", "dtype", "params") if c not in frame]
    if missing:
        raise OperatorParameterError(
            f"the table lacks the columns {', '.join(missing)}",
            received=list(frame),
            allowed="op, dtype, params",
            next_step="add them",
        )
    columns = [list(frame[c]) for c in ("op", "dtype", "params")]
    return mapper.map_operators(ops.group_operators(*columns))


def estimate_operator(
    op: str,
    params: Mapping[str, Any],
    dtype: str = "fp32",
    *,
    hardware: str,
    calibration: Calibration = None,
    thermal_profile: str | None = None,
    out_of_domain: Policy = "default",
) -> OperatorEstimate:
    """Return the latency of one operator.

    Parameters
    ----------
    op : str
        Operator kind.
    params : dict
        Its parameters.
    dtype : str
    hardware, calibration, thermal_profile, out_of_domain
        As in `estimate_operators`.

    Examples
    --------
    >>> e = estimate_operator("matmul", {"m": 2048, "n": 2048, "k": 2048}, "fp32", hardware="i7-12700k")
    >>> f"{e.latency_s * 1e3:.1f} ms at {e.compute_efficiency:.2f} of peak"
    '23.5 ms at 0.73 of peak'
    """
    mapper = _mapper(hardware, calibration, thermal_profile, out_of_domain)
    groups = ops.group_operators([op], [dtype], [params])
    return _rows([op], [dict(params)], [ops.canonical(dtype)], mapper.map_operators(groups))[0]


def estimate(
    module: Any,
    inputs: Any = None,
    *,
    hardware: str,
    dtype: str | None = None,
    mode: Mode = "device",
    calibration: Calibration = None,
    thermal_profile: str | None = None,
    out_of_domain: Policy = "default",
) -> LatencyEstimate:
    """Return the latency of a forward pass of a PyTorch module on hardware that need not be there.

    Parameters
    ----------
    module : torch.nn.Module or Trace
        May live on the meta device; no weights are read and nothing is computed.
    inputs : tensor, tuple of arguments, or dict of keyword arguments
        Example inputs; not needed for a trace.
    hardware : str
        Hardware id.
    dtype : str, optional
        Estimate the module as if converted to ``fp32``, ``tf32``, ``fp16`` or ``bf16``; None: as it is.
    mode : {"device", "eager"}
        Time of the device alone, or with the host's launch overhead.
    calibration, thermal_profile, out_of_domain
        As in `estimate_operators`.

    Raises
    ------
    TracingError
        If the module cannot be traced.
    GraphsError
        As in `estimate_operators`.
    """
    from graphs.tracing.trace import Trace

    if mode not in MODES:
        raise GraphsError("unknown mode", received=mode, allowed=", ".join(MODES), next_step="choose one of these")
    mapper = _mapper(hardware, calibration, thermal_profile, out_of_domain)
    if isinstance(module, Trace):
        trace = module if dtype is None else module.with_dtype(dtype)
    else:
        from graphs.tracing import trace as trace_module

        trace = trace_module(module, inputs, dtype=dtype)
    return estimate_trace(trace, mapper, mode)


def estimate_trace(trace: Trace, mapper: HardwareMapper, mode: Mode = "device") -> LatencyEstimate:
    """Return the latency of a traced model; distinct operators are asked once."""
    priced = [o for o in trace.operators if o.op]
    asked = [_as_measured(o, mapper) for o in priced]
    answers = mapper.map_operators(
        ops.group_operators([o.op for o in asked], [o.dtype for o in asked], [o.params for o in asked])
    )
    rows = iter(_rows([o.op for o in asked], [dict(o.params) for o in asked], [o.dtype for o in asked], answers))
    substitutes = iter(asked)
    distinct = [_annotate(next(rows), o, next(substitutes)) if o.op else _unmodelled(o) for o in trace.operators]
    calls = _in_program_order(distinct, trace)
    total = float(sum(c.latency_s for c in calls))
    low, high = _interval(calls, mapper)
    if mode == "eager":
        added = mapper.host_overhead_s(total, len(calls))
        overhead = added or 0.0
        calls.append(_overhead(overhead, measured=added is not None))
        total = total + overhead
        # The host's own scatter is part of what was seen when whole models were left out of the fit.
        error = float("nan") if mapper.calibration is None else mapper.calibration.eager_log_error
        low, high = total * np.exp(-error), total * np.exp(error)
    return LatencyEstimate(
        total, (float(low), float(high)), tuple(calls), trace.name, mapper.resource_model.id, trace.dtype, mode,
        trace.batch, trace.notes,
    )  # fmt: skip


def _mapper(
    hardware: str, calibration: Calibration, thermal_profile: str | None, out_of_domain: Policy
) -> HardwareMapper:
    return create_mapper(
        hardware, calibration=calibration, thermal_profile=thermal_profile, out_of_domain=out_of_domain
    )


def _rows(
    op: Sequence[str], params: Sequence[dict[str, Any]], dtype: Sequence[str], e: OperatorEstimates
) -> list[OperatorEstimate]:
    return [
        OperatorEstimate(
            op=op[i],
            params=params[i],
            dtype=dtype[i],
            flops=int(e.flops[i]),
            bytes=int(e.bytes[i]),
            latency_s=float(e.latency_s[i]),
            efficiency=float(e.efficiency[i]),
            compute_efficiency=float(e.compute_efficiency[i]),
            bound=str(e.bound[i]),
            source=str(e.source[i]),
            reason=str(e.reason[i]),
            interval_s=(float(e.interval_low_s[i]), float(e.interval_high_s[i])),
        )
        for i in range(len(e))
    ]


def _as_measured(traced: TracedOperator, mapper: HardwareMapper) -> TracedOperator:
    """Return the call as a kind that was measured on this hardware, if its own was not and another fits."""
    from graphs.tracing.substitutes import substitute

    measured = mapper.measured_kinds
    found = substitute(traced.op, traced.params, traced.dtype, measured) if measured else None
    return traced if found is None else replace(traced, op=found[0], params=found[1])


def _annotate(row: OperatorEstimate, traced: TracedOperator, asked: TracedOperator) -> OperatorEstimate:
    """Carry over how well the traced call fits the kind that priced it."""
    notes = [traced.note if traced.match != "exact" else "", row.reason]
    source = "proxy" if traced.match == "proxy" and row.source == "model" else row.source
    if asked is not traced:
        cost = ops.evaluate(traced.op, traced.params, ops.itemsize(traced.dtype))
        notes.append(f"no {traced.op} was measured on this hardware; priced as {asked.op}")
        source = "proxy" if row.source == "model" else row.source
        row = replace(row, op=traced.op, params=dict(traced.params), flops=int(cost.flops), bytes=int(cost.bytes))
    return replace(row, source=source, reason="; ".join(filter(None, notes)))


def _unmodelled(traced: Any) -> OperatorEstimate:
    nan = float("nan")
    return OperatorEstimate(
        op=traced.op or traced.aten, params=dict(traced.params), dtype=traced.dtype, flops=0, bytes=0, latency_s=0.0,
        efficiency=nan, compute_efficiency=nan, bound="", source="unmodelled",
        reason=traced.note or f"nothing prices {traced.aten}; it is left out of the total", interval_s=(nan, nan),
    )  # fmt: skip


def _overhead(seconds: float, measured: bool) -> OperatorEstimate:
    nan = float("nan")
    return OperatorEstimate(
        op="host overhead", params={}, dtype="", flops=0, bytes=0, latency_s=seconds, efficiency=nan,
        compute_efficiency=nan, bound="overhead", source="overhead",
        reason="what launching the calls takes beyond the device's own time" if measured
        else "no host overhead is known for this hardware: this is device time",
        interval_s=(seconds, seconds),
    )  # fmt: skip


def _in_program_order(distinct: list[OperatorEstimate], trace: Trace) -> list[OperatorEstimate]:
    order = trace.sequence or [i for i, o in enumerate(trace.operators) for _ in range(o.count)]
    paths = [iter([m for m, n in (o.modules or ((o.module, o.count),)) for _ in range(n)]) for o in trace.operators]
    return [replace(distinct[i], module=next(paths[i], trace.operators[i].module)) for i in order]


def _interval(calls: list[OperatorEstimate], mapper: HardwareMapper) -> tuple[float, float]:
    """Return the sum of the operators' bounds.

    Errors of the operators in one model are correlated (repeated blocks repeat their error), so the bounds are
    added as if fully correlated: too wide rather than too narrow.  A call without an interval of its own gets the
    90 % error that the default was measured to have on this hardware.
    """
    default_error = mapper.default_log_error
    low = high = 0.0
    for c in calls:
        if np.isnan(c.interval_s[0]):
            low += c.latency_s * np.exp(-default_error)
            high += c.latency_s * np.exp(default_error)
        else:
            low, high = low + c.interval_s[0], high + c.interval_s[1]
    return float(low), float(high)
