"""Whole networks in device time on a device that is not there (`fake_cuda`): three modes, none of them mixed up."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from fake_cuda import FakeNvml
from toy_machine import RULE, installed, measured, timers

from training.dataset.store import read_models, read_ops
from training.measure import networks, session, whole
from training.measure.errors import DeviceLostError, UnmeasurableError
from training.measure.plan import Entry
from training.measure.profiler import Kernel
from training.measure.session import timers as timers_of
from training.measure.whole import ModelTimer
from training.measure.whole_cuda import kernel_sums

#: A pass: convolution, fill and product.
PASS = (("conv", 40e-6, "kernel"), ("Memset (Device)", 2e-6, "gpu_memset"), ("gemm", 60e-6, "kernel"))
PASS_US = 102.0
LAUNCH_S = 50e-6


class Network(torch.nn.Module):
    """A network of three kernels, the host faster than none of them."""

    def __init__(self, device):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(7))
        self.on = device
        self.waits = False

    def forward(self, x):
        for name, seconds, category in PASS:
            self.on.launch(seconds, name=name, category=category, waits=self.waits, what="pass")
        return torch.empty(1)


@pytest.fixture
def machine(monkeypatch):
    return at(monkeypatch)


def at(monkeypatch, **options):
    """A machine whose networks are `Network`; `built` tells of which, `waiting` those that wait for the host."""
    device = installed(monkeypatch, launch_s=LAUNCH_S, **options)
    device.built, device.waiting = [], set()

    def build(name, dtype, batch, where):
        device.built.append((name, dtype, batch))
        network = Network(device)
        network.waits = name in device.waiting
        return network, torch.empty(1)

    monkeypatch.setattr(whole, "build", build)
    monkeypatch.setattr(whole, "can_build", lambda name: True)
    monkeypatch.setattr(networks.whole_models, "__defaults__", ((1, 8), ("resnet18", "gpt2-s128")))
    return device


def run_of(folder, *args):
    done = measured("--out", str(folder), "--rows", "20", "--whole-models", "--batches", "1", "--dtypes", "fp32",
                    "--budget", "10m", *args)  # fmt: skip
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), read_models(folder / "models.parquet").frame.set_index(["model", "mode"])


def asked(mode, name="resnet18", dtype="fp32"):
    return Entry(0, "model", name, dtype, {"batch": 1, "mode": mode})


def test_the_modes_are_device_time_busy_time_and_eager_time(machine, tmp_path) -> None:
    summary, frame = run_of(tmp_path / "a")
    assert summary["failed"] == 0
    assert sorted(frame.index) == [
        ("gpt2-s128", "eager"), ("gpt2-s128", "kernels"),
        ("resnet18", "eager"), ("resnet18", "graph"), ("resnet18", "kernels"),
    ]  # fmt: skip
    # No launches in the first two; eagerly the host is slower than all but the last kernel.
    assert frame.loc[("resnet18", "graph"), "median_us"] == pytest.approx(PASS_US, rel=1e-6)
    for name in ("resnet18", "gpt2-s128"):
        assert frame.loc[(name, "kernels"), "median_us"] == pytest.approx(PASS_US, abs=1e-3)
        assert frame.loc[(name, "kernels"), "kernels"] == 3
        assert frame.loc[(name, "eager"), "median_us"] == pytest.approx(3e6 * LAUNCH_S + 60, rel=1e-6)
    others = frame.drop(index="kernels", level="mode")
    assert others["kernels"].isna().all()
    assert (frame["params_count"] == 7).all()
    assert (frame["samples"] >= 2).all()


def test_language_models_are_never_captured(machine, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(networks.whole_models, "__defaults__", ((1, 8), ("gpt2-s128", "bert-base-s128")))
    run_of(tmp_path / "a")
    assert not [g for g in machine.graphs if "gemm" in {name for _, name in g.kernels}]
    attempts = pd.read_parquet(tmp_path / "a" / "attempts.parquet")
    modes = attempts[attempts["what"] == "model"]["params"].map(lambda text: json.loads(text)["mode"])
    assert set(modes) == {"kernels", "eager"}


def test_a_capture_that_fails_is_a_row_with_the_reason_and_the_run_goes_on(machine, tmp_path) -> None:
    machine.waiting = {"resnet18"}
    summary, frame = run_of(tmp_path / "a")
    assert ("resnet18", "graph") not in frame.index
    assert {("resnet18", "kernels"), ("resnet18", "eager"), ("gpt2-s128", "kernels")} <= set(frame.index)
    attempts = pd.read_parquet(tmp_path / "a" / "attempts.parquet")
    (failed,) = attempts[attempts["status"] == "failed"].to_dict("records")
    assert json.loads(failed["params"]) == {"batch": 1, "mode": "graph"}
    assert "stream is capturing" in failed["reason"]
    assert summary["failed"] == 1
    assert machine.current is machine.default
    after = read_ops(tmp_path / "a" / "ops.parquet").frame
    assert len(after) == len(attempts[attempts["what"] == "op"])


def test_where_a_failed_capture_spoils_the_process_a_new_one_goes_on(monkeypatch, tmp_path) -> None:
    machine = at(monkeypatch, ends_failed_captures=False)
    machine.waiting = {"resnet18"}
    lost = measured("--out", str(tmp_path / "a"), "--rows", "20", "--whole-models", "--batches", "1",
                    "--dtypes", "fp32", "--budget", "10m")  # fmt: skip
    assert isinstance(lost.exception, DeviceLostError)
    machine.poisoned = False  # the next process
    summary, frame = run_of(tmp_path / "a", "--resume")
    assert summary["failed"] == 1
    assert len(frame) == 4


def test_a_network_is_built_once_for_its_modes_and_let_go_after_the_last(machine) -> None:
    own = timers(machine, profiled=True)["model"]
    for mode in networks.modes_of("resnet18", "gpu"):
        own.time(asked(mode))
    assert len(machine.built) == 1
    assert own._kept is None
    own.time(asked("graph"))
    own.time(asked("graph", "vgg11"))
    own.time(asked("graph", "vgg11", "bf16"))
    assert [name for name, *_ in machine.built] == ["resnet18", "resnet18", "vgg11", "vgg11"]


def test_throttled_replays_of_a_network_are_dropped(monkeypatch) -> None:
    machine = at(monkeypatch)
    machine.install(monkeypatch, FakeNvml([(1980, 0), (1100, 0x20), (1980, 0x40), (1900, 0)]))
    got = timers(machine, profiled=True)["model"].time(asked("graph"))
    assert got.cold.dropped == 2
    assert (got.extra["clocks"], got.extra["sm_clock_max_hz"]) == ("watched", 1.9e9)
    assert got.cold.median_s == pytest.approx(1e-6 * PASS_US)
    # 10 passes and more: one alone would be shorter than the steps of the events allow.
    assert got.extra["graph_calls"] == 10


def test_a_network_that_stays_throttled_is_a_failed_row(monkeypatch) -> None:
    machine = at(monkeypatch)
    machine.install(monkeypatch, FakeNvml([(1980, 0), (1000, 0x40)]))
    with pytest.raises(UnmeasurableError, match="throttled"):
        timers(machine, profiled=True)["model"].time(asked("graph"))


def test_exhausted_memory_in_one_mode_lets_the_network_go(machine, monkeypatch) -> None:
    own = timers(machine, profiled=True)["model"]
    run = machine.run

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(machine, "run", full)
    with pytest.raises(UnmeasurableError, match="out of memory"):
        own.time(asked("graph"))
    assert own._kept is None
    monkeypatch.setattr(machine, "run", run)
    assert own.time(asked("kernels")).extra["kernel_count"] == 3


def test_passes_that_differ_are_no_measurement_of_one_program() -> None:
    short, long = [Kernel("a", 5.0)], [Kernel("a", 5.0), Kernel("b", 2.0)]
    samples, told = kernel_sums([long, long, [Kernel("a", 6.0), Kernel("b", 2.0)]])
    assert samples.seconds == pytest.approx((7e-6, 7e-6, 8e-6))
    assert told == {"kernel_count": 2}
    with pytest.raises(UnmeasurableError, match="1 and 2 kernels"):
        kernel_sums([long, short, long])


def test_without_a_profiler_there_is_device_time_of_graphs_only(machine, tmp_path) -> None:
    machine.blind = True
    with pytest.warns(UserWarning, match="no names of kernels"):
        summary, frame = run_of(tmp_path / "a", "--kernels", "0")
    assert set(frame.index.get_level_values("mode")) == {"graph", "eager"}
    assert summary["failed"] == 2
    assert "kernels" not in frame


def test_a_mode_that_a_timer_does_not_know_is_a_failed_row() -> None:
    with pytest.raises(UnmeasurableError, match="'graph' here; known: eager"):
        ModelTimer("cpu", RULE).time(asked("graph"))


def test_runs_of_the_version_before_are_of_eager_passes_and_go_on(machine, tmp_path) -> None:
    run_of(tmp_path / "a", "--kernels", "0")
    folder = tmp_path / "a"
    about = json.loads((folder / "run.json").read_text())
    plan = [json.loads(line) for line in (folder / "plan.jsonl").read_text().splitlines()]
    eager = [e for e in plan if e["what"] != "model" or e["params"]["mode"] == "eager"]
    for e in eager:
        e["params"].pop("mode", None)
    (folder / "run.json").write_text(json.dumps({**about, "schema_version": 1}))
    (folder / "plan.jsonl").write_text("".join(json.dumps(e) + "\n" for e in eager))
    (folder / "rows.jsonl").unlink()
    _, frame = run_of(folder, "--resume")
    assert sorted(frame.index) == [("gpt2-s128", "eager"), ("resnet18", "eager")]


def test_what_was_measured_is_scored_in_device_and_eager_mode(machine, tmp_path) -> None:
    from graphs.hardware.mappers.registry import create_mapper
    from training.validate.models import score_models

    _, frame = run_of(tmp_path / "a")
    scored = score_models(frame.reset_index(), create_mapper("h100-sxm"))
    assert scored["skipped"] == []
    assert {mode: m["n"] for mode, m in scored["by_mode"].items()} == {
        "graph": 1, "kernels": 2, "eager": 2, "device": 3,
    }  # fmt: skip
    measured_s = {(r["model"], r["mode"]): r["measured_s"] for r in scored["rows"]}
    assert measured_s["resnet18", "graph"] == pytest.approx(1e-6 * PASS_US)


def test_a_profiler_is_set_up_only_where_something_planned_needs_it(machine) -> None:
    here = {"cache_bytes": {"l2": float(1 << 20)}}
    assert set(timers_of("gpu", here)) == {"op", "model"}
    assert machine.sessions == []
    own = timers_of("gpu", here, any(map(session.needs_profiler, [asked("graph"), asked("kernels")])))
    assert set(own["model"].ways) == {"graph", "kernels", "eager"}
    assert own["kernels"].timer is own["op"]
    assert len(machine.sessions) == 1
    assert not session.needs_profiler(asked("graph"))
    assert session.needs_profiler(Entry(0, "kernels", "relu", "fp32", {"numel": 8}))
