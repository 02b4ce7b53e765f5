"""Whole models: the sum of operators against the measured forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.errors import DtypeError, TracingError
from graphs.estimation import MODES, LatencyEstimate, estimate_trace
from graphs.hardware.mappers.base import HardwareMapper
from graphs.tracing.trace import Trace
from graphs.whole_model import HEADER_KEY
from training.traces import find_trace
from training.validate.metrics import metrics
from training.validate.model_baselines import baseline_sums

#: Operators of a row that are named as what its time is made of.
LARGEST = 3


def score_models(frame: pd.DataFrame, mapper: HardwareMapper, table: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return figures of whole models and every row.

    Parameters
    ----------
    frame : DataFrame
        model, batch, dtype, mode, median_us.  ``graph`` and ``kernels`` rows are compared with that device time,
        ``eager`` rows with eager time.
    mapper : HardwareMapper
    table : DataFrame, optional
        Measured operators for the baselines that look among such.

    Returns
    -------
    dict
        The figures of all rows, ``by_mode``, ``by_dtype``, ``by_model``, ``by_area`` (vision, language), ``by_batch``,
        ``by_group`` (``language device``, ``vision eager fp16`` and the like), ``baselines`` (sums of what each
        says of the operators); ``by_use``: ``in_sample`` (models that any term was fitted to) apart from
        ``unseen``; ``left_out``: what fitting stored of each model left out in turn; ``rows`` and ``skipped`` (rows
        without a trace, with the reason).
    """
    fitted = _fitted_on(mapper)
    rows: list[dict[str, Any]] = []
    skipped, scored_traces = [], []
    traces: dict[tuple[str, int, str], Trace] = {}
    for record in frame.to_dict("records"):
        key = (str(record["model"]), int(record["batch"]), ops.canonical(record["dtype"]))
        mode = str(record["mode"])
        try:
            if key not in traces:
                traces[key] = find_trace(*key)
            e = estimate_trace(traces[key], mapper, MODES[MODES.index(mode)] if mode in MODES else "device")
        except (TracingError, DtypeError) as error:
            skipped.append({**dict(zip(("model", "batch", "dtype"), key, strict=True)), "reason": str(error)})
            continue
        trace, measured = traces[key], float(record["median_us"]) * 1e-6
        scored_traces.append(trace)
        seen = key[0] in fitted["eager" if mode == "eager" else "device"]
        rows.append(
            {
                "model": key[0], "batch": key[1], "dtype": key[2], "mode": mode, "area": area_of(trace),
                "use": "in_sample" if seen else "unseen", "measured_s": measured, "predicted_s": e.latency_s,
                "low_s": e.interval_s[0], "high_s": e.interval_s[1],
                "calls": len(trace), "time_share": e.coverage["time"],
                "unmodelled": sum(o.count for o in trace.unmodelled), "why": _why(e, measured),
            }
        )  # fmt: skip
    sums = baseline_sums(scored_traces, mapper, table)
    for name, seconds in sums.items():
        for row, value in zip(rows, seconds.tolist(), strict=True):
            row[name] = value
    scored = pd.DataFrame(rows)
    return {
        **_figures(scored),
        **_groups(scored, tuple(sums)),
        "left_out": _left_out(mapper),
        "rows": rows,
        "skipped": skipped,
    }


def area_of(trace: Trace) -> str:
    """Return ``language`` for a model that begins with token ids, else ``vision``."""
    return "language" if any(o.op == "embedding" for o in trace.operators) else "vision"


def _fitted_on(mapper: HardwareMapper) -> dict[str, set[str]]:
    """Return the models that whole-model terms in a prediction were fitted to, by mode."""
    model = None if mapper.calibration is None else mapper.calibration.model
    stored = {} if model is None else model.header.get(HEADER_KEY, {})
    device, eager = (stored.get(mode) or {} for mode in ("device", "eager"))
    # On a CPU only eager passes are measured: its terms of the device are fitted to those.
    of_device = set(device.get("names", eager.get("names", ()) if device else ()))
    return {"device": of_device, "eager": of_device | set(eager.get("names", ()))}


