"""`graphs hardware`: what is known of each machine, and of how much of it something was measured."""

from __future__ import annotations

import json
from itertools import groupby
from statistics import median
from typing import Any

import click

from graphs.cli.text import percent, si, table
from graphs.hardware import assets
from graphs.hardware.calibration.artifact import HEADER
from graphs.hardware.calibration.subgraph_model import HEADER as SUBGRAPH_HEADER
from graphs.hardware.catalogue import FAMILIES, catalogue, resolve
from graphs.hardware.profile import Figure, HardwareProfile, load_profile

#: What the column "calibration" says where nothing was measured.
NOTHING = "nothing measured: 20 % default"
#: Words in the note or source of a figure that no document of the vendor backs.
UNVERIFIED = "nominal, unverified"


@click.command()
@click.argument("hardware_id", metavar="[ID]", required=False)
@click.option(
    "--kind", type=click.Choice([*FAMILIES, "accelerator"]), help="only this family; accelerator: all but CPUs and GPUs"
)
@click.option("--fitted", is_flag=True, help="only hardware with a fitted model")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def hardware(hardware_id: str | None, kind: str | None, fitted: bool, as_json: bool) -> None:
    """List known hardware: peaks, bandwidth, fitted model, rows, held-out error, date; or show ID in full."""
    if hardware_id is not None:
        if kind or fitted:
            raise click.UsageError("--kind and --fitted choose from the list; leave them out to show one machine")
        profile = load_profile(resolve(hardware_id))
        described = _describe(profile) | _details(profile)
        click.echo(json.dumps(described, indent=2) if as_json else _page(profile, described))
        return
    known = [load_profile(e.id) for e in catalogue().values() if kind in (None, e.family, e.kind)]
    listed = [_describe(p) for p in known]
    listed = [d for d in listed if not fitted or d["state"] == "fitted"]
    click.echo(json.dumps(listed, indent=2) if as_json else _listing(listed))


def _describe(p: HardwareProfile) -> dict[str, Any]:
    """Return what the listing shows; a fitted model's arrays stay unread."""
    header = _header(p)
    subgraphs = _subgraph_report(p)
    points = len(p.calibration.get("operations", ()))
    if header:
        state, words = "fitted", "fitted model"
    elif subgraphs:
        state, words = "fitted", (f"{points} measured points, " if points else "") + "subgraph model"
    elif points:
        state, words = "points", f"{points} measured points"
    elif p.measured_bandwidth is not None:
        state, words = "calibrated_roofline", "calibrated roofline"
    else:
        state, words = "default", NOTHING
    provenance = header.get("provenance", {})
    return {
        "id": p.id,
        "name": p.name,
        "kind": p.kind,
        "family": p.family,
        "peak_flops_per_s": {d: f.value for d, f in p.peaks.items()},
        "peak_sources": {d: f.source for d, f in p.peaks.items()},
        "bandwidth_bytes_per_s": p.bandwidth_bytes_per_s,
        "unverified": [
            name for name, f in {**p.peaks, "bandwidth": p.bandwidth}.items() if UNVERIFIED in f.source + f.note
        ],
        "measured_bandwidth_bytes_per_s": p.measured_bandwidth.value if p.measured_bandwidth else None,
        "state": state,
        "calibration": words,
        "rows": provenance.get("rows") or subgraphs.get("rows", {}).get("kept") or points or None,
        "held_out_median_ape": header.get("scores", {}).get("held_out", {}).get("all", {}).get("median_ape"),
        "left_out_models_median_ape": _left_out_error(subgraphs),
        "date": provenance.get("date") or p.calibration.get("date") or None,
    }


def _header(p: HardwareProfile) -> dict[str, Any]:
    path = assets.find_asset(f"{p.model}/{HEADER}") if p.model else None
    if path is None:
        return {}
    header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return header


