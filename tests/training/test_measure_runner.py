"""The runner: killed at any moment it loses at most the row in hand; failures are rows; one writer a folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import warnings
from types import SimpleNamespace

import pandas as pd
import pytest
from measure_fakes import FakeTimer

from graphs.errors import GraphsError
from training.dataset.schema import MODES
from training.dataset.store import read_manifest, read_ops
from training.measure import journal
from training.measure.errors import BusyFolderError, DeviceLostError, RunFolderError
from training.measure.finish import ATTEMPTS, finish, write_profile
from training.measure.journal import ROWS, Journal, only_writer
from training.measure.plan import Limits, WholeModel, make_plan
from training.measure.runner import run

LIMITS = Limits({"fp32": 1e11, "bf16": 2e11}, 2e10, 32e6, 0.05, 2e8)
ENVIRONMENT = {
    "kind": "cpu", "device": "Toy", "vendor": "ToyVendor", "family": 1, "model": 2, "cores": 2, "threads": 2,
    "torch": "2.0", "started": "2026-01-02T03:04:05+00:00", "cache_bytes": {"l3": 32e6}, "memory_bytes": 8e9,
    "clock_hz": None,
}  # fmt: skip
CEILINGS = {"peak_flops_per_s": {"fp32": 1e11}, "how": {"fp32": "products"}, "bandwidth_bytes_per_s": 2e10}
ABOUT = {"hardware": "toy-2c", "environment": ENVIRONMENT, "fingerprint": "abc", "ceilings": CEILINGS, "note": "a test"}


def begun(folder, rows=120, seed=0, **options):
    plan = make_plan(LIMITS, rows, seed, **options)
    Journal(folder).begin(ABOUT, plan)
    return plan


def measured(folder, **options):
    return run(folder, dict.fromkeys(("op", "model", "kernels"), FakeTimer()), **options)


def what_matters(folder):
    rows = [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]
    return [(r["index"], r["what"], r["op"], r["dtype"], json.dumps(r["params"]), r["status"]) for r in rows]


class Killed:
    """Kills its own process as ``kill -9`` would, in the middle of the row so many rows from now.

    Stages: while the operator is timed, before its line is written, after some bytes of it, after all of them and
    before they are on the disk, and after that.
    """

    STAGES = 5

    def __init__(self, row, stage, cut):
        self.rows, self.stage, self.cut = row, stage, cut

    def reached(self, stage):
        if self.rows == 0 and stage == self.stage:
            os.kill(os.getpid(), signal.SIGKILL)

    def time(self, entry):
        self.rows -= 1
        self.reached(0)
        return FakeTimer().time(entry)

    def write(self, descriptor, data, whole=os.write):
        self.reached(1)
        if self.rows == 0 and self.stage == 2:
            whole(descriptor, data[: int(self.cut * len(data))])
        self.reached(2)
        return whole(descriptor, data)

    def fsync(self, descriptor, whole=os.fsync):
        self.reached(3)
        whole(descriptor)
        self.reached(4)


def _run_in_child(folder, killed) -> int:
    """Go on with a run in a process of its own until it is killed; return how it ended."""
    with warnings.catch_warnings():
        # Newer Pythons warn of threads, of which the child uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:  # nothing of the test runner may happen in the child
        with only_writer(folder):
            journal.os = SimpleNamespace(write=killed.write, fsync=killed.fsync)
            run(folder, dict.fromkeys(("op", "model", "kernels"), killed))
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_a_run_killed_at_ten_random_moments_equals_an_undisturbed_one(tmp_path) -> None:
    undisturbed, killed = tmp_path / "a", tmp_path / "b"
    for folder in (undisturbed, killed):
        folder.mkdir()
        begun(folder, rows=400, kernels=0.5, models=[WholeModel("resnet18", 1, "fp32", 0.1, MODES)])
    measured(undisturbed)
    expected, rows, rng = len(what_matters(undisturbed)), killed / ROWS, random.Random(4)
    finished = 0
    for moment in range(10):
        row, stage = rng.randint(1, 50), moment % Killed.STAGES
        status = _run_in_child(killed, Killed(row, stage, rng.random()))
        assert os.WIFSIGNALED(status), "the run ended before it was killed"
        # All rows before the one in hand are there, and that one too if its line was written.
        finished += row - (stage < 3)
        assert rows.read_bytes().count(b"\n") == finished
    assert 100 < finished < expected
    again = measured(killed)
    # What was finished is neither lost nor repeated.
    assert [r["index"] for r in again] == sorted({r["index"] for r in again})
    assert what_matters(killed) == what_matters(undisturbed)
    for folder in (undisturbed, killed):
        finish(folder, Journal(folder).rows())
    for name, rows_at_least in (("ops", 300), ("kernels", 150), ("models", 3)):
        one, other = (pd.read_parquet(folder / f"{name}.parquet") for folder in (undisturbed, killed))
        assert len(one) >= rows_at_least
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("cut", range(1, 60, 6))
def test_a_line_cut_short_at_any_byte_is_measured_again(tmp_path, cut) -> None:
    begun(tmp_path, rows=12)
    whole = measured(tmp_path)
    path = tmp_path / ROWS
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    again = measured(tmp_path)
    assert [r["index"] for r in again] == [r["index"] for r in whole]
    assert len(path.read_bytes().splitlines()) == len(whole)


def test_every_row_is_on_the_disk_before_the_next_begins(tmp_path) -> None:
    begun(tmp_path, rows=10)
    seen = []

    class Looking(FakeTimer):
        def time(self, entry):
            path = tmp_path / ROWS
            seen.append(path.read_bytes().count(b"\n"))
            return super().time(entry)

    run(tmp_path, {"op": Looking(), "model": Looking()})
    assert seen == list(range(len(seen)))


def test_a_second_run_into_the_same_folder_is_refused(tmp_path) -> None:
    code = f"""
        from pathlib import Path
        from training.measure.journal import only_writer
        with only_writer(Path({str(tmp_path)!r})):
            print("held", flush=True)
            input()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(BusyFolderError, match=str(other.pid)), only_writer(tmp_path):
        pass
    other.kill()
    other.communicate()
    with only_writer(tmp_path):  # the system drops a dead process's lock
        pass


