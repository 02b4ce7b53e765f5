"""The CUDA timer on a device that is not there (`fake_cuda`), and on a real one where there is one."""

from __future__ import annotations

import json
import subprocess
import weakref
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from fake_cuda import CAPTURING, ILLEGAL, FakeDevice, FakeNvml
from toy_machine import FILL_S, KERNEL_S, installed, measured

from training.measure import ceilings, environment, on_a_gpu, session
from training.measure.clocks import Clocks
from training.measure.cuda import CudaTimer, allow_tf32
from training.measure.errors import DeviceLostError, UnmeasurableError
from training.measure.kernels import BUILDERS
from training.measure.plan import Entry
from training.measure.timers import failure_of

RELU = Entry(0, "op", "relu", "fp32", {"numel": 4096})


@pytest.fixture(autouse=True)
def _flags_as_before():
    yield
    allow_tf32(False)
    torch.backends.cudnn.allow_tf32 = True


def running(monkeypatch, device, **how):
    """Make `relu` one kernel of the device, `KERNEL_S` long unless told otherwise; return the outputs alive at each."""
    outputs, alive = [], []

    def build(params, maker):
        x = maker.new(8)

        def call(x):
            device.launch(**{"seconds": KERNEL_S, "what": x.data_ptr(), **{k: v() for k, v in how.items()}})
            alive.append(sum(o() is not None for o in outputs[-40:]))
            out = torch.empty(8)
            outputs.append(weakref.ref(out))
            return out

        return call, (x,)

    monkeypatch.setitem(BUILDERS, "relu", build)
    return alive


def timer(**options):
    return CudaTimer(1 << 20, device="cpu", **options)


def test_device_time_holds_no_launches_and_eager_time_does(monkeypatch) -> None:
    device = FakeDevice(launch_s=30e-6).install(monkeypatch)
    running(monkeypatch, device)
    got = timer().time(RELU)
    # 256 calls: launching their graph takes 20 + 0.4 * 256 = 122 us, which would be 0.5 us a call.
    assert got.cold.median_s == pytest.approx(KERNEL_S, rel=1e-6)
    assert got.warm_s == pytest.approx(KERNEL_S, rel=1e-6)
    assert got.eager_s == pytest.approx(30e-6 + KERNEL_S / 16, rel=1e-6)
    assert got.sets == 32
    assert got.cold.stopped == "narrow"


def test_small_calls_fill_a_graph_though_launched_slowly(monkeypatch) -> None:
    device = FakeDevice(launch_s=200e-6).install(monkeypatch)
    running(monkeypatch, device)
    assert timer().time(RELU).extra["graph_calls"] == 256
    slow = FakeDevice().install(monkeypatch)
    running(monkeypatch, slow, seconds=lambda: 2e-3)
    assert timer().time(RELU).extra["graph_calls"] == 32  # one round: it lasts long enough
    assert max(len(g.kernels) for g in slow.graphs) == 32


def test_a_graph_goes_round_all_buffer_sets_and_each_has_its_own_output(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch)
    alive = running(monkeypatch, device)
    timer().time(RELU)
    longest = max(range(len(device.graphs)), key=lambda i: len(device.graphs[i].kernels))
    assert len(device.graphs[longest].kernels) == 256
    assert longest == 1  # the first was too short
    at = next(i for i in range(len(device.launched)) if device.launched[i : i + 32] == device.launched[i + 32 : i + 64])
    assert len(set(device.launched[at : at + 32])) == 32
    # An output that is let go would be handed out again, and never leave the cache.
    assert max(alive) == 32


def test_a_call_that_waits_inside_a_capture_is_a_failed_row_and_the_next_one_works(monkeypatch) -> None:
    device, waits = FakeDevice().install(monkeypatch), [True]
    running(monkeypatch, device, waits=lambda: waits[0])
    clock = timer()
    with pytest.raises(UnmeasurableError, match="stream is capturing") as caught:
        clock.time(RELU)
    assert type(caught.value) is UnmeasurableError
    assert CAPTURING in caught.value.problem  # the cause, not that the capture could not be ended
    assert device.current is device.default
    waits[0] = False
    assert clock.time(RELU).cold.median_s == pytest.approx(KERNEL_S, rel=1e-6)


def test_where_a_failed_capture_is_never_ended_the_run_ends(monkeypatch) -> None:
    device = FakeDevice(ends_failed_captures=False).install(monkeypatch)
    running(monkeypatch, device, waits=lambda: True)
    with pytest.raises(DeviceLostError, match=r"stream is capturing.*does not answer since.*captures_underway"):
        timer().time(RELU)


def test_an_illegal_access_ends_the_run(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch)
    running(monkeypatch, device, illegal=lambda: True)
    with pytest.raises(DeviceLostError, match=ILLEGAL):
        timer().time(RELU)


