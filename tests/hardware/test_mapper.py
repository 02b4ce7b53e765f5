"""Mappers: the model inside its domain, the default outside with source and reason, typed errors for the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_hardware import BANDWIDTH, PEAK, RATIO, T0, group, make_model, random_regressors

import graphs
from graphs import ops
from graphs.errors import (
    DtypeError,
    ModelFileError,
    OperatorParameterError,
    OutOfDomainError,
    ProfileError,
    UnknownHardwareError,
    UnknownOperatorError,
)
from graphs.hardware.calibration import HardwareCalibration, load_calibration
from graphs.hardware.calibration.artifact import save_model
from graphs.hardware.mappers.base import HardwareMapper, OperatorEstimates, Policy
from graphs.hardware.mappers.cpu import CPUMapper, create_i7_12700k_mapper, create_xeon_16c_mapper
from graphs.hardware.mappers.gpu import GPUMapper, create_h100_sxm_mapper, create_h200_sxm_mapper
from graphs.hardware.mappers.registry import create_mapper, get_mapper_by_name, list_all_mappers
from graphs.hardware.profile import HardwareProfile, load_profile

INSIDE = {"m": 512, "n": 512, "k": 512}
HUGE = {"m": 2048 * 22, "n": 1024 * 22, "k": 4096 * 22}


@pytest.fixture
def mapper(toy_profile: HardwareProfile, toy_calibration: HardwareCalibration) -> GPUMapper:
    return GPUMapper(toy_profile, calibration=toy_calibration)


def one(mapper: HardwareMapper, op: str, dtype: str = "fp32", **params: Any) -> OperatorEstimates:
    return mapper.map_operators([group(op, dtype, **params)])


def test_inside_the_model_answers_with_the_hand_computed_latency(mapper: GPUMapper) -> None:
    e = one(mapper, "matmul", **INSIDE)
    roofline = max(2 * 512**3 / PEAK["fp32"], 3 * 4 * 512**2 / BANDWIDTH)
    assert e.latency_s[0] == pytest.approx(RATIO["gemm"] * (T0 + roofline), rel=1e-6)
    assert e.efficiency[0] == pytest.approx(roofline / e.latency_s[0])
    assert e.compute_efficiency[0] == pytest.approx(2 * 512**3 / PEAK["fp32"] / e.latency_s[0])
    assert (e.source[0], e.bound[0], e.reason[0]) == ("model", "compute", "")
    assert e.compute_time_s[0] == pytest.approx(2 * 512**3 / PEAK["fp32"])
    assert e.memory_time_s[0] == pytest.approx(3 * 4 * 512**2 / BANDWIDTH)


def test_interval_by_hand(mapper: GPUMapper) -> None:
    # one member has no spread: the half-width is quantile x floor = 5 x 0.02 in log latency
    e = one(mapper, "matmul", **INSIDE)
    assert e.interval_low_s[0] == pytest.approx(e.latency_s[0] * math.exp(-0.1))
    assert e.interval_high_s[0] == pytest.approx(e.latency_s[0] * math.exp(0.1))


def test_dtype_changes_peak_and_bytes(mapper: GPUMapper) -> None:
    e = one(mapper, "matmul", "bf16", **INSIDE)
    roofline = max(2 * 512**3 / PEAK["bf16"], 3 * 2 * 512**2 / BANDWIDTH)
    assert e.latency_s[0] == pytest.approx(RATIO["gemm"] * (T0 + roofline), rel=1e-6)


def test_small_calls_are_overhead_bound(mapper: GPUMapper) -> None:
    assert one(mapper, "relu", numel=2**10).bound[0] == "overhead"
    assert one(mapper, "relu", numel=2**24).bound[0] == "memory"


def test_ten_thousand_times_the_measured_work_gets_the_default(mapper: GPUMapper) -> None:
    e = one(mapper, "matmul", **HUGE)
    assert e.source[0] == "default"
    assert e.compute_efficiency[0] == pytest.approx(0.20)
    assert e.efficiency[0] == pytest.approx(0.20)
    assert e.latency_s[0] == pytest.approx(e.flops[0] / (0.20 * PEAK["fp32"]))
    assert e.reason[0].startswith("flops")
    assert "1.06e+04x above the largest measured" in e.reason[0]
    assert np.isnan([e.interval_low_s[0], e.interval_high_s[0]]).all()


def test_a_memory_bound_default_reaches_the_bandwidth(mapper: GPUMapper) -> None:
    e = one(mapper, "relu", numel=2**40)
    assert (e.source[0], e.bound[0]) == ("default", "memory")
    assert e.latency_s[0] == pytest.approx(2 * 4 * 2**40 / BANDWIDTH)
    assert e.efficiency[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("op", "dtype", "params", "named"),
    [
        ("matmul", "fp64", INSIDE, "dtype fp64 of matmul was never measured"),
        ("conv2d", "fp32", {"n": 1, "c": 8, "h": 8, "w": 8, "o": 8, "k": 3}, "operator 'conv2d' was never measured"),
        ("gelu", "fp32", {"numel": 2**20}, "operator 'gelu' was never measured"),
        ("linear", "fp32", {**INSIDE, "bias": True}, "bias=1 of linear was never measured"),
    ],
)
def test_never_measured_gets_the_default_with_the_reason(
    mapper: GPUMapper, op: str, dtype: str, params: dict[str, Any], named: str
) -> None:
    e = one(mapper, op, dtype, **params)
    assert e.source[0] == "default"
    assert named in e.reason[0]
    roof = max(e.compute_time_s[0] / 0.20, e.memory_time_s[0])
    assert e.latency_s[0] == pytest.approx(roof)


@pytest.mark.parametrize("calibrated", [True, False])
def test_fp64_on_the_h100_is_the_default(tmp_path: Path, calibrated: bool) -> None:
    save_model(make_model(hardware="h100-sxm"), tmp_path / "mine")
    calibration = tmp_path / "mine" if calibrated else False
    params = {"m": 4096, "n": 4096, "k": 4096}
    e = graphs.estimate_operator("matmul", params, "fp64", hardware="h100-sxm", calibration=calibration)
    assert e.source == "default"
    assert e.efficiency == pytest.approx(0.20)
    assert e.compute_efficiency == pytest.approx(0.20)
    assert e.latency_s == pytest.approx(2 * 4096**3 / (0.2 * 67e12))
    assert ("dtype fp64 of matmul was never measured" if calibrated else "no calibration") in e.reason


def test_policy_extrapolate_asks_the_model_beyond_its_domain(
    toy_profile: HardwareProfile, toy_calibration: HardwareCalibration
) -> None:
    mapper = GPUMapper(toy_profile, calibration=toy_calibration, out_of_domain="extrapolate")
    e = one(mapper, "matmul", **HUGE)
    assert e.source[0] == "model"
    assert "above the largest measured" in e.reason[0]
    assert e.latency_s[0] == pytest.approx(RATIO["gemm"] * (T0 + e.flops[0] / PEAK["fp32"]), rel=1e-6)
    # nothing was calibrated out there, so no interval is claimed
    assert np.isnan(e.interval_low_s[0])
    # no policy makes up a kind or a dtype without a single measured row
    assert one(mapper, "conv2d", n=1, c=8, h=8, w=8, o=8, k=3).source[0] == "default"
    assert one(mapper, "matmul", "fp64", **INSIDE).source[0] == "default"


def test_policy_error_names_the_call_and_the_reason(
    toy_profile: HardwareProfile, toy_calibration: HardwareCalibration
) -> None:
    mapper = GPUMapper(toy_profile, calibration=toy_calibration, out_of_domain="error")
    assert one(mapper, "matmul", **INSIDE).source[0] == "model"
    with pytest.raises(OutOfDomainError, match=r"'m': 45056.*fp32.*toy-gpu.*flops.*out_of_domain"):
        one(mapper, "matmul", **HUGE)


def test_unknown_policy(toy_profile: HardwareProfile) -> None:
    bad: Any = "guess"
    with pytest.raises(ProfileError, match="allowed: default, extrapolate, error"):
        GPUMapper(toy_profile, out_of_domain=bad)


@pytest.mark.parametrize("policy", ["default", "extrapolate", "error"])
def test_missing_peak_is_an_error_under_every_policy(policy: Policy) -> None:
    with pytest.raises(DtypeError, match=r"no int8 peak.*allowed: fp32"):
        graphs.estimate_operator("matmul", INSIDE, "int8", hardware="i7-12700k", out_of_domain=policy)
    with pytest.raises(DtypeError, match="unknown dtype"):
        graphs.estimate_operator("matmul", INSIDE, "fp12", hardware="i7-12700k", out_of_domain=policy)


def test_moving_data_needs_no_peak(mapper: GPUMapper) -> None:
    e = one(mapper, "copy", "int8", numel=10**6)
    assert e.latency_s[0] == pytest.approx(2e6 / BANDWIDTH)
    assert e.source[0] == "default"


@pytest.mark.parametrize("bad", [0, -8, 2.5, math.nan, math.inf, "8", None, True, [8]])
def test_unusable_dimensions_are_typed_errors(bad: Any) -> None:
    with pytest.raises(OperatorParameterError, match=r"'n' of operator 'matmul'.*an integer >= 1"):
        graphs.estimate_operator("matmul", {"m": 8, "n": bad, "k": 8}, "fp32", hardware="i7-12700k")


def test_unknown_operator_and_hardware_name_the_nearest() -> None:
    with pytest.raises(UnknownOperatorError, match="conv2d"):
        graphs.estimate_operator("conv_2d", {}, "fp32", hardware="i7-12700k")
    with pytest.raises(UnknownHardwareError, match="h100-sxm"):
        graphs.create_mapper("h100-nvl")
    with pytest.raises(UnknownHardwareError):
        create_mapper("a100-sxm", calibration=False)


# --- many rows

CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("matmul", "fp32", INSIDE), ("matmul", "bf16", INSIDE), ("matmul", "fp32", HUGE), ("matmul", "fp64", INSIDE),
    ("relu", "fp32", {"numel": 2**12}), ("relu", "fp32", {"numel": 2**22}), ("linear", "fp32", INSIDE),
    ("linear", "fp32", {**INSIDE, "bias": True}), ("copy", "bf16", {"numel": 999}), ("gelu", "fp32", {"numel": 77}),
]  # fmt: skip
FIELDS = tuple(OperatorEstimates.__dataclass_fields__)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(picks=st.lists(st.integers(0, len(CALLS) - 1), min_size=1, max_size=30))
def test_each_row_gets_the_answer_of_its_own_call(mapper: GPUMapper, picks: list[int]) -> None:
    calls = [CALLS[i] for i in picks]
    together = mapper.map_operators(ops.group_operators(*map(list, zip(*calls, strict=True))))
    assert len(together) == len(calls)
    for row, (op, dtype, params) in enumerate(calls):
        alone = one(mapper, op, dtype, **params)
        for name in FIELDS:
            a, b = getattr(together, name)[row], getattr(alone, name)[0]
            assert a == b or (a != a and b != b), f"row {row} differs in {name}"


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40))
def test_any_regressors_give_finite_positive_latencies(toy_profile: HardwareProfile, seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    calibration = HardwareCalibration(
        load_calibration("i7-12700k").metadata, toy_profile, model=make_model(lambda n: random_regressors(n, seed))
    )
    mapper = GPUMapper(toy_profile, calibration=calibration)
    params = [{k: int(2 ** rng.uniform(6, 11)) for k in "mnk"} for _ in range(rows)]
    e = mapper.map_operators(ops.group_operators(["matmul"] * rows, ["fp32"] * rows, params))
    assert (e.source == "model").all()
    assert np.isfinite(e.latency_s).all()
    assert (e.latency_s > 0).all()
    assert (e.interval_low_s < e.latency_s).all()
    assert (e.latency_s < e.interval_high_s).all()


# --- which calibration


def test_without_calibration_everything_is_the_default(toy_profile: HardwareProfile) -> None:
    mapper = GPUMapper(toy_profile)
    assert mapper.default_efficiency == 0.20
    e = one(mapper, "matmul", **INSIDE)
    assert (e.source[0], e.compute_efficiency[0]) == ("default", pytest.approx(0.20))
    assert "no calibration of toy-gpu is loaded" in e.reason[0]
    assert math.isnan(mapper.default_log_error)
    assert mapper.whole_model_terms.host is None


@pytest.mark.parametrize(
    ("factory", "cls", "hardware"),
    [(create_i7_12700k_mapper, CPUMapper, "i7-12700k"), (create_xeon_16c_mapper, CPUMapper, "xeon-16c"),
     (create_h100_sxm_mapper, GPUMapper, "h100-sxm"), (create_h200_sxm_mapper, GPUMapper, "h200-sxm")],
)  # fmt: skip
def test_factories_start_uncalibrated(factory: Any, cls: type[HardwareMapper], hardware: str) -> None:
    mapper = factory()
    assert type(mapper) is cls
    assert mapper.resource_model.id == hardware
    assert mapper.calibration is None
    assert mapper.default_efficiency == 0.20
    assert "uncalibrated" in repr(mapper)
    assert one(mapper, "matmul", **INSIDE).source[0] == "default"


def test_setting_a_calibration_takes_effect_and_unsetting_too() -> None:
    mapper = create_i7_12700k_mapper()
    mapper.calibration = load_calibration("profiles/i7-12700k.json")
    assert one(mapper, "matmul", m=2048, n=2048, k=2048).compute_efficiency[0] == pytest.approx(0.7297)
    mapper.calibration = None
    assert one(mapper, "matmul", m=2048, n=2048, k=2048).compute_efficiency[0] == pytest.approx(0.20)


def test_calibration_of_other_hardware_is_refused_everywhere(toy_profile: HardwareProfile) -> None:
    i7 = load_calibration("i7-12700k")
    with pytest.raises(ModelFileError, match=r"toy-gpu.*received 'i7-12700k'"):
        GPUMapper(toy_profile, calibration=i7)
    mapper = create_h100_sxm_mapper()
    with pytest.raises(ModelFileError, match=r"h100-sxm.*received 'i7-12700k'"):
        mapper.calibration = i7
    assert mapper.calibration is None
    with pytest.raises(ModelFileError, match="does not belong"):
        create_mapper("xeon-16c", calibration=i7)
    with pytest.raises(ModelFileError, match="does not belong"):
        graphs.estimate_operator("relu", {"numel": 8}, hardware="h100-sxm", calibration="profiles/i7-12700k.json")


def test_create_mapper_takes_a_path_a_loaded_one_true_and_false(tmp_path: Path) -> None:
    save_model(make_model(hardware="h100-sxm"), tmp_path / "mine")
    by_path = create_mapper("h100-sxm", calibration=tmp_path / "mine")
    assert by_path.calibration is not None
    assert by_path.calibration.metadata.source == "made up"
    loaded = create_mapper("h100-sxm", calibration=by_path.calibration)
    assert loaded.calibration is by_path.calibration
    assert create_mapper("h100-sxm", calibration=False).calibration is None
    for shipped in (create_mapper("i7-12700k"), create_mapper("i7-12700k", calibration=True)):
        assert shipped.calibration is not None
        assert len(shipped.calibration.operations) == 4


def test_a_path_that_is_no_calibration_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match="graphs train"):
        create_mapper("h100-sxm", calibration=tmp_path / "empty")
    with pytest.raises((ModelFileError, UnknownHardwareError)):
        create_mapper("h100-sxm", calibration=tmp_path / "nothing")


def test_mapper_class_must_fit_the_hardware() -> None:
    with pytest.raises(ProfileError, match=r"CPUMapper.*'gpu'.*allowed: cpu"):
        CPUMapper(load_profile("h100-sxm"))
    with pytest.raises(ProfileError, match="GPUMapper"):
        GPUMapper(load_profile("i7-12700k"))
    assert type(create_mapper("xeon-16c", calibration=False)) is CPUMapper


@pytest.mark.parametrize("make", [lambda: create_mapper("h100-sxm", thermal_profile="30w", calibration=False),
                                  lambda: create_mapper("h100-sxm@30w", calibration=False),
                                  lambda: create_i7_12700k_mapper("30w")])  # fmt: skip
def test_thermal_profile_that_does_not_exist(make: Any) -> None:
    with pytest.raises(ProfileError, match=r"no thermal profiles.*received '30w'"):
        make()


def test_registry_by_name() -> None:
    assert {"h100-sxm", "h200-sxm", "i7-12700k", "xeon-16c"} <= set(list_all_mappers())
    mapper = get_mapper_by_name("intel_i7_12700k")
    assert type(mapper) is CPUMapper
    assert mapper.calibration is None
    with pytest.raises(UnknownHardwareError, match="h100-sxm"):
        get_mapper_by_name("h100-nvl")


def test_an_older_model_gives_its_host_one_time_a_call(
    toy_profile: HardwareProfile, toy_calibration: HardwareCalibration
) -> None:
    assert toy_calibration.model is not None
    toy_calibration.model.header["eager"] = {"host_s_per_call": 1e-5, "lomo_log_error_90": 0.25}
    gpu = GPUMapper(toy_profile, calibration=toy_calibration)
    terms = gpu.whole_model_terms
    assert terms.host is not None
    assert terms.host.call_s("relu", {"numel": 8}, "fp32") == pytest.approx(1e-5)
    assert terms.eager_log_error == 0.25
    # a GPU runs while its host launches on; a plain mapper does one after the other
    assert gpu.host_and_device_overlap
    assert not HardwareMapper(toy_profile).host_and_device_overlap


def test_default_log_error_comes_from_the_model(toy_profile: HardwareProfile, toy_calibration: Any) -> None:
    toy_calibration.model.header["default_log_error_90"] = 1.5
    assert GPUMapper(toy_profile, calibration=toy_calibration).default_log_error == 1.5