def _subgraph_report(p: HardwareProfile) -> dict[str, Any]:
    """Return what the model of fused subgraphs says of its fit, or an empty dict."""
    path = assets.find_asset(f"{p.subgraph_model}/{SUBGRAPH_HEADER}") if p.subgraph_model else None
    if path is None:
        return {}
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["report"]
    return report


def _left_out_error(report: dict[str, Any]) -> float | None:
    """Return the median over all campaigns and settings of the subgraphs' median error, their network left out."""
    errors = [s["leave one model out"]["subgraph_median_ape"] for s in report.get("scores", ())]
    return median(errors) if errors else None


def _listing(described: list[dict[str, Any]]) -> str:
    order = {family: i for i, family in enumerate(FAMILIES)}
    described = sorted(described, key=lambda d: (order.get(d["family"], len(order)), d["id"]))
    header = ["id", "name", "peaks (FLOP/s, dense)", "bandwidth", "calibration", "rows", "median error", "date"]
    rows = [_row(d) for d in described]
    if not rows:
        return "No hardware matches."
    lines = iter(table(header, rows, "     rr").split("\n"))
    out = [next(lines), next(lines)]
    for family, some in groupby(described, key=lambda d: d["family"]):
        out += ["", f"{FAMILIES.get(family, family)}:", *(next(lines) for _ in some)]
    count = sum(d["state"] == "fitted" for d in described)
    return "\n".join(out) + (
        f"\n\n{len(described)} listed, {count} with a fitted model. The error is the median APE on held-out operators;"
        " of subgraph models, on networks\nleft out of the fit. Peaks and bandwidth are the vendors' (*: nominal,"
        " unverified); where nothing was measured, max(FLOP / (0.20 peak),\nbytes / bandwidth) answers."
        " `graphs hardware ID` shows one machine with its sources."
    )


def _row(d: dict[str, Any]) -> list[str]:
    peaks, error = d["peak_flops_per_s"], _error(d)
    # Enough to tell the machines apart; the page of one machine has all.
    shown = [t for t in ("fp32", "tf32", "bf16", "fp16", "int8") if t in peaks]
    if "bf16" in shown and peaks.get("fp16") == peaks["bf16"]:
        shown.remove("fp16")
    return [
        d["id"],
        d["name"],
        ", ".join(f"{t} {si(peaks[t])}{'*' if t in d['unverified'] else ''}" for t in shown[:4]),
        si(d["bandwidth_bytes_per_s"], "B/s") + ("*" if "bandwidth" in d["unverified"] else ""),
        d["calibration"],
        str(d["rows"] or "-"),
        percent(error) if error is not None else "-",
        d["date"] or "-",
    ]


def _error(d: dict[str, Any]) -> float | None:
    held_out: float | None = d["held_out_median_ape"]
    left_out: float | None = d["left_out_models_median_ape"]
    return left_out if held_out is None else held_out


def _details(p: HardwareProfile) -> dict[str, Any]:
    """Return what the page of one machine shows beyond the listing."""

    def figures(some: dict[str, Figure]) -> dict[str, Any]:
        return {k: {"value": f.value, "source": f.source, "note": f.note} for k, f in some.items()}

    return {
        "vendor": p.vendor,
        "aliases": list(p.aliases),
        "compute_units": p.compute_units,
        "clock_hz": p.clock_hz,
        "memory_bytes": p.memory_bytes,
        "cache_bytes": p.caches,
        "peaks": figures(p.peaks),
        "ridge_points_flop_per_byte": {d: p.ridge_point(d) for d in p.peaks},
        "bandwidth": figures({"bandwidth_bytes_per_s": p.bandwidth})["bandwidth_bytes_per_s"],
        "measured_peaks": figures(p.measured_peaks),
        "measured_bandwidth": figures({"it": p.measured_bandwidth})["it"] if p.measured_bandwidth else None,
        "tdp_w": figures({"it": p.tdp_w})["it"] if p.tdp_w else None,
        "thermal_profiles": {
            name: {
                "default": name == p.default_thermal_profile,
                "peaks": figures(t.peaks),
                "bandwidth": figures({"it": t.bandwidth})["it"],
                "clock_hz": t.clock_hz,
                "note": t.note,
            }
            for name, t in p.thermal.items()
        },
        "sources": p.sources,
        "notes": list(p.notes),
        "model": p.model,
    }


