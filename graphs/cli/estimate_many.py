"""Several estimates of one model side by side: machines, batches, with and without calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphs.cli.estimate_text import headline, interval_text, number
from graphs.cli.text import percent, seconds, si, table
from graphs.estimates import LatencyEstimate
from graphs.figures.charts import Interval, Row, Series, error_bars, lines
from graphs.figures.scale import Axis, span
from graphs.figures.terminal import bar_chart


@dataclass(frozen=True, slots=True)
class Point:
    """One estimate: the machine as named, which calibration where two are compared, the batch, and the answer."""

    hardware: str
    label: str
    batch: int
    estimate: LatencyEstimate

    @property
    def name(self) -> str:
        """Return the machine and the calibration."""
        return f"{self.hardware}, {self.label}" if self.label else self.hardware


def many_to_dict(points: list[Point]) -> dict[str, Any]:
    """Return plain data: one entry a point, with its time relative to the first point of the same batch."""
    first = _first(points)
    return {
        "points": [
            {**headline(p.estimate), "hardware_asked": p.hardware, "calibration": p.label or "as given",
             "relative": p.estimate.latency_s / first[p.batch].estimate.latency_s
             if first[p.batch].estimate.latency_s else None,
             "by_kind": {s.name: s.latency_s for s in p.estimate.by_kind()}}
            for p in points
        ]
    }  # fmt: skip


def render_many(points: list[Point]) -> str:
    """Return a table and a chart of bars."""
    e = points[0].estimate
    names, batches = list(dict.fromkeys(p.name for p in points)), list(dict.fromkeys(p.batch for p in points))
    first, sweep = _first(points), len(batches) > 1
    title = f"{e.name or 'model'}, {'' if sweep else f'batch {e.batch}, '}{e.dtype}, {e.mode} time"
    header = [*(["hardware"] if len(names) > 1 else []), *(["batch"] if sweep else []), "time", "90 % interval",
              "inputs/s", *(["relative"] if len(names) > 1 else []), "by the model", "bound"]  # fmt: skip
    rows = []
    for p in points:
        x = p.estimate
        relative = (
            x.latency_s / first[p.batch].estimate.latency_s if first[p.batch].estimate.latency_s else float("nan")
        )
        rows.append([
            *([p.name] if len(names) > 1 else []), *([str(p.batch)] if sweep else []), seconds(x.latency_s),
            _interval(x), si(x.throughput_per_s), *([f"{relative:.2f} x"] if len(names) > 1 else []),
            percent(x.coverage["time"].get("model", 0.0), 0), _bound(x),
        ])  # fmt: skip
    left = (" " if len(names) > 1 else "") + "r" * (len(header) - 2)
    out = [f"{title}{'' if len(names) > 1 else f' on {names[0]}'}", "", table(header, rows, left), ""]
    if sweep:
        out.append("Throughput, inputs/s (bars start at 0)")
        labels = [f"{p.name + ' ' if len(names) > 1 else ''}batch {p.batch}" for p in points]
        values = [p.estimate.throughput_per_s for p in points]
        out.append(bar_chart(labels, values, [si(v) for v in values]))
    else:
        out.append("Time (bars start at 0)")
        out.append(bar_chart([p.name for p in points], [p.estimate.latency_s for p in points],
                             [seconds(p.estimate.latency_s) for p in points]))  # fmt: skip
    notes = dict.fromkeys(n for p in points for n in p.estimate.notes)
    return "\n".join([*out, *(f"Note: {n}" for n in notes)])


def chart_svg(points: list[Point]) -> str:
    """Return the chart of a sweep (throughput against batch) or of a comparison (time by machine)."""
    e = points[0].estimate
    if len({p.batch for p in points}) > 1:
        return _sweep_svg(points)
    reach = max(v for p in points for v in (p.estimate.latency_s, number(p.estimate.interval_s[1]) or 0.0))
    rows = []
    for p in points:
        low, high = p.estimate.interval_s
        interval = Interval(low, high) if np.isfinite(low + high) else None
        rows.append(Row(p.name, [p.estimate.latency_s], interval, seconds(p.estimate.latency_s)))
    return error_bars(
        f"{e.name or 'model'}, batch {e.batch}, {e.dtype}: {e.mode} time by hardware",
        f"Batch {e.batch}, {e.dtype}, {e.mode} time; whiskers are 90 %"
        " intervals.", Axis(0.0, reach * 1.02 or 1.0, "time", False, seconds), rows, key="compare", style=True,
    )  # fmt: skip


def _sweep_svg(points: list[Point]) -> str:
    names = list(dict.fromkeys(p.name for p in points))
    e = points[0].estimate
    series = []
    for i, name in enumerate(names):
        mine = [p for p in points if p.name == name]
        batch = np.array([p.batch for p in mine], dtype=np.float64)
        bounds = np.array([p.estimate.interval_s for p in mine], dtype=np.float64)
        series.append(Series(
            name, batch, np.array([p.estimate.throughput_per_s for p in mine]), f"c{i % 6 + 1}",
            batch / bounds[:, 1], batch / bounds[:, 0],
        ))  # fmt: skip
    low, high = span(np.concatenate([np.concatenate([s.y, s.low, s.high]) for s in series]))
    return lines(
        f"{e.name or 'model'}, {e.dtype}, {e.mode} time: throughput by batch",
        f"{e.dtype}, {e.mode} time; whiskers are 90 % intervals.",
        Axis(min(p.batch for p in points) / 1.15, max(p.batch for p in points) * 1.15, "batch", True, "{:g}".format),
        Axis(low, high, "inputs/s", True, si), series, marks=True, key="sweep", style=True,
    )  # fmt: skip


def _first(points: list[Point]) -> dict[int, Point]:
    out: dict[int, Point] = {}
    for p in points:
        out.setdefault(p.batch, p)
    return out


def _interval(e: LatencyEstimate) -> str:
    return interval_text(e).strip().removeprefix("(90 %: ").removeprefix("(").removesuffix(")")


def _bound(e: LatencyEstimate) -> str:
    """Return what bounds most of the time."""
    sums: dict[str, float] = {}
    for o in e.operators:
        sums[o.bound] = sums.get(o.bound, 0.0) + o.latency_s
    name = max(sums, key=lambda k: sums[k], default="")
    return f"{name} {percent(sums[name] / e.latency_s, 0)}" if name and e.latency_s else "-"
