"""Regressors whose features include the predictions of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors.base import Array, Arrays, Classes, Regressor
from graphs.hardware.calibration.regressors.costs import Costs
from graphs.hardware.calibration.regressors.processes import GaussianProcess
from graphs.hardware.calibration.regressors.trees import TreeEnsemble

#: Forms of the parts, none of which knows classes; files name them by their place here.
_FORMS: dict[str, Callable[[Arrays], Any]] = {
    Costs.form: Costs.from_arrays,
    GaussianProcess.form: GaussianProcess.from_arrays,
    TreeEnsemble.form: TreeEnsemble.from_arrays,
}


@dataclass(frozen=True)
class Augmented:
    """Regressors on the features and what other regressors make of them.

    Attributes
    ----------
    first : sequence of Regressor
        Of features (n, f); their outputs are appended to the features.
    then : sequence of Regressor
        Of the longer features; one output each.
    """

    first: Sequence[Regressor]
    then: Sequence[Regressor]
    form: ClassVar[str] = "augmented"

    @property
    def n_outputs(self) -> int:
        return sum(r.n_outputs for r in self.then)

    def outputs(self, x: Array, classes: Classes) -> Array:
        longer = augment(self.first, x)
        return np.concatenate([r.outputs(longer, {}) for r in self.then])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        out: dict[str, NDArray[np.generic]] = {}
        for stage, parts in (("first", self.first), ("then", self.then)):
            out[stage] = np.array([list(_FORMS).index(r.form) for r in parts], dtype=np.uint8)
            for i, part in enumerate(parts):
                out |= {f"{stage}:{i}:{name}": value for name, value in part.arrays().items()}
        return out

    @classmethod
    def from_arrays(cls, a: Arrays) -> Augmented:
        return cls(*(_parts(a, stage) for stage in ("first", "then")))


def augment(first: Sequence[Regressor], x: Array) -> Array:
    """Return features (n, f) with the outputs of regressors appended."""
    return np.column_stack([x, *(r.outputs(x, {}).T for r in first)])


def _parts(a: Arrays, stage: str) -> tuple[Regressor, ...]:
    parts = []
    for i, form in enumerate(a[stage]):
        if form >= len(_FORMS):
            raise ValueError(f"there is no form {form}")
        prefix = f"{stage}:{i}:"
        parts.append(
            list(_FORMS.values())[form]({k.removeprefix(prefix): v for k, v in a.items() if k.startswith(prefix)})
        )
    return tuple(parts)
