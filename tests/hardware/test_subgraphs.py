"""Fused subgraphs onto machines: by exact operators, by totals, and beside neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from toy_hardware import BANDWIDTH, PEAK, RATIO, T0, constant_trees, make_model
from toy_subgraphs import (
    CALIBRATED_S,
    CUBE,
    FLOPS,
    MATMULS,
    MATRIX,
    MOVED_S,
    SIDE,
    matmul_by_operators,
    matmul_by_tensors,
    matmul_by_totals,
    tensor,
)

import graphs
from graphs.errors import OperatorParameterError, OutOfDomainError
from graphs.hardware.calibration import HardwareCalibration, load_calibration
from graphs.hardware.mappers.allocation import BottleneckType, HardwareAllocation
from graphs.hardware.mappers.cpu import CPUMapper
from graphs.hardware.mappers.gpu import GPUMapper
from graphs.hardware.profile import HardwareProfile
from graphs.subgraph import (
    FusedSubgraph,
    ParallelismDescriptor,
    Precision,
)


@pytest.mark.parametrize("make", MATMULS)
def test_matmul_2048_calibrated(i7: CPUMapper, make: Any) -> None:
    a = i7.map_subgraph(subgraph=make(), execution_stage=0, concurrent_subgraphs=1, precision=Precision.FP32)
    assert isinstance(a, HardwareAllocation)
    assert a.estimated_latency == pytest.approx(23.5e-3, rel=0.05)
    assert a.estimated_latency == pytest.approx(CALIBRATED_S, rel=1e-9)
    assert a.compute_time == pytest.approx(CALIBRATED_S, rel=1e-9)
    assert a.memory_time == pytest.approx(MOVED_S, rel=1e-9)
    assert a.efficiency == pytest.approx(0.7297, rel=1e-9)
    assert (a.source, a.bottleneck) == ("model", BottleneckType.COMPUTE_BOUND)
    assert "matmul" in a.reason
    assert (a.execution_stage, a.is_parallel, a.precision) == (0, False, Precision.FP32)


@pytest.mark.parametrize("make", MATMULS)
def test_matmul_2048_uncalibrated_and_ratio(bare: CPUMapper, i7: CPUMapper, make: Any) -> None:
    a = bare.map_subgraph(make())
    assert bare.default_efficiency == 0.20
    assert a.efficiency == pytest.approx(0.20)
    assert a.estimated_latency == pytest.approx(FLOPS / 200e9)
    assert a.memory_time == pytest.approx(3 * MATRIX / 75e9)
    assert (a.source, a.bottleneck) == ("default", "compute_bound")
    assert "no calibration of i7-12700k" in a.reason
    assert i7.map_subgraph(make()).estimated_latency / a.estimated_latency == pytest.approx(0.274, abs=0.0005)


RELU = {
    "operators": {"operators": [("relu", {"numel": 2**24})]},
    "tensors": {"operation_types": ["relu"], "total_flops": 2**24, "total_input_bytes": 2**26,
                "total_output_bytes": 2**26, "input_tensors": [tensor(2**24)], "output_tensors": [tensor(2**24)]},
    "totals": {"operation_types": ["relu"], "total_flops": 2**24, "total_input_bytes": 2**26,
               "total_output_bytes": 2**26},
}  # fmt: skip


@pytest.mark.parametrize("known_by", RELU)
def test_relu_of_64_mb(bare: CPUMapper, i7: CPUMapper, known_by: str) -> None:
    s = FusedSubgraph(1, **RELU[known_by])
    a, b = i7.map_subgraph(s), bare.map_subgraph(s)
    assert a.estimated_latency == pytest.approx(134217728 / 51.6e9) == pytest.approx(2.60e-3, rel=1e-3)
    assert b.estimated_latency == pytest.approx(134217728 / 75e9) == pytest.approx(1.79e-3, rel=1e-3)
    assert (a.bottleneck, b.bottleneck) == ("bandwidth_bound", "bandwidth_bound")
    assert (a.source, b.source) == ("calibrated_roofline", "default")
    assert "51.6 GB/s" in a.reason
    for allocation in (a, b):
        assert allocation.memory_time == pytest.approx(allocation.estimated_latency)
        assert allocation.compute_time == pytest.approx(2**24 / 200e9)


def test_intensity_and_counts() -> None:
    s = matmul_by_operators()
    assert (s.total_flops, s.total_macs, s.num_operators) == (FLOPS, FLOPS / 2, 1)
    assert round(s.arithmetic_intensity, 2) == 341.33
    assert round(matmul_by_totals().arithmetic_intensity, 2) == 341.33
    # what the caller says of the intensity is replaced where it can be computed
    assert round(matmul_by_totals(arithmetic_intensity=7.0).arithmetic_intensity, 2) == 341.33
    assert FusedSubgraph(0, arithmetic_intensity=7.0).arithmetic_intensity == 7.0


@pytest.mark.parametrize(
    ("intensity", "name"),
    [(51, "compute_bound"), (50, "balanced"), (11, "balanced"), (10, "memory_bound"), (1, "bandwidth_bound")],
)
def test_recommended_bottleneck(intensity: float, name: str) -> None:
    s = FusedSubgraph(0, total_flops=intensity * 100, total_input_bytes=100)
    assert s.recommended_bottleneck == name


def test_operators_are_the_sum_of_their_kernels(toy: GPUMapper) -> None:
    calls = [("matmul", {"m": 512, "n": 512, "k": 512}), ("relu", {"numel": 512 * 512}), ("relu", {"numel": 2**22})]
    alone = [toy.map_subgraph(FusedSubgraph(i, operators=[c])) for i, c in enumerate(calls)]
    a = toy.map_subgraph(FusedSubgraph(9, operators=calls))
    assert a.estimated_latency == pytest.approx(sum(x.estimated_latency for x in alone))
    assert a.flops == sum(x.flops for x in alone)
    assert a.bytes == sum(x.bytes for x in alone)
    assert a.efficiency == pytest.approx(a.flops / (a.estimated_latency * PEAK["fp32"]))
    assert a.source == "model"
    assert a.interval_s[0] == pytest.approx(a.estimated_latency * math.exp(-0.1))
    by_hand = RATIO["gemm"] * (T0 + 2 * 512**3 / PEAK["fp32"])
    by_hand += sum(RATIO["unary"] * (T0 + 8 * n / BANDWIDTH) for n in (512 * 512, 2**22))
    assert a.estimated_latency == pytest.approx(by_hand, rel=1e-6)


def test_source_is_what_most_of_the_time_is_from_and_the_reason_tells_all(toy: GPUMapper) -> None:
    conv = ("conv2d", {"n": 8, "c": 256, "h": 56, "w": 56, "o": 256, "k": 3, "pad": 1})
    relu = ("relu", {"numel": 1000000})
    a = toy.map_subgraph(FusedSubgraph(0, operators=[conv, relu]))
    assert a.source == toy.map_subgraph(FusedSubgraph(0, operators=[relu, conv])).source == "default"
    assert "operator 'conv2d' was never measured" in a.reason
    assert "% of the time from default" in a.reason
    assert "% of the time from model" in a.reason
    assert math.isnan(a.interval_s[0])


def test_what_limits_a_kernel_takes_its_latency(toy: GPUMapper) -> None:
    for op, params, limit in (
        ("relu", {"numel": 2**20}, "memory_time"),
        ("matmul", {"m": 512, "n": 512, "k": 512}, "compute_time"),
    ):
        a = toy.map_subgraph(FusedSubgraph(0, operators=[(op, params)]))
        other = {"memory_time": "compute_time", "compute_time": "memory_time"}[limit]
        assert getattr(a, limit) == a.estimated_latency
        assert getattr(a, other) < a.estimated_latency
    # of a tiny call most is the fixed cost: neither side takes it
    tiny = toy.map_subgraph(FusedSubgraph(0, operators=[("relu", {"numel": 2**10})]))
    assert max(tiny.compute_time, tiny.memory_time) < 0.1 * tiny.estimated_latency


def test_operators_win_over_totals_and_say_so(toy: GPUMapper) -> None:
    a = toy.map_subgraph(matmul_by_operators(total_flops=FLOPS / 2))
    assert a.flops == FLOPS
    assert "the operators count" in a.reason
    assert "the operators count" not in toy.map_subgraph(matmul_by_operators(total_flops=FLOPS)).reason


@pytest.mark.parametrize("precision", [Precision.BF16, "bf16", "torch.bfloat16"])
def test_precision_selects_peak_and_bytes(toy: GPUMapper, precision: Any) -> None:
    s = FusedSubgraph(0, operators=[("matmul", {"m": 1024, "n": 1024, "k": 1024})])
    a = toy.map_subgraph(s, precision=precision)
    roofline = max(2 * 1024**3 / PEAK["bf16"], 3 * 2 * 1024**2 / BANDWIDTH)
    assert a.estimated_latency == pytest.approx(RATIO["gemm"] * (T0 + roofline), rel=1e-6)
    assert a.precision is Precision.BF16
    assert a.bytes == 3 * 2 * 1024**2


def test_same_answer_as_the_operator_api(i7: CPUMapper) -> None:
    calls = [("matmul", CUBE), ("relu", {"numel": 2**24}), ("gelu", {"numel": 4096}), ("copy", {"numel": 100})]
    each = [graphs.estimate_operator(op, p, "fp32", hardware="i7-12700k").latency_s for op, p in calls]
    assert i7.map_subgraph(FusedSubgraph(0, operators=calls)).estimated_latency == pytest.approx(sum(each))


def test_totals_take_the_efficiency_of_the_dominant_operation(i7: CPUMapper) -> None:
    # a matmul of 2048 and its activation: 10 % more FLOP run at the matmul's efficiency
    s = FusedSubgraph(
        0, operation_types=["matmul", "gelu"], total_flops=1.1 * FLOPS, total_input_bytes=2 * MATRIX,
        total_output_bytes=MATRIX, input_tensors=[tensor(SIDE, SIDE)] * 2, output_tensors=[tensor(SIDE, SIDE)],
    )  # fmt: skip
    a = i7.map_subgraph(s)
    assert a.estimated_latency == pytest.approx(1.1 * CALIBRATED_S)
    assert a.efficiency == pytest.approx(0.7297)
    assert a.source == "model"


@pytest.mark.parametrize("numel", [2**11, 2**14, 2**18, 2**22])
def test_totals_of_one_operator_take_just_its_latency(toy: GPUMapper, numel: int) -> None:
    exact = toy.map_subgraph(FusedSubgraph(0, operators=[("relu", {"numel": numel})]))
    totals = toy.map_subgraph(FusedSubgraph(1, operation_types=["relu"], input_tensors=[tensor(numel)]))
    assert totals.estimated_latency == pytest.approx(exact.estimated_latency)
    assert totals.interval_s == pytest.approx(exact.interval_s)


def test_totals_of_cached_data_are_as_fast_as_its_operator(toy_profile: HardwareProfile) -> None:
    # a made-up model ten times faster than the roofline: its operands come out of a cache
    fast = HardwareCalibration(
        load_calibration("i7-12700k").metadata, toy_profile,
        model=make_model(lambda _: [constant_trees(math.log(0.1))]),
    )  # fmt: skip
    mapper = GPUMapper(toy_profile, calibration=fast)
    for m, k in ((64, 64), (64, 4096)):
        operands = [tensor(m, k), tensor(k, m)]
        exact = mapper.map_subgraph(FusedSubgraph(0, operators=[("matmul", {"m": m, "n": m, "k": k})]))
        totals = mapper.map_subgraph(FusedSubgraph(1, operation_types=["matmul"], input_tensors=operands))
        assert exact.source == totals.source == "model"
        assert totals.estimated_latency == pytest.approx(exact.estimated_latency)


def test_unknown_operations_take_the_named_average(i7: CPUMapper, bare: CPUMapper) -> None:
    s = FusedSubgraph(0, operation_types=["unknown"], total_flops=1e10, total_input_bytes=1000)
    a = i7.map_subgraph(s)
    assert a.efficiency == pytest.approx(np.mean([0.5604, 0.708, 0.7297, 0.7907]))
    assert a.source == "proxy"
    assert "average efficiency of the 4 measured points (matmul)" in a.reason
    b = bare.map_subgraph(s)
    assert (b.source, b.efficiency) == ("default", pytest.approx(0.20))


def conv_bn_relu(kernel: int, out: int = 56) -> FusedSubgraph:
    return FusedSubgraph(0, operation_types=["conv2d", "batchnorm", "relu"], total_flops=4e9, total_input_bytes=1e6,
                         total_output_bytes=1e6, input_tensors=[tensor(8, 64, 56, 56)],
                         weight_tensors=[tensor(64, 64, kernel, kernel)],
                         output_tensors=[tensor(8, 64, out, out)])  # fmt: skip


def test_never_measured_conv_on_the_i7_is_the_default_with_the_reason(i7: CPUMapper) -> None:
    a = i7.map_subgraph(conv_bn_relu(11))
    assert (a.source, a.efficiency) == ("default", pytest.approx(0.20))
    assert "conv2d" in a.reason
    assert "kernel 11" in a.reason


def test_measured_conv_on_the_i7_is_answered_by_the_subgraph_model(i7: CPUMapper) -> None:
    a = i7.map_subgraph(conv_bn_relu(3))
    assert a.source == "model"
    assert 0.3 < a.efficiency < 1.0


def test_policy_error_reaches_subgraphs(toy_profile: HardwareProfile, toy_calibration: HardwareCalibration) -> None:
    strict = GPUMapper(toy_profile, calibration=toy_calibration, out_of_domain="error")
    assert strict.map_subgraph(FusedSubgraph(0, operators=[("relu", {"numel": 4096})])).source == "model"
    for s in (
        FusedSubgraph(0, operators=[("gelu", {"numel": 4096})]),
        FusedSubgraph(0, operation_types=["gelu"], input_tensors=[tensor(4096)]),
        FusedSubgraph(0, operation_types=["conv2d"], total_flops=1e9, total_input_bytes=1e3),
    ):
        with pytest.raises(OutOfDomainError, match="out_of_domain"):
            strict.map_subgraph(s)


def test_nothing_to_run_costs_nothing_and_says_so(i7: CPUMapper) -> None:
    a = i7.map_subgraph(FusedSubgraph("flatten", operation_types=["unknown"]))
    assert (a.estimated_latency, a.efficiency) == (0.0, 0.0)
    assert "nothing runs" in a.reason


def test_real_work_of_unknown_size_is_never_free(i7: CPUMapper) -> None:
    with pytest.raises(OperatorParameterError, match="nothing tells how large subgraph 'x' is"):
        i7.map_subgraph(FusedSubgraph("x", operation_types=["conv2d"]))


def test_data_movement_has_no_efficiency_but_a_time(i7: CPUMapper) -> None:
    a = i7.map_subgraph(FusedSubgraph(0, total_input_bytes=5.16e9))
    assert a.estimated_latency == pytest.approx(0.1)
    assert (a.efficiency, a.bottleneck) == (0.0, "bandwidth_bound")


@pytest.mark.parametrize("make", MATMULS)
@pytest.mark.parametrize("mapper", ["i7", "bare"])
def test_every_allocation_has_source_and_reason(make: Any, mapper: str, request: pytest.FixtureRequest) -> None:
    a = request.getfixturevalue(mapper).map_subgraph(make())
    assert a.source in ("model", "calibrated_roofline", "proxy", "default")
    assert a.reason


def test_a_narrow_parallelism_descriptor_does_not_slow_a_measured_shape(i7: CPUMapper) -> None:
    # batch 1, channels 1: once taken for one core of ten, squared
    s = matmul_by_tensors(parallelism=ParallelismDescriptor(batch=1, channels=1, spatial=SIDE * SIDE))
    assert i7.map_subgraph(s).estimated_latency == pytest.approx(CALIBRATED_S)
    narrow = i7.map_subgraph(matmul_by_tensors(parallelism=ParallelismDescriptor()))
    assert narrow.estimated_latency == pytest.approx(CALIBRATED_S)
    assert (narrow.compute_units_ideal, narrow.compute_units_allocated, narrow.threads_required) == (1, 1, 1)
    assert narrow.occupancy == pytest.approx(1 / 16)
    assert narrow.utilization == pytest.approx(1 / 12)


def test_units_are_shared_once(i7: CPUMapper) -> None:
    a = i7.map_subgraph(matmul_by_operators(), concurrent_subgraphs=4)
    assert (a.compute_units_ideal, a.compute_units_allocated) == (12, 3)
    assert a.estimated_latency == pytest.approx(4 * CALIBRATED_S)
    assert a.compute_time == pytest.approx(4 * CALIBRATED_S)
    assert a.is_parallel
    assert a.utilization == pytest.approx(0.25)
    crowd = i7.map_subgraph(matmul_by_operators(), concurrent_subgraphs=100)
    assert crowd.compute_units_allocated == 1


def test_small_subgraphs_run_beside_each_other_without_loss(i7: CPUMapper) -> None:
    s = matmul_by_operators(parallelism=ParallelismDescriptor(batch=16))
    assert i7.map_subgraph(s, concurrent_subgraphs=4).estimated_latency == pytest.approx(CALIBRATED_S)


def test_bandwidth_is_shared(i7: CPUMapper) -> None:
    s = FusedSubgraph(0, operators=[("relu", {"numel": 2**24})], parallelism=ParallelismDescriptor(batch=16))
    assert i7.map_subgraph(s, concurrent_subgraphs=4).estimated_latency == pytest.approx(4 * 134217728 / 51.6e9)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None, "2"])
def test_unusable_counts(i7: CPUMapper, bad: Any) -> None:
    with pytest.raises(OperatorParameterError, match="concurrent_subgraphs"):
        i7.map_subgraph(matmul_by_operators(), concurrent_subgraphs=bad)
    with pytest.raises(OperatorParameterError, match="batch_size"):
        i7.map_graph([matmul_by_operators()], batch_size=bad)


@pytest.mark.parametrize(
    ("compute", "memory", "bottleneck"),
    [(1.0, 0.6, "compute_bound"), (0.6, 1.0, "bandwidth_bound"), (1.0, 1.0, "balanced"), (1.5, 1.0, "balanced"),
     (1.51, 1.0, "compute_bound"), (0.0, 0.0, "balanced")],
)  # fmt: skip
def test_bottleneck_rule(compute: float, memory: float, bottleneck: str) -> None:
    assert BottleneckType.of(compute, memory) == bottleneck
