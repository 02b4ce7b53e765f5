"""Names of kernels on a device that is not there (`fake_cuda`): in order, in microseconds, apart from the timing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fake_cuda import ILLEGAL, FakeDevice
from toy_machine import FILL, FILL_S, KERNEL_S, installed, measured, timers

from training.dataset.kernels import read_kernels
from training.dataset.splits import config_key
from training.dataset.store import file_hash, read_manifest, read_ops
from training.measure import session
from training.measure.cuda import allow_tf32
from training.measure.errors import DeviceKindError, DeviceLostError, UnmeasurableError
from training.measure.kernel_table import write_named
from training.measure.plan import Entry
from training.measure.profiler import Profiler, kernels_of
from training.measure.session import DEFAULT_KERNELS, Request, share_of_kernels

SDPA = Entry(1, "kernels", "sdpa", "fp32", {"b": 1, "h": 2, "hkv": 2, "s": 16, "skv": 16, "d": 8, "causal": False})


@pytest.fixture
def machine(monkeypatch):
    yield installed(monkeypatch)
    allow_tf32(False)
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture
def profiler(monkeypatch):
    device = FakeDevice().install(monkeypatch)
    return device, Profiler("cpu")


def test_kernels_come_in_order_of_start_in_microseconds_with_fills_and_without_the_host(profiler) -> None:
    device, profiler = profiler

    def call():
        device.launch(7e-6, name="first")
        device.launch(1.5e-6, name=FILL, category="gpu_memset")
        device.launch(2.25e-6, name="third")

    device.launch(0.5, name="earlier work")  # still running when the profiler starts
    found = profiler.kernels(call)
    assert [k.name for k in found] == ["first", FILL, "third"]
    assert [k.duration_us for k in found] == pytest.approx([7.0, 1.5, 2.25])
    device.launch(0.5, name="later work")
    assert [k.name for k in profiler.kernels(call)] == ["first", FILL, "third"]


@pytest.mark.parametrize("failure", [RuntimeError("CUPTI is busy"), AssertionError("no events"), OSError("disk full")])
def test_a_profiler_that_fails_says_why_and_the_next_session_works(profiler, failure) -> None:
    device, profiler = profiler
    device.profiler_fails = failure
    with pytest.raises(UnmeasurableError, match=str(failure)) as caught:
        profiler.kernels(lambda: device.launch(1e-6))
    assert type(caught.value) is UnmeasurableError
    device.profiler_fails = None
    assert len(profiler.kernels(lambda: device.launch(1e-6))) == 1


def test_a_call_that_fails_while_profiled_ends_the_session(profiler) -> None:
    device, profiler = profiler

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(UnmeasurableError, match="out of memory"):
        profiler.kernels(full)
    assert device.profile is None
    assert device.launch_s == 30e-6
    with pytest.raises(DeviceLostError, match=ILLEGAL):
        profiler.kernels(lambda: device.launch(1e-6, illegal=True))


def test_a_machine_where_the_profiler_sees_nothing_is_asked_once(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch)
    device.blind = True
    with pytest.warns(UserWarning, match="saw nothing on the device"):
        profiler = Profiler("cpu")
    assert "does not work here" in profiler.missing
    for _ in range(3):
        with pytest.raises(UnmeasurableError, match=r"does not work here.*KINETO_LOG_LEVEL"):
            profiler.kernels(lambda: device.launch(1e-6))
    assert len(device.sessions) == 1


def test_a_lost_device_is_not_taken_for_a_missing_profiler(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch)
    device.sticky = ILLEGAL
    with pytest.raises(DeviceLostError):
        Profiler("cpu")


def test_a_trace_of_the_real_profiler_is_read_and_holds_nothing_of_a_device_here(tmp_path) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as session:
        torch.ones(8).mul_(2.0)
    session.export_chrome_trace(str(tmp_path / "trace.json"))
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert "aten::mul_" in {e.get("name") for e in trace["traceEvents"]}
    with pytest.raises(UnmeasurableError, match="saw nothing"):
        kernels_of(trace)


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan")])
def test_a_duration_that_is_none_fails_the_row_and_not_the_tables_at_the_end(duration) -> None:
    event = {"ph": "X", "cat": "kernel", "name": "odd", "ts": 1.0, "dur": duration}
    with pytest.raises(UnmeasurableError, match="for 'odd'"):
        kernels_of({"traceEvents": [event]})


def test_one_cold_call_is_profiled(machine, monkeypatch) -> None:
    own = timers(machine, profiled=True)["kernels"]
    evicted = []
    monkeypatch.setattr(own, "_evict", lambda evict=own._evict: evicted.append(len(machine.sessions)) or evict())
    got = own.time(SDPA)
    assert got.extra["kernels"] == [[FILL, 1.25], ["sdpa_kernel", 3.0]]
    assert got.cold.seconds == pytest.approx([FILL_S + KERNEL_S])
    assert evicted == [1]  # before the second session, the one of the call
    assert own._evicting.numel() == 2 << 20  # twice the cache


@pytest.mark.parametrize("dtype", ["fp32", "tf32"])
def test_the_call_that_is_profiled_runs_in_the_dtype_of_its_row(machine, monkeypatch, dtype) -> None:
    own, seen = timers(machine, profiled=True)["kernels"], []
    allow_tf32(dtype != "tf32")
    run = machine.run
    monkeypatch.setattr(machine, "run", lambda *a: seen.append(torch.backends.cuda.matmul.allow_tf32) or run(*a))
    own.time(Entry(1, "kernels", "matmul", dtype, {"m": 8, "n": 8, "k": 8}))
    assert set(seen) == {dtype == "tf32"}


def run_of(folder, *args):
    done = measured("--out", str(folder), "--rows", "60", *args)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_run_with_names_times_as_one_without_and_writes_what_training_reads(machine, tmp_path) -> None:
    without = run_of(tmp_path / "a", "--kernels", "0")
    assert machine.sessions == []  # no profiler where none is needed
    assert not (tmp_path / "a" / "kernels.parquet").exists()
    assert without["kernels"] == 0
    launched = len(machine.launched)
    summary = run_of(tmp_path / "b", "--kernels", "1")
    first, second = (read_ops(tmp_path / name / "ops.parquet").frame for name in "ab")
    assert first["eager_us"].to_numpy() == pytest.approx(second["eager_us"].to_numpy(), rel=1e-6)
    assert first["median_us"].to_numpy() == pytest.approx(second["median_us"].to_numpy(), rel=1e-6)
    assert first["params"].tolist() == second["params"].tolist()

    named = read_kernels(tmp_path / "b")
    assert len(named) == summary["kernels"] == len(second)
    assert set(named["key"]) == {config_key(*row) for row in second[["op", "dtype", "params"]].itertuples(index=False)}
    raw = pd.read_parquet(tmp_path / "b" / "kernels.parquet")
    names = json.loads((tmp_path / "b" / "kernel_names.json").read_text())
    for row in raw.itertuples():
        own = [names[str(k)] for k in row.kernels]
        fills = [FILL] if row.op.startswith("sdpa") else []
        assert own == [*fills, f"{row.op}_kernel"]
        assert row.kernels_us == pytest.approx([1.25] * len(fills) + [3.0])
    assert any(raw["op"].str.startswith("sdpa"))
    # Set up before the first row: every row is timed in the same state.
    assert machine.launched[launched] == "probe"
    assert len(machine.sessions) == 1 + len(named)
    told = read_manifest(tmp_path / "b")["kernels"]
    assert [t["sha256"] for t in told] == [file_hash(tmp_path / "b" / t["file"]) for t in told]
    assert {t["file"] for t in told} == {"kernels.parquet", "kernel_names.json"}


def test_a_row_that_cannot_be_profiled_says_why_and_keeps_its_timing(machine, tmp_path) -> None:
    machine.profiler_fails_in = "matmul"
    summary = run_of(tmp_path / "a", "--kernels", "1")
    attempts = pd.read_parquet(tmp_path / "a" / "attempts.parquet")
    failed = attempts[attempts["status"] == "failed"]
    assert len(failed) == summary["failed"] > 0
    assert set(failed["what"]) == {"kernels"}
    assert set(failed["op"]) == {"matmul"}
    assert failed["reason"].str.contains("CUPTI_ERROR_UNKNOWN").all()
    frame = read_ops(tmp_path / "a" / "ops.parquet").frame
    assert "matmul" in set(frame["op"])
    keys = read_kernels(tmp_path / "a")["key"]
    assert not keys.str.startswith("matmul|").any()
    assert len(keys) == len(frame) - len(failed)


def test_a_run_without_a_profiler_is_a_run_without_names(machine, tmp_path) -> None:
    machine.blind = True
    with pytest.warns(UserWarning, match="no names of kernels"):
        summary = run_of(tmp_path / "a", "--kernels", "1")
    assert summary["kernels"] == 0
    assert summary["rows"] > 50
    assert len(machine.sessions) == 1


def test_a_device_lost_while_profiled_ends_the_run_which_goes_on_behind_it(machine, tmp_path, monkeypatch) -> None:
    run, broken = machine.run, [True]

    def breaking(seconds, name, category="kernel"):
        run(seconds, name, category)
        if machine.profile is not None and name == "softmax_kernel" and broken.pop():
            machine.sticky = ILLEGAL

    monkeypatch.setattr(machine, "run", breaking)
    lost = measured("--out", str(tmp_path / "a"), "--rows", "60", "--kernels", "1")
    assert isinstance(lost.exception, DeviceLostError)
    machine.sticky = ""  # the next process
    monkeypatch.setattr(machine, "run", run)
    summary = run_of(tmp_path / "a", "--resume")
    assert summary["failed"] == 1
    frame = read_ops(tmp_path / "a" / "ops.parquet").frame
    assert "softmax" in set(frame["op"])
    assert summary["kernels"] == len(frame) - 1


def test_by_default_a_share_is_named_on_a_gpu_and_none_on_a_cpu(machine, tmp_path) -> None:
    summary = run_of(tmp_path / "a")
    assert summary["kernels"] == pytest.approx(DEFAULT_KERNELS["gpu"] * summary["rows"], abs=10)
    assert 0 < summary["kernels"] < summary["rows"] / 2
    assert share_of_kernels(Request("x", tmp_path, 60.0), "cpu") == 0


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(tmp_path, share) -> None:
    with pytest.raises(session.GraphsError, match="0 to 1"):
        share_of_kernels(Request("x", tmp_path, 60.0, kernels=share), "gpu")


def test_names_are_refused_on_a_cpu_before_anything_is_measured(monkeypatch, tmp_path) -> None:
    def not_yet(*_):
        raise AssertionError("measured first")

    monkeypatch.setattr(session, "measure_ceilings", not_yet)
    request = Request("toy-box", tmp_path / "a", 60.0, device="cpu", kernels=0.5)
    with pytest.raises(DeviceKindError, match=r"--kernels 0.5.*--device cuda"):
        session.measure(request)
    assert not (tmp_path / "a" / "run.json").exists()


def test_names_are_numbered_by_first_use_and_kept_whole(tmp_path) -> None:
    long = "void cutlass::Kernel2<" + "x" * 3000 + ">(Params)"

    def row(m, kernels, what="kernels", status="ok"):
        return {"what": what, "status": status, "op": "matmul", "dtype": "bf16", "params": {"m": m, "n": 1, "k": 2},
                "extra": {"kernels": kernels}}  # fmt: skip

    rows = [row(1, [["b", 2.5], [long, 1.0]]), row(1, None, what="op"), row(3, None, status="failed"),
            row(2, [[long, 4.0], ["b", 0.125], ["b", 8.0]])]  # fmt: skip
    assert write_named(tmp_path, rows) == {"calls": 2, "names": 2}
    assert json.loads((tmp_path / "kernel_names.json").read_text()) == {"0": "b", "1": long}
    raw = pd.read_parquet(tmp_path / "kernels.parquet")
    assert [list(k) for k in raw["kernels"]] == [[0, 1], [1, 0, 0]]
    assert np.concatenate(raw["kernels_us"]).tolist() == [2.5, 1.0, 4.0, 0.125, 8.0]
    assert write_named(tmp_path / "none", rows[1:3]) is None
