"""One documented dict that says how accurate a model is; every rendering is made from it.

``docs/report-format.md`` describes each key.  Figures are fractions, times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.hardware.profile import HardwareProfile
from training.dataset.splits import config_key
from training.validate import checks
from training.validate.baselines import attainable_s, baselines
from training.validate.metrics import metrics
from training.validate.reasons import Reasons

#: Raise it when an old reader would misread a new summary.  2: points, bins, rank, reliability, reasons.
SCHEMA_VERSION = 2
WORST = 20
_GROUPS = {
    "by_op": "op", "by_family": "family", "by_dtype": "dtype", "by_split": "split", "by_size": "size",
    "by_intensity": "intensity",
}  # fmt: skip
#: Columns of numbers in ``points``, beside the baselines'.
POINTS = (
    "measured_s", "predicted_s", "low_s", "high_s", "extrapolated_s", "attainable_s", "flops", "bytes", "retest_s",
)  # fmt: skip


def empty_summary(profile: HardwareProfile, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of no operator rows, for whole models alone."""
    none = metrics(np.empty(0), np.empty(0))
    return {
        "schema_version": SCHEMA_VERSION, "hardware": profile.id, "what": "No operator rows were scored.",
        "all": none, **{g: {} for g in _GROUPS}, "by_source": {}, "in_domain": none, "fallback": None,
        "noise": {"n": 0}, "rank": None, "reliability": None, "worst": [], "baselines": {}, "points": None,
        "machine": _machine(profile), "learning_curve": [], "models": {}, "provenance": provenance,
    }  # fmt: skip


