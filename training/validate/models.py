"""Whole models: the sum of operators against the measured forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.errors import DtypeError, TracingError
from graphs.estimation import estimate_trace
from graphs.hardware.mappers.base import HardwareMapper
from graphs.tracing.library import load_trace
from training.validate.metrics import metrics

BASELINES = ("default_20pct", "roofline")


def score_models(frame: pd.DataFrame, mapper: HardwareMapper) -> dict[str, Any]:
    """Return figures of whole models and every row.

    Parameters
    ----------
    frame : DataFrame
        model, batch, dtype, mode, median_us.  ``graph`` and ``kernels`` rows are compared with device time,
        ``eager`` rows with eager time.
    mapper : HardwareMapper

    Returns
    -------
    dict
        The figures of all rows, ``by_mode``, ``by_dtype``, ``by_model``, ``baselines`` (sum of the operators'
        default and roofline times), ``rows`` and ``skipped`` (rows without a trace, with the reason).
    """
    rows, skipped = [], []
    traces: dict[tuple[str, int, str], Any] = {}
    for record in frame.to_dict("records"):
        key = (str(record["model"]), int(record["batch"]), ops.canonical(record["dtype"]))
        try:
            if key not in traces:
                traces[key] = load_trace(*key)
            mode = "eager" if record["mode"] == "eager" else "device"
            e = estimate_trace(traces[key], mapper, mode)  # type: ignore[arg-type]
        except (TracingError, DtypeError) as error:
            skipped.append({**dict(zip(("model", "batch", "dtype"), key, strict=True)), "reason": str(error)})
            continue
        time = e.coverage["time"]
        rows.append(
            {
                "model": key[0], "batch": key[1], "dtype": key[2], "mode": record["mode"],
                "measured_s": float(record["median_us"]) * 1e-6, "predicted_s": e.latency_s,
                "low_s": e.interval_s[0], "high_s": e.interval_s[1],
                "default_20pct": _sum(traces[key], mapper, "default"),
                "roofline": _sum(traces[key], mapper, "roofline"),
                "calls": len(traces[key]), "time_share": time,
                "unmodelled": sum(o.count for o in traces[key].unmodelled),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    return {**_figures(table), **_groups(table), "rows": rows, "skipped": skipped}


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


def _groups(table: pd.DataFrame) -> dict[str, Any]:
    if table.empty:
        return {"by_mode": {}, "by_dtype": {}, "by_model": {}, "baselines": {}}
    out: dict[str, Any] = {
        f"by_{c}": {str(v): _figures(table[table[c] == v]) for v in sorted(table[c].unique())}
        for c in ("mode", "dtype", "model")
    }
    device = table[table["mode"] != "eager"]
    out["by_mode"]["device"] = _figures(device)
    # A baseline has no term for the host, so it is compared on device time.
    some = device if len(device) else table
    out["baselines"] = {name: _figures(some, name) for name in BASELINES}
    return out


def _sum(trace: Any, mapper: HardwareMapper, which: str) -> float:
    priced = [o for o in trace.operators if o.op]
    groups = ops.group_operators([o.op for o in priced], [o.dtype for o in priced], [o.params for o in priced])
    bare = type(mapper)(mapper.resource_model)
    e = bare.map_operators(groups)
    seconds = e.latency_s if which == "default" else np.maximum(e.compute_time_s, e.memory_time_s)
    return float(seconds @ np.array([o.count for o in priced], dtype=np.float64))


def worst_models(summary: dict[str, Any], count: int = 10) -> list[dict[str, Any]]:
    """Return the rows with the largest error, with the operator sources behind them."""
    rows = summary.get("rows", [])
    return sorted(rows, key=lambda r: -abs(np.log(r["predicted_s"] / r["measured_s"])))[:count]
