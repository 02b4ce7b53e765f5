"""Sums over the calls of an estimate."""

from __future__ import annotations

import math

import pytest

from graphs.errors import GraphsError
from graphs.estimates import LatencyEstimate, OperatorEstimate


def call(op: str, seconds: float, module: str, source: str = "model") -> OperatorEstimate:
    return OperatorEstimate(op, {}, "fp32", 10, 4, seconds, 0.5, 0.5, "compute", source, "", (seconds, seconds), module)


def eager() -> LatencyEstimate:
    calls = (
        call("linear", 3.0, "layers.0.mlp.up"),
        call("relu", 1.0, "layers.0.mlp"),
        call("linear", 3.0, "layers.1.mlp.up", "default"),
        call("softmax", 1.0, "head"),
        call("add", 0.5, ""),
        call("host overhead", 1.5, "", "overhead"),
    )
    return LatencyEstimate(10.0, (8.0, 12.0), calls, "toy", "x", "fp32", "eager", 4, host_s=7.0)


def test_kinds_add_up_to_the_total_longest_first() -> None:
    kinds = eager().by_kind()
    assert [(k.name, k.calls, k.latency_s) for k in kinds] == [
        ("linear", 2, 6.0), ("host overhead", 0, 1.5), ("relu", 1, 1.0), ("softmax", 1, 1.0), ("add", 1, 0.5),
    ]  # fmt: skip
    assert sum(k.share for k in kinds) == pytest.approx(1.0)
    assert kinds[0].share == pytest.approx(0.6)


def test_modules_are_cut_at_the_depth() -> None:
    assert {m.name: m.latency_s for m in eager().by_module()} == {
        "layers": 7.0, "(host)": 1.5, "head": 1.0, "(model)": 0.5,
    }  # fmt: skip
    two = {m.name: (m.calls, m.latency_s) for m in eager().by_module(2)}
    assert two["layers.0"] == (2, 4.0)
    assert two["layers.1"] == (1, 3.0)
    assert two["head"] == (1, 1.0)


@pytest.mark.parametrize("depth", [0, -1, 1.5, True])
def test_a_depth_below_one_is_refused(depth: object) -> None:
    with pytest.raises(GraphsError, match="counts from 1"):
        eager().by_module(depth)  # type: ignore[arg-type]


def test_sources_and_coverage_agree() -> None:
    e = eager()
    assert {s.name: s.latency_s for s in e.by_source()} == {"model": 5.5, "default": 3.0, "overhead": 1.5}
    assert e.coverage["time"] == pytest.approx({"model": 0.55, "default": 0.3, "overhead": 0.15})
    assert e.coverage["operators"] == pytest.approx({"model": 0.8, "default": 0.2})


def test_device_and_waiting_split_the_total() -> None:
    e = eager()
    assert e.device_s == pytest.approx(8.5)
    assert e.waiting_s == pytest.approx(1.5)
    assert e.throughput_per_s == pytest.approx(0.4)


def test_an_empty_model_has_no_throughput_and_no_shares() -> None:
    e = LatencyEstimate(0.0, (0.0, 0.0), (), "empty", "x", "fp32", "device", 0)
    assert math.isnan(e.throughput_per_s)
    assert e.by_kind() == ()
    assert e.coverage == {"operators": {}, "time": {}}