def _left_out(mapper: HardwareMapper) -> dict[str, Any]:
    """Return the figures of models left out of the fit in turn, as fitting stored them."""
    model = None if mapper.calibration is None else mapper.calibration.model
    stored = {} if model is None else model.header.get(HEADER_KEY, {})
    out: dict[str, Any] = {}
    for mode in ("device", "eager"):
        if "lomo" in stored.get(mode, {}):
            interval = stored.get("intervals", {}).get(mode, {})
            out[mode] = {
                "n": stored[mode]["rows"], "models": stored[mode]["models"], **stored[mode]["lomo"],
                "interval_coverage": interval.get("lomo_coverage"),
                "interval_half_width": interval.get("lomo_half_width"),
            }  # fmt: skip
    return out


def _why(e: LatencyEstimate, measured_s: float) -> str:
    """Return what a row's time is made of: its largest operators, what no model answered, the host."""
    calls: dict[str, list[Any]] = {}
    for o in e.operators:
        entry = calls.setdefault(f"{o.op} {o.dtype} {o.params}", [o, 0, 0.0])
        entry[1] += 1
        entry[2] += o.latency_s
    largest = sorted((c for c in calls.values() if c[0].source != "overhead"), key=lambda c: -c[2])[:LARGEST]
    parts = [f"{n} x {o.op} {o.dtype} {_short(o.params)} {100 * t / e.latency_s:.0f} %" for o, n, t in largest if t > 0]
    shares = e.coverage["time"]
    for source in ("default", "proxy", "calibrated_roofline"):
        if shares.get(source, 0.0) > 0.01:
            parts.append(f"{source} {100 * shares[source]:.0f} %")
    if shares.get("overhead", 0.0) > 0.01:
        parts.append(f"waiting for the host {100 * shares['overhead']:.0f} %")
    unmodelled = sum(o.source == "unmodelled" for o in e.operators)
    if unmodelled:
        parts.append(f"{unmodelled} calls unmodelled")
    low, high = e.interval_s
    if np.isfinite(low) and not low <= measured_s <= high:
        parts.append("outside its interval")
    return ", ".join(parts)


def _short(params: dict[str, Any]) -> str:
    sizes = [str(v) for v in params.values() if isinstance(v, int) and not isinstance(v, bool)]
    return "x".join(sizes[:6])


def _figures(table: pd.DataFrame, predicted: str = "predicted_s") -> dict[str, Any]:
    if table.empty:
        return metrics(np.empty(0), np.empty(0))
    measured = table["measured_s"].to_numpy()
    if predicted != "predicted_s":
        return metrics(measured, table[predicted].to_numpy())
    out = metrics(measured, table["predicted_s"].to_numpy(), table["low_s"].to_numpy(), table["high_s"].to_numpy())
    shares: dict[str, float] = {}
    for share in table["time_share"]:
        for source, value in share.items():
            shares[source] = shares.get(source, 0.0) + value / len(table)
    return {**out, "source_share": shares}


def _groups(table: pd.DataFrame, baselines: tuple[str, ...]) -> dict[str, Any]:
    columns = ("mode", "dtype", "model", "area", "batch", "use")
    if table.empty:
        return {**{f"by_{c}": {} for c in columns}, "by_group": {}, "baselines": {}}
    out: dict[str, Any] = {
        f"by_{c}": {str(v): _figures(table[table[c] == v]) for v in sorted(table[c].unique())} for c in columns
    }
    device = table[table["mode"] != "eager"]
    out["by_mode"]["device"] = _figures(device)
    timed = table["mode"].where(table["mode"] == "eager", "device")
    groups = table["area"] + " " + timed
    split = [groups, groups + " batch " + table["batch"].astype(str), groups + " " + table["dtype"]]
    out["by_group"] = {str(v): _figures(table[g == v]) for g in split for v in sorted(g.unique())}
    # A baseline has no term for the host, so it is compared on device time.
    some = device if len(device) else table
    out["baselines"] = {name: _figures(some, name) for name in baselines}
    return out


def worst_models(summary: dict[str, Any], count: int = 10) -> list[dict[str, Any]]:
    """Return the rows with the largest error, with the operator sources behind them."""
    rows = summary.get("rows", [])
    return sorted(rows, key=lambda r: -abs(np.log(r["predicted_s"] / r["measured_s"])))[:count]
