"""The host's share of eager execution: seconds a launched call, fitted on measured eager forward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from graphs.errors import TracingError
from graphs.estimation import estimate_trace
from graphs.hardware.mappers.base import HardwareMapper
from graphs.tracing.library import load_trace

Array = NDArray[np.float64]


def fit_host(models: pd.DataFrame, mapper: HardwareMapper) -> dict[str, Any]:
    """Return the host term of a machine, or an empty dict where no eager pass was measured.

    Parameters
    ----------
    models : DataFrame
        model, batch, dtype, mode, median_us; rows of mode ``eager`` are used.
    mapper : HardwareMapper
        Gives the device time, and whether host and device overlap.

    Returns
    -------
    dict
        ``host_s_per_call``; ``rows`` and ``models`` it was fitted on; ``lomo_median_ape``, ``lomo_mape`` and
        ``lomo_log_error_90`` (90 % quantile of the absolute log error): eager time when each model is left out of the
        fit in turn.
    """
    rows = []
    for r in models[models["mode"] == "eager"].to_dict("records"):
        try:
            trace = load_trace(str(r["model"]), int(r["batch"]), str(r["dtype"]))
        except TracingError:
            continue  # no trace of this model: validation lists it
        rows.append(
            (str(r["model"]), estimate_trace(trace, mapper).latency_s, len(trace), float(r["median_us"]) * 1e-6)
        )
    if not rows:
        return {}
    names = np.array([r[0] for r in rows])
    device, calls, measured = (np.array([r[i] for r in rows], dtype=np.float64) for i in (1, 2, 3))
    log_errors = np.empty(len(rows))
    for name in np.unique(names):
        out = names == name
        c = _fit(device[~out], calls[~out], measured[~out], mapper) if (~out).any() else 0.0
        log_errors[out] = np.log(_eager(c, device[out], calls[out], mapper) / measured[out])
    errors = np.abs(np.expm1(log_errors))
    return {
        "host_s_per_call": _fit(device, calls, measured, mapper),
        "rows": len(rows),
        "models": len(np.unique(names)),
        "lomo_median_ape": round(float(np.median(errors)), 4),
        "lomo_mape": round(float(errors.mean()), 4),
        "lomo_log_error_90": round(float(np.quantile(np.abs(log_errors), 0.9)), 4),
    }


def _eager(per_call: float, device: Array, calls: Array, mapper: HardwareMapper) -> Array:
    return np.array([d + mapper.added_by_host(d, per_call * n) for d, n in zip(device, calls, strict=True)])


def _fit(device: Array, calls: Array, measured: Array, mapper: HardwareMapper) -> float:
    """Return the seconds a call with the least mean absolute log error."""
    if not len(device):
        return 0.0

    def loss(log_c: float) -> float:
        return float(np.abs(np.log(_eager(np.exp(log_c), device, calls, mapper) / measured)).mean())

    # The loss can have flat parts: a grid finds the valley, then it is refined.
    grid = np.log(np.geomspace(1e-8, 1e-3, 60))
    best = grid[int(np.argmin([loss(c) for c in grid]))]
    found = minimize_scalar(loss, bounds=(best - 0.3, best + 0.3), method="bounded")
    return float(np.exp(found.x))
