"""The facts of the i7-12700K calibration, and what happens to unusable values."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphs
from graphs import ops
from graphs.errors import (
    ModelFileError,
    OperatorParameterError,
    ProfileError,
    UnknownHardwareError,
    UnknownOperatorError,
)
from graphs.hardware import assets
from graphs.hardware.calibration import (
    CalibrationMetadata,
    CalibrationWarning,
    HardwareCalibration,
    OperationCalibration,
    load_calibration,
)
from graphs.hardware.calibration.points import SaturatingCurve

POINTS = {512: 0.5604, 1024: 0.708, 2048: 0.7297, 4096: 0.7907}
RELU = {"numel": 2**24}


def cube(side: int) -> dict[str, int]:
    return {"m": side, "n": side, "k": side}


@pytest.fixture
def i7() -> HardwareCalibration:
    return load_calibration("profiles/i7-12700k.json")


def test_measured_points_come_back_as_measured(i7: HardwareCalibration) -> None:
    for side, efficiency in POINTS.items():
        assert i7.get_efficiency("matmul", **cube(side)) == pytest.approx(efficiency, rel=1e-9)
        assert i7.get_efficiency("matmul", matrix_size=side) == pytest.approx(efficiency, rel=1e-9)
    rounded = [round(i7.get_efficiency("matmul", matrix_size=s), 3) for s in POINTS]
    assert rounded == [0.560, 0.708, 0.730, 0.791]


def test_larger_squares_are_never_less_efficient(i7: HardwareCalibration) -> None:
    # sizes on both sides of every measured point, where a table and a curve would disagree
    sides = sorted({*range(260, 8192, 97), *(s + d for s in POINTS for d in (-1, 0, 1))})
    efficiency = np.array([i7.get_efficiency("matmul", matrix_size=s) for s in sides])
    assert (np.diff(efficiency) >= -1e-12).all()
    assert 0.3 < efficiency[0] < 0.5604
    assert 0.7907 < efficiency[-1] < 0.9


@pytest.mark.parametrize(("low", "high"), [(512, 1024), (1024, 2048), (2048, 4096)])
def test_between_two_points_lies_between_them(i7: HardwareCalibration, low: int, high: int) -> None:
    for side in (low + 1, int(math.sqrt(low * high)), high - 1):
        assert POINTS[low] <= i7.get_efficiency("matmul", matrix_size=side) * (1 + 1e-12)
        assert i7.get_efficiency("matmul", matrix_size=side) <= POINTS[high] * (1 + 1e-12)


def test_a_curve_answers_between_points_not_a_chord(i7: HardwareCalibration) -> None:
    # saturating: half-way between 512 and 4096 in size the efficiency is far above half-way between the values
    middle = i7.get_efficiency("matmul", matrix_size=2304)
    assert middle > (POINTS[512] + POINTS[4096]) / 2 + 0.04


def test_matmul_2048_work_and_intensity() -> None:
    e = graphs.estimate_operator("matmul", cube(2048), "fp32", hardware="i7-12700k")
    assert e.flops == 2 * 2048**3 == 17_179_869_184
    assert e.bytes == 3 * 4 * 2048**2
    assert round(e.flops / e.bytes, 2) == 341.33


def test_matmul_2048_latency_and_ratio() -> None:
    calibrated = graphs.estimate_operator("matmul", cube(2048), "fp32", hardware="i7-12700k")
    bare = graphs.estimate_operator("matmul", cube(2048), "fp32", hardware="i7-12700k", calibration=False)
    assert calibrated.latency_s == pytest.approx(17.179869184e9 / 729.7e9, rel=1e-9)
    assert calibrated.latency_s == pytest.approx(23.5e-3, rel=0.05)
    assert bare.latency_s == pytest.approx(17.179869184e9 / 200e9, rel=1e-9)
    assert calibrated.latency_s / bare.latency_s == pytest.approx(0.274, abs=0.0005)
    assert (calibrated.source, calibrated.bound) == ("model", "compute")
    assert (bare.source, bare.bound, bare.compute_efficiency) == ("default", "compute", 0.20)
    assert "no calibration" in bare.reason


def test_relu_of_64_mb_is_memory_bound_at_the_measured_bandwidth() -> None:
    calibrated = graphs.estimate_operator("relu", RELU, "fp32", hardware="i7-12700k")
    bare = graphs.estimate_operator("relu", RELU, "fp32", hardware="i7-12700k", calibration=False)
    assert calibrated.bytes == 134_217_728
    assert calibrated.latency_s == pytest.approx(2.60e-3, rel=1e-3)
    assert bare.latency_s == pytest.approx(1.79e-3, rel=1e-3)
    assert (calibrated.source, calibrated.bound) == ("calibrated_roofline", "memory")
    assert "51.6 GB/s" in calibrated.reason
    assert (bare.source, bare.bound) == ("default", "memory")


def test_bandwidth(i7: HardwareCalibration) -> None:
    assert i7.measured_bandwidth_gbps == pytest.approx(51.6)
    assert i7.theoretical_bandwidth_gbps == pytest.approx(75.0)
    assert i7.bandwidth_efficiency == pytest.approx(0.688)


def test_api_objects(i7: HardwareCalibration) -> None:
    assert isinstance(i7, HardwareCalibration)
    assert isinstance(i7.metadata, CalibrationMetadata)
    assert i7.metadata.hardware_id == "i7-12700k"
    assert i7.metadata.source
    assert all(isinstance(p, OperationCalibration) for p in i7.operations)
    assert [p.flops for p in i7.operations] == [2 * s**3 for s in POINTS]


def test_a_calibration_prints_its_points_and_not_its_arrays(i7: HardwareCalibration) -> None:
    assert "0.7297" in repr(i7)
    assert len(repr(i7)) < 1000


def test_a_missing_file_is_called_missing() -> None:
    with pytest.raises(
        UnknownHardwareError, match=r"neither a file nor a folder nor known hardware; received 'nosuch\.json'"
    ):
        load_calibration("nosuch.json")


def test_an_error_lists_a_few_names_not_all() -> None:
    with pytest.raises(UnknownHardwareError) as caught:
        load_calibration("zzz")
    assert str(caught.value).count(",") < 30
    assert re.search(r"one of \d+ ids, such as", str(caught.value))


def test_other_shapes_of_the_same_work_are_other_queries(i7: HardwareCalibration) -> None:
    # as much FLOP as 1024 cubed, but a strip: nothing like it was measured
    assert i7.get_efficiency("matmul", m=32, n=32, k=2**20) == 0.20


def test_linear_is_priced_as_a_matmul_and_marked() -> None:
    e = graphs.estimate_operator("linear", cube(2048), "fp32", hardware="i7-12700k")
    assert e.source == "proxy"
    assert "matmul" in e.reason
    assert e.compute_efficiency == pytest.approx(0.7297)


def test_a_matmul_is_priced_by_points_of_linear_layers_and_marked(tmp_path: Path) -> None:
    raw = json.loads(Path(assets.find_asset("profiles/i7-12700k.json") or "").read_text())
    raw["calibration"]["operations"] = [{**point, "op": "linear"} for point in raw["calibration"]["operations"]]
    raw.pop("subgraph_model", None)
    (tmp_path / "own.json").write_text(json.dumps(raw))
    own = load_calibration(tmp_path / "own.json")
    answer = own.answer(ops.group_operators(["matmul"], ["fp32"], [cube(2048)])[0])
    assert answer.source[0] == "proxy"
    assert "priced as a linear" in answer.reason[0]


@pytest.mark.parametrize("query", [{"op": "conv2d", "n": 1, "c": 64, "h": 56, "w": 56, "o": 64, "k": 11, "pad": 5}])
def test_never_measured_compute_falls_back_with_the_reason(i7: HardwareCalibration, query: dict[str, Any]) -> None:
    op = query.pop("op")
    assert i7.get_efficiency(op, **query) == 0.20
    e = graphs.estimate_operator(op, query, "fp32", hardware="i7-12700k")
    assert (e.source, e.compute_efficiency) == ("default", pytest.approx(0.20))
    assert "conv2d" in e.reason


def test_far_larger_than_measured_falls_back_with_feature_and_factor() -> None:
    e = graphs.estimate_operator("matmul", cube(4096 * 22), "fp32", hardware="i7-12700k")
    assert (e.source, e.compute_efficiency) == ("default", pytest.approx(0.20))
    assert "flops" in e.reason
    # 22 cubed times the FLOP of the largest measured
    assert "1.06e+04x above the largest measured" in e.reason


def test_bad_queries_are_typed_errors(i7: HardwareCalibration) -> None:
    with pytest.raises(UnknownOperatorError, match="matmul"):
        i7.get_efficiency("matmull", matrix_size=8)
    with pytest.raises(OperatorParameterError, match="'k'"):
        i7.get_efficiency("matmul", m=8, n=8)
    with pytest.raises(OperatorParameterError):
        i7.get_efficiency("matmul", matrix_size=-1)


def test_data_may_move_in_a_dtype_without_a_peak() -> None:
    e = graphs.estimate_operator("copy", {"numel": 10**7}, "bf16", hardware="i7-12700k")
    assert e.latency_s == pytest.approx(4e7 / 51.6e9)


def _with_efficiency(tmp_path: Path, value: Any, **extra: Any) -> Path:
    """Write the profile with another efficiency at 2048 and return its path."""
    source = assets.find_asset("profiles/i7-12700k.json")
    assert source is not None
    raw = json.loads(source.read_text())
    raw.pop("model", None)
    point = next(p for p in raw["calibration"]["operations"] if p["params"]["m"] == 2048)
    point.update(efficiency=value, **extra)
    path = tmp_path / "i7-12700k.json"
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize("value", [0, -0.3, 1.2, math.nan, math.inf, None, "0.7", True])
def test_unusable_value_is_left_out_loudly(tmp_path: Path, value: Any) -> None:
    with pytest.warns(CalibrationWarning, match=r"matmul .*2048.* the efficiency .*default efficiency answers"):
        loaded = load_calibration(_with_efficiency(tmp_path, value))
    assert [p.params["m"] for p in loaded.operations] == [512, 1024, 4096]
    assert 0 < loaded.get_efficiency("matmul", matrix_size=2048) < 1


@pytest.mark.parametrize("value", [0, -1, 1.2, math.nan])
def test_with_every_value_unusable_the_default_answers(tmp_path: Path, value: float) -> None:
    path = _with_efficiency(tmp_path, value)
    raw = json.loads(path.read_text())
    raw["calibration"]["operations"] = [p for p in raw["calibration"]["operations"] if p["params"]["m"] == 2048]
    path.write_text(json.dumps(raw))
    with pytest.warns(CalibrationWarning):
        loaded = load_calibration(path)
    assert loaded.get_efficiency("matmul", matrix_size=2048) == 0.20
    with pytest.warns(CalibrationWarning):
        e = graphs.estimate_operator("matmul", cube(2048), "fp32", hardware="i7-12700k", calibration=path)
    assert (e.source, e.compute_efficiency) == ("default", pytest.approx(0.20))
    assert e.reason


def test_efficiency_above_one_with_a_stated_reason_is_kept(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_calibration(_with_efficiency(tmp_path, 1.2, reason="Strassen"))
    assert loaded.get_efficiency("matmul", matrix_size=2048) == pytest.approx(1.2)


def test_point_without_its_shape_is_named(tmp_path: Path) -> None:
    path = _with_efficiency(tmp_path, 0.7)
    raw = json.loads(path.read_text())
    del raw["calibration"]["operations"][0]["params"]
    path.write_text(json.dumps(raw))
    with pytest.raises(ProfileError, match="lacks params"):
        load_calibration(path)


def _points(efficiency: dict[int, float]) -> list[OperationCalibration]:
    return [OperationCalibration("matmul", cube(s), "fp32", e) for s, e in efficiency.items()]


def test_fit_recovers_a_saturating_curve() -> None:
    truth = {s: 0.9 * s / (s + 200.0) for s in (100, 300, 1000, 5000)}
    curve = SaturatingCurve.fit(_points(truth))
    assert curve.ceiling == pytest.approx(0.9, rel=1e-6)
    assert curve.half_size == pytest.approx(200.0, rel=1e-6)


@pytest.mark.parametrize("efficiency", [{512: 0.6}, {512: 0.8, 1024: 0.7, 2048: 0.6}])
def test_one_point_or_falling_points_give_a_constant(efficiency: dict[int, float]) -> None:
    curve = SaturatingCurve.fit(_points(efficiency))
    assert curve.half_size == 0.0
    assert min(efficiency.values()) <= curve.ceiling <= max(efficiency.values())


def test_a_pointer_to_a_model_that_is_not_there_is_an_error_not_the_default(tmp_path: Path) -> None:
    raw = json.loads(Path(assets.find_asset("profiles/xeon-16c.json") or "").read_text())
    (tmp_path / "own.json").write_text(json.dumps(raw | {"model": "models/gone"}))
    with pytest.raises(ModelFileError, match=r"points to a fitted model that is not there; received 'models/gone'"):
        load_calibration(tmp_path / "own.json")


def test_subgraphs_do_not_answer_faster_than_the_machine_can() -> None:
    def relu(numel: int) -> Any:
        return graphs.estimate_operator("relu", {"numel": numel}, "fp32", hardware="ryzen-9-8945hs")

    # what fits the cache may beat the memory, what does not may not
    assert relu(2**17).source == "model"
    large = relu(2**22)
    assert large.source == "default"
    assert "faster than the roofline" in large.reason
    assert large.efficiency == pytest.approx(1.0)
