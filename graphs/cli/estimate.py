"""`graphs estimate`: how long a model takes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from graphs.cli.text import percent, seconds, shorten, si, table
from graphs.estimation import MODES, LatencyEstimate, OperatorEstimate, estimate_trace
from graphs.hardware.mappers.base import POLICIES
from graphs.hardware.mappers.registry import create_mapper


@click.command()
@click.argument("model")
@click.option("--hardware", required=True, help="hardware id (see `graphs hardware`)")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--dtype", type=click.Choice(["fp32", "tf32", "fp16", "bf16"]), help="default: as the model is")
@click.option("--mode", type=click.Choice(MODES), default="device", show_default=True)
@click.option("--calibration", help="profile or fitted model to use instead of the shipped one; 'none' for the default")
@click.option("--out-of-domain", type=click.Choice(POLICIES), default="default", show_default=True)
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True, help="operators to list")
@click.option("--json", "as_json", is_flag=True, help="print JSON with every operator")
def estimate(
    model: str, hardware: str, batch: int, dtype: str | None, mode: Any, calibration: str | None,
    out_of_domain: Any, top: int, as_json: bool,
) -> None:  # fmt: skip
    """Estimate a forward pass of MODEL.

    MODEL is torchvision:NAME (resnet18 and resnet50 need no torchvision), hf:CONFIG, module:factory, or a trace.json.
    """
    from graphs.tracing.frontends import trace_model

    chosen: Any = False if calibration == "none" else calibration
    mapper = create_mapper(hardware, calibration=chosen, out_of_domain=out_of_domain)
    result = estimate_trace(trace_model(model, batch=batch, dtype=dtype), mapper, mode)
    click.echo(json.dumps(to_dict(result), indent=1) if as_json else render(result, top))


def to_dict(e: LatencyEstimate) -> dict[str, Any]:
    """Return plain data; unknown numbers become null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "name": e.name, "hardware": e.hardware, "dtype": e.dtype, "mode": e.mode, "batch": e.batch,
        "latency_s": e.latency_s, "interval_s": [number(v) for v in e.interval_s], "flops": e.flops,
        "coverage": e.coverage, "notes": list(e.notes),
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


def render(e: LatencyEstimate, top: int) -> str:
    """Return the estimate as text: total, operators by time, and what was not modelled."""
    low, high = e.interval_s
    interval = (
        f"  (90 %: {seconds(low)} to {seconds(high)})" if math.isfinite(low) else "  (no interval: not calibrated)"
    )
    title = f"{e.name or 'model'}, batch {e.batch}, {e.dtype}, {e.mode} time on {e.hardware}"
    lines = [
        f"{title}: {seconds(e.latency_s)}{interval}",
        f"{si(e.flops, 'FLOP')}, {si(e.flops / e.latency_s, 'FLOP/s')}, {len(e.operators)} operators; time by source: "
        + ", ".join(f"{s} {percent(t)}" for s, t in sorted(e.coverage["time"].items(), key=lambda x: -x[1])),
        "",
    ]
    merged = _merge(e.operators)
    rows = [
        [
            f"{count} x", o.op, shorten(_params(o.params), 62), o.dtype, seconds(total), percent(total / e.latency_s),
            percent(o.efficiency), o.bound, o.source,
        ]
        for o, count, total in merged[:top]
    ]  # fmt: skip
    if rows:
        header = ["calls", "op", "params", "dtype", "time", "share", "efficiency", "bound", "source"]
        lines += [table(header, rows, "r   rrr"), ""]
    if len(merged) > len(rows):
        rest = sum(t for _, _, t in merged[len(rows) :])
        lines.append(
            f"... and {len(merged) - len(rows)} more kinds of call, {percent(rest / e.latency_s)} of the time."
        )
    remarks: dict[str, list[Any]] = {}
    for o, count, total in merged:
        if o.source in ("default", "unmodelled", "proxy", "calibrated_roofline") or o.source == "overhead":
            entry = remarks.setdefault(f"{o.source}: {o.op}: {o.reason}", [0, 0.0])
            entry[0] += count
            entry[1] += total
    if remarks:
        lines.append("Not answered by the model:")
        lines += [
            f"  {n} x {shorten(text, 150)} ({percent(t / e.latency_s)} of the time)"
            for text, (n, t) in sorted(remarks.items(), key=lambda x: -x[1][1])
        ]
    lines += [f"Note: {n}" for n in e.notes]
    return "\n".join(lines).rstrip()


def _params(params: dict[str, Any]) -> str:
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


def write_json(path: Path, data: Any) -> None:
    """Write JSON with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
