"""One estimate as text, as plain data and as a chart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from graphs.cli.text import percent, seconds, shorten, si, table
from graphs.estimates import LatencyEstimate, OperatorEstimate, TimeShare
from graphs.figures.charts import Row, error_bars
from graphs.figures.scale import Axis

#: Rows of a table of sums before the rest is put together.
_GROUPS = 8
#: Sources that are not the fitted model; each is listed with its reason.
_REMARKED = ("default", "unmodelled", "proxy", "calibrated_roofline", "overhead")


def number(value: float | None) -> float | None:
    """Return a finite number, or None."""
    return value if value is not None and math.isfinite(value) else None


def headline(e: LatencyEstimate) -> dict[str, Any]:
    """Return what was asked and the total as plain data."""
    return {
        "name": e.name, "hardware": e.hardware, "dtype": e.dtype, "mode": e.mode, "batch": e.batch,
        "latency_s": e.latency_s, "interval_s": [number(v) for v in e.interval_s], "interval_source": e.interval_source,
        "throughput_per_s": number(e.throughput_per_s), "flops": e.flops, "device_s": e.device_s,
        "waiting_s": number(e.waiting_s), "host_s": number(e.host_s), "coverage": e.coverage,
        "memory": _memory_dict(e), "notes": list(e.notes),
    }  # fmt: skip


def to_dict(e: LatencyEstimate, depth: int = 1) -> dict[str, Any]:
    """Return plain data with every operator; unknown numbers become null."""
    return {
        **headline(e),
        **{
            name: [asdict(s) for s in shares]
            for name, shares in (("by_kind", e.by_kind()), ("by_module", e.by_module(depth)), ("by_bound", by_bound(e)))
        },
        "operators": [
            {
                "op": o.op, "params": o.params, "dtype": o.dtype, "flops": o.flops, "bytes": o.bytes,
                "latency_s": o.latency_s, "efficiency": number(o.efficiency),
                "compute_efficiency": number(o.compute_efficiency), "bound": o.bound, "source": o.source,
                "reason": o.reason, "interval_s": [number(v) for v in o.interval_s], "module": o.module,
            }
            for o in e.operators
        ],
    }  # fmt: skip


def by_bound(e: LatencyEstimate) -> tuple[TimeShare, ...]:
    """Return the time by what bounds it, longest first."""
    sums: dict[str, list[float]] = {}
    for o in e.operators:
        entry = sums.setdefault(o.bound or "unknown", [0, 0.0])
        entry[0] += 1
        entry[1] += o.latency_s
    total = max(e.latency_s, 1e-300)
    return tuple(
        TimeShare(n, int(c), t, t / total) for n, (c, t) in sorted(sums.items(), key=lambda x: -x[1][1]) if t > 0
    )


def render(e: LatencyEstimate, top: int, depth: int = 1, machine: str = "") -> str:
    """Return the estimate as text: total, time by kind and module, operators, and what the model did not answer.

    `machine` names the hardware as it was asked for, with its thermal profile.
    """
    if not e.operators:
        return "\n".join([f"{_title(e, machine or e.hardware)}: no operator calls.", *(f"Note: {n}" for n in e.notes)])
    lines = [*_head(e, machine or e.hardware), "", _shares("time by kind", e.by_kind())]
    modules = e.by_module(depth)
    if len(modules) > 1:
        lines += ["", _shares("time by module", modules)]
    lines.append("")
    merged = _merge(e.operators)
    rows = [
        [
            f"{count} x", o.op, shorten(params_text(o.params), 62), o.dtype, seconds(total), _of(total, e),
            percent(o.efficiency), o.bound, o.source,
        ]
        for o, count, total in merged[:top]
    ]  # fmt: skip
    if rows:
        header = ["calls", "op", "params", "dtype", "time", "share", "efficiency", "bound", "source"]
        lines += [table(header, rows, "r   rrr"), ""]
    if len(merged) > len(rows):
        rest = sum(t for _, _, t in merged[len(rows) :])
        lines.append(f"... and {len(merged) - len(rows)} more kinds of call, {_of(rest, e)} of the time.")
    lines += _remarks(merged, e)
    lines += [f"Note: {n}" for n in e.notes]
    return "\n".join(lines).rstrip()


def _title(e: LatencyEstimate, machine: str) -> str:
    batch = f"batch {e.batch}" if e.batch else "batch unknown"
    return f"{e.name or 'model'}, {batch}, {e.dtype}, {e.mode} time on {machine}"


def _head(e: LatencyEstimate, machine: str) -> list[str]:
    rate = f"{si(e.throughput_per_s, 'inputs/s')}, " if number(e.throughput_per_s) else ""
    flops_rate = si(e.flops / e.latency_s, "FLOP/s") if e.latency_s else "?"
    lines = [
        f"{_title(e, machine)}: {seconds(e.latency_s)}{interval_text(e)}",
        f"{rate}{si(e.flops, 'FLOP')}, {flops_rate}, {sum(s.calls for s in e.by_kind())} operators",
        "Time by source: " + ", ".join(f"{s.name} {percent(s.share)}" for s in e.by_source())
        + "; by bound: " + (", ".join(f"{s.name} {percent(s.share)}" for s in by_bound(e)) or "-"),
    ]  # fmt: skip
    if e.mode == "eager":
        host = f"; the host is busy launching for {seconds(e.host_s)}" if number(e.host_s) else ""
        lines.append(f"Device busy {seconds(e.device_s)}, waiting for the host {seconds(e.waiting_s)}{host}.")
    memory = _memory_dict(e)
    if memory is not None:
        lines.append(_memory_text(memory))
    return lines


def interval_text(e: LatencyEstimate) -> str:
    """Return the interval in brackets, or why there is none."""
    low, high = e.interval_s
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"  (no interval: {e.interval_source.partition(': ')[2] or 'not calibrated'})"
    return f"  (90 %: {seconds(low)} to {seconds(high)})"


def _memory_dict(e: LatencyEstimate) -> dict[str, Any] | None:
    return None if e.memory is None else asdict(e.memory)


def _memory_text(m: dict[str, Any]) -> str:
    parts = [
        f"{name} {si(m[key], 'B')}" for key, name in (
            ("parameters_bytes", "parameters"), ("buffers_bytes", "buffers"),
            ("activations_peak_bytes", "activations (peak)"), ("optimizer_bytes", "optimizer"))
        if m.get(key)
    ]  # fmt: skip
    text = "Memory: " + ", ".join(parts or ["unknown"])
    if m.get("capacity_bytes"):
        fits = {True: "it fits", False: "it does NOT fit", None: "whether it fits is open"}[m.get("fits")]
        text += f"; of {si(m['capacity_bytes'], 'B')} on the device, {fits}"
    return text + "."


def _shares(title: str, shares: Sequence[TimeShare]) -> str:
    rows = [[s.name, str(s.calls), seconds(s.latency_s), percent(s.share)] for s in shares[:_GROUPS]]
    rest = shares[_GROUPS:]
    if rest:
        rows.append([f"({len(rest)} more)", str(sum(s.calls for s in rest)), seconds(sum(s.latency_s for s in rest)),
                     percent(sum(s.share for s in rest))])  # fmt: skip
    return table([title, "calls", "time", "share"], rows, " rrr")


def _of(part: float, e: LatencyEstimate) -> str:
    return percent(part / e.latency_s) if e.latency_s else "-"


def _remarks(merged: Sequence[tuple[OperatorEstimate, int, float]], e: LatencyEstimate) -> list[str]:
    remarks: dict[str, list[Any]] = {}
    for o, count, total in merged:
        if o.source in _REMARKED:
            entry = remarks.setdefault(f"{o.source}: {o.op}: {o.reason}", [0, 0.0])
            entry[0] += count
            entry[1] += total
    if not remarks:
        return []
    return ["Not answered by the model:"] + [
        f"  {n} x {shorten(text, 150)} ({_of(t, e)} of the time)"
        for text, (n, t) in sorted(remarks.items(), key=lambda x: -x[1][1])
    ]


def params_text(params: dict[str, Any]) -> str:
    """Return parameters as text, without those that change nothing."""
    plain = {"groups": 1, "fmt": "contiguous", "pad": 0}
    return " ".join(f"{k}={v}" for k, v in params.items() if v is not None and v is not False and plain.get(k, "") != v)


def _merge(operators: Sequence[OperatorEstimate]) -> list[tuple[OperatorEstimate, int, float]]:
    """Return (operator, calls, total time) of identical calls, longest first."""
    merged: dict[str, list[Any]] = {}
    for o in operators:
        entry = merged.setdefault(json.dumps([o.op, o.params, o.dtype, o.source, o.reason]), [o, 0, 0.0])
        entry[1] += 1
        entry[2] += o.latency_s
    return [(o, n, t) for o, n, t in sorted(merged.values(), key=lambda x: -x[2])]


def kinds_svg(e: LatencyEstimate) -> str:
    """Return a chart of the time by operator kind."""
    shares = e.by_kind()
    rows = [Row(s.name, [s.latency_s], note=f"{seconds(s.latency_s)}  {percent(s.share)}") for s in shares]
    return error_bars(
        f"{e.name or 'model'} on {e.hardware}, batch {e.batch}, {e.dtype}: by kind",
        f"Batch {e.batch}, {e.dtype}, {e.mode} time {seconds(e.latency_s)}{interval_text(e)}.",
        Axis(0.0, max((s.latency_s for s in shares), default=1.0) or 1.0, "time", False, seconds), rows,
        key="kinds", style=True,
    )  # fmt: skip
