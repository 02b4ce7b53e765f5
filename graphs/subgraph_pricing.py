"""Calls of a trace priced subgraph by subgraph, where the hardware's calibration has a model of subgraphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphs.estimates import OperatorEstimate
from graphs.hardware.mappers.base import HardwareMapper

#: What the estimate of a model priced by subgraphs stands for.
NOTE = (
    "priced by a model of subgraphs that were measured eagerly, node by node, each waited for: the sum holds a"
    " dispatch for every node, and an end-to-end pass of a GPU takes less"
)


def price_subgraphs(calls: Sequence[OperatorEstimate], mapper: HardwareMapper) -> list[OperatorEstimate] | None:
    """Return the calls of a program, in order, with the latencies that they have inside their subgraphs.

    A subgraph's latency is shared out among its calls as their linear costs are to each other.  A call that stands
    alone and that the hardware's operator calibration answers keeps that answer.

    Returns
    -------
    list of OperatorEstimate, or None
        None where the mapper has no model of subgraphs, or it answers none of the calls.
    """
    unpriced = ("unmodelled", "overhead")
    fused = mapper.map_trace([("" if c.source in unpriced else c.op, c.params, c.dtype) for c in calls])
    if not any(fused):
        return None
    out = []
    for call, found in zip(calls, fused, strict=True):
        alone = found is not None and "+" not in found.subgraph
        if found is None or (alone and call.source in ("model", "proxy")):
            out.append(call)
            continue
        scale = call.latency_s / found.latency_s if found.latency_s else 1.0
        note = "" if alone else f"part of {found.subgraph}"
        out.append(
            replace(
                call, latency_s=found.latency_s, interval_s=found.interval_s,
                source="proxy" if call.source == "proxy" else "model",
                reason="; ".join(filter(None, (call.reason if call.source == "proxy" else "", note))),
                efficiency=call.efficiency * scale, compute_efficiency=call.compute_efficiency * scale,
            )
        )  # fmt: skip
    return out