def test_a_folder_with_a_run_is_not_begun_again(tmp_path) -> None:
    begun(tmp_path, rows=5)
    with pytest.raises(RunFolderError, match="--resume"):
        begun(tmp_path, rows=5)


def test_the_budget_counts_earlier_starts(tmp_path) -> None:
    begun(tmp_path, rows=100)

    def every_call_is_half_a_second():
        every_call_is_half_a_second.now += 0.5
        return every_call_is_half_a_second.now

    every_call_is_half_a_second.now = 0.0
    # The clock is read four times a row and once before: start, end, progress.
    first = measured(tmp_path, budget_s=2.0, clock=every_call_is_half_a_second)
    assert sum(r["took_s"] for r in first) == pytest.approx(2.0)
    assert len(measured(tmp_path, budget_s=2.0, clock=every_call_is_half_a_second)) == len(first)
    assert len(measured(tmp_path, budget_s=3.0, clock=every_call_is_half_a_second)) == len(first) + 2


def test_progress_tells_rate_and_time_left(tmp_path) -> None:
    begun(tmp_path, rows=30)
    lines: list[str] = []
    measured(tmp_path, report=lines.append, every_s=0.0)
    assert "a second" in lines[0]
    assert "min left" in lines[0]
    assert lines[-1].startswith(f"{len(Journal(tmp_path).plan())} rows in ")


def test_failures_are_rows_with_the_reason_and_stay_out_of_the_table(tmp_path) -> None:
    begun(tmp_path, rows=400)
    summary = finish(tmp_path, measured(tmp_path))
    attempts = pd.read_parquet(tmp_path / ATTEMPTS)
    failed = attempts[attempts["status"] == "failed"]
    assert len(failed) == summary["failed"] > 0
    assert set(failed["reason"]) == {"out of memory (a fake)"}
    table = read_ops(tmp_path / "ops.parquet")
    assert not table.rejected
    assert "embedding" not in set(table.frame["op"])
    assert set(attempts["op"]) == {"embedding", *table.frame["op"]}


