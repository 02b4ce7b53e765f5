"""Fixtures of the made-up machine (see `toy_hardware`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_hardware import make_model, raw_profile

from graphs.hardware.calibration.artifact import save_model
from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.mappers.cpu import CPUMapper, create_i7_12700k_mapper
from graphs.hardware.mappers.gpu import GPUMapper
from graphs.hardware.profile import HardwareProfile, from_dict


@pytest.fixture
def toy_profile() -> HardwareProfile:
    return from_dict(raw_profile())


@pytest.fixture
def toy_tree(tmp_path: Path) -> Path:
    """A folder with ``profiles/toy-gpu.json`` and ``models/toy-gpu``, as a source tree has them."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "toy-gpu.json").write_text(json.dumps(raw_profile()))
    save_model(make_model(), tmp_path / "models" / "toy-gpu")
    return tmp_path


@pytest.fixture
def toy_calibration(toy_tree: Path) -> HardwareCalibration:
    return load_calibration(toy_tree / "profiles" / "toy-gpu.json")


@pytest.fixture
def bare() -> CPUMapper:
    return create_i7_12700k_mapper()


@pytest.fixture
def i7() -> CPUMapper:
    mapper = create_i7_12700k_mapper()
    mapper.calibration = load_calibration("profiles/i7-12700k.json")
    return mapper


@pytest.fixture
def toy(toy_profile: HardwareProfile, toy_calibration: HardwareCalibration) -> GPUMapper:
    return GPUMapper(toy_profile, calibration=toy_calibration)