def summarise(
    rows: pd.DataFrame, train: pd.DataFrame, profile: HardwareProfile, what: str, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Return the summary of operator rows.

    Parameters
    ----------
    rows : DataFrame
        op, dtype, params, flops, bytes, median_us, split, predicted_s, low_s, high_s, source, reason,
        extrapolated_s; optionally retest_us, std_us.
    train : DataFrame
        Rows that the table-based baselines may see, and that reasons are looked for in.
    profile : HardwareProfile
    what : str
        Which rows these are and what predicted them, in a sentence.
    provenance : dict
    """
    rows = rows.reset_index(drop=True)
    points = _points(rows, profile)
    rows = rows.assign(
        family=[ops.get(o).family for o in rows["op"]],
        size=checks.bins(points["attainable_s"], checks.SIZES, checks.SIZE_NAMES),
        intensity=checks.bins(
            points["flops"] / np.maximum(points["bytes"], 1.0), checks.INTENSITIES, checks.INTENSITY_NAMES
        ),
    )
    measured, predicted = points["measured_s"], points["predicted_s"]
    source, op = rows["source"].to_numpy(), rows["op"].to_numpy(dtype=np.str_)

    def model(keep: Any) -> dict[str, Any]:
        return metrics(
            measured[keep], predicted[keep], points["low_s"][keep], points["high_s"][keep], source[keep]
        )  # fmt: skip

    out: dict[str, Any] = {
        **empty_summary(profile, provenance),
        "what": what,
        **_grouped(rows, model),
        "by_source": {str(s): model(source == s) for s in sorted(set(source))},
        "in_domain": model(source != "default"),
        "fallback": _fallback(rows, points),
        "noise": _noise(points),
        "rank": checks.rank(op, measured, predicted),
        "reliability": checks.reliability(op, measured, predicted, points["low_s"], points["high_s"]),
        "worst": _worst(rows, points, Reasons(train, profile)),
    }
    for name, guess in baselines(train, rows, profile).items():

        def baseline(keep: Any, guess: Any = guess, name: str = name) -> dict[str, Any]:
            return metrics(measured[keep], guess[keep], source=np.full(int(np.sum(keep)), name))

        order = checks.rank(op, measured, guess)
        out["baselines"][name] = {
            **_grouped(rows, baseline),
            "rank": {k: order[k] for k in ("spearman", "within_op_median", "pairs_in_order")},
        }
        points[f"baseline_{name}_s"] = guess
    out["points"] = {
        "key": [config_key(*row) for row in zip(rows["op"], rows["dtype"], rows["params"], strict=True)],
        **{c: rows[c].astype(str).tolist() for c in ("op", "family", "dtype", "split", "source")},
        **{name: _plain(values) for name, values in points.items()},
    }
    return out


def _points(rows: pd.DataFrame, profile: HardwareProfile) -> dict[str, Any]:
    """Return the numbers of each row, (n,) float64 each."""
    out = {c: rows[c].to_numpy(dtype=np.float64) for c in POINTS if c in rows}
    out["measured_s"] = rows["median_us"].to_numpy(dtype=np.float64) * 1e-6
    out["attainable_s"] = attainable_s(rows, profile)
    out["retest_s"] = (
        rows["retest_us"].to_numpy(dtype=np.float64) * 1e-6 if "retest_us" in rows else np.full(len(rows), np.nan)
    )
    return {c: out[c] for c in POINTS}


def _plain(values: Any) -> list[float | None]:
    """Return numbers to six digits; null where there is none."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]


def _machine(profile: HardwareProfile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "peak_flops_per_s": {d: profile.peak_flops_per_s(d) for d in profile.peak_dtypes},
        "bandwidth_bytes_per_s": profile.bandwidth_bytes_per_s,
    }


def _grouped(rows: pd.DataFrame, figures: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"all": figures(np.ones(len(rows), dtype=bool))}
    ordered = {"by_size": checks.SIZE_NAMES, "by_intensity": checks.INTENSITY_NAMES}
    for key, column in _GROUPS.items():
        found = set(rows[column])
        names = [n for n in ordered[key] if n in found] if key in ordered else sorted(found)
        out[key] = {str(v): figures((rows[column] == v).to_numpy()) for v in names}
    return out


def _fallback(rows: pd.DataFrame, points: dict[str, Any]) -> dict[str, Any]:
    """Return what falling back outside the domain costs against extrapolating, on the same rows."""
    outside = (rows["source"] == "default").to_numpy()
    measured = points["measured_s"]
    return {
        "share": float(outside.mean()) if len(rows) else 0.0,
        "default": metrics(measured[outside], points["predicted_s"][outside]),
        "extrapolated": metrics(measured[outside], points["extrapolated_s"][outside]),
        "all_without_domain": metrics(measured, points["extrapolated_s"]),
        "reasons": {str(k): int(v) for k, v in rows.loc[outside, "reason"].value_counts().head(10).items()},
    }


def _noise(points: dict[str, Any]) -> dict[str, Any]:
    """Return the difference of a second, independent timing, of some rows: it holds the noise of both."""
    both = np.isfinite(points["retest_s"])
    if not both.any():
        return {"n": 0}
    figures = metrics(points["measured_s"][both], points["retest_s"][both])
    return {k: figures[k] for k in ("n", "median_ape", "mape", "p90_ape")}


def _worst(rows: pd.DataFrame, points: dict[str, Any], reasons: Reasons) -> list[dict[str, Any]]:
    error = np.abs(np.log(points["predicted_s"] / points["measured_s"]))
    chosen = np.argsort(-error, kind="stable")[:WORST]
    why = reasons.explain(rows.iloc[chosen].reset_index(drop=True))

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return [
        {
            "op": str(rows["op"].iloc[i]), "dtype": str(rows["dtype"].iloc[i]), "params": dict(rows["params"].iloc[i]),
            "split": str(rows["split"].iloc[i]), "measured_s": float(points["measured_s"][i]),
            "predicted_s": float(points["predicted_s"][i]),
            "interval_s": [number(points["low_s"][i]), number(points["high_s"][i])],
            "attainable_s": float(points["attainable_s"][i]),
            "source": str(rows["source"].iloc[i]), "reason": str(rows["reason"].iloc[i]), "why": text,
        }
        for i, text in zip(chosen, why, strict=True)
    ]  # fmt: skip
