"""Every profile has a mapper and a factory; each answers the 20 % default until it is calibrated."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import ops
from graphs.errors import DtypeError, ModelFileError, ProfileError, UnknownHardwareError
from graphs.hardware.calibration import load_calibration
from graphs.hardware.catalogue import catalogue
from graphs.hardware.mappers import cpu, dsp, gpu, registry
from graphs.hardware.mappers.accelerators import cgra, classes, dpu, hailo, kpu, tpu
from graphs.hardware.mappers.base import HardwareMapper
from graphs.hardware.mappers.factories import factory_names
from graphs.hardware.profile import load_profile
from graphs.subgraph import FusedSubgraph

ENTRIES = catalogue()
MODULES: dict[str, Any] = {
    "cpu": cpu, "gpu": gpu, "dsp": dsp, "tpu": tpu, "kpu": kpu, "hailo": hailo, "dpu": dpu, "cgra": cgra,
}  # fmt: skip
#: Factories of the older system, and what they make here.
OLDER = {
    "gpu": {"create_h100_sxm5_80gb_mapper": "h100-sxm", "create_h100_pcie_80gb_mapper": "h100-pcie-80gb",
            "create_b100_sxm6_192gb_mapper": "b100", "create_a100_sxm4_80gb_mapper": "a100-sxm-80gb",
            "create_v100_sxm3_32gb_mapper": "v100-sxm3-32gb", "create_t4_pcie_16gb_mapper": "t4",
            "create_jetson_orin_nx_16gb_mapper": "jetson-orin-nx-16gb",
            "create_jetson_orin_nano_8gb_mapper": "jetson-orin-nano-8gb",
            "create_jetson_thor_128gb_mapper": "jetson-thor", "create_arm_mali_g78_mp20_mapper": "mali-g78-mp20"},
    "cpu": {"create_i7_12700k_mapper": "i7-12700k", "create_i7_12700k_large_mapper": "i7-12700k",
            "create_intel_xeon_platinum_8490h_mapper": "xeon-8490h",
            "create_intel_xeon_platinum_8592plus_mapper": "xeon-8592plus",
            "create_intel_granite_rapids_mapper": "xeon-6980p", "create_amd_epyc_9654_mapper": "epyc-9654",
            "create_amd_epyc_9754_mapper": "epyc-9754", "create_amd_epyc_turin_mapper": "epyc-9965",
            "create_ampere_ampereone_192_mapper": "ampereone-a192-32x",
            "create_ampere_ampereone_128_mapper": "ampereone-a128-34x",
            "create_jetson_orin_agx_cpu_mapper": "jetson-orin-agx-cpu"},
    "tpu": {"create_tpu_v1_mapper": "tpu-v1", "create_tpu_v3_mapper": "tpu-v3", "create_tpu_v4_mapper": "tpu-v4",
            "create_tpu_v5p_mapper": "tpu-v5p", "create_coral_edge_tpu_mapper": "coral-edge-tpu"},
    "kpu": {"create_kpu_t64_mapper": "kpu-t64", "create_kpu_t256_mapper": "kpu-t256",
            "create_kpu_t768_mapper": "kpu-t768"},
    "hailo": {"create_hailo8_mapper": "hailo-8", "create_hailo10h_mapper": "hailo-10h"},
    "dpu": {"create_dpu_vitis_ai_mapper": "dpu-vitis-ai"},
    "cgra": {"create_plasticine_v2_mapper": "plasticine"},
    "dsp": {"create_qrb5165_mapper": "qrb5165", "create_ti_tda4vm_mapper": "tda4vm",
            "create_ti_tda4vl_mapper": "tda4vl", "create_ti_tda4al_mapper": "tda4al",
            "create_ti_tda4vh_mapper": "tda4vh",
            "create_ceva_neupro_npm11_mapper": "ceva-neupro-npm11",
            "create_cadence_vision_q8_mapper": "cadence-vision-q8",
            "create_synopsys_arc_ev7x_mapper": "synopsys-arc-ev7x",
            "create_qualcomm_snapdragon_ride_mapper": "snapdragon-ride"},
}  # fmt: skip


def one(mapper: HardwareMapper, op: str, dtype: str, **params: Any) -> Any:
    return mapper.map_operators(ops.group_operators([op], [dtype], [params]))


@pytest.mark.parametrize("hardware", list(ENTRIES))
def test_every_profile_has_a_factory_that_starts_at_the_default(hardware: str) -> None:
    entry = ENTRIES[hardware]
    module = MODULES[entry.family]
    name = factory_names(entry)[0]
    assert name in dir(module)
    make = getattr(module, name)
    assert make is getattr(module, name)
    assert (make.__name__, make.__module__) == (name, module.__name__)
    assert hardware in make.__doc__
    assert list(inspect.signature(make).parameters) == ["thermal_profile", "calibration"]
    mapper = make()
    assert mapper.calibration is None
    assert mapper.resource_model.id == hardware
    assert type(mapper) is type(registry.get_mapper_by_name(hardware))
    # large enough to be compute-bound at a fifth of the peak on all of them
    dtype = next(iter(mapper.resource_model.peaks))
    e = one(mapper, "matmul", dtype, m=16384, n=16384, k=16384)
    assert (e.source[0], mapper.default_efficiency) == ("default", 0.20)
    assert e.compute_efficiency[0] == pytest.approx(0.20)
    assert f"no calibration of {hardware}" in e.reason[0]


@pytest.mark.parametrize(("family", "name", "hardware"), [(f, n, h) for f, m in OLDER.items() for n, h in m.items()])
def test_factories_of_the_older_system(family: str, name: str, hardware: str) -> None:
    assert getattr(MODULES[family], name)().resource_model.id == hardware
    assert name in dir(MODULES[family])


def test_no_factory_name_means_two_machines() -> None:
    owner: dict[str, str] = {}
    for entry in ENTRIES.values():
        for name in factory_names(entry):
            assert owner.setdefault(name, entry.id) == entry.id, name
            assert name.isidentifier()


def test_unknown_factories_name_the_nearest_and_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="create_h100_pcie_80gb_mapper"):
        gpu.create_h100_pcie_80_mapper  # noqa: B018
    with pytest.raises(ImportError, match="create_t4_mapper"):
        from graphs.hardware.mappers.cpu import create_t4_mapper  # noqa: F401
    assert not hasattr(gpu, "h100")
    assert not hasattr(tpu, "__path__")


def test_a_factory_takes_its_own_calibration_only() -> None:
    calibration = load_calibration("i7-12700k")
    assert cpu.create_i7_12700k_mapper(calibration=calibration).calibration is calibration
    with pytest.raises(ModelFileError, match="xeon-8490h"):
        cpu.create_xeon_8490h_mapper(calibration=calibration)


@pytest.mark.parametrize(
    ("hardware", "allowed"), [("hailo-8", "int8"), ("dpu-vitis-ai", "int8"), ("tpu-v4", "bf16, int8")]
)
def test_hardware_without_fp32_refuses_it_and_names_what_it_has(hardware: str, allowed: str) -> None:
    mapper = registry.create_mapper(hardware)
    with pytest.raises(DtypeError, match=f"no fp32 peak.*allowed: {allowed};"):
        one(mapper, "matmul", "fp32", m=64, n=64, k=64)
    with pytest.raises(DtypeError, match="no fp32 peak"):
        mapper.map_subgraph(FusedSubgraph(0, total_flops=10**9, total_input_bytes=10**6))
    assert one(mapper, "matmul", "int8", m=64, n=64, k=64).source[0] == "default"


def test_a_family_of_mappers_takes_its_own_profiles_only() -> None:
    with pytest.raises(ProfileError, match=r"TPUMapper does not map hardware 'hailo-8'.*allowed: tpu"):
        classes.TPUMapper(load_profile("hailo-8"))
    with pytest.raises(ProfileError, match="GPUMapper does not map"):
        gpu.GPUMapper(load_profile("tpu-v4"))
    assert isinstance(classes.AcceleratorMapper(load_profile("hailo-8")), HardwareMapper)


@settings(max_examples=60, deadline=None)
@given(
    hardware=st.sampled_from(sorted(ENTRIES)),
    dims=st.tuples(*[st.integers(1, 5000)] * 3),
    pick=st.integers(0, 7),
)
def test_the_default_is_the_larger_of_work_at_a_fifth_and_traffic(
    hardware: str, dims: tuple[int, int, int], pick: int
) -> None:
    mapper = registry.get_mapper_by_name(hardware)
    profile = mapper.resource_model
    dtype = list(profile.peaks)[pick % len(profile.peaks)]
    m, n, k = dims
    size = {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}[dtype]
    compute = 2 * m * n * k / (0.20 * profile.peaks[dtype].value)
    memory = size * (m * k + k * n + m * n) / profile.bandwidth.value
    e = one(mapper, "matmul", dtype, m=m, n=n, k=k)
    assert e.latency_s[0] == pytest.approx(max(compute, memory), rel=1e-12)
    assert e.interval_low_s[0] != e.interval_low_s[0]
    assert e.bound[0] == ("compute" if compute >= memory else "memory")


def test_the_registry_finds_by_family_vendor_and_power() -> None:
    assert registry.list_all_mappers() == list(catalogue())
    assert set(ENTRIES) <= set(registry.list_all_mappers())
    assert registry.list_mappers_by_category("hailo") == ["hailo-10h", "hailo-8"]
    kind = {e.id for e in catalogue().values() if e.kind == "accelerator"}
    assert set(registry.list_mappers_by_category("accelerator")) == kind
    assert registry.list_mappers_by_vendor("texas") == ["tda4al", "tda4vh", "tda4vl", "tda4vm"]
    assert {"l4", "t4"} <= set(registry.list_mappers_by_tdp_range(70, 75))
    assert "b200" not in registry.list_mappers_by_tdp_range(0, 999)
    info = registry.get_mapper_info("T4-PCIe-16GB")
    assert (info["id"], info["category"], info["tdp_w"]) == ("t4", "gpu", 70)
    with pytest.raises(ProfileError, match="allowed: gpu, cpu, tpu"):
        registry.list_mappers_by_category("toaster")
    with pytest.raises(UnknownHardwareError, match="tpu-v5e"):
        registry.get_mapper_info("tpu-v5")


def test_importing_the_package_reads_no_profile() -> None:
    code = "import sys, graphs; assert not [m for m in sys.modules if m.startswith('graphs.hardware')], sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_say_what_they_offer() -> None:
    for family, module in MODULES.items():
        again = importlib.import_module(module.__name__)
        offered = [n for n in dir(again) if n.startswith("create_")]
        assert len(offered) >= sum(e.family == family for e in ENTRIES.values())


def test_a_measured_bandwidth_answers_memory_bound_calls_and_nothing_else() -> None:
    mapper = registry.create_mapper("jetson-orin-nano-8gb")
    e = one(mapper, "relu", "fp32", numel=2**24)
    assert (e.source[0], e.latency_s[0]) == ("calibrated_roofline", pytest.approx(2 * 4 * 2**24 / 50.4e9))
    e = one(mapper, "matmul", "fp32", m=4096, n=4096, k=4096)
    assert (e.source[0], e.compute_efficiency[0]) == ("default", pytest.approx(0.20))


@pytest.mark.parametrize("name", [None, 5, ["h100-sxm"]])
def test_names_of_another_type_are_typed_errors(name: Any) -> None:
    for call in (registry.create_mapper, registry.get_mapper_by_name, registry.get_mapper_info):
        with pytest.raises(UnknownHardwareError, match="named by its id"):
            call(name)
    with pytest.raises(ProfileError, match=r"received.*NVIDIA"):
        registry.list_mappers_by_vendor(name)
    with pytest.raises(ProfileError, match="unknown family"):
        registry.list_mappers_by_category(name)


def test_a_power_limit_is_a_number() -> None:
    with pytest.raises(ProfileError, match="min_tdp_w is no power limit; received None"):
        registry.list_mappers_by_tdp_range(None, 75)  # type: ignore[arg-type]
    with pytest.raises(ProfileError, match="max_tdp_w"):
        registry.list_mappers_by_tdp_range(0, "75")  # type: ignore[arg-type]
