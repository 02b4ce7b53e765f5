"""`graphs measure` as a user meets it, for real but short: a data set that training and detection can read."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from graphs.hardware import assets
from training.dataset.store import read_manifest, read_models, read_ops
from training.measure import ceilings, session
from training.measure.active import greedy, most_telling
from training.measure.cli import measure
from training.measure.plan import Limits, make_plan
from training.measure.stopping import StoppingRule

FOUND = {
    "peak_flops_per_s": {"fp32": 5e10}, "how": {"fp32": "given"}, "left_out": {}, "bandwidth_bytes_per_s": 5e9,
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Peaks as given, and few samples."""
    from training.measure import timers, whole

    monkeypatch.setattr(session, "measure_ceilings", lambda device, dtypes: FOUND)
    monkeypatch.setattr(session.networks, "layer_shapes", lambda dtypes, batches: {})  # 120 traces take seconds
    monkeypatch.setattr(assets, "_OWN", [])
    rule = StoppingRule(min_samples=2, max_samples=3, min_time_s=0, max_time_s=0.001)
    monkeypatch.setattr(session, "timers", lambda kind, environment, profiled=False: {
        "op": timers.CpuTimer(1e6, rule), "model": whole.ModelTimer("cpu", rule)})  # fmt: skip


def run(*args):
    return CliRunner().invoke(measure, list(args))


def test_a_run_gives_a_data_set_and_a_profile_and_can_be_resumed(quick, tmp_path) -> None:
    out = str(tmp_path / "box")
    first = run("--hardware", "toy-box", "--device", "cpu", "--out", out, "--rows", "40", "--budget", "60s", "--json")
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout)
    assert summary["rows"] + summary["failed"] >= 38
    folder = tmp_path / "box"
    assert read_manifest(folder)["hardware"] == "toy-box"
    frame = read_ops(folder / "ops.parquet").frame
    assert frame["fingerprint"].nunique() == 1
    assert (frame["min_us"] <= frame["median_us"]).all()
    again = run("--hardware", "toy-box", "--device", "cpu", "--out", out, "--rows", "40")
    assert isinstance(again.exception, session.RunFolderError)
    resumed = run("--out", out, "--rows", "40", "--resume", "--json")
    assert json.loads(resumed.stdout)["rows"] == summary["rows"]
    assert read_ops(folder / "ops.parquet").frame["median_us"].tolist() == frame["median_us"].tolist()


def test_a_data_set_is_not_measured_over(quick, tmp_path) -> None:
    kept = tmp_path / "ops.parquet"
    kept.write_bytes(b"rows of another machine")
    out = run("--hardware", "toy-box", "--device", "cpu", "--out", str(tmp_path), "--rows", "8")
    assert isinstance(out.exception, session.RunFolderError)
    assert "holds a data set" in str(out.exception)
    assert kept.read_bytes() == b"rows of another machine"
    assert [p.name for p in tmp_path.iterdir()] == ["ops.parquet"]


