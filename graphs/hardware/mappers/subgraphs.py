"""Subgraphs onto a machine: priced by their operators, else by their dominant operation, else by the default."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import OperatorParameterError, OutOfDomainError
from graphs.hardware.mappers import modelled
from graphs.hardware.mappers.allocation import BottleneckType, GraphHardwareAllocation, HardwareAllocation
from graphs.hardware.mappers.dominant import Dominant, dominant
from graphs.subgraph import Call, FusedSubgraph, OperationType, Precision, as_precision

if TYPE_CHECKING:
    from graphs.hardware.mappers.base import HardwareMapper, OperatorEstimates

#: Threads that fill one unit: resident threads of an SM, lanes of a core's vector units.
_THREADS_PER_UNIT = {"gpu": 2048, "cpu": 16, "accelerator": 1}
#: Operations that do nothing at inference.
_IDENTITIES = (OperationType.DROPOUT, OperationType.STOCHASTIC_DEPTH, OperationType.UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Price:
    flops: float
    nbytes: float
    compute_s: float
    memory_s: float
    latency_s: float
    source: str
    reason: str
    interval_s: tuple[float, float] = (float("nan"), float("nan"))


def map_subgraph(
    mapper: HardwareMapper,
    subgraph: FusedSubgraph,
    execution_stage: int = 0,
    concurrent_subgraphs: int = 1,
    precision: Precision | str = Precision.FP32,
) -> HardwareAllocation:
    """Return the allocation of one subgraph (see `HardwareMapper.map_subgraph`)."""
    _positive("concurrent_subgraphs", concurrent_subgraphs)
    _positive("execution_stage", execution_stage, low=0)
    precision = as_precision(precision)
    dtype = precision.dtype
    price = _by_model(mapper, subgraph, dtype) if subgraph.operators else None
    if price is None:
        price = _by_operators(mapper, subgraph, dtype) if subgraph.operators else _by_totals(mapper, subgraph, dtype)

    profile = mapper.resource_model
    threads = subgraph.parallelism.total_threads if subgraph.parallelism else None
    per_unit = _THREADS_PER_UNIT[profile.kind]
    ideal = profile.compute_units if threads is None else min(profile.compute_units, -(-threads // per_unit))
    allocated = min(ideal, max(1, profile.compute_units // concurrent_subgraphs))
    # Measured efficiencies hold what a subgraph alone makes of the whole machine.  Only what it loses to its
    # neighbours is added, once: units it could have filled, and its share of the bandwidth.
    compute, memory = price.compute_s * ideal / allocated, price.memory_s * concurrent_subgraphs
    slowdown = ideal / allocated if price.compute_s >= price.memory_s else float(concurrent_subgraphs)
    latency = max(price.latency_s * slowdown, compute, memory) if concurrent_subgraphs > 1 else price.latency_s
    peak = profile.peak_flops_per_s(dtype) if price.flops else float("inf")
    low, high = (v * latency / price.latency_s if price.latency_s else v for v in price.interval_s)
    return HardwareAllocation(
        subgraph_id=subgraph.subgraph_id,
        subgraph_name=subgraph.name,
        precision=precision,
        compute_time=compute,
        memory_time=memory,
        estimated_latency=latency,
        bottleneck=BottleneckType.of(compute, memory),
        efficiency=price.flops / (latency * peak) if price.flops else 0.0,
        source=price.source,
        reason=price.reason,
        flops=price.flops,
        bytes=price.nbytes,
        interval_s=(low, high),
        threads_required=threads,
        compute_units_ideal=ideal,
        compute_units_allocated=allocated,
        occupancy=1.0 if threads is None else min(1.0, threads / (allocated * per_unit)),
        utilization=allocated / profile.compute_units,
        execution_stage=execution_stage,
        is_parallel=concurrent_subgraphs > 1,
    )


def map_graph(
    mapper: HardwareMapper,
    subgraphs: Any,
    execution_stages: Sequence[Sequence[int]] | None = None,
    batch_size: int = 1,
    precision: Precision | str = Precision.FP32,
) -> GraphHardwareAllocation:
    """Return the allocations of a graph (see `HardwareMapper.map_graph`)."""
    _positive("batch_size", batch_size)
    precision = as_precision(precision)
    name = str(getattr(subgraphs, "model_name", ""))
    listed: Sequence[FusedSubgraph] = list(getattr(subgraphs, "fused_subgraphs", subgraphs))
    stages = [[i] for i in range(len(listed))] if execution_stages is None else [list(s) for s in execution_stages]
    named = sorted(i for stage in stages for i in stage)
    if named != list(range(len(listed))):
        raise OperatorParameterError(
            "the execution stages do not name every subgraph once",
            received=f"positions {named}" if len(named) <= 20 else f"{len(named)} positions",
            allowed=f"the positions 0 .. {len(listed) - 1}, each once",
            next_step="correct the stages, or leave them out to run the subgraphs one after the other",
        )
    for s in listed:
        if batch_size > 1 and s.parallelism is not None and s.parallelism.batch != batch_size:
            raise OperatorParameterError(
                f"subgraph {s.subgraph_id!r} describes another batch than the graph",
                received=s.parallelism.batch,
                allowed=batch_size,
                next_step="shapes and totals hold the batch already: make the subgraphs at the batch asked for",
            )
    allocations = tuple(
        map_subgraph(mapper, listed[i], number, len(stage), precision)
        for number, stage in enumerate(stages)
        for i in stage
    )
    flops = sum(a.flops for a in allocations)
    return GraphHardwareAllocation(
        model_name=name,
        hardware_name=mapper.resource_model.id,
        batch_size=int(batch_size),
        model_precision=precision,
        subgraph_allocations=allocations,
        naive_latency=flops / mapper.resource_model.peak_flops_per_s(precision.dtype) if flops else 0.0,
    )


def _by_model(mapper: HardwareMapper, subgraph: FusedSubgraph, dtype: str) -> _Price | None:
    """Price a subgraph of several operators by the model of whole subgraphs, where there is one and it answers.

    A single operator is left to its own calibration, which asks that model last.
    """
    if len(subgraph.operators) < 2:
        return None
    nodes = max(len(subgraph.node_names), len(subgraph.operators))
    found = modelled.ask(mapper, [(subgraph.operators, nodes)], dtype)
    if found is None or np.isnan(found.latency_s[0]):
        return None
    flops, nbytes = subgraph.cost(dtype)
    profile = mapper.resource_model
    latency = float(found.latency_s[0])
    compute = flops / (profile.peak_flops_per_s(dtype) * mapper.default_efficiency) if flops else 0.0
    memory = nbytes / _bandwidth(mapper)
    # the larger side is what limits it, and takes the latency; neither takes longer
    limited = compute >= memory
    return _Price(
        flops=float(flops),
        nbytes=float(nbytes),
        compute_s=latency if limited else min(compute, latency),
        memory_s=min(memory, latency) if limited else latency,
        latency_s=latency,
        source="model",
        reason=str(found.reason[0]) or f"inside the measured range of subgraphs on {profile.id}",
        interval_s=(float(found.low_s[0]), float(found.high_s[0])),
    )


def _by_operators(mapper: HardwareMapper, subgraph: FusedSubgraph, dtype: str) -> _Price:
    """Price exact operators: the sum of their kernels."""
    estimates = _estimate(mapper, subgraph.operators, dtype)
    latency = estimates.latency_s
    compute, memory = _split(mapper, estimates)
    names = [op for op, _ in subgraph.operators]
    share: dict[str, float] = {}
    for source, seconds in zip(estimates.source.tolist(), latency.tolist(), strict=True):
        share[source] = share.get(source, 0.0) + seconds / latency.sum()
    reason = _reason(names, estimates, share)
    flops = float(estimates.flops.sum())
    if subgraph.total_flops and abs(subgraph.total_flops - flops) > 0.01 * flops:
        reason += f"; its totals say {subgraph.total_flops:.4g} FLOP, its operators {flops:.4g}: the operators count"
    return _Price(
        flops=flops,
        nbytes=float(estimates.bytes.sum()),
        compute_s=float(compute.sum()),
        memory_s=float(memory.sum()),
        latency_s=float(latency.sum()),
        source=max(share, key=lambda s: share[s]),
        reason=reason,
        interval_s=(float(estimates.interval_low_s.sum()), float(estimates.interval_high_s.sum())),
    )


def _split(mapper: HardwareMapper, e: OperatorEstimates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return compute and memory seconds of each kernel.

    What limits a kernel takes its latency; the other side takes what the default efficiency or the bandwidth
    allows, at most the latency.
    """
    compute = np.minimum(e.compute_time_s / mapper.default_efficiency, e.latency_s)
    memory = np.minimum(e.bytes / _bandwidth(mapper), e.latency_s)
    return (
        np.where(e.bound == "compute", e.latency_s, compute),
        np.where(e.bound == "memory", e.latency_s, memory),
    )


