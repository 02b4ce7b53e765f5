"""What mapping a subgraph, or a graph of them, onto a machine gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from graphs.subgraph import Precision

#: One time must exceed the other by this factor to be called the bottleneck.
BALANCE = 1.5


class BottleneckType(StrEnum):
    """What limits a subgraph."""

    COMPUTE_BOUND = "compute_bound"
    BANDWIDTH_BOUND = "bandwidth_bound"
    BALANCED = "balanced"

    @classmethod
    def of(cls, compute_time: float, memory_time: float) -> BottleneckType:
        """Classify two times in seconds.

        >>> BottleneckType.of(1.6, 1.0), BottleneckType.of(1.0, 1.6), BottleneckType.of(1.5, 1.0)
        (<BottleneckType.COMPUTE_BOUND: 'compute_bound'>, <BottleneckType.BANDWIDTH_BOUND: 'bandwidth_bound'>, \
<BottleneckType.BALANCED: 'balanced'>)
        """
        if compute_time > BALANCE * memory_time:
            return cls.COMPUTE_BOUND
        if memory_time > BALANCE * compute_time:
            return cls.BANDWIDTH_BOUND
        return cls.BALANCED


@dataclass(frozen=True, slots=True)
class HardwareAllocation:
    """One subgraph on one machine.

    Attributes
    ----------
    subgraph_id, subgraph_name
    precision : Precision
    compute_time, memory_time : float
        Seconds that arithmetic and traffic take, each alone.
    estimated_latency : float
        Seconds.  The larger of the two times for a subgraph known by its totals; for one known by its operators
        the sum of its kernels, which holds the fixed cost of each call too.
    bottleneck : BottleneckType
    efficiency : float
        flops / (latency x peak), 0 without FLOP.
    source : str
        ``model``, ``calibrated_roofline``, ``proxy`` or ``default``; of several kernels, what most of the time is from.
    reason : str
        Why this source answered; never empty.
    flops, bytes : float
        Work that the estimate is for.
    interval_s : (float, float)
        90 % interval, NaN unless a fitted model answered for all of it.
    threads_required : int or None
        None where the parallelism was not described.
    compute_units_ideal, compute_units_allocated : int
        Units that the subgraph can fill, and those it gets beside concurrent subgraphs.
    occupancy : float
        Share of the allocated units' threads that have work.
    utilization : float
        Share of the machine's units allocated.
    execution_stage : int
    is_parallel : bool
        Whether other subgraphs run in the same stage.
    """

    subgraph_id: int | str
    subgraph_name: str
    precision: Precision
    compute_time: float
    memory_time: float
    estimated_latency: float
    bottleneck: BottleneckType
    efficiency: float
    source: str
    reason: str
    flops: float
    bytes: float
    interval_s: tuple[float, float]
    threads_required: int | None
    compute_units_ideal: int
    compute_units_allocated: int
    occupancy: float
    utilization: float
    execution_stage: int = 0
    is_parallel: bool = False


@dataclass(frozen=True)
class GraphHardwareAllocation:
    """A graph of subgraphs on one machine.

    Attributes
    ----------
    model_name, hardware_name : str
    batch_size : int
    model_precision : Precision
    subgraph_allocations : tuple of HardwareAllocation
        In order of execution.
    naive_latency : float
        All FLOP at the full peak, seconds.
    """

    model_name: str
    hardware_name: str
    batch_size: int
    model_precision: Precision
    subgraph_allocations: tuple[HardwareAllocation, ...] = field(repr=False)
    naive_latency: float

    @property
    def latency_breakdown(self) -> dict[int, float]:
        """Seconds of each stage: its slowest subgraph."""
        stages: dict[int, float] = {}
        for a in self.subgraph_allocations:
            stages[a.execution_stage] = max(stages.get(a.execution_stage, 0.0), a.estimated_latency)
        return stages

    @property
    def total_latency(self) -> float:
        """Seconds: the sum of the stages."""
        return sum(self.latency_breakdown.values())

    @property
    def latency_correction_factor(self) -> float:
        """Total over naive latency; NaN without FLOP."""
        return self.total_latency / self.naive_latency if self.naive_latency > 0 else float("nan")

    @property
    def total_subgraphs(self) -> int:
        return len(self.subgraph_allocations)

    @property
    def total_execution_stages(self) -> int:
        return len(self.latency_breakdown)

    @property
    def peak_compute_units_used(self) -> int:
        """Most units allocated to one stage."""
        used: dict[int, int] = {}
        for a in self.subgraph_allocations:
            used[a.execution_stage] = used.get(a.execution_stage, 0) + a.compute_units_allocated
        return max(used.values(), default=0)

    @property
    def average_utilization(self) -> float:
        """Mean over subgraphs of the share of units allocated; NaN without subgraphs."""
        shares = [a.utilization for a in self.subgraph_allocations]
        return sum(shares) / len(shares) if shares else float("nan")

    @property
    def compute_bound_count(self) -> int:
        return self._count(BottleneckType.COMPUTE_BOUND)

    @property
    def bandwidth_bound_count(self) -> int:
        return self._count(BottleneckType.BANDWIDTH_BOUND)

    @property
    def balanced_count(self) -> int:
        return self._count(BottleneckType.BALANCED)

    @property
    def time_by_source(self) -> dict[str, float]:
        """Seconds of subgraphs by the source that answered for them (concurrent ones counted each)."""
        out: dict[str, float] = {}
        for a in self.subgraph_allocations:
            out[a.source] = out.get(a.source, 0.0) + a.estimated_latency
        return out

    def _count(self, kind: BottleneckType) -> int:
        return sum(a.bottleneck is kind for a in self.subgraph_allocations)