@pytest.mark.parametrize("when", [0, 5, 60, 300])
def test_exhausted_memory_is_a_row_wherever_it_happens(monkeypatch, when) -> None:
    """In the first call, the warm-up, the eager calls (51 in all), and the capture."""
    device, calls, full = FakeDevice().install(monkeypatch), [0], [True]

    def seconds():
        calls[0] += 1
        if full[0] and calls[0] > when:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return KERNEL_S

    running(monkeypatch, device, seconds=seconds)
    clock = timer()
    with pytest.raises(UnmeasurableError, match="out of memory") as caught:
        clock.time(RELU)
    assert type(caught.value) is UnmeasurableError
    full[0] = False
    assert clock.time(RELU).sets == 32


def test_throttled_samples_are_dropped_counted_and_waited_for(monkeypatch) -> None:
    nvml = FakeNvml([(1980, 0), (1100, 0x20), (1980, 0), (1980, 0x40), (1980, 0x8), (1700, 0x4)])
    device = FakeDevice().install(monkeypatch, nvml)
    running(monkeypatch, device)
    got = timer().time(RELU)
    assert got.cold.dropped == 3
    assert device.slept == pytest.approx(0.15)
    assert (got.extra["sm_clock_min_hz"], got.extra["sm_clock_max_hz"]) == (1.7e9, 1.98e9)  # of those that count
    assert got.extra["clocks"] == "watched"


def test_a_sleeping_device_is_woken_by_work(monkeypatch) -> None:
    nvml = FakeNvml([(345, 0x1), (345, 0x1), (345, 0x1), (1980, 0)])
    device = FakeDevice().install(monkeypatch, nvml)
    running(monkeypatch, device)
    got = timer().time(RELU)
    assert got.cold.dropped == 2
    assert device.slept == 0
    kept = len(got.cold.seconds)
    assert max(g.replays for g in device.graphs) == 2 + 2 * (kept + 2) + 2 * 20


def test_a_device_that_stays_throttled_is_a_failed_row(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch, FakeNvml([(1980, 0), (1000, 0x40)]))
    running(monkeypatch, device)
    with pytest.raises(UnmeasurableError, match="50 samples in a row were throttled"):
        timer().time(RELU)


def test_a_gpu_that_nvml_loses_is_a_failed_row(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch, FakeNvml([(1980, 0), (1980, 0), (None, 0)]))
    running(monkeypatch, device)
    with pytest.raises(UnmeasurableError, match="GPU is lost"):
        timer().time(RELU)


def test_without_nvml_rows_say_that_nobody_watched(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch, FakeNvml([(None, 0)]))
    running(monkeypatch, device)
    with pytest.warns(UserWarning, match="nvidia-ml-py"):
        clock = timer()
    got = clock.time(RELU)
    assert "GPU is lost" in got.extra["clocks"]
    assert got.extra["sm_clock_min_hz"] is None
    assert got.cold.dropped == 0


@pytest.mark.parametrize(("mig", "handle"), [(False, "GPU-0123"), (True, "00000000:07:00.0")])
@pytest.mark.parametrize("event_reasons", [True, False])
def test_the_watch_finds_the_gpu_of_a_slice_and_asks_an_older_driver(monkeypatch, mig, handle, event_reasons) -> None:
    FakeDevice().install(monkeypatch, FakeNvml([(1500, 0x4)], event_reasons, mig))
    clocks = Clocks()
    assert clocks.missing == ""
    assert clocks.handle == handle
    assert clocks.read() == (1.5e9, 0x4)


@pytest.mark.parametrize("dtype", ["fp32", "tf32"])
def test_tf32_is_on_in_its_rows_only(monkeypatch, dtype) -> None:
    device, seen = FakeDevice().install(monkeypatch), set()

    def seconds():
        seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return KERNEL_S

    running(monkeypatch, device, seconds=seconds)
    timer().time(Entry(0, "op", "relu", dtype, {"numel": 4096}))
    assert seen == {(dtype == "tf32",) * 2}


def clocks_of(monkeypatch, mhz, reasons):
    nvml = FakeNvml([(mhz, reasons)])
    FakeDevice().install(monkeypatch, nvml)
    return Clocks(), nvml


@pytest.mark.parametrize(
    ("mhz", "reasons", "said"),
    [(1980, 0, "good"), (1200, 0x4, "good"), (600, 0x4, "good"), (600, 0x2, "good"), (345, 0x1, "asleep"),
     (1900, 0x8, "throttled"), (1900, 0x20, "throttled"), (600, 0x44, "throttled"), (1900, 0x80, "throttled")],
)  # fmt: skip
def test_samples_count_unless_throttled_or_asleep(monkeypatch, mhz, reasons, said) -> None:
    clocks, _ = clocks_of(monkeypatch, mhz, reasons)
    assert clocks.read() == (mhz * 1e6, reasons)
    assert clocks.verdict(*clocks.read()) == said


def test_a_device_that_never_clocks_higher_is_measured_all_the_same(monkeypatch) -> None:
    clocks, nvml = clocks_of(monkeypatch, 900, 0)
    said = [clocks.verdict(*clocks.read()) for _ in range(30)]
    assert said == ["asleep"] * 20 + ["good"] * 10
    nvml.states = [(1900, 0)]  # it can after all: from now on low clocks do not count again
    assert clocks.verdict(*clocks.read()) == "good"
    nvml.states = [(900, 0)]
    assert clocks.verdict(*clocks.read()) == "asleep"