def _reason(names: Sequence[str], e: OperatorEstimates, share: dict[str, float]) -> str:
    notes = {f"{op}: {why}": None for op, why in zip(names, e.reason.tolist(), strict=True) if why}
    if len(names) == 1 and len(notes) == 1:
        return str(e.reason[0])
    if share.keys() == {"model"}:
        text = f"inside the measured range of {', '.join(dict.fromkeys(names))}"
    else:
        shares = ", ".join(f"{100 * v:.3g} % of the time from {s}" for s, v in share.items())
        text = f"{len(names)} operators: {shares}"
    return "; ".join([text, *notes])


def _by_totals(mapper: HardwareMapper, subgraph: FusedSubgraph, dtype: str) -> _Price:
    """Price totals at the efficiency of the dominant operation, or at the default."""
    found = dominant(subgraph, dtype)
    estimate = _estimate(mapper, [found.call], dtype) if found.call else None
    flops, nbytes = _totals(subgraph, found, estimate)
    profile, bandwidth = mapper.resource_model, _bandwidth(mapper)
    peak = profile.peak_flops_per_s(dtype) if flops else float("inf")
    source, reason, efficiency = _efficiency_without_shape(mapper, found)
    if estimate is not None:
        reason = str(estimate.reason[0]) or f"inside the measured range of {_words(found.call)}"
        source, efficiency = str(estimate.source[0]), mapper.default_efficiency
        if source == "default":
            bandwidth = profile.bandwidth_bytes_per_s
        else:
            # The limiting side is scaled so that a subgraph with just this operator takes just its latency.
            reached = float(estimate.compute_efficiency[0])
            moved = float(estimate.bytes[0] / estimate.latency_s[0])
            if estimate.compute_time_s[0] >= estimate.memory_time_s[0]:
                efficiency, bandwidth = reached, max(bandwidth, moved)
            else:
                efficiency, bandwidth = max(efficiency, reached), moved
    compute, memory = flops / (peak * efficiency), nbytes / bandwidth
    if estimate is None and memory >= compute and nbytes and bandwidth != profile.bandwidth_bytes_per_s:
        source = "calibrated_roofline"
        reason = f"memory-bound; measured bandwidth {bandwidth / 1e9:.4g} GB/s; {reason}"
    if source == "default" and mapper.out_of_domain == "error":
        raise OutOfDomainError(
            f"subgraph {subgraph.subgraph_id!r} is outside the applicability domain on {profile.id}: {reason}",
            next_step='ask with out_of_domain="default" or "extrapolate" to get a number all the same',
        )
    latency = max(compute, memory)
    if not latency:
        reason = "no FLOP and no bytes: nothing runs on the device"
    interval = (float("nan"), float("nan"))
    if estimate is not None and estimate.latency_s[0] > 0:
        scale = latency / float(estimate.latency_s[0])
        interval = (float(estimate.interval_low_s[0]) * scale, float(estimate.interval_high_s[0]) * scale)
    return _Price(flops, nbytes, compute, memory, latency, source, reason, interval)


