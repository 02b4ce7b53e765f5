"""Works through a plan: budget, progress, failures as rows, and resuming where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from training.measure.errors import DeviceLostError, UnmeasurableError
from training.measure.journal import Journal
from training.measure.plan import Entry

#: Digits of the raw samples that are kept: nanoseconds mean nothing in milliseconds.
_DIGITS = 4
Clock = Callable[[], float]
Report = Callable[[str], None]


def run(
    folder: Path,
    timers: Mapping[str, Any],
    budget_s: float | None = None,
    report: Report = lambda _: None,
    clock: Clock = time.monotonic,
    every_s: float = 10.0,
) -> list[dict[str, Any]]:
    """Measure what is left of a folder's plan; return all finished rows, old and new.

    The caller holds the folder's lock and has begun the run.

    Parameters
    ----------
    folder : Path
    timers : dict of str to Timer
        By what an entry is: ``op`` (retests too), ``model`` and ``kernels``.
    budget_s : float, optional
        Stop once the rows, those of earlier starts included, have taken this long.
    report : callable
        Receives a line of progress about every `every_s` seconds.
    clock : callable
        Seconds, monotonic.

    Raises
    ------
    DeviceLostError
        If the device answers nothing any more.  The row that did it is recorded: a resumed run goes on after it.
    """
    journal = Journal(folder)
    plan, rows = journal.plan(), journal.rows()
    done = {row["index"] for row in rows}
    spent = sum(row["took_s"] for row in rows)
    progress = _Progress(len(plan), budget_s, rows, spent, report, clock, every_s)
    with journal.appending() as append:
        for entry in plan:
            if entry.index in done:
                continue
            if budget_s is not None and spent >= budget_s:
                break
            started = clock()
            row = measured_row(entry, timers["op" if entry.what == "retest" else entry.what])
            row["took_s"] = round(clock() - started, 6)
            append(row)
            rows.append(row)
            spent += row["took_s"]
            progress.step(entry, row, spent)
            if row.get("extra", {}).get("device_lost"):
                raise DeviceLostError(
                    f"{entry.op} {entry.dtype} left the device unusable: {row['reason']}",
                    next_step="start again with --resume; it goes on after this row",
                )
    progress.end(spent)
    return rows


def measured_row(entry: Entry, timer: Any) -> dict[str, Any]:
    """Time one entry; a failure becomes a row with the reason."""
    row: dict[str, Any] = {
        "index": entry.index, "what": entry.what, "op": entry.op, "dtype": entry.dtype, "params": dict(entry.params),
        "source": entry.source, "of": entry.of,
    }  # fmt: skip
    try:
        timing = timer.time(entry)
    except UnmeasurableError as error:
        lost = {"extra": {"device_lost": True}} if isinstance(error, DeviceLostError) else {}
        return {**row, "status": "failed", "reason": error.problem, **lost}
    samples_us = [round(1e6 * s, _DIGITS) for s in timing.cold.seconds]
    return {
        **row,
        "status": "ok",
        "median_us": median(samples_us),
        "samples_us": samples_us,
        "stopped": timing.cold.stopped,
        "dropped": timing.cold.dropped,
        "sets": timing.sets,
        "warm_us": _us(timing.warm_s),
        "eager_us": _us(timing.eager_s),
        "extra": timing.extra,
    }


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e6 * seconds, _DIGITS)


class _Progress:
    """Rate and time left, in a line now and then."""

    def __init__(
        self, total: int, budget_s: float | None, rows: list[dict[str, Any]], spent: float, report: Report,
        clock: Clock, every_s: float,
    ) -> None:  # fmt: skip
        self.total, self.budget_s, self.done, self.report, self.clock = total, budget_s, len(rows), report, clock
        self.every_s, self.last, self.failed = every_s, clock(), sum(row["status"] != "ok" for row in rows)
        if rows:
            report(f"resuming after {len(rows)} rows and {spent:.0f} s")

    def step(self, entry: Entry, row: Mapping[str, Any], spent: float) -> None:
        self.done += 1
        self.failed += row["status"] != "ok"
        now = self.clock()
        if now - self.last < self.every_s:
            return
        self.last = now
        rate = self.done / spent if spent else 0.0
        left = (self.total - self.done) / rate if rate else 0.0
        if self.budget_s is not None:
            left = min(left, self.budget_s - spent)
        self.report(
            f"{self.done} rows, {rate:.2f} a second, {self.failed} failed, about {max(left, 0) / 60:.1f} min left"
            f" ({entry.op} {entry.dtype})"
        )

    def end(self, spent: float) -> None:
        rest = self.total - self.done
        self.report(
            f"{self.done} rows in {spent:.0f} s" + (f"; the budget left out {rest} of the plan" if rest else "")
        )