def test_a_gpu_that_answers_nothing_any_more_is_told_from_a_call_that_failed(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch)
    assert type(failure_of(RuntimeError("CUDA out of memory"), "cuda")) is UnmeasurableError
    device.sticky = ILLEGAL
    lost = failure_of(RuntimeError("launch failed"), "cuda")
    assert isinstance(lost, DeviceLostError)
    assert "illegal memory access" in lost.problem
    assert type(failure_of(RuntimeError("launch failed"), "cpu")) is UnmeasurableError


@pytest.fixture
def machine(monkeypatch):
    return installed(monkeypatch)


def command(*args):
    return measured(*args, "--rows", "30")


def test_a_whole_run_on_a_gpu(machine, tmp_path) -> None:
    from graphs.hardware.profile import read_profile
    from training.dataset.store import read_manifest, read_ops

    done = command("--out", str(tmp_path / "a"))
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["hardware"] == "toy-gpu"
    assert summary["rows"] > 25
    frame = read_ops(tmp_path / "a" / "ops.parquet").frame
    assert set(frame["dtype"]) == {"fp32", "tf32"}
    fill_us = np.where(frame["op"].str.startswith("sdpa"), 1e6 * FILL_S, 0.0)
    assert frame["median_us"].to_numpy() == pytest.approx(1e6 * KERNEL_S + fill_us, rel=1e-3)
    assert (frame["eager_us"] > 30).all()
    assert frame["threads"].isna().all()
    about = read_manifest(tmp_path / "a")["environment"]
    assert (about["device"], about["driver"], about["clock_hz"], about["compute_units"]) == (
        "Toy GPU",
        "600.1",
        None,
        10,
    )
    profile = read_profile(tmp_path / "a" / "toy-gpu.json")
    assert (profile.kind, profile.compute_units, profile.last_level_cache_bytes) == ("gpu", 10, float(1 << 20))


def test_a_run_whose_device_is_lost_goes_on_behind_that_row(machine, tmp_path) -> None:
    machine.breaks_in = "softmax"
    lost = command("--out", str(tmp_path / "a"))
    assert isinstance(lost.exception, DeviceLostError)
    machine.sticky = ""  # the next process
    done = 0
    while isinstance(lost.exception, DeviceLostError):
        lost, done = command("--out", str(tmp_path / "a"), "--resume"), done + 1
        machine.sticky = ""
        assert done < 10
    assert lost.exit_code == 0, lost.output
    summary = json.loads(lost.stdout)
    assert 1 <= summary["failed"] == done


def test_the_gpu_that_torch_reaches_is_the_one_that_is_named(machine, monkeypatch) -> None:
    assert session.chosen_hardware("auto", None) == ("gpu", "toy-gpu")
    assert session.chosen_hardware("auto", "cpu")[0] == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Toy GPU MIG 1g.5gb")
    assert session.chosen_hardware("auto", None) == ("gpu", "toy-gpu-mig-1g-5gb")


def test_a_gpu_that_no_tool_describes_is_recorded_by_what_torch_tells(machine, monkeypatch) -> None:
    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    here = environment.record("gpu")
    assert (here["driver"], here["clock_hz"], here["cache_bytes"]) == ("", None, {"l2": float(1 << 20)})
    assert session.chosen_hardware("auto", None) == ("gpu", "toy-gpu")


def test_peaks_of_a_gpu_are_of_calls_in_a_row(monkeypatch) -> None:
    device = FakeDevice().install(monkeypatch)
    monkeypatch.setattr(ceilings, "time", SimpleNamespace(perf_counter=lambda: device.host_s))
    seconds = ceilings._repeated(lambda: device.launch(1e-3), "cuda", 0.5)
    assert seconds == pytest.approx(1e-3 + 30e-6 / 8, rel=1e-6)  # the first call's launch only


FAKE_RUN = """
import sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir(exist_ok=True)
assert ("--resume" in sys.argv) is (folder / "run.json").is_file()
(folder / "run.json").touch()
rows = folder / "rows.jsonl"
n = rows.read_bytes().count(b"\\n") if rows.is_file() else 0
ends = int(sys.argv[sys.argv.index("--rows") + 1])
with rows.open("ab") as file:
    file.write(b"{}\\n" * min(2, ends - n))
sys.exit(0 if n + 2 >= ends > 0 else 2)
"""


def test_a_campaign_starts_again_until_it_is_done_and_stops_where_nothing_comes(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(on_a_gpu, "_MEASURE", FAKE_RUN)
    assert on_a_gpu.measured(tmp_path / "a", ("--rows", "7")) == 4
    assert on_a_gpu.rows_in(tmp_path / "a") == 7
    with pytest.raises(click.ClickException, match="no progress"):
        on_a_gpu.measured(tmp_path / "b", ("--rows", "0"))
