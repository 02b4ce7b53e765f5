"""`graphs hardware`: the list says of each machine what was measured, the page says where each figure is from."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from graphs.cli import hardware as command
from graphs.cli.main import cli
from graphs.hardware import assets
from graphs.hardware.catalogue import FAMILIES, catalogue
from graphs.hardware.profile import load_profile


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["hardware", *args], prog_name="graphs")


def listed(*args: str) -> dict[str, dict]:
    return {d["id"]: d for d in json.loads(run(*args, "--json").output)}


def test_the_list_groups_by_family_and_has_every_machine_once() -> None:
    lines = run().output.split("\n")
    headings = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == list(FAMILIES.values())
    first = [line.split("  ")[0].strip() for line in lines]
    assert all(first.count(name) == 1 for name in catalogue())
    # a machine stands below its family's heading
    assert lines.index("TPUs:") < first.index("tpu-v4") < lines.index("KPUs:")


def test_the_list_says_what_was_measured_of_each() -> None:
    states = {name: d["state"] for name, d in listed().items()}
    assert states["h100-sxm"] == "fitted"
    assert states["jetson-orin-nano-8gb"] == "calibrated_roofline"
    assert states["hailo-8"] == states["a100-sxm-80gb"] == "default"
    for name, state in states.items():
        p = load_profile(name)
        files = [f"{p.model}/model.json"] * bool(p.model) + [f"{p.subgraph_model}/subgraphs.json"] * bool(
            p.subgraph_model
        )
        fitted = any(assets.find_asset(f) is not None for f in files)
        assert (state == "fitted") == fitted, name
        assert (state == "default") == (not fitted and not p.calibration and p.measured_bandwidth is None), name
    line = next(x for x in run().output.split("\n") if x.startswith("hailo-8 "))
    assert "nothing measured: 20 % default" in line


def test_a_fitted_machine_shows_rows_error_and_date_of_its_model() -> None:
    path = assets.find_asset("models/h100-sxm/model.json")
    assert path is not None
    header = json.loads(path.read_text())
    d = listed("--fitted")["h100-sxm"]
    assert d["rows"] == header["provenance"]["rows"] > 1000
    assert d["held_out_median_ape"] == header["scores"]["held_out"]["all"]["median_ape"]
    assert d["date"] == header["provenance"]["date"]
    line = next(x for x in run("--fitted").output.split("\n") if x.startswith("h100-sxm "))
    assert f"{100 * d['held_out_median_ape']:.1f} %" in line
    assert str(d["rows"]) in line


def test_a_machine_fitted_on_subgraphs_shows_the_error_on_networks_left_out() -> None:
    path = assets.find_asset("models/ryzen-9-8945hs/subgraphs.json")
    assert path is not None
    (score,) = json.loads(path.read_text())["report"]["scores"]
    d = listed("--fitted")["ryzen-9-8945hs"]
    assert d["left_out_models_median_ape"] == score["leave one model out"]["subgraph_median_ape"]
    assert d["held_out_median_ape"] is None
    assert "subgraph model" in run("ryzen-9-8945hs").output.split("\n")[1]


def test_figures_that_no_document_backs_carry_a_star() -> None:
    described = listed()
    assert described["kpu-t64"]["unverified"] == ["fp32", "bf16", "int8", "bandwidth"]
    assert described["hailo-8"]["unverified"] == ["bandwidth"]
    assert described["t4"]["unverified"] == []
    lines = {x.split(" ")[0]: x for x in run().output.split("\n")}
    assert "int8 26 T " in lines["hailo-8"]
    assert "200 GB/s*" in lines["hailo-8"]
    assert "fp32 1.5 T*" in lines["kpu-t64"]
    assert "*" not in lines["t4"]


def test_filters() -> None:
    assert {d["state"] for d in listed("--fitted").values()} == {"fitted"}
    assert set(listed("--kind", "hailo")) == {"hailo-8", "hailo-10h"}
    assert set(listed("--kind", "accelerator")) == {e.id for e in catalogue().values() if e.kind == "accelerator"}
    assert listed("--kind", "dpu", "--fitted") == {}
    assert run("--kind", "dpu", "--fitted").output.strip() == "No hardware matches."
    wrong = run("--kind", "toaster")
    assert wrong.exit_code == 2
    assert "'gpu', 'cpu', 'tpu'" in wrong.stderr
    assert run("t4", "--fitted").exit_code == 2


@pytest.mark.parametrize("name", ["t4", "T4-PCIe-16GB", "Tesla T4"])
def test_the_page_of_one_machine_shows_every_figure_with_its_source(name: str) -> None:
    out = run(name)
    assert out.exit_code == 0, out.output
    p = load_profile("t4")
    for words in ("t4: NVIDIA T4 16GB (NVIDIA, gpu)", "peak fp16", "65 TFLOP/s", "peak int8", "130 TOP/s", "320 GB/s",
                  "70 W", "nothing measured: 20 % default", "Tesla T4"):  # fmt: skip
        assert words in out.output
    for source in {*(f.source for f in p.peaks.values()), p.bandwidth.source, *p.sources.values()}:
        assert source in out.output
    assert f"ridge point {p.ridge_point('fp16'):.4g} FLOP/B" in out.output


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_machine_has_a_page(name: str) -> None:
    p = load_profile(name)
    page = command._page(p, command._describe(p))
    assert all(note in page for note in p.notes)
    assert all(f"peak {d} " in page for d in p.peaks)
    assert all(f"mode {name} " in page and t.note in page for name, t in p.thermal.items())
    assert all(f.note in page for f in (*p.peaks.values(), *p.measured_peaks.values(), p.bandwidth))


def test_the_page_as_json() -> None:
    d = json.loads(run("jetson-orin-nano-8gb", "--json").output)
    assert d["peaks"]["fp32"]["source"]
    assert d["ridge_points_flop_per_byte"]["fp32"] == pytest.approx(1.28e12 / 68e9)
    assert d["measured_bandwidth"]["value"] == d["measured_bandwidth_bytes_per_s"] == 50.4e9
    assert d["notes"]


def test_power_modes_as_json() -> None:
    modes = json.loads(run("jetson-orin-agx", "--json").output)["thermal_profiles"]
    assert set(modes) == {"15w", "30w", "50w", "maxn"}
    assert [name for name, m in modes.items() if m["default"]] == ["maxn"]
    assert modes["30w"]["peaks"]["fp16"]["value"] < modes["50w"]["peaks"]["fp16"]["value"]
    assert json.loads(run("t4", "--json").output)["thermal_profiles"] == {}


def test_an_unknown_id_gets_the_nearest() -> None:
    out = run("a100-sxm")
    assert out.exit_code == 2
    assert "a100-sxm-40gb" in out.stderr
    assert "a100-sxm-80gb" in out.stderr


def test_the_list_reads_no_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the listing loaded a fitted model")

    monkeypatch.setattr("graphs.hardware.calibration.artifact.np.load", refuse)
    monkeypatch.setattr("graphs.hardware.calibration.artifact.load_model", refuse)
    assert run().exit_code == 0
