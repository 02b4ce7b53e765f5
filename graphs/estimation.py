"""Estimates of operators and whole models: trace and mapper together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphs import ops
from graphs.errors import GraphsError, OperatorParameterError
from graphs.estimates import LatencyEstimate, OperatorEstimate, TimeShare
from graphs.hardware.calibration.calibration import HardwareCalibration
from graphs.hardware.mappers.base import HardwareMapper, OperatorEstimates, Policy
from graphs.hardware.mappers.registry import create_mapper
from graphs.host import Host, queue_s
from graphs.pricing import in_program_order, operator_rows, overhead_row, price_operators
from graphs.subgraph_pricing import NOTE, price_subgraphs
from graphs.tracing.memory import memory as memory_of
from graphs.whole_model import WholeModelTerms, distinct_widths

if TYPE_CHECKING:
    from graphs.tracing.trace import Trace

Calibration = HardwareCalibration | str | Path | bool | None
Mode = Literal["device", "eager", "graph", "kernels"]
MODES: tuple[Mode, ...] = ("device", "eager", "graph", "kernels")
#: Share of the device's time above which the default's answers leave a total without an interval.
MOSTLY_DEFAULT = 0.5

__all__ = [
    "MODES", "LatencyEstimate", "Mode", "OperatorEstimate", "TimeShare", "estimate", "estimate_operator",
    "estimate_operators", "estimate_trace",
]  # fmt: skip


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
    if not hasattr(frame, "keys"):
        raise OperatorParameterError("operators are given as a table", received=type(frame).__name__,
                                     allowed="a DataFrame or a dict of the columns op, dtype, params",
                                     next_step="for one operator call estimate_operator")  # fmt: skip
    missing = [c for c in ("op", "dtype", "params") if c not in frame]
    if missing:
        raise OperatorParameterError(
            f"the table lacks the columns {', '.join(missing)}",
            received=list(frame),
            allowed="op, dtype, params",
            next_step="add them",
        )
    for c in ("op", "dtype", "params"):
        if not hasattr(frame[c], "__iter__") or isinstance(frame[c], str):
            raise OperatorParameterError(f"the column {c} holds no rows", received=frame[c],
                                         allowed="a column of values, one a row",
                                         next_step="for one operator call estimate_operator")  # fmt: skip
    columns = [list(frame[c]) for c in ("op", "dtype", "params")]
    return mapper.map_operators(ops.group_operators(*columns))


def estimate_operator(
    op: str,
    params: Mapping[str, Any] | str,
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
    params : dict or str
        Its parameters, plain or as JSON.
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
    given = dict(ops.parse_params(params))
    groups = ops.group_operators([op], [dtype], [given])
    return operator_rows([op], [given], [ops.canonical(dtype)], mapper.map_operators(groups))[0]


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
    host_overhead: Host | float | Mapping[str, float] | None = None,
    training: bool = False,
    optimizer: str | None = None,
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
    mode : {"device", "eager", "graph", "kernels"}
        Time of the device alone, or with the host's launch overhead.  ``graph`` and ``kernels`` say which device
        time: the replay of a CUDA graph, or the sum of kernel durations (see `kernels_only` for which ``device`` is).
    host_overhead : Host, float or mapping, optional
        Another host in mode ``eager``: seconds an operator, or settings such as ``{"scale": 0.5}`` or
        ``{"operator_s": 1e-5, "kernel_s": 4e-6}`` (`graphs.host.Host.with_settings`).
    training : bool
        Estimate a training step, forward and backward.  Not validated against any measured step; a note says so.
    optimizer : {"sgd", "adamw"}, optional
        Add the update of the parameters to a training step.
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

    _check_mode(mode)
    mapper = _mapper(hardware, calibration, thermal_profile, out_of_domain)
    if isinstance(module, Trace):
        if optimizer is not None and not module.training:
            raise GraphsError("this trace holds a forward pass, which has no optimizer", received=optimizer,
                              allowed="None",
                              next_step="trace the module with training=True and the optimizer")  # fmt: skip
        if training and not module.training:
            raise GraphsError("this trace holds a forward pass only", received=module.name,
                              allowed="a module, or the trace of a training step",
                              next_step="trace the module with training=True")  # fmt: skip
        trace = module if dtype is None else module.with_dtype(dtype)
    else:
        from graphs.tracing import trace as trace_module

        trace = trace_module(module, inputs, dtype=dtype, training=training, optimizer=optimizer)
    return estimate_trace(trace, mapper, mode, host_overhead)


def estimate_trace(
    trace: Trace,
    mapper: HardwareMapper,
    mode: Mode = "device",
    host_overhead: Host | float | Mapping[str, float] | None = None,
) -> LatencyEstimate:
    """Return the latency of a traced model; distinct operators are asked once (arguments as in `estimate`)."""
    _check_mode(mode)
    terms = mapper.whole_model_terms
    rows = price_operators(trace, mapper, terms, kernels_only(trace, mode))
    index = list(trace.sequence) or [i for i, o in enumerate(trace.operators) for _ in range(o.count)]
    calls = in_program_order(rows, index, trace)
    notes = trace.notes
    if (fused := price_subgraphs(calls, mapper)) is not None:
        # a call's latency depends on its subgraph: every call is a row of its own
        rows, calls, index = fused, list(fused), list(range(len(fused)))
        notes = (*notes, NOTE)
    device = sum(c.latency_s for c in calls)
    total, host_s, waiting = device, float("nan"), 0.0
    if mode == "eager":
        known = terms.host is not None or host_overhead is not None
        host = (terms.host or Host()).with_settings(host_overhead)
        host_s, total = eager_s(rows, index, host, mapper.host_and_device_overlap)
        # a queue ends with its last call; both sums are rounded
        waiting = max(float(total) - device, 0.0)
        calls.append(overhead_row(waiting, known))
    other_host = mode == "eager" and host_overhead is not None
    interval, source = _interval(rows, index, total, waiting, mode, mapper, terms, other_host)
    if trace.training:
        # What is known of forward passes' errors says nothing of backward passes.
        interval, source = (float("nan"), float("nan")), "nothing: no training step was measured"
    return LatencyEstimate(
        float(total), interval, tuple(calls), trace.name, mapper.resource_model.id, trace.dtype, mode, trace.batch,
        notes, host_s, source, memory_of(trace, mapper.resource_model.memory_bytes),
    )  # fmt: skip


def kernels_only(trace: Trace, mode: str) -> bool:
    """Return whether device time means kernel durations alone.

    ``device`` is the replay of a CUDA graph, except for models that begin with token ids: their libraries record
    another program while a graph is captured, so the sum of kernels is what can be measured of them.
    """
    tokens = any(o.op == "embedding" for o in trace.operators)
    return mode == "kernels" or (mode == "device" and tokens)


def eager_s(rows: Sequence[OperatorEstimate], index: Sequence[int], host: Host, overlap: bool) -> tuple[float, float]:
    """Return how long the host is busy, and when an eager pass ends, seconds.

    Parameters
    ----------
    rows, index
        Distinct operators, and the row of each call.
    host : Host
    overlap : bool
        Whether the device runs beside the host; one machine does one after the other.
    """
    launch = np.array([host.call_s(r.op, r.params, r.dtype) for r in rows], dtype=np.float64)
    run = np.array([r.latency_s for r in rows], dtype=np.float64)
    order = np.asarray(index, dtype=np.intp)
    busy = host.start_s + float(launch[order].sum()) if len(order) else host.start_s
    if not overlap:
        return busy, busy + float(run[order].sum())
    # calls that were not priced launch as well: they cost the host, not the device
    gaps = np.where(run > 0, host.gap_s, 0.0)
    return busy, queue_s(launch[order], (run + gaps)[order], host.start_s)


def _mapper(
    hardware: str, calibration: Calibration, thermal_profile: str | None, out_of_domain: Policy
) -> HardwareMapper:
    return create_mapper(
        hardware, calibration=calibration, thermal_profile=thermal_profile, out_of_domain=out_of_domain
    )


def _interval(
    rows: list[OperatorEstimate], index: list[int], total: float, waiting: float, mode: str, mapper: HardwareMapper,
    terms: WholeModelTerms, other_host: bool,
) -> tuple[tuple[float, float], str]:  # fmt: skip
    """Return the 90 % interval of the total, and what it rests on."""
    if total <= 0:
        return (float("nan"), float("nan")), "unknown: nothing was priced"
    device = sum(rows[i].latency_s for i in index)
    defaulted = sum(rows[i].latency_s for i in index if rows[i].source == "default")
    if defaulted > MOSTLY_DEFAULT * device:
        # the default is a convention: that it was off by so much elsewhere says nothing of these calls
        share = f"{100 * defaulted / device:.0f} %"
        return (float("nan"), float("nan")), f"unknown: the default answered {share} of the time"
    which = "eager" if mode == "eager" else "device"
    widths = distinct_widths(rows, index, total, mapper.default_log_error)
    found = terms.intervals.get(which)
    if found is not None and not other_host:
        half = found.half_width(widths, waiting / total)
        source = f"errors of {found.models} measured models, each left out in turn"
    elif which == "eager" and not other_host and np.isfinite(terms.eager_log_error):
        half, source = terms.eager_log_error, "errors of measured models, each left out in turn"
    else:
        # Repeated blocks repeat their error: adding the bounds is too wide rather than too narrow.
        half = float(widths.sum())
        source = "sum of the operators' bounds, as if their errors were one: no whole model was measured"
        if other_host:
            source = "sum of the operators' bounds; the host as it was given"
    if not np.isfinite(half):
        source = "" if mapper.calibration is None else "unknown: some operators have no known error"
    return (float(total * np.exp(-half)), float(total * np.exp(half))), source


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise GraphsError("unknown mode", received=mode, allowed=", ".join(MODES), next_step="choose one of these")