def test_whole_models_of_our_own_are_timed(quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("training.measure.networks.WHOLE_MODELS", ("resnet18",))
    monkeypatch.setattr(session.networks.whole_models, "__defaults__", ((1, 8), ("resnet18",)))
    out = str(tmp_path / "box")
    done = run("--hardware", "toy-box", "--device", "cpu", "--out", out, "--rows", "3", "--whole-models", "--batches",
               "1", "--json", "--budget", "2m")  # fmt: skip
    assert done.exit_code == 0, done.output
    (row,) = read_models(tmp_path / "box" / "models.parquet").frame.to_dict("records")
    assert (row["model"], row["batch"], row["dtype"], row["mode"]) == ("resnet18", 1, "fp32", "eager")
    assert row["params_count"] == 11_689_512
    assert row["median_us"] > 1000  # 3.6 GFLOP


def test_ceilings_are_plausible_and_leave_out_what_is_emulated(monkeypatch) -> None:
    monkeypatch.setattr(ceilings, "SIDES", {"cpu": (128, 256)})
    monkeypatch.setattr(ceilings, "_COPY_BYTES", {"cpu": 8 << 20})
    rates = {("fp32", 256): 1e11, ("fp32", 128): 5e10, ("fp16", 256): 1e9, ("bf16", 256): 2e11, ("bf16", 128): 1e11}
    ticks = itertools.count()
    # A clock that moves by a millisecond whenever it is read: each call takes that long.
    monkeypatch.setattr(ceilings, "time", SimpleNamespace(perf_counter=lambda: 1e-3 * next(ticks)))
    found = ceilings.measure_ceilings("cpu", ("fp32",), 0.02)
    assert found["peak_flops_per_s"]["fp32"] == pytest.approx(2 * 256**3 / 1e-3)
    assert found["bandwidth_bytes_per_s"] == pytest.approx(2 * (8 << 20) / 1e-3)
    monkeypatch.setattr(ceilings, "_rate", lambda device, dtype, side, seconds: rates[dtype, side])
    found = ceilings.measure_ceilings("cpu", ("fp32", "bf16", "fp16"), 0.02)
    assert found["peak_flops_per_s"] == {"fp32": 1e11, "bf16": 2e11}
    assert "100 times slower" in found["left_out"]["fp16"]
    assert "TF32" in ceilings.measure_ceilings("cpu", ("fp32", "tf32"), 0.02)["left_out"]["tf32"]


def test_without_a_folder_the_command_says_what_is_missing() -> None:
    assert "--out DIR" in run("--hardware", "auto").output


def test_greedy_choice_takes_the_least_sure_first_and_then_looks_elsewhere() -> None:
    x = np.array([[0.0], [0.1], [9.0], [20.0]])
    assert greedy(x, np.array([1.0, 0.99, 0.5, 0.4]), 3) == [0, 2, 3]  # 1 is known from its neighbour 0


def test_rows_chosen_by_another_machines_model_are_those_it_is_least_sure_of() -> None:
    limits = Limits({"fp32": 1e11}, 2e10, 32e6, 0.05, 2e8)
    entries = [e for e in make_plan(limits, 150, kinds=["linear", "conv2d", "softmax"]) if e.what == "op"]
    chosen = most_telling(entries, "xeon-16c", 20)
    assert len({str(c) for c in chosen}) == 20
    assert {op for op, _, _ in chosen} == {"linear", "conv2d", "softmax"}
    assert chosen == most_telling(entries, "xeon-16c", 20)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--batches", "1,x", "whole numbers"), ("--batches", "0", "whole numbers"), ("--dtypes", "fp32,int3", "int3")],
)
def test_meaningless_options_are_refused_before_anything_is_measured(quick, tmp_path, option, value, said) -> None:
    out = run("--hardware", "toy-box", "--device", "cpu", "--out", str(tmp_path / "box"), option, value)
    assert said in out.output + str(out.exception)
    assert out.exit_code != 0
    assert not (tmp_path / "box" / "rows.jsonl").exists()


@pytest.mark.parametrize("place", ["file", "file/box"])
def test_a_folder_that_cannot_be_written_is_a_typed_error(quick, tmp_path, place) -> None:
    (tmp_path / "file").write_text("x")
    out = run("--hardware", "toy-box", "--device", "cpu", "--out", str(tmp_path / place), "--rows", "3")
    assert isinstance(out.exception, session.RunFolderError)
    assert f"received '{tmp_path / place}'" in str(out.exception)
    assert "--out" in str(out.exception)


def test_a_seed_is_not_negative(tmp_path) -> None:
    out = run("--hardware", "toy-box", "--device", "cpu", "--out", str(tmp_path / "box"), "--seed", "-1")
    assert out.exit_code == 2
    assert "'--seed': -1 is not in the range" in out.output
