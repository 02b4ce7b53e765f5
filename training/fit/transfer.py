"""Rows of a related machine, carried over: what was measured there becomes a virtual measurement here.

A ratio model learns log(latency here / latency there) from configurations measured on both, and is applied to
those measured only there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.fit.gp import fit_gp, fit_hyperparameters
from training.fit.trees import fit_trees

Array = NDArray[np.float64]
#: Shared configurations that a ratio model needs; with fewer nothing is carried over.
LEAST_SHARED = 40


def carry_over(
    shared_x: Array, shared_there_s: Array, shared_here_s: Array, x: Array, there_s: Array, seed: int
) -> Array:
    """Return virtual latencies of this machine.

    Parameters
    ----------
    shared_x : (s, f) float64
        Features, on this machine, of configurations measured on both.
    shared_there_s, shared_here_s : (s,) float64
        Their latencies, seconds.
    x, there_s : (n, f), (n,) float64
        Configurations measured only on the related machine.
    seed : int

    Returns
    -------
    (n,) float64
        Seconds; empty when fewer than `LEAST_SHARED` configurations are shared.
    """
    if len(shared_x) < LEAST_SHARED or not len(x):
        return np.empty(0)
    known = np.column_stack([shared_x, np.log(shared_there_s)])
    query = np.column_stack([x, np.log(there_s)])
    ratio = np.log(shared_here_s / shared_there_s)
    gp = fit_gp(known, ratio, fit_hyperparameters(known, ratio, seed))
    trees = fit_trees(known, ratio, seed, max_iter=150)
    return np.asarray(there_s * np.exp(0.5 * gp.predict(query) + 0.5 * trees.predict(query)))
