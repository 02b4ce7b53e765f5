"""Which profile this machine has: by machine, by exact name, or none; and software that differs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import graphs
from graphs.cli.detect import detect
from graphs.errors import UnknownHardwareError
from graphs.hardware import assets
from graphs.hardware import detect as module

XEON = {"name": "Intel(R) Xeon(R) Processor", "vendor": "GenuineIntel", "family": 6, "model": 207, "cores": 16}
NOBODY = {"name": "Acme 9000", "vendor": "Acme", "family": 1, "model": 1, "cores": 3}


def machine(monkeypatch, cpu, gpus=()):
    monkeypatch.setattr(module, "cpu_identity", lambda: cpu)
    monkeypatch.setattr(module, "_gpu_names", lambda: list(gpus))


def own_profile(monkeypatch, folder, **machine_entry):
    """Put one more profile, of a CPU hidden behind a virtual machine, where profiles are found."""
    raw = {
        "schema_version": 1, "id": "toy-vm", "name": "toy", "vendor": "Acme", "kind": "cpu", "compute_units": 3,
        "peak_flops_per_s": {"fp32": {"value": 1e11, "source": "measured"}},
        "bandwidth_bytes_per_s": {"value": 1e10, "source": "measured"}, "machine": machine_entry,
    }  # fmt: skip
    path = folder / "toy-vm.json"
    path.write_text(json.dumps(raw))
    monkeypatch.setattr(assets, "_OWN", [path])


def test_an_unknown_machine_has_no_profile_and_auto_says_how_to_make_one(monkeypatch) -> None:
    machine(monkeypatch, NOBODY)
    assert [(d.name, d.hardware) for d in graphs.detect_hardware()] == [("Acme 9000", None)]
    with pytest.raises(UnknownHardwareError, match="graphs measure --hardware"):
        graphs.create_mapper("auto")


def test_a_gpu_is_known_by_its_exact_name_only_and_goes_before_the_cpu(monkeypatch) -> None:
    machine(monkeypatch, NOBODY, ["NVIDIA H100 80GB HBM3", "NVIDIA H100 Something Else"])
    found = graphs.detect_hardware()
    assert [d.hardware for d in found] == ["h100-sxm", None, None]
    assert found[0].model == "models/h100-sxm"
    assert graphs.create_mapper("auto").resource_model.id == "h100-sxm"


def test_auto_works_wherever_hardware_is_named(monkeypatch) -> None:
    machine(monkeypatch, NOBODY, ["NVIDIA H100 80GB HBM3"])
    size = {"m": 512, "n": 512, "k": 512}
    auto, named = (graphs.estimate_operator("matmul", size, "bf16", hardware=h) for h in ("auto", "h100-sxm"))
    assert auto.latency_s == named.latency_s


def test_a_hidden_cpu_is_known_by_family_model_and_cores(monkeypatch, tmp_path) -> None:
    own_profile(monkeypatch, tmp_path, vendor="Acme", family=1, model=1, cores=3)
    machine(monkeypatch, NOBODY)
    assert module.this_hardware() == "toy-vm"
    machine(monkeypatch, {**NOBODY, "cores": 4})  # another slice of the same chip is another machine
    with pytest.raises(UnknownHardwareError):
        module.this_hardware()


def test_other_software_than_the_model_was_fitted_on_is_a_warning_with_both(monkeypatch) -> None:
    machine(monkeypatch, NOBODY, ["NVIDIA H100 80GB HBM3"])
    monkeypatch.setattr(module, "_software_here", lambda: {"torch": "1.2.3+cu999"})
    (warning,) = graphs.detect_hardware()[0].warnings
    fitted_on = graphs.load_calibration("h100-sxm").model.header["provenance"]["software"]["torch"]
    assert fitted_on in warning
    assert "1.2.3+cu999" in warning
    assert "--check" in warning


def test_builds_of_one_version_are_the_same_software() -> None:
    assert module.software_warnings({"torch": "2.11.0+cu130"}, {"torch": "2.11.0"}) == ()
    assert module.software_warnings({"torch": "2.11.0"}, {}) == ()


def test_the_command_names_devices_and_models(monkeypatch) -> None:
    machine(monkeypatch, NOBODY, ["NVIDIA H100 80GB HBM3"])
    out = CliRunner().invoke(detect, [])
    assert "h100-sxm, fitted model models/h100-sxm" in out.output
    assert "Acme 9000: no profile" in out.output
    assert json.loads(CliRunner().invoke(detect, ["--json"]).output)[0]["hardware"] == "h100-sxm"
    machine(monkeypatch, NOBODY)
    assert "graphs measure --hardware ID" in CliRunner().invoke(detect, []).output


def test_this_very_machine_can_be_described() -> None:
    cpu = module.cpu_identity()
    assert cpu["name"]
    assert cpu["cores"] >= 1
    assert graphs.detect_hardware()[-1].kind == "cpu"
