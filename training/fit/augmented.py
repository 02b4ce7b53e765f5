"""A member for CPUs: a process and a forest that also see the fitted sum of costs and another CPU's efficiency.

A CPU is measured in few rows.  What they cannot settle, its physics and the rows of another processor, which runs the
same kernels of the framework, settle to a large part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors import Augmented, Regressor
from graphs.hardware.calibration.regressors.augmented import augment
from training.fit.costs import fit_costs
from training.fit.gp import FOLD_HYPER_ROWS, FOLD_STEPS, fit_gp, fit_hyperparameters
from training.fit.trees import fit_forest

if TYPE_CHECKING:
    from training.fit.family import Rows

Array = NDArray[np.float64]

#: Standard deviations that the process believes slow outliers for.
OUTLIERS = 1.5


@dataclass(frozen=True, slots=True)
class AugmentedRecipe:
    """Costs and the predictions of `elsewhere` as further features of a process and a forest."""

    elsewhere: Sequence[Regressor]
    seed: int

    def n_outputs(self) -> int:
        return 2

    def without(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> AugmentedRecipe:
        return self  # everything is fitted on the rows at hand

    def fit(self, rows: Rows, y: Array, some: NDArray[np.bool_]) -> Augmented:
        x, target = rows.x[some], y[some]
        # the target is log(latency / (t0 + roofline)) with one t0 for all rows
        t0_s = float(np.median(rows.latency_s * np.exp(-y) - rows.roofline_s))
        first = (fit_costs(rows.family, rows.names, x, target, t0_s), *self.elsewhere)
        longer = augment(first, x)
        hyper = fit_hyperparameters(longer, target, self.seed, FOLD_HYPER_ROWS, FOLD_STEPS)
        then = (fit_gp(longer, target, hyper, OUTLIERS), fit_forest(longer, target, self.seed))
        return Augmented(first, then)