def _page(p: HardwareProfile, d: dict[str, Any]) -> str:
    rows: list[tuple[str, str, str, str]] = []

    def add(what: str, value: str, source: str, *notes: str) -> None:
        rows.append((what, value, source, "; ".join(n for n in notes if n)))

    for dtype, f in p.peaks.items():
        unit = "OP/s" if dtype.startswith("int") else "FLOP/s"
        add(f"peak {dtype}", si(f.value, unit), f.source, f"ridge point {p.ridge_point(dtype):.4g} FLOP/B", f.note)
    add("bandwidth", si(p.bandwidth.value, "B/s"), p.bandwidth.source, p.bandwidth.note)
    for dtype, f in p.measured_peaks.items():
        share = percent(f.value / p.peak_flops_per_s(dtype))
        add(f"measured {dtype}", si(f.value, "FLOP/s"), f.source, f"{share} of peak", f.note)
    if p.measured_bandwidth is not None:
        share = percent(p.measured_bandwidth.value / p.bandwidth.value)
        f = p.measured_bandwidth
        add("measured bandwidth", si(f.value, "B/s"), f.source, f"{share} of the datasheet's", f.note)
    add("compute units", str(p.compute_units), p.sources.get("compute_units", ""))
    if p.clock_hz:
        add("clock", si(p.clock_hz, "Hz"), p.sources.get("clock_hz", ""))
    if p.memory_bytes:
        add("memory", si(p.memory_bytes, "B"), p.sources.get("memory_bytes", ""))
    for cache, size in p.caches.items():
        add(f"cache {cache}", si(size, "B"), p.sources.get("cache_bytes", ""))
    if p.tdp_w is not None:
        add("power limit", si(p.tdp_w.value, "W"), p.tdp_w.source, p.tdp_w.note)
    for name, t in p.thermal.items():
        default = "the default" if name == p.default_thermal_profile else ""
        ceilings = [f"{dtype} {si(f.value, 'FLOP/s')}" for dtype, f in t.peaks.items() if not dtype.startswith("int")]
        add(f"mode {name}", si(t.bandwidth.value, "B/s"), ", ".join(ceilings), default, t.note)
    state = d["calibration"]
    if d["rows"]:
        held_out, left_out = d["held_out_median_ape"], d["left_out_models_median_ape"]
        state += f", {d['rows']} rows" if d["state"] == "fitted" else ""
        state += f", {d['date']}" if d["date"] else ""
        state += f", held-out median error {percent(held_out)}" if held_out is not None else ""
        state += f", median error on networks left out of the fit {percent(left_out)}" if left_out is not None else ""
    head = [f"{p.id}: {p.name} ({p.vendor}, {p.family})", f"Calibration: {state}."]
    fitted = [f for f in ((p.model if _header(p) else None), (p.subgraph_model if _subgraph_report(p) else None)) if f]
    head += [f"Fitted model: {', '.join(fitted)}"] if fitted else []
    head += [f"Also known as: {', '.join(p.aliases)}"] if p.aliases else []
    width = max(len(r[0]) for r in rows)
    wide = max(len(r[1]) for r in rows)
    body = []
    for i, (what, value, source, note) in enumerate(rows):
        # a source shared with the line above is not repeated
        same = i > 0 and source == rows[i - 1][2]
        text = "; ".join(t for t in ('"' if same else source, note) if t)
        body.append(f"{what.ljust(width)}  {value.rjust(wide)}  {text}".rstrip())
    notes = [f"- {n}" for n in p.notes]
    return "\n".join([*head, "", *body, *([""] if notes else []), *notes])