def _efficiency_without_shape(mapper: HardwareMapper, found: Dominant) -> tuple[str, str, float]:
    """Return source, reason and efficiency where no shape is known."""
    calibration = mapper.calibration
    if calibration is None:
        return "default", f"no calibration of {mapper.resource_model.id} is loaded", mapper.default_efficiency
    if found.op_class == "unknown" and calibration.operations:
        measured = calibration.operations
        kinds = ", ".join(sorted({p.operation_type for p in measured}))
        mean = float(np.mean([p.efficiency for p in measured]))
        return "proxy", f"unknown operation; average efficiency of the {len(measured)} measured points ({kinds})", mean
    why = f"no exact shape of its {found.operation.value} is known: give `operators`, or describe its tensors"
    return "default", why, mapper.default_efficiency


def _totals(subgraph: FusedSubgraph, found: Dominant, estimate: OperatorEstimates | None) -> tuple[float, float]:
    """Return FLOP and bytes; those of the dominant operation where the subgraph gives none."""
    flops, nbytes = float(subgraph.total_flops), float(subgraph.total_bytes)
    if estimate is not None:
        flops, nbytes = flops or float(estimate.flops[0]), nbytes or float(estimate.bytes[0])
    if not nbytes:
        nbytes = float(
            sum(
                t.size_bytes or 0 for t in (*subgraph.input_tensors, *subgraph.weight_tensors, *subgraph.output_tensors)
            )
        )
    if not flops and not nbytes and found.operation not in _IDENTITIES:
        raise OperatorParameterError(
            f"nothing tells how large subgraph {subgraph.subgraph_id!r} is",
            received=f"a {found.operation.value} without FLOP, bytes and shapes",
            allowed="operators, tensors, or totals",
            next_step="describe it, so that it does not count as free",
        )
    return flops, nbytes


def _estimate(mapper: HardwareMapper, calls: Sequence[Call], dtype: str) -> OperatorEstimates:
    names, params = [op for op, _ in calls], [p for _, p in calls]
    return mapper.map_operators(ops.group_operators(names, [dtype] * len(calls), params))


def _bandwidth(mapper: HardwareMapper) -> float:
    """Return the measured bandwidth where the mapper is calibrated and it was measured, else the datasheet's."""
    measured = mapper.resource_model.measured_bandwidth if mapper.calibration is not None else None
    return mapper.resource_model.bandwidth_bytes_per_s if measured is None else measured.value


def _words(call: Call | None) -> str:
    return "" if call is None else f"{call[0]} {', '.join(f'{k}={v}' for k, v in call[1].items())}"


def _positive(name: str, value: Any, low: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < low:
        raise OperatorParameterError(
            f"{name} is not usable", received=value, allowed=f"an integer >= {low}", next_step="correct it"
        )
