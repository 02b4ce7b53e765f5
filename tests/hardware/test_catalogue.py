"""Every shipped profile: sourced, plausible, and as its datasheet says; the catalogue finds each by its names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphs.errors import ProfileError
from graphs.hardware import assets, catalogue
from graphs.hardware.catalogue import FAMILIES, resolve
from graphs.hardware.profile import HardwareProfile, hardware_ids, load_profile, read_profile

ENTRIES = catalogue.catalogue()

T, G = 1e12, 1e9
#: Dense peaks in TFLOP/s and bandwidth in GB/s as the vendors print them, not copied from the profiles.
GOLDEN = {
    "a100-pcie-40gb": ({"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312, "int8": 624}, 1555),
    "a100-sxm-80gb": ({"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312, "int8": 624}, 2039),
    "v100-pcie-32gb": ({"fp64": 7, "fp32": 14, "fp16": 112}, 900),
    "v100-sxm2-16gb": ({"fp64": 7.8, "fp32": 15.7, "fp16": 125}, 900),
    "t4": ({"fp32": 8.1, "fp16": 65, "int8": 130}, 320),
    "p100-pcie-16gb": ({"fp64": 4.7, "fp32": 9.3, "fp16": 18.7}, 732),
    "p4": ({"fp32": 5.5, "int8": 22}, 192),
    "l40s": ({"fp32": 91.6, "tf32": 183, "bf16": 362.05, "fp8": 733}, 864),
    "b200": ({"tf32": 1100, "bf16": 2250, "fp8": 4500}, 7700),
    "h100-pcie-80gb": ({"fp32": 51, "tf32": 378, "bf16": 756, "fp8": 1513}, 2000),
    "rtx-4090": ({"fp32": 82.6, "tf32": 82.6, "fp16": 165.2, "int8": 660.6}, 1008),
    "tpu-v4": ({"bf16": 275, "int8": 275}, 1200),
    "tpu-v5e": ({"bf16": 197, "int8": 393}, 819),
    "tpu-v5p": ({"bf16": 459, "int8": 918}, 2765),
    "hailo-8": ({"int8": 26}, None),
    "tda4vm": ({"fp32": 0.08, "int8": 8}, None),
}
#: Cores, fp32 FLOP a core and cycle, GHz on all cores.
CPUS = {
    "xeon-8490h": (60, 64, 2.9), "xeon-8592plus": (64, 64, 2.9), "xeon-6980p": (128, 64, 3.2),
    "epyc-9654": (96, 32, 3.55), "epyc-9754": (128, 32, 3.1), "epyc-9965": (192, 64, 3.35),
    "altra-max-m128-30": (128, 16, 3.0), "ampereone-a192-32x": (192, 16, 3.2), "jetson-orin-agx-cpu": (12, 16, 2.2),
}  # fmt: skip


@pytest.fixture(scope="module")
def profiles() -> dict[str, HardwareProfile]:
    return {e.id: read_profile(e.path) for e in ENTRIES.values()}


def test_every_figure_and_every_size_names_its_source(profiles: dict[str, HardwareProfile]) -> None:
    for p in profiles.values():
        for f in (*p.peaks.values(), p.bandwidth, *([p.tdp_w] if p.tdp_w else [])):
            assert len(f.source) >= 6, f"{p.id}: {f}"
        stated = {
            "compute_units": p.compute_units, "clock_hz": p.clock_hz, "memory_bytes": p.memory_bytes,
            "cache_bytes": p.caches,
        }  # fmt: skip
        missing = [k for k, v in stated.items() if v and k not in p.sources]
        assert not missing, f"{p.id} gives no source of {missing}"


def test_peaks_are_ordered_as_hardware_orders_them(profiles: dict[str, HardwareProfile]) -> None:
    # narrower never runs slower where a peak is stated at all
    order = [("fp64", "fp32"), ("fp32", "tf32"), ("tf32", "fp16"), ("fp32", "fp16"), ("fp32", "bf16"),
             ("fp16", "fp8"), ("bf16", "int8"), ("fp32", "int8")]  # fmt: skip
    for p in profiles.values():
        for wide, narrow in order:
            if wide in p.peaks and narrow in p.peaks:
                assert p.peaks[wide].value <= p.peaks[narrow].value, f"{p.id}: {wide} above {narrow}"
        if {"fp32", "int8"} <= set(p.peaks) and p.family != "dsp":
            assert p.peaks["int8"].value / p.peaks["fp32"].value < 100, p.id


def test_no_peak_is_one_with_sparsity(profiles: dict[str, HardwareProfile]) -> None:
    # Tensor cores since Ampere: a datasheet's sparse figure would be 32 x fp32 on the A100, half of it is dense.
    for p in profiles.values():
        if p.family == "gpu" and {"tf32", "bf16"} <= set(p.peaks):
            assert p.peaks["bf16"].value / p.peaks["tf32"].value == pytest.approx(2, rel=0.05), p.id
        if p.family == "gpu" and {"bf16", "int8"} <= set(p.peaks):
            assert p.peaks["int8"].value <= 4.01 * p.peaks["bf16"].value, p.id


@pytest.mark.parametrize("hardware", list(ENTRIES))
def test_ridge_points_bandwidth_and_sizes_are_plausible(hardware: str, profiles: dict[str, HardwareProfile]) -> None:
    p = profiles[hardware]
    for dtype in p.peaks:
        assert 0.5 < p.ridge_point(dtype) < 4000, dtype
    assert 1e9 < p.bandwidth_bytes_per_s < 1e13
    assert p.memory_bytes is None or p.last_level_cache_bytes < p.memory_bytes
    assert p.clock_hz is None or 1e8 < p.clock_hz < 6e9
    assert p.tdp_w is None or 0.5 <= p.tdp_w.value <= 1200
    assert p.family in FAMILIES
    assert (p.family == p.kind) == (p.kind != "accelerator")
    # a peak per unit and cycle that no unit has: a slipped factor of a thousand
    if p.clock_hz and "fp32" in p.peaks and p.family in ("gpu", "cpu"):
        assert 8 <= p.peaks["fp32"].value / (p.compute_units * p.clock_hz) <= 520


@pytest.mark.parametrize("hardware", list(GOLDEN))
def test_peaks_and_bandwidth_as_printed(hardware: str, profiles: dict[str, HardwareProfile]) -> None:
    peaks, bandwidth = GOLDEN[hardware]
    assert {d: profiles[hardware].peak_flops_per_s(d) for d in peaks} == {d: v * T for d, v in peaks.items()}
    assert bandwidth is None or profiles[hardware].bandwidth_bytes_per_s == bandwidth * G


@pytest.mark.parametrize("hardware", list(CPUS))
def test_cpu_peaks_are_cores_times_width_times_clock(hardware: str, profiles: dict[str, HardwareProfile]) -> None:
    cores, width, ghz = CPUS[hardware]
    p = profiles[hardware]
    assert p.compute_units == cores
    assert p.peak_flops_per_s("fp32") == pytest.approx(cores * width * ghz * 1e9)
    assert p.peak_flops_per_s("fp64") == pytest.approx(p.peak_flops_per_s("fp32") / 2)


def test_the_catalogue_agrees_with_the_profiles(profiles: dict[str, HardwareProfile]) -> None:
    # profiles of one's own join both once they were read
    assert list(catalogue.catalogue()) == hardware_ids()
    assert set(ENTRIES) <= set(hardware_ids())
    for e in ENTRIES.values():
        p = profiles[e.id]
        assert (e.name, e.vendor, e.kind, e.family, e.aliases) == (p.name, p.vendor, p.kind, p.family, p.aliases)
        assert p.id == e.path.stem


def test_resolve_finds_ids_and_aliases_and_leaves_the_rest() -> None:
    assert resolve("a100-sxm-80gb") == "a100-sxm-80gb"
    assert resolve("NVIDIA A100-SXM4-80GB") == resolve("a100_sxm4_80gb") == "a100-sxm-80gb"
    # two A100 SXM exist, so the name alone means neither
    assert resolve("a100-sxm") == "a100-sxm"
    assert resolve("mine/a100.json") == "mine/a100.json"


def test_server_cpus_are_not_detected_by_the_name_a_virtual_machine_reports() -> None:
    # a slice of a 56-core part reports the whole part's name
    named = [
        e.id for e in ENTRIES.values() if e.family == "cpu" and any("(R)" in a or "Processor" in a for a in e.aliases)
    ]
    assert not [n for n in named if n.startswith(("xeon-8", "xeon-69", "epyc-9"))]
    assert load_profile("xeon-8480plus").compute_units == 56


def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad.json"
    monkeypatch.setattr(assets, "profile_files", lambda: [bad])
    for text in ("{", "[]", json.dumps({"name": "x"})):
        bad.write_text(text)
        with pytest.raises(ProfileError, match=r"bad\.json"):
            catalogue.catalogue()
        bad.unlink()
