"""Fitted regressors as plain arrays, evaluated with numpy alone.

Each takes features (n, f) float64 and returns the predicted log(latency / (t0 + roofline time)), (n,) float64.
They are fitted in `training` and compared there with the library that fitted them.
"""

from __future__ import annotations

from typing import Any

from graphs.errors import ModelFileError
from graphs.hardware.calibration.regressors.augmented import Augmented
from graphs.hardware.calibration.regressors.base import CHUNK, Arrays, Classes, Regressor
from graphs.hardware.calibration.regressors.costs import Costs
from graphs.hardware.calibration.regressors.processes import Expert, GaussianProcess, GaussianProcesses
from graphs.hardware.calibration.regressors.student import Student
from graphs.hardware.calibration.regressors.trees import TreeEnsemble

__all__ = [
    "CHUNK", "FORMS", "Arrays", "Augmented", "Classes", "Costs", "Expert", "GaussianProcess", "GaussianProcesses",
    "Regressor", "Student", "TreeEnsemble", "build",
]  # fmt: skip

FORMS: dict[str, Any] = {
    cls.form: cls for cls in (TreeEnsemble, GaussianProcess, GaussianProcesses, Student, Costs, Augmented)
}


def build(form: str, arrays: Arrays, origin: str) -> Regressor:
    """Rebuild a regressor from its arrays, or raise `ModelFileError`."""
    try:
        regressor: Regressor = FORMS[form].from_arrays(arrays)
        return regressor
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"a regressor of model '{origin}' cannot be rebuilt ({type(error).__name__}: {error})",
            received=form,
            allowed=", ".join(FORMS),
            next_step="fit the model again with `graphs train`",
        ) from error
