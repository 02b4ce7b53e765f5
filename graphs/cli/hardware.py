"""`graphs hardware`: what is known of each machine."""

from __future__ import annotations

import json
from typing import Any

import click

from graphs.cli.text import percent, si, table
from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.profile import hardware_ids


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def hardware(as_json: bool) -> None:
    """List known hardware: peaks, bandwidth, fitted model, rows, held-out error, date."""
    described = [_describe(load_calibration(name)) for name in hardware_ids()]
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    rows = [
        [
            d["id"],
            d["name"],
            " ".join(f"{t} {si(v)}" for t, v in d["peak_flops_per_s"].items()),
            si(d["bandwidth_bytes_per_s"], "B/s"),
            d["calibration"],
            str(d["rows"] or "-"),
            percent(d["held_out_median_ape"]) if d["held_out_median_ape"] is not None else "-",
            d["date"] or "-",
        ]
        for d in described
    ]
    header = ["id", "name", "peaks (FLOP/s)", "bandwidth", "calibration", "rows", "median error", "date"]
    click.echo(table(header, rows, "    " + "rr"))
    click.echo("\nThe error is the median APE on held-out operators. Without calibration the 20 % default answers.")


def _describe(c: HardwareCalibration) -> dict[str, Any]:
    header = c.model.header if c.model is not None else {}
    if c.model is not None:
        state = "fitted model"
    elif c.operations:
        state = f"{len(c.operations)} measured points"
    else:
        state = "none (20 % default)"
    return {
        "id": c.profile.id,
        "name": c.profile.name,
        "kind": c.profile.kind,
        "peak_flops_per_s": {d: f.value for d, f in c.profile.peaks.items()},
        "peak_sources": {d: f.source for d, f in c.profile.peaks.items()},
        "bandwidth_bytes_per_s": c.profile.bandwidth_bytes_per_s,
        "measured_bandwidth_bytes_per_s": c.profile.measured_bandwidth.value if c.profile.measured_bandwidth else None,
        "calibration": state,
        "rows": header.get("provenance", {}).get("rows") or len(c.operations) or None,
        "held_out_median_ape": header.get("scores", {}).get("held_out", {}).get("all", {}).get("median_ape"),
        "date": c.metadata.date,
    }
