"""One documented dict that says how accurate a model is; every rendering is made from it.

Keys: ``schema_version``, ``hardware``, ``what`` (which rows and which model), ``all``, ``by_op``, ``by_family``,
``by_dtype``, ``by_split``, ``by_source``, ``fallback``, ``noise``, ``worst``, ``models``, ``baselines`` (name ->
``all``, ``by_op``, ``by_dtype``, ``by_split``), ``provenance``.  Every group holds the figures of
`training.validate.metrics.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.hardware.profile import HardwareProfile
from training.validate.baselines import baselines
from training.validate.metrics import metrics

SCHEMA_VERSION = 1
WORST = 20
_GROUPS = {"by_op": "op", "by_family": "family", "by_dtype": "dtype", "by_split": "split"}


def summarise(
    rows: pd.DataFrame, train: pd.DataFrame, profile: HardwareProfile, what: str, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Return the summary of operator rows.

    Parameters
    ----------
    rows : DataFrame
        op, dtype, params, flops, bytes, median_us, split, predicted_s, low_s, high_s, source, reason,
        extrapolated_s; optionally retest_us.
    train : DataFrame
        Rows that the table-based baselines may see.
    profile : HardwareProfile
    what : str
        Which rows these are and what predicted them, in a sentence.
    provenance : dict
    """
    rows = rows.reset_index(drop=True).assign(family=[ops.get(o).family for o in rows["op"]])
    measured = rows["median_us"].to_numpy(dtype=np.float64) * 1e-6
    column = {c: rows[c].to_numpy(dtype=np.float64) for c in ("predicted_s", "low_s", "high_s", "extrapolated_s")}

    def model(keep: Any) -> dict[str, Any]:
        return metrics(
            measured[keep], column["predicted_s"][keep], column["low_s"][keep], column["high_s"][keep],
            rows["source"].to_numpy()[keep],
        )  # fmt: skip

    out: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "hardware": profile.id,
        "what": what,
        **_grouped(rows, model),
        "by_source": {str(s): model((rows["source"] == s).to_numpy()) for s in sorted(rows["source"].unique())},
        "fallback": _fallback(rows, measured, column),
        "noise": _noise(rows),
        "worst": _worst(rows, measured, column["predicted_s"]),
        "baselines": {},
        "provenance": provenance,
    }
    for name, predicted in baselines(train, rows, profile).items():

        def baseline(keep: Any, predicted: Any = predicted, name: str = name) -> dict[str, Any]:
            return metrics(measured[keep], predicted[keep], source=np.full(int(np.sum(keep)), name))

        out["baselines"][name] = _grouped(rows, baseline)
    return out


def _grouped(rows: pd.DataFrame, figures: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"all": figures(np.ones(len(rows), dtype=bool))}
    for key, column in _GROUPS.items():
        out[key] = {str(v): figures((rows[column] == v).to_numpy()) for v in sorted(rows[column].unique())}
    return out


def _fallback(rows: pd.DataFrame, measured: Any, column: dict[str, Any]) -> dict[str, Any]:
    """Return what falling back outside the domain costs against extrapolating, on the same rows."""
    outside = (rows["source"] == "default").to_numpy()
    return {
        "share": float(outside.mean()) if len(rows) else 0.0,
        "default": metrics(measured[outside], column["predicted_s"][outside]),
        "extrapolated": metrics(measured[outside], column["extrapolated_s"][outside]),
        "reasons": {str(k): int(v) for k, v in rows.loc[outside, "reason"].value_counts().head(10).items()},
    }


def _noise(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the difference of a second, independent timing: no model can be better."""
    if "retest_us" not in rows:
        return {"n": 0}
    both = rows[rows["retest_us"].notna()]
    figures = metrics(
        both["median_us"].to_numpy(dtype=np.float64) * 1e-6, both["retest_us"].to_numpy(dtype=np.float64) * 1e-6
    )
    return {k: figures[k] for k in ("n", "median_ape", "mape", "p90_ape")}


def _worst(rows: pd.DataFrame, measured: Any, predicted: Any) -> list[dict[str, Any]]:
    error = np.abs(np.log(predicted / measured))
    return [
        {
            "op": str(rows["op"].iloc[i]), "dtype": str(rows["dtype"].iloc[i]), "params": dict(rows["params"].iloc[i]),
            "split": str(rows["split"].iloc[i]), "measured_s": float(measured[i]), "predicted_s": float(predicted[i]),
            "interval_s": [float(rows["low_s"].iloc[i]), float(rows["high_s"].iloc[i])],
            "source": str(rows["source"].iloc[i]), "reason": str(rows["reason"].iloc[i]),
        }
        for i in np.argsort(-error)[:WORST]
    ]  # fmt: skip
