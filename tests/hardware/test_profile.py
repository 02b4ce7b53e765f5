"""Profiles: shipped ones are sound, unusable ones are refused, unknown names never become another device."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_hardware import PEAK, raw_profile

from graphs.errors import DtypeError, ProfileError, SchemaVersionError, UnknownHardwareError
from graphs.hardware.profile import from_dict, hardware_ids, load_profile, read_profile


@pytest.mark.parametrize("hardware", hardware_ids())
def test_shipped_profile_is_sound(hardware: str) -> None:
    p = load_profile(hardware)
    assert p.id == hardware
    figures = [*p.peaks.values(), p.bandwidth, *p.measured_peaks.values()]
    assert all(f.value > 0 and math.isfinite(f.value) and f.source for f in figures)
    assert "fp32" in p.peaks or p.kind == "accelerator"
    assert all(1e10 < f.value < 1e16 for f in p.peaks.values())
    assert 1e9 < p.bandwidth_bytes_per_s < 1e14
    # what was measured cannot exceed the datasheet, which says how long the machine can take at best
    assert all(f.value <= p.peak_flops_per_s(d) for d, f in p.measured_peaks.items())
    assert p.measured_bandwidth is None or p.measured_bandwidth.value <= p.bandwidth_bytes_per_s


def test_names_of_shipped_hardware_are_unambiguous() -> None:
    owner: dict[str, str] = {}
    for hardware in hardware_ids():
        for name in (hardware, *load_profile(hardware).aliases):
            folded = name.lower().replace("_", "-").replace(" ", "-")
            assert owner.setdefault(folded, hardware) == hardware, f"{name} is a name of two machines"


def test_datasheet_peaks_of_the_h100() -> None:
    p = load_profile("h100-sxm")
    assert {d: p.peak_flops_per_s(d) for d in ("fp32", "tf32", "bf16", "fp16", "fp64")} == {
        "fp32": 67e12, "tf32": 495e12, "bf16": 989e12, "fp16": 989e12, "fp64": 67e12,
    }  # fmt: skip
    assert p.compute_units == 132
    assert p.ridge_point("bf16") == pytest.approx(989e12 / 3.35e12)


def test_missing_peak_is_an_error_that_lists_the_others() -> None:
    with pytest.raises(DtypeError, match=r"no bf16 peak.*allowed: fp32, tf32"):
        load_profile("i7-12700k").peak_flops_per_s("bf16")


def test_tf32_without_its_units_is_fp32_and_nothing_else_is() -> None:
    p = load_profile("i7-12700k")
    assert p.peak_flops_per_s("tf32") == p.peak_flops_per_s("fp32") == 1e12
    assert load_profile("h100-sxm").peak_flops_per_s("tf32") == 495e12


@pytest.mark.parametrize("name", ["i7_12700k", "intel_i7_12700k", "I7-12700K", "profiles/intel_i7_12700k.json"])
def test_older_names_are_aliases(name: str) -> None:
    assert load_profile(name).id == "i7-12700k"


@pytest.mark.parametrize(
    ("name", "near"),
    [("h100-nvl", "h100-sxm"), ("h300-sxm", "h100-sxm"), ("i7-12700", "i7-12700k"), ("T5", "t4"), ("", "one of ")],
)
def test_unknown_hardware_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownHardwareError, match="graphs hardware") as caught:
        load_profile(name)
    assert near in str(caught.value)


def test_path_beats_the_current_folder(toy_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_profile(str(toy_tree / "profiles" / "toy-gpu.json")).id == "toy-gpu"
    monkeypatch.chdir(toy_tree)
    assert load_profile("profiles/toy-gpu.json").id == "toy-gpu"
    # a shipped profile is found by its path although this folder has none of that name
    assert load_profile("profiles/i7-12700k.json").id == "i7-12700k"
    assert "toy-gpu" not in hardware_ids()


@pytest.mark.parametrize("version", [0, 2, 99, None, "1"])
def test_other_schema_versions_are_refused(version: Any) -> None:
    with pytest.raises(SchemaVersionError, match="upgrade graphs" if isinstance(version, int) else "schema_version"):
        from_dict(raw_profile(schema_version=version))


@pytest.mark.parametrize("value", [0, -1e12, math.nan, math.inf, "1e12", None])
def test_unusable_figures_are_refused_by_name(value: Any) -> None:
    figure = {"value": value, "source": "somewhere"}
    with pytest.raises(ProfileError, match=r"peak_flops_per_s\[fp32\]"):
        from_dict(raw_profile(peak_flops_per_s={"fp32": figure}))
    with pytest.raises(ProfileError, match="bandwidth_bytes_per_s"):
        from_dict(raw_profile(bandwidth_bytes_per_s=figure))


@pytest.mark.parametrize("figure", [1e12, {"value": 1e12}, {"value": 1e12, "source": ""}])
def test_a_figure_needs_its_source(figure: Any) -> None:
    with pytest.raises(ProfileError, match="source"):
        from_dict(raw_profile(peak_flops_per_s={"fp32": figure}))


@pytest.mark.parametrize("change", [{"kind": "toaster"}, {"compute_units": 0}, {"peak_flops_per_s": []}])
def test_unusable_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProfileError):
        from_dict(raw_profile(**change))


@pytest.mark.parametrize("missing", ["id", "kind", "peak_flops_per_s", "bandwidth_bytes_per_s", "compute_units"])
def test_missing_fields_are_named(missing: str) -> None:
    raw = raw_profile()
    del raw[missing]
    with pytest.raises(ProfileError, match=missing):
        from_dict(raw)


def test_unknown_dtype_in_a_profile_is_refused() -> None:
    with pytest.raises((ProfileError, DtypeError), match="fp31"):
        from_dict(raw_profile(peak_flops_per_s={"fp31": {"value": 1e12, "source": "x"}}))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00\xff"])
def test_files_that_are_no_profiles(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match=r"bad\.json"):
        read_profile(path)


def test_missing_file_is_unknown_hardware(tmp_path: Path) -> None:
    with pytest.raises(UnknownHardwareError):
        load_profile(str(tmp_path / "nothing.json"))


@given(st.lists(st.sampled_from(sorted(PEAK)), max_size=30))
def test_peak_array_keeps_the_order_of_its_rows(dtypes: list[str]) -> None:
    got = from_dict(raw_profile()).peak_array(dtypes)
    np.testing.assert_array_equal(got, [PEAK[d] for d in dtypes])


def test_profile_survives_json() -> None:
    raw = raw_profile(caches={"l2": 1}, aliases=["toy"])
    assert from_dict(json.loads(json.dumps(raw))) == from_dict(raw)


@pytest.mark.parametrize("hardware", ["h100-sxm", "h200-sxm", "xeon-16c", "i7-12700k"])
def test_every_figure_of_a_shipped_profile_has_a_source(hardware: str, root) -> None:
    raw = json.loads((root / "profiles" / f"{hardware}.json").read_text())
    for name in ("compute_units", "cache_bytes", "memory_bytes", "clock_hz"):
        assert (name in raw) == (name in raw["sources"]), name
        assert raw["sources"].get(name, "x").strip()
    for figure in (*raw["peak_flops_per_s"].values(), raw["bandwidth_bytes_per_s"]):
        assert figure["source"].strip()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [5, "", {}]), ("subgraph_model", [5]), ("related", [True]), ("data", [[]]), ("id", [5, None]),
        ("memory_bytes", ["x", -5, 0, True, math.nan, 10**400]), ("clock_hz", [{}, -1.0, math.inf]),
        ("compute_units", [1.5, True, 0, -4, "10", None]), ("family", [5]), ("default_thermal_profile", [15]),
        ("cache_bytes", [5, {"l2": -1.0}, {"l2": "1 MB"}, {"l2": None}, []]), ("sources", ["x"]),
        ("calibration", [[]]), ("aliases", ["toy", [5]]), ("notes", ["x"]), ("measured", [5]),
        ("thermal_profiles", [[]]), ("kind", ["toaster", 3]),
    ],
)  # fmt: skip
def test_unusable_fields_are_named_with_their_value(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ProfileError, match=field) as caught:
            from_dict(raw_profile(**{field: value}), "toy.json")
        assert "toy.json" in str(caught.value)
        assert "received" in str(caught.value)
        assert caught.value.allowed
        assert caught.value.next_step


def test_fields_of_a_thermal_profile_are_checked_too() -> None:
    figure = {"value": 1e12, "source": "x"}
    slow = {"peak_flops_per_s": {"fp32": figure}, "bandwidth_bytes_per_s": figure, "clock_hz": "fast"}
    with pytest.raises(ProfileError, match=r"thermal profile '15w': clock_hz.*received 'fast'"):
        from_dict(raw_profile(thermal_profiles={"15W": slow}, default_thermal_profile="15w"))


def test_a_flag_is_no_figure() -> None:
    with pytest.raises(ProfileError, match="bandwidth_bytes_per_s"):
        from_dict(raw_profile(bandwidth_bytes_per_s={"value": True, "source": "x"}))


@pytest.mark.parametrize("name", [None, 5, b"h100-sxm", ["h100-sxm"], {}])
def test_hardware_named_by_another_type(name: Any) -> None:
    with pytest.raises(UnknownHardwareError, match="named by its id") as caught:
        load_profile(name)
    assert f"received {name!r}" in str(caught.value)


def test_a_path_object_names_hardware_as_its_text_does(toy_tree: Path) -> None:
    assert load_profile(toy_tree / "profiles" / "toy-gpu.json").id == "toy-gpu"
    assert load_profile(Path("h100-sxm")).id == "h100-sxm"
    with pytest.raises(UnknownHardwareError, match="h100-sxm"):
        load_profile(Path("h300-sxm"))
