"""The calls of a trace, priced: each as its own kind, as a like one, or as what another machine's rows cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from graphs import ops
from graphs.estimates import OperatorEstimate
from graphs.hardware.calibration.fitted import take
from graphs.hardware.mappers.base import HardwareMapper, OperatorEstimates
from graphs.ops.batch import OperatorGroup
from graphs.whole_model import WholeModelTerms

if TYPE_CHECKING:
    from graphs.tracing.trace import Trace, TracedOperator


def price_operators(
    trace: Trace, mapper: HardwareMapper, terms: WholeModelTerms, without_gaps: bool
) -> list[OperatorEstimate]:
    """Return one row for each distinct operator of a trace."""
    priced = [o for o in trace.operators if o.op]
    asked = [_as_measured(o, mapper) for o in priced]
    columns = [o.op for o in asked], [o.dtype for o in asked], [dict(o.params) for o in asked]
    groups = ops.group_operators(*columns)
    answers = mapper.map_operators(groups)
    rows = operator_rows(columns[0], columns[2], columns[1], answers)
    rows = _carried_over(rows, groups, mapper, terms)
    done = iter(
        [terms.corrected(_annotate(r, o, a), without_gaps) for r, o, a in zip(rows, priced, asked, strict=True)]
    )
    return [next(done) if o.op else _unmodelled(o) for o in trace.operators]


def _carried_over(
    rows: list[OperatorEstimate], groups: Sequence[OperatorGroup], mapper: HardwareMapper, terms: WholeModelTerms
) -> list[OperatorEstimate]:
    """Answer what only the related machine's rows cover by the own model, which was fitted on those as well."""
    model = None if mapper.calibration is None else mapper.calibration.model
    if model is None or not terms.domains or mapper.out_of_domain != "default":
        return rows
    rows = list(rows)
    for group in groups:
        defaults = np.array([rows[i].source == "default" for i in group.rows])
        if not defaults.any():
            continue
        some = take(group, defaults)
        for i, latency in zip(some.rows, terms.carried_over(some, model), strict=True):
            if np.isfinite(latency):
                row, change = rows[i], float(latency) / rows[i].latency_s
                rows[i] = replace(
                    row, latency_s=float(latency), source="proxy", efficiency=row.efficiency / change,
                    compute_efficiency=row.compute_efficiency / change,
                    reason=f"measured on {terms.related} only, carried over ({row.reason})",
                )  # fmt: skip
    return rows


def operator_rows(
    op: Sequence[str], params: Sequence[dict[str, Any]], dtype: Sequence[str], e: OperatorEstimates
) -> list[OperatorEstimate]:
    """Return the mapper's arrays as one row a call."""
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


def overhead_row(seconds: float, measured: bool) -> OperatorEstimate:
    """Return the row of what launching adds."""
    nan = float("nan")
    return OperatorEstimate(
        op="host overhead", params={}, dtype="", flops=0, bytes=0, latency_s=seconds, efficiency=nan,
        compute_efficiency=nan, bound="overhead", source="overhead",
        reason="what launching the calls takes beyond the device's own time" if measured
        else "no host overhead is known for this hardware: this is device time",
        interval_s=(seconds, seconds),
    )  # fmt: skip


def in_program_order(rows: list[OperatorEstimate], index: list[int], trace: Trace) -> list[OperatorEstimate]:
    """Return a row a call, with its module."""
    paths = [iter([m for m, n in (o.modules or ((o.module, o.count),)) for _ in range(n)]) for o in trace.operators]
    return [replace(rows[i], module=next(paths[i], trace.operators[i].module)) for i in index]
