"""Estimates of operators and of traced models; needs no torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import graphs
from graphs.errors import GraphsError, OperatorParameterError
from graphs.estimation import estimate_trace
from graphs.hardware.mappers.registry import create_mapper
from graphs.tracing.trace import Trace, TracedOperator

SQUARE = {"m": 2048, "n": 2048, "k": 2048}


def test_frame_as_dict_and_as_data_frame_agree_in_row_order() -> None:
    pd = pytest.importorskip("pandas")
    columns = {
        "op": ["relu", "matmul", "relu", "matmul"],
        "dtype": ["fp32"] * 4,
        "params": [{"numel": 10**7}, SQUARE, '{"numel": 10000}', {"m": 512, "n": 512, "k": 512}],
    }
    a = graphs.estimate_operators(columns, hardware="i7-12700k")
    b = graphs.estimate_operators(pd.DataFrame(columns), hardware="i7-12700k")
    np.testing.assert_array_equal(a.latency_s, b.latency_s)
    for i, (op, params) in enumerate(zip(columns["op"], columns["params"], strict=True)):
        params = params if isinstance(params, dict) else {"numel": 10000}
        single = graphs.estimate_operator(op, params, "fp32", hardware="i7-12700k")
        assert single.latency_s == a.latency_s[i]
        assert single.source == a.source[i]


def test_missing_column_is_named() -> None:
    with pytest.raises(OperatorParameterError, match="lacks the columns params"):
        graphs.estimate_operators({"op": ["relu"], "dtype": ["fp32"]}, hardware="i7-12700k")


def test_empty_table_gives_empty_arrays() -> None:
    e = graphs.estimate_operators({"op": [], "dtype": [], "params": []}, hardware="i7-12700k")
    assert len(e) == 0


def trace() -> Trace:
    return Trace(
        operators=(
            TracedOperator("matmul", SQUARE, "fp32", count=2, module="a", modules=(("a", 1), ("b", 1))),
            TracedOperator("relu", {"numel": 2**24}, "fp32", module="act"),
            TracedOperator("", {}, "fp32", aten="aten.weird", match="unmodelled", module="odd"),
            TracedOperator("matmul", {"m": 1024, "n": 1024, "k": 1024}, "fp32", match="proxy", note="stands for x"),
        ),
        name="toy", batch=3, dtype="fp32", sequence=(0, 1, 0, 2, 3),
    )  # fmt: skip


def test_total_is_the_sum_of_the_calls_in_program_order() -> None:
    e = estimate_trace(trace(), create_mapper("i7-12700k"))
    assert [o.op for o in e.operators] == ["matmul", "relu", "matmul", "aten.weird", "matmul"]
    assert [o.module for o in e.operators][:3] == ["a", "act", "b"]
    assert e.latency_s == pytest.approx(sum(o.latency_s for o in e.operators))
    expected = 2 * 17179869184 / 0.7297e12 + 134217728 / 51.6e9 + 2 * 1024**3 / 0.708e12
    assert e.latency_s == pytest.approx(expected, rel=1e-9)
    assert e.flops == 2 * 17179869184 + 2**24 + 2 * 1024**3


def test_coverage_names_every_source_and_nothing_vanishes() -> None:
    e = estimate_trace(trace(), create_mapper("i7-12700k"))
    assert e.coverage["operators"] == pytest.approx(
        {"model": 0.4, "calibrated_roofline": 0.2, "unmodelled": 0.2, "proxy": 0.2}
    )
    assert sum(e.coverage["time"].values()) == pytest.approx(1.0)
    odd = next(o for o in e.operators if o.source == "unmodelled")
    assert "left out of the total" in odd.reason
    assert next(o for o in e.operators if o.source == "proxy").reason == "stands for x"


def test_eager_without_a_measured_host_says_so() -> None:
    e = estimate_trace(trace(), create_mapper("i7-12700k"), "eager")
    assert e.operators[-1].source == "overhead"
    assert "no host overhead is known" in e.operators[-1].reason


def test_unknown_mode_is_a_typed_error() -> None:
    with pytest.raises(GraphsError, match="allowed: device, eager"):
        graphs.estimate(trace(), hardware="i7-12700k", mode="fast")


def test_dtype_retags_a_trace_only_where_the_program_is_the_same() -> None:
    e = graphs.estimate(trace(), hardware="i7-12700k", dtype="tf32")
    assert e.dtype == "tf32"
    with pytest.raises(GraphsError, match="fp32"):
        graphs.estimate(trace(), hardware="i7-12700k", dtype="bf16")


def test_interval_is_nan_without_calibration() -> None:
    e = estimate_trace(trace(), create_mapper("i7-12700k", calibration=False))
    assert all(math.isnan(v) for v in e.interval_s)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"hardware": None}, "None"),
        ({"hardware": 5}, "5"),
        ({"calibration": 5}, "5"),
        ({"thermal_profile": 5}, "5"),
        ({"dtype": None}, "received 'none'"),
        ({"dtype": 5}, "did you mean one of these"),
        ({"params": None}, "received 'None'"),
    ],
)
def test_values_of_the_wrong_type_get_typed_errors(arguments: dict, word: str) -> None:
    call = {"op": "relu", "params": {"numel": 8}, "dtype": "fp32", "hardware": "h100-sxm", **arguments}
    with pytest.raises(GraphsError, match=word):
        graphs.estimate_operator(**call)


@pytest.mark.parametrize("frame", [None, 5, [1], {}])
def test_what_is_no_table_gets_a_typed_error(frame: object) -> None:
    with pytest.raises(OperatorParameterError, match="op, dtype, params"):
        graphs.estimate_operators(frame, hardware="h100-sxm")


def test_nothing_priced_has_no_interval_of_no_width() -> None:
    unknown = TracedOperator("", {}, "fp32", 3, "", "custom.thing", "unmodelled", "no tensor")
    for operators in ((), (unknown,)):
        e = estimate_trace(Trace(operators, batch=1), create_mapper("i7-12700k"))
        assert e.latency_s == 0.0
        assert all(math.isnan(v) for v in e.interval_s)
        assert "nothing was priced" in e.interval_source


def _modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in out.stdout.split()}


def test_the_run_time_path_needs_numpy_only() -> None:
    code = (
        "import graphs; graphs.estimate_operator('matmul', {'m': 8, 'n': 8, 'k': 8}, 'fp32', hardware='i7-12700k');"
        "from graphs.tracing.trace import Trace"
    )
    loaded = _modules_after(code)
    assert not loaded & {"torch", "sklearn", "pandas", "pyarrow", "scipy", "joblib", "click", "training"}


def test_import_loads_nothing_heavy() -> None:
    assert "numpy" not in _modules_after("import graphs")


def test_a_total_of_the_default_alone_has_no_interval() -> None:
    product = TracedOperator("linear", {"m": 64, "n": 64, "k": 64}, "bf16", count=3)
    e = estimate_trace(Trace(operators=(product,), name="net", batch=1, dtype="bf16"), create_mapper("jetson-orin-agx"))
    assert e.coverage["time"]["default"] == 1.0
    assert all(math.isnan(v) for v in e.interval_s)
    assert e.interval_source == "unknown: the default answered 100 % of the time"


@pytest.mark.parametrize("hardware", ["tpu-v4", "jetson-orin-agx", "h100-sxm"])
def test_the_device_never_waits_for_less_than_nothing(hardware: str) -> None:
    calls = tuple(TracedOperator("relu", {"numel": 10**6 + 3 * i}, "bf16", count=7) for i in range(20))
    trace = Trace(operators=calls, name="net", batch=1, dtype="bf16")
    mapper = create_mapper(hardware)
    for overhead in (None, 0.0):
        e = estimate_trace(trace, mapper, "eager", host_overhead=overhead)
        assert e.waiting_s >= 0.0
        assert all(o.latency_s >= 0.0 for o in e.operators)


def test_an_optimizer_of_a_forward_trace_is_refused() -> None:
    with pytest.raises(GraphsError, match="has no optimizer"):
        graphs.estimate(trace(), hardware="h100-sxm", optimizer="sgd")


def test_one_operator_takes_its_parameters_as_json_as_tables_do() -> None:
    plain, text = (graphs.estimate_operator("matmul", p, hardware="h100-sxm") for p in (SQUARE, json.dumps(SQUARE)))
    assert text == plain


@pytest.mark.parametrize("table", [["op", "dtype", "params"], {"op": None, "dtype": None, "params": None},
                                   {"op": "relu", "dtype": "fp32", "params": "{}"}])  # fmt: skip
def test_what_is_no_table_is_a_typed_error(table: Any) -> None:
    with pytest.raises(OperatorParameterError, match="estimate_operator"):
        graphs.estimate_operators(table, hardware="h100-sxm")
