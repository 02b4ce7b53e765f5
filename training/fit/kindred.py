"""Another processor's measured rows: what they tell of the efficiency of operators here.

Two processors run the same kernels of the framework.  Which kinds are efficient on which shapes, many rows of the
other one show; how that carries over, the own rows do (`training.fit.augmented`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphs.hardware.calibration import features
from graphs.hardware.calibration.domain import effective_dtype
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.fitted import take
from graphs.hardware.calibration.regressors import Regressor
from graphs.hardware.profile import load_profile
from graphs.ops.batch import OperatorGroup
from training.fit.augmented import OUTLIERS
from training.fit.gp import fit_gp, fit_hyperparameters
from training.fit.prepare import Table, machine_of, read_frame
from training.fit.trees import fit_forest

#: Processors whose measured rows are also asked, by the processor that asks.  An efficiency is all that is taken
#: over, and only as a feature, so that the two may differ in speed and in threads.
KINDRED: Mapping[str, str] = {"xeon-16c": "epyc-2c"}
#: Rows of the other processor that a family needs.
LEAST_ELSEWHERE = 40


@dataclass(frozen=True, slots=True)
class Kindred:
    """Another processor: its id, the machine, and its measured rows."""

    hardware: str
    machine: Machine
    table: Table

    @classmethod
    def of(cls, hardware: str, data: Path) -> Kindred | None:
        """Return the processor that `hardware`, with rows in `data`, asks; None without one or its rows."""
        other = KINDRED.get(hardware)
        folder = data.parent / str(other)
        if other is None or not (folder / "manifest.json").exists():
            return None
        profile = load_profile(other)
        return cls(other, machine_of(profile), Table.of(read_frame(profile, folder)[0]))

    def elsewhere(
        self, family: str, groups: Sequence[OperatorGroup], here: Machine, seed: int
    ) -> tuple[Regressor, ...]:
        """Return regressors of the other processor's efficiency on the kinds of some groups; see `fit_elsewhere`."""
        kinds = {g.kind.name for g in groups}
        return fit_elsewhere(self.table, family, kinds, here, self.machine, seed)


def fit_elsewhere(
    table: Table, family: str, kinds: set[str], here: Machine, there: Machine, seed: int
) -> tuple[Regressor, ...]:
    """Return regressors of another processor's efficiency, a process and a forest.

    Parameters
    ----------
    table : Table
        Rows of the other processor; those of its training split alone are learnt from, because what is held out
        there is held out here.
    family : str
    kinds : set of str
        Operators to learn from.
    here : Machine
        Whose features the regressors will be asked with.
    there : Machine
    seed : int

    Returns
    -------
    tuple of Regressor
        Empty where there are too few rows.
    """
    train = (table.frame["split"] == "train").to_numpy()
    groups = [take(g, train[g.rows]) for g in table.groups.get(family, []) if g.kind.name in kinds]
    groups = [g for g in groups if len(g)]
    if sum(len(g) for g in groups) < LEAST_ELSEWHERE:
        return ()
    x = np.concatenate([features.build(g, here)[1] for g in groups])
    rows = np.concatenate([g.rows for g in groups])
    latency_s = table.frame["median_us"].to_numpy(dtype=np.float64)[rows] * 1e-6
    roofline_s = np.concatenate([there.attainable_s(g.flops, g.bytes, effective_dtype(g)) for g in groups])
    y = np.log(latency_s / (np.quantile(latency_s, 0.01) + roofline_s))
    process = fit_gp(x, y, fit_hyperparameters(x, y, seed), OUTLIERS)
    return process, fit_forest(x, y, seed)
