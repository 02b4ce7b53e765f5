"""Rates of what a call on a CPU is made of, from measured rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from graphs.hardware.calibration.features.costs import costs
from graphs.hardware.calibration.regressors.costs import Costs, log_sum

Array = NDArray[np.float64]

#: Standard deviations, in log units, of a rate from its ordinary value and of a circumstance's effect on it.
RATE_SPREAD, EFFECT_SPREAD = 2.0, 1.0
#: Log error from which on a row counts by its error instead of its square: half the error of a good row.
DELTA = 0.15
STEPS = 300


def fit_costs(family: str, names: tuple[str, ...], x: Array, y: Array, t0_s: float) -> Costs:
    """Return the sum of costs fitted to rows (n, f) and their log(latency / (t0 + roofline)), (n,).

    The posterior mode for pseudo-Huber errors of log latency and a Gaussian prior of the log rates.
    """
    log_us, circumstances = costs(family, list(names), x)
    t0_us = 1e6 * t0_s
    target = y + np.log(t0_us + 2.0 ** x[:, names.index("lg_roofline_us")])
    precision = np.full((circumstances.shape[1], log_us.shape[1]), EFFECT_SPREAD**-2.0)
    precision[0] = RATE_SPREAD**-2.0

    def loss(flat: Array) -> tuple[float, Array]:
        rates = flat.reshape(precision.shape)
        total, share = log_sum(log_us + circumstances @ rates)
        error = (total - target) / DELTA
        root = np.sqrt(1.0 + error * error)
        slope = error / (2.0 * DELTA * root)
        value = 0.5 * (root - 1.0).sum() + 0.5 * (precision * rates * rates).sum()
        return float(value), (circumstances.T @ (share * slope[:, None]) + precision * rates).ravel()

    found = minimize(loss, np.zeros(precision.size), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return Costs(family, names, np.asarray(found.x, dtype=np.float64).reshape(precision.shape), t0_us)