def test_the_data_set_is_what_training_reads(tmp_path) -> None:
    begun(tmp_path, rows=300)
    rows = measured(tmp_path)
    summary = finish(tmp_path, rows)
    manifest = read_manifest(tmp_path)
    assert manifest["hardware"] == "toy-2c"
    assert manifest["machine"] == {"device": "Toy", "kind": "cpu", "threads": 2}
    frame = read_ops(tmp_path / "ops.parquet").frame
    first = next(r for r in rows if r["what"] == "op")
    assert frame["median_us"].iloc[0] == first["median_us"] == pytest.approx(1.0 + first["index"])
    assert frame["max_us"].iloc[0] == pytest.approx(2 * (1.0 + first["index"]))
    # The fake's second timings come later and take longer: index b instead of a, so b / a - 1 off.
    retests = {r["of"]: r for r in rows if r["what"] == "retest" and r["status"] == "ok"}
    assert summary["noise"]["n"] == len(retests) == int(frame["retest_us"].notna().sum()) > 5
    off = sorted((r["index"] + 1) / (of + 1) - 1 for of, r in retests.items())
    assert summary["noise"]["median"] == pytest.approx((off[(len(off) - 1) // 2] + off[len(off) // 2]) / 2, abs=1e-4)


def test_the_profile_of_a_new_machine_is_readable_and_says_measured(tmp_path) -> None:
    from graphs.hardware.profile import read_profile

    profile = read_profile(write_profile(tmp_path, "toy-2c", ENVIRONMENT, CEILINGS))
    assert profile.peak_flops_per_s("fp32") == 1e11
    assert profile.peaks["fp32"].source == "measured"
    assert profile.compute_units == 2
    assert profile.last_level_cache_bytes == 32e6
    raw = json.loads((tmp_path / "toy-2c.json").read_text())
    assert raw["machine"] == {"vendor": "ToyVendor", "family": 1, "model": 2, "cores": 2}


def test_a_run_that_measured_nothing_says_so(tmp_path) -> None:
    begun(tmp_path, rows=5)
    with pytest.raises(GraphsError, match="no operator was measured"):
        finish(tmp_path, [])


def test_a_broken_line_in_the_middle_is_an_error_and_costs_no_row(tmp_path) -> None:
    begun(tmp_path, rows=8)
    measured(tmp_path)
    path = tmp_path / ROWS
    lines = path.read_bytes().splitlines(keepends=True)
    broken = b"".join([*lines[:2], b'{"index": 2, "wh\n', *lines[3:]])
    path.write_bytes(broken)
    with pytest.raises(RunFolderError, match="line 3 of"):
        measured(tmp_path)
    assert path.read_bytes() == broken


def test_a_lost_device_ends_the_run_after_its_row_and_a_resumed_one_goes_on(tmp_path) -> None:
    plan = begun(tmp_path, rows=20)

    class Breaking(FakeTimer):
        def time(self, entry):
            if entry.index == 3:
                raise DeviceLostError("illegal memory access (a fake)")
            return super().time(entry)

    with pytest.raises(DeviceLostError, match="--resume"):
        run(tmp_path, {"op": Breaking(), "model": Breaking()})
    assert [r[0] for r in what_matters(tmp_path)] == [0, 1, 2, 3]
    rows = run(tmp_path, {"op": Breaking(), "model": Breaking()})
    assert [r["index"] for r in rows] == [e.index for e in plan]
    assert rows[3]["status"] == "failed"


def test_a_disk_that_takes_a_part_gets_the_rest(tmp_path, monkeypatch) -> None:
    begun(tmp_path, rows=6)
    whole = os.write
    monkeypatch.setattr("training.measure.journal.os.write", lambda fd, data: whole(fd, data[:7]))
    rows = measured(tmp_path)
    assert Journal(tmp_path).rows() == rows
