"""Thermal profiles select peaks, bandwidth and the fitted setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphs
from graphs.errors import ProfileError
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import from_dict, load_profile
from graphs.subgraph import FusedSubgraph

CONV = FusedSubgraph(0, operators=[
    ("conv2d", {"n": 1, "c": 128, "h": 28, "w": 28, "o": 128, "k": 3, "pad": 1}),
    ("batchnorm", {"n": 1, "c": 128, "h": 28, "w": 28}), ("relu", {"numel": 128 * 28 * 28}),
])  # fmt: skip
JETSON = "jetson-orin-agx"


def test_default_is_maxn_and_its_peaks_are_the_profile_s() -> None:
    profile = load_profile(JETSON)
    assert profile.default_thermal_profile == "maxn"
    assert profile.at("maxn").peaks == profile.peaks
    # 2048 lanes x 2 x 1.301 GHz
    assert profile.peak_flops_per_s("fp32") == pytest.approx(5.33e12, rel=1e-3)
    assert profile.peak_flops_per_s("fp16") == 8 * profile.peak_flops_per_s("fp32")


def test_modes_carry_their_own_ceilings() -> None:
    profile = load_profile(JETSON)
    peaks = [profile.at(t).peak_flops_per_s("fp16") for t in ("15w", "30w", "50w", "maxn")]
    assert peaks == sorted(peaks)
    assert peaks[0] == pytest.approx(3 * 256 * 2 * 420.75e6 * 8)
    assert profile.at("15w").bandwidth_bytes_per_s == pytest.approx(204.8e9 * 2133 / 3200)
    assert profile.at("30W").id == JETSON


@pytest.mark.parametrize("hardware", ["jetson-orin-agx", "i7-12700k"])
def test_unknown_mode_is_a_typed_error_with_the_known_ones(hardware: str) -> None:
    with pytest.raises(ProfileError, match="15w, 30w, 50w, maxn" if hardware == JETSON else "no thermal profiles"):
        create_mapper(hardware, thermal_profile="20w")


def test_a_default_that_is_no_mode_is_refused() -> None:
    raw = json.loads((Path(__file__).parents[2] / "profiles" / f"{JETSON}.json").read_text())
    with pytest.raises(ProfileError, match="default_thermal_profile"):
        from_dict(raw | {"default_thermal_profile": "turbo"})


def test_at_sign_and_argument_are_the_same_and_select_the_model() -> None:
    times = {}
    for mode in ("15w", "30w", "50w", "maxn"):
        a = create_mapper(f"{JETSON}@{mode}").map_subgraph(CONV, precision="fp16")
        b = create_mapper(JETSON, thermal_profile=mode).map_subgraph(CONV, precision="fp16")
        assert (a.source, a.estimated_latency) == ("model", b.estimated_latency)
        times[mode] = a.estimated_latency
    assert create_mapper(JETSON).map_subgraph(CONV, precision="fp16").estimated_latency == times["maxn"]
    assert times["15w"] > 1.2 * times["maxn"]
    # measured so: the host's clock is lower in 50w than in 30w
    assert times["50w"] > times["30w"] > times["maxn"]


def test_uncalibrated_mode_scales_with_its_peak() -> None:
    cube = {"m": 4096, "n": 4096, "k": 4096}
    e = {
        t: graphs.estimate_operator(
            "matmul", cube, "fp16", hardware=JETSON, calibration=False, thermal_profile=t
        ).latency_s
        for t in ("30w", "maxn")
    }
    assert e["30w"] / e["maxn"] == pytest.approx(2 * 1301 / 624.75)


def test_a_precision_never_measured_falls_back_by_name() -> None:
    a = create_mapper(JETSON).map_subgraph(CONV, precision="bf16")
    assert a.source == "default"
    assert "bf16" in a.reason
    assert "fp16 30w" in a.reason
