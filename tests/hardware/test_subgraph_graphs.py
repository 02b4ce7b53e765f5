"""Graphs of subgraphs in stages."""

from __future__ import annotations

import math
from typing import Any

import pytest
from toy_subgraphs import (
    CALIBRATED_S,
    FLOPS,
    matmul_by_operators,
)

from graphs.errors import OperatorParameterError
from graphs.hardware.mappers.allocation import GraphHardwareAllocation
from graphs.hardware.mappers.cpu import CPUMapper
from graphs.subgraph import (
    FusedSubgraph,
    ParallelismDescriptor,
    Precision,
)


def graph_of_three() -> list[FusedSubgraph]:
    small = FusedSubgraph("small", operators=[("matmul", {"m": 512, "n": 512, "k": 512})])
    relu = FusedSubgraph("relu", operators=[("relu", {"numel": 2**24})])
    return [matmul_by_operators(), small, relu]


def test_graph_in_sequence_is_the_sum(i7: CPUMapper) -> None:
    g = i7.map_graph(graph_of_three())
    assert isinstance(g, GraphHardwareAllocation)
    each = [i7.map_subgraph(s).estimated_latency for s in graph_of_three()]
    assert g.total_latency == pytest.approx(sum(each))
    assert g.latency_breakdown == pytest.approx(dict(enumerate(each)))
    assert [a.subgraph_id for a in g.subgraph_allocations] == ["ops", "small", "relu"]
    assert (g.compute_bound_count, g.bandwidth_bound_count, g.balanced_count) == (2, 1, 0)
    assert (g.total_subgraphs, g.total_execution_stages) == (3, 3)
    assert g.naive_latency == pytest.approx((FLOPS + 2 * 512**3 + 2**24) / 1e12)
    assert g.latency_correction_factor == pytest.approx(g.total_latency / g.naive_latency)
    assert g.hardware_name == "i7-12700k"
    assert sum(g.time_by_source.values()) == pytest.approx(g.total_latency)
    assert set(g.time_by_source) == {"model", "calibrated_roofline"}


def test_a_stage_takes_as_long_as_its_slowest_subgraph(i7: CPUMapper) -> None:
    g = i7.map_graph(graph_of_three(), [[1], [0, 2]])
    assert [a.subgraph_id for a in g.subgraph_allocations] == ["small", "ops", "relu"]
    assert [a.execution_stage for a in g.subgraph_allocations] == [0, 1, 1]
    small, big, relu = (a.estimated_latency for a in g.subgraph_allocations)
    assert big == pytest.approx(2 * CALIBRATED_S)
    assert g.total_latency == pytest.approx(small + max(big, relu))
    assert g.peak_compute_units_used == 12
    # sharing a machine is never slower than equal parts and never faster than taking turns would allow
    assert g.total_latency >= i7.map_graph(graph_of_three()).total_latency


def test_equal_subgraphs_at_once_take_as_long_as_one_after_the_other(i7: CPUMapper) -> None:
    twins = [matmul_by_operators(), matmul_by_operators()]
    assert i7.map_graph(twins, [[0, 1]]).total_latency == pytest.approx(i7.map_graph(twins).total_latency)


def test_fusion_reports_are_taken_too(i7: CPUMapper) -> None:
    class Report:
        fused_subgraphs = graph_of_three()
        model_name = "toy"

    g = i7.map_graph(Report(), execution_stages=[[0], [1], [2]], batch_size=1, precision=Precision.FP32)
    assert g.model_name == "toy"
    assert g.total_latency == pytest.approx(i7.map_graph(graph_of_three()).total_latency)


@pytest.mark.parametrize(
    "stages", [[[0], [1]], [[0, 1, 2], [2]], [[0], [1], [3]], [[0, 0], [1], [2]], [[-1], [0], [1]]]
)
def test_stages_must_name_every_subgraph_once(i7: CPUMapper, stages: Any) -> None:
    with pytest.raises(OperatorParameterError, match="every subgraph once"):
        i7.map_graph(graph_of_three(), stages)


def test_a_subgraph_of_another_batch_is_refused(i7: CPUMapper) -> None:
    s = matmul_by_operators(parallelism=ParallelismDescriptor(batch=8))
    assert i7.map_graph([s], batch_size=8).batch_size == 8
    with pytest.raises(OperatorParameterError, match="another batch"):
        i7.map_graph([s], batch_size=4)


def test_empty_graph(i7: CPUMapper) -> None:
    g = i7.map_graph([])
    assert g.total_latency == 0.0
    assert math.isnan(g.latency_correction_factor)
    assert math.isnan(g.average_utilization)
