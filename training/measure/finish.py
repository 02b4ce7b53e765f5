"""From a run's rows to a data set that ``graphs train`` reads, and to a profile of the machine."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from graphs import ops
from graphs.errors import DataError
from training.dataset.kernels import NAMES
from training.dataset.kernels import TABLE as KERNELS
from training.dataset.schema import check_models, check_ops
from training.dataset.store import file_hash, write_dataset
from training.measure.journal import Journal, write_whole
from training.measure.kernel_table import write_named

ATTEMPTS = "attempts.parquet"


def finish(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write ``ops.parquet``, ``models.parquet``, ``attempts.parquet`` and the manifest; return a summary.

    ``attempts.parquet`` holds every row, failures with their reason and all raw samples; the other two the usable
    ones in the columns of `training.dataset.schema`.  Where kernels were named, ``kernels.parquet`` and
    ``kernel_names.json`` hold them as `training.dataset.kernels` reads them.

    Raises
    ------
    DataError
        If no operator was measured.
    """
    about = Journal(folder).about()
    environment, mark = about["environment"], about["fingerprint"]
    rows = sorted(rows, key=lambda r: int(r["index"]))
    attempts = pd.DataFrame([_attempt(r) for r in rows])
    attempts.to_parquet(folder / f".{ATTEMPTS}.tmp", index=False, compression="zstd")
    (folder / f".{ATTEMPTS}.tmp").replace(folder / ATTEMPTS)
    common = {
        "device": environment["device"], "kind": environment["kind"],
        "threads": environment["threads"] if environment["kind"] == "cpu" else None,
        "torch": environment["torch"], "fingerprint": mark,
    }  # fmt: skip
    retest = {r["of"]: r["median_us"] for r in rows if r["what"] == "retest" and r["status"] == "ok"}
    good = [r for r in rows if r["status"] == "ok"]
    measured = [_op_row(r, common, retest.get(r["index"])) for r in good if r["what"] == "op"]
    models = [_model_row(r, common) for r in good if r["what"] == "model"]
    if not measured:
        raise DataError("no operator was measured", received=f"{len(rows)} rows, all failed or models",
                        next_step=f"see the reasons in {folder / ATTEMPTS}, or give a larger --budget")  # fmt: skip
    table = check_ops(pd.DataFrame(measured), "ops")
    named = write_named(folder, rows)
    summary = {
        "rows": len(table.frame),
        "models": len(models),
        "kernels": named["calls"] if named else 0,
        "failed": sum(r["status"] != "ok" for r in rows),
        "dropped_samples": sum(int(r.get("dropped", 0)) for r in good),
        "took_s": round(sum(r["took_s"] for r in rows), 1),
        "noise": noise(table.frame),
    }
    manifest = {
        "hardware": about["hardware"],
        "machine": {k: common[k] for k in ("device", "kind", "threads")},
        "software": {"torch": environment["torch"]},
        "date": environment["started"][:10],
        "note": about["note"],
        "fingerprint": mark,
        "environment": environment,
        "ceilings": about["ceilings"],
        "summary": summary,
        "rejected": [{"row": r.row, "reason": r.reason} for r in table.rejected],
        "attempts": {"file": ATTEMPTS, "sha256": file_hash(folder / ATTEMPTS), "rows": len(attempts)},
    }
    if named:
        manifest["kernels"] = [{"file": f, "sha256": file_hash(folder / f), **named} for f in (KERNELS, NAMES)]
    write_dataset(folder, table.frame, check_models(pd.DataFrame(models)).frame if models else None, manifest)
    return summary


def noise(frame: pd.DataFrame) -> dict[str, float | int]:
    """Return how far a second timing lies from the first: the floor of any error."""
    both = frame[frame["retest_us"].notna()]
    if both.empty:
        return {"n": 0}
    relative = ((both["retest_us"] - both["median_us"]).abs() / both["median_us"]).astype(float)
    return {
        "n": len(both),
        "median": round(float(relative.median()), 4),
        "mean": round(float(relative.mean()), 4),
        "p90": round(float(relative.quantile(0.9)), 4),
    }


