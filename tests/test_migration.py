"""The migration page: every new name exists, every command too, and its arithmetic is right."""

from __future__ import annotations

import importlib
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import graphs
from graphs.errors import DtypeError
from graphs.hardware.calibration import load_calibration
from graphs.hardware.catalogue import resolve
from graphs.hardware.profile import load_profile

PAGE = Path(__file__).parents[1] / "docs" / "migration.md"
TEXT = PAGE.read_text(encoding="utf-8")
#: Dotted names in the page, but for those in the older system's column.
NEW = sorted(
    {
        name
        for line in TEXT.split("\n")
        for name in re.findall(r"`(graphs\.[\w.]+)`", line.split("|")[2] if line.startswith("|") else line)
    }
)


def _find(name: str) -> Any:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            # fields of slotted dataclasses are members of the class too
            found = getattr(found, attribute)
        return found
    raise AssertionError(f"nothing of {name} can be imported")


def test_the_page_names_many() -> None:
    assert len(NEW) > 40


@pytest.mark.parametrize("name", NEW)
def test_every_new_name_imports(name: str) -> None:
    assert _find(name) is not None


def test_a_name_that_does_not_exist_would_be_noticed() -> None:
    for name in ("graphs.hardware.mappers.cpu.create_t4_mapper", "graphs.estimates_all", "graphs.subgraph.Nothing"):
        with pytest.raises(AttributeError):
            _find(name)


def test_every_command_is_installed() -> None:
    new = {
        words
        for line in TEXT.split("\n")
        for words in re.findall(r"`graphs (\w+)", line.split("|")[2] if line.startswith("|") else line)
    }
    assert {"estimate", "hardware", "measure", "train", "validate"} <= new
    installed = {e.name for e in entry_points(group="graphs.commands")}
    declared = set(re.findall(r'^(\w+) = "[\w.]+:\w+"$', (PAGE.parents[1] / "pyproject.toml").read_text(), re.M))
    # an editable install made before a command was added does not know it yet
    assert new <= installed | declared


def test_older_hardware_names_are_aliases_of_the_ones_given() -> None:
    pairs = re.findall(r"`([\w+-]+)` is\s+`([\w.-]+)`", TEXT)
    assert len(pairs) >= 9
    for older, new in pairs:
        assert resolve(older) == new, older
        assert load_profile(new).id == new
    assert load_profile("profiles/intel_i7_12700k.json").id == "i7-12700k"


def test_the_flagship_arithmetic() -> None:
    flops = 2 * 2048**3
    work = flops / (8 * 0.7)
    uncalibrated = work / (720e9 * 0.5 * 0.20 * 0.1 * 0.1)
    assert uncalibrated == pytest.approx(4.26088, rel=1e-5)
    assert uncalibrated * 0.20 / 0.7297 == pytest.approx(1.16784, rel=1e-5)
    e = graphs.estimate_operator("matmul", {"m": 2048, "n": 2048, "k": 2048}, "fp32", hardware="i7-12700k")
    assert e.latency_s == pytest.approx(23.5e-3, rel=0.05)
    assert uncalibrated * 0.20 / 0.7297 / e.latency_s == pytest.approx(50, rel=0.03)
    for figure in ("17.18", "4260.88", "1167.84", "23.5 ms", "0.274"):
        assert figure in TEXT


def test_the_relu_arithmetic() -> None:
    older = 16.78e6 / 5.6 / 0.72e9
    assert older == pytest.approx(4.16e-3, rel=0.01)
    assert older * 0.2 / 0.688 == pytest.approx(1.21e-3, rel=0.01)
    numel = 16 * 2**20
    calibrated = graphs.estimate_operator("relu", {"numel": numel}, "fp32", hardware="i7-12700k")
    bare = graphs.estimate_operator("relu", {"numel": numel}, "fp32", hardware="i7-12700k", calibration=False)
    assert (calibrated.latency_s, bare.latency_s) == (
        pytest.approx(2.60e-3, rel=0.01),
        pytest.approx(1.79e-3, rel=0.01),
    )
    assert load_calibration("i7-12700k").measured_bandwidth_gbps == pytest.approx(51.6)


@pytest.mark.parametrize(
    ("hardware", "dtype", "right", "older"),
    [
        ("jetson-orin-nano-8gb", "fp32", 1.28e12, 1024 * 2 * 918e6),
        ("epyc-9654", "fp32", 10.9e12, 96 * 2.4e9 * 8),
        ("xeon-8490h", "fp32", 11.1e12, 60 * 2.9e9 * 16),
        ("xeon-8490h", "bf16", 178e12, 60 * 2.9e9 * 256),
        ("altra-max-m128-30", "fp32", 6.14e12, 128 * 3e9 * 8),
        ("h100-sxm", "int8", 1979e12, 3958e12),
        ("v100-sxm2-32gb", "fp64", 7.8e12, 15.7e12),
        ("dpu-vitis-ai", "int8", 1.23e12, 4096 * 2 * 1.25e9),
    ],
)
def test_the_table_of_peaks(hardware: str, dtype: str, right: float, older: float) -> None:
    peak = load_profile(hardware).peak_flops_per_s(dtype)
    assert peak == pytest.approx(right, rel=0.01)
    assert not 0.7 < peak / older < 1.4
    shown = f"{older / 1e12:.4g}"
    assert shown[:4] in TEXT or f"{older / 1e12:.2f}" in TEXT


def test_what_the_page_says_of_bandwidths_and_missing_dtypes() -> None:
    assert load_profile("altra-max-m128-30").bandwidth_bytes_per_s == 204.8e9
    assert load_profile("tda4vh").bandwidth_bytes_per_s == 68e9
    with pytest.raises(DtypeError, match="no fp32 peak"):
        load_profile("tpu-v4").peak_flops_per_s("fp32")
    # the square root estimate for a linear layer of one row
    assert round(((2 * 4096 * 4) / 4 / 3) ** 0.5) == 52
