"""Corrections and intervals of whole models."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import graphs
from graphs import ops
from graphs.errors import ModelFileError
from graphs.estimates import OperatorEstimate
from graphs.estimation import estimate_trace, kernels_only
from graphs.hardware.calibration.calibration import load_calibration
from graphs.hardware.calibration.domain import Domain
from graphs.hardware.mappers.base import CPUMapper, GPUMapper, HardwareMapper
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import load_profile
from graphs.host import Host
from graphs.tracing.trace import Trace, TracedOperator
from graphs.whole_model import IntervalTerms, WholeModelTerms, distinct_widths, log_half_width

CONV = {"n": 1, "c": 64, "h": 56, "w": 56, "o": 64, "k": 3, "stride": 1, "pad": 1}


def row(op: str = "conv2d", dtype: str = "fp32", source: str = "model", **params: int) -> OperatorEstimate:
    return OperatorEstimate(
        op, {**CONV, **params} if op == "conv2d" else params, dtype, 10, 10, 10e-6, 0.4, 0.2, "compute", source, "",
        (8e-6, 12.5e-6),
    )  # fmt: skip


def matmuls(size: int = 1024, count: int = 4, **more: object) -> Trace:
    operators = (TracedOperator("matmul", {"m": size, "n": size, "k": size}, "fp32", count),)
    return Trace(operators, name="toy", batch=2, dtype="fp32", **more)  # type: ignore[arg-type]


class WithTerms(CPUMapper):
    """The Xeon with terms of our own."""

    terms = WholeModelTerms()

    @property
    def whole_model_terms(self) -> WholeModelTerms:
        return self.terms


def mapper_with(terms: WholeModelTerms) -> HardwareMapper:
    mapper = WithTerms(load_profile("xeon-16c"), calibration=load_calibration("xeon-16c"))
    mapper.terms = terms
    return mapper


def test_convolutions_are_scaled_where_measured_models_said_so() -> None:
    terms = WholeModelTerms(conv_fp32=0.8, conv_from_k=2)
    scaled = terms.corrected(row(), without_gaps=False)
    assert scaled.latency_s == pytest.approx(8e-6)
    assert scaled.interval_s == pytest.approx((6.4e-6, 10e-6))
    # efficiency stays attainable time / latency
    assert scaled.efficiency * scaled.latency_s == pytest.approx(0.4 * 10e-6)
    assert "x 0.80" in scaled.reason
    for same in (row(k=1), row(groups=2), row(dtype="tf32"), row(source="default"), row(op="relu", numel=8)):
        assert terms.corrected(same, without_gaps=False) is same
    assert replace(terms, conv_from_k=1).corrected(row(k=1), without_gaps=False).latency_s == pytest.approx(8e-6)


def test_gaps_leave_sums_of_kernels_only_and_never_a_negative_time() -> None:
    terms = WholeModelTerms(kernel_gap_s=1e-6)
    assert terms.corrected(row(), without_gaps=True).latency_s == pytest.approx(9e-6)
    assert terms.corrected(row(), without_gaps=False).latency_s == pytest.approx(10e-6)
    assert replace(terms, kernel_gap_s=1.0).corrected(row(), without_gaps=True).latency_s == pytest.approx(3e-6)


def test_token_models_are_sums_of_kernels_in_device_mode() -> None:
    tokens = TracedOperator("embedding", {"rows": 8, "vocab": 100, "dim": 64}, "fp32")
    language = replace(matmuls(), operators=(*matmuls().operators, tokens))
    assert kernels_only(language, "device")
    assert not kernels_only(matmuls(), "device")
    assert kernels_only(matmuls(), "kernels")
    assert not kernels_only(language, "graph")
    assert not kernels_only(language, "eager")


def test_cpu_eager_adds_the_host_and_a_gpu_overlaps_it() -> None:
    slow = WholeModelTerms(host=Host(operator_s=1.0))
    e = estimate_trace(matmuls(), mapper_with(slow), "eager")
    assert e.host_s == pytest.approx(4.0)
    assert e.latency_s == pytest.approx(4.0 + e.device_s)
    assert e.waiting_s == pytest.approx(4.0)
    gpu = create_mapper("h100-sxm", calibration=False)
    beside = estimate_trace(matmuls(), gpu, "eager", host_overhead=1.0)
    one = beside.device_s / 4
    assert beside.latency_s == pytest.approx(4.0 + one)
    assert isinstance(gpu, GPUMapper)
    fast = estimate_trace(matmuls(), gpu, "eager", host_overhead={"operator_s": one / 10})
    assert fast.latency_s == pytest.approx(beside.device_s + one / 10)


def test_host_overhead_reaches_the_public_call() -> None:
    e = graphs.estimate(matmuls(), hardware="xeon-16c", mode="eager", host_overhead=1e-3)
    assert e.latency_s - e.device_s == pytest.approx(4e-3)
    assert "as it was given" in e.interval_source
    assert math.isnan(graphs.estimate(matmuls(), hardware="i7-12700k").host_s)


def test_without_measured_models_bounds_add_up_and_it_says_so() -> None:
    rows = [row(), row()]
    widths = distinct_widths(rows, [0, 1, 1], 30e-6, float("nan"))
    assert widths.sum() == pytest.approx(log_half_width(row(), 0.0))
    e = estimate_trace(matmuls(), mapper_with(WholeModelTerms()))
    assert "no whole model was measured" in e.interval_source
    # one operator, repeated: the bounds of the sum are those of the operator
    own = e.operators[0]
    assert np.log(e.interval_s[1] / e.latency_s) == pytest.approx(np.log(own.interval_s[1] / own.latency_s), rel=1e-6)


def test_a_calibrated_interval_grows_with_what_is_not_known() -> None:
    terms = IntervalTerms(quantile=2.0, shared=0.5, constant=0.03, waiting=0.4)
    known = distinct_widths([row(), row()], [0, 1], 20e-6, 1.5)
    # by hand: two operators, half the time each, log half-width w
    w = log_half_width(row(), 0.0) / 2
    assert terms.half_width(known, 0.0) == pytest.approx(2 * math.sqrt((0.5 * 2 * w) ** 2 + 2 * w**2 + 0.03**2))
    nan = (float("nan"), float("nan"))
    for odd in (
        replace(row(), source="default", interval_s=nan),
        replace(row(), source="proxy"),
        replace(row(), source="proxy", interval_s=nan),
        replace(row(), source="unmodelled", latency_s=0.0, interval_s=nan),
    ):
        total = 10e-6 + odd.latency_s
        assert terms.half_width(distinct_widths([row(), odd], [0, 1], total, 1.5), 0.0) > 1.2 * terms.half_width(
            known, 0.0
        )
    assert terms.half_width(known, 0.5) > terms.half_width(known, 0.0)


def test_repeating_one_operator_is_wider_than_as_many_different_ones() -> None:
    terms = IntervalTerms(1.0, 0.0, 0.0)
    one = distinct_widths([row()], [0] * 16, 160e-6, 1.0)
    many = distinct_widths([row()] * 16, list(range(16)), 160e-6, 1.0)
    assert terms.half_width(one, 0.0) == pytest.approx(4 * terms.half_width(many, 0.0))


def test_the_interval_of_an_estimate_is_that_of_its_mode() -> None:
    terms = WholeModelTerms(
        host=Host(operator_s=1e-4),
        intervals={"device": IntervalTerms(1.0, 0.0, 0.1, models=7), "eager": IntervalTerms(2.0, 0.0, 0.1, models=9)},
    )
    mapper = mapper_with(terms)
    device, eager = (estimate_trace(matmuls(), mapper, m) for m in ("device", "eager"))
    assert "7 measured models" in device.interval_source
    assert "9 measured models" in eager.interval_source
    for e in (device, eager):
        low, high = e.interval_s
        assert low * high == pytest.approx(e.latency_s**2)
    other = estimate_trace(matmuls(), mapper, "eager", host_overhead={"scale": 0.5})
    assert "as it was given" in other.interval_source
    # device time has no host: another one changes neither the time nor the interval
    same = estimate_trace(matmuls(), mapper, "device", host_overhead={"scale": 0.5})
    assert (same.interval_s, same.interval_source) == (device.interval_s, device.interval_source)


def test_terms_are_read_as_training_writes_them() -> None:
    raw = {
        "device": {"kernel_gap_s": 4e-7, "conv_fp32": 0.75, "conv_from_k": 2, "rows": 3, "lomo": {"mape": 0.1}},
        "host": Host(operator_s=1e-5).to_dict(),
        "intervals": {"device": {"quantile": 1.0, "shared": 0.1, "constant": 0.02, "lomo_coverage": 0.9}},
    }
    terms = WholeModelTerms.from_dict(raw)
    assert (terms.kernel_gap_s, terms.conv_fp32) == (4e-7, 0.75)
    assert terms.host == Host(operator_s=1e-5)
    assert terms.intervals["device"] == IntervalTerms(1.0, 0.1, 0.02)
    assert WholeModelTerms.of(None) == WholeModelTerms()


@pytest.mark.parametrize(
    "broken",
    [
        {"host": {"operator_s": "soon"}},
        {"host": {"operator_s": -1e-5}},
        {"device": {"conv_fp32": 0.0}},
        {"intervals": {"device": {"shared": 0.1}}},
        {"intervals": {"device": {"quantile": float("nan"), "shared": 0.1, "constant": 0.02}}},
        [],
    ],
)
def test_terms_that_cannot_be_used_are_refused(broken: object) -> None:
    model = load_calibration("h100-sxm").model
    assert model is not None
    with pytest.raises(ModelFileError, match=r"whole-model terms .*`graphs train`"):
        WholeModelTerms.of(replace(model, header={"whole_models": broken}))


def test_calls_within_the_related_machines_rows_are_carried_over() -> None:
    model = load_calibration("h200-sxm").model
    assert model is not None
    conv = {**CONV, "c": 3, "h": 224, "w": 224, "k": 11, "stride": 4, "pad": 2, "bias": True}
    (group,) = ops.group_operators(["conv2d"], ["bf16"], [conv])
    if model.outside(group)[0] == "":
        pytest.skip("this convolution is inside the domain of the shipped model by now")
    terms = WholeModelTerms(related="h100-sxm", domains={"conv2d": Domain.of(group)})
    assert np.isfinite(terms.carried_over(group, model)).all()
    (huge,) = ops.group_operators(["conv2d"], ["bf16"], [{**conv, "n": 100000}])
    assert np.isnan(terms.carried_over(huge, model)).all()
    assert np.isnan(WholeModelTerms().carried_over(group, model)).all()

    class Carried(GPUMapper):
        whole_model_terms = terms

    trace = Trace((TracedOperator("conv2d", conv, "bf16"),), name="toy", batch=1, dtype="bf16")
    mapper = Carried(load_profile("h200-sxm"), calibration=load_calibration("h200-sxm"))
    (call,) = estimate_trace(trace, mapper).operators
    assert call.source == "proxy"
    assert "measured on h100-sxm only" in call.reason
    strict = Carried(load_profile("h200-sxm"))
    assert estimate_trace(trace, strict).operators[0].source == "default"