def _attempt(row: dict[str, Any]) -> dict[str, Any]:
    out = {**row, "params": json.dumps(row["params"], sort_keys=True), "reason": row.get("reason", "")}
    return {**out, "extra": json.dumps(row.get("extra", {}), sort_keys=True)}


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    samples = row["samples_us"]
    return {
        "median_us": row["median_us"],
        "mean_us": round(statistics.fmean(samples), 4),
        "min_us": min(samples),
        "max_us": max(samples),
        "std_us": round(statistics.pstdev(samples), 4),
        "samples": len(samples),
    }


def _op_row(row: dict[str, Any], common: dict[str, Any], retest_us: float | None) -> dict[str, Any]:
    cost = ops.evaluate(row["op"], row["params"], ops.itemsize(row["dtype"]))
    return {
        **{k: common[k] for k in ("device", "kind", "threads")},
        "op": row["op"], "dtype": row["dtype"], "params": row["params"], "flops": cost.flops, "bytes": cost.bytes,
        "sets": row["sets"], **_spread(row), "eager_us": row["eager_us"], "warm_us": row["warm_us"],
        "retest_us": retest_us, "source": row["source"], "torch": common["torch"],
        "fingerprint": common["fingerprint"],
    }  # fmt: skip


def _model_row(row: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    extra = row["extra"]
    # Runs that began before there were other modes name none.
    mode = row["params"].get("mode", "eager")
    return {
        **{k: common[k] for k in ("device", "kind", "threads")},
        "model": row["op"], "batch": int(row["params"]["batch"]), "dtype": row["dtype"], "mode": mode,
        "params_count": extra.get("params_count"), **_spread(row), "torch": common["torch"],
        "fingerprint": common["fingerprint"], **({"kernels": extra["kernel_count"]} if mode == "kernels" else {}),
    }  # fmt: skip


def write_profile(folder: Path, hardware: str, environment: dict[str, Any], ceilings: dict[str, Any]) -> Path:
    """Write ``ID.json``, a profile whose peaks are what this machine sustained; return its path.

    A virtual machine hides its SKU, so no datasheet applies: efficiencies are relative to these measured ceilings,
    and above 1 where a smaller or cached operator is faster than they are.
    """

    threads = f", {environment['threads']} threads" if environment["kind"] == "cpu" else ""

    def figure(value: float, how: str) -> dict[str, Any]:
        return {"value": float(f"{value:.4g}"), "source": "measured", "note": how + threads}

    peaks = {d: figure(v, ceilings["how"][d]) for d, v in ceilings["peak_flops_per_s"].items()}
    rate = figure(ceilings["bandwidth_bytes_per_s"], "large copy, bytes read and written")
    profile = {
        "schema_version": 1,
        "id": hardware,
        "name": f"{environment['device']} (family {environment['family']}, model {environment['model']}),"
        f" {environment.get('compute_units', environment['cores'])} "
        + ("SMs" if environment["kind"] == "gpu" else "cores"),
        "vendor": environment["vendor"] or "unknown",
        "kind": environment["kind"],
        "compute_units": int(environment.get("compute_units") or environment["cores"]),
        "cache_bytes": environment["cache_bytes"],
        "memory_bytes": environment["memory_bytes"],
        "clock_hz": environment["clock_hz"],
        "peak_flops_per_s": peaks,
        "bandwidth_bytes_per_s": rate,
        "measured": {"peak_flops_per_s": peaks, "bandwidth_bytes_per_s": rate},
        "machine": {k: environment[k] for k in ("vendor", "family", "model", "cores")}
        if environment["kind"] == "cpu" else {},
        "aliases": [environment["device"]] if environment["kind"] == "gpu" else [],
        "model": f"models/{hardware}",
        "data": f"data/{hardware}",
        "notes": ["Made by `graphs measure`: peaks and bandwidth are sustained ones, not a datasheet's."],
        "sources": dict.fromkeys(("compute_units", "cache_bytes", "memory_bytes", "clock_hz"), "told by the system"),
    }  # fmt: skip
    path = folder / f"{hardware}.json"
    write_whole(path, json.dumps({k: v for k, v in profile.items() if v not in (None, [], {})}, indent=2) + "\n")
    return path
