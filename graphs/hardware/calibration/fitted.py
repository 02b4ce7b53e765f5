"""A fitted efficiency model: one set of regressors a family, its domain and its interval, evaluated with numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.errors import SchemaVersionError
from graphs.hardware.calibration import features
from graphs.hardware.calibration.domain import Domain, effective_dtype
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.regressors import Regressor, Student
from graphs.ops.batch import OperatorGroup


@dataclass(frozen=True, slots=True)
class Answer:
    """What a calibration says of n calls of one kind.

    Attributes
    ----------
    latency_s, low_s, high_s : (n,) float64
        Seconds; NaN where it has no answer.
    source : (n,) str
        ``model``, ``calibrated_roofline``, ``proxy``; ``""`` where it has no answer.
    reason : (n,) object
        Where it has no answer, why; otherwise a remark or ``""``.
    overhead_s : float
        Fixed cost of a call, already inside `latency_s`.
    """

    latency_s: NDArray[np.float64]
    low_s: NDArray[np.float64]
    high_s: NDArray[np.float64]
    source: NDArray[np.str_]
    reason: NDArray[np.object_]
    overhead_s: float = 0.0

    @classmethod
    def none(cls, n: int, reason: str) -> Answer:
        """Return "no answer" for n calls."""
        nan = np.full(n, np.nan)
        return cls(nan, nan.copy(), nan.copy(), np.full(n, "", dtype="<U20"), np.full(n, reason, dtype=object))


@dataclass(frozen=True, slots=True)
class Interval:
    """Split conformal interval in log latency, scaled by a difficulty.

    Half-width = quantile x (spread + floor), where the spread is the standard deviation of the members' predictions.
    Lei et al., "Distribution-free predictive inference for regression", JASA 113, 2018, section 5.2.
    """

    quantile: float
    floor: float
    level: float = 0.9
    rows: int = 0

    def half_width(self, spread: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the half-width in log latency, (n,)."""
        return self.quantile * (spread + self.floor)


@dataclass(frozen=True, slots=True)
class FamilyModel:
    """Regressors of one family of operator kinds.

    ``latency = (t0 + roofline time) * exp(prediction)``: the fixed cost of a call is added before the ratio is
    taken, so that small and large calls have targets of one size.

    Attributes
    ----------
    t0_s : float
        1 % quantile of the family's measured latencies, seconds.
    feature_names : tuple of str
    members : list of Regressor
    weights : (outputs of all members,) float64
        Sum 1; the prediction is the weighted mean of the outputs in log space.
    interval : Interval
    domains : dict of str to Domain
        One an operator kind.
    scores : dict
        Cross-validated figures, as training wrote them.
    """

    family: str
    t0_s: float
    feature_names: tuple[str, ...]
    members: Sequence[Regressor]
    weights: NDArray[np.float64]
    interval: Interval
    domains: dict[str, Domain]
    scores: dict[str, Any] = field(default_factory=dict)

    def log_ratio(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return prediction and spread of features (n, f), both (n,)."""
        if isinstance(self.members[0], Student):
            return self.members[0].predict_with_spread(x)
        classes = features.partitions(self.family, list(self.feature_names), x)
        each = np.concatenate([m.outputs(x, classes) for m in self.members])
        return self.weights @ each, each.std(axis=0)


@dataclass(frozen=True, slots=True)
class EfficiencyModel:
    """The fitted model of one machine.

    Attributes
    ----------
    hardware : str
    machine : Machine
        Peaks and sizes it was fitted against; changing a profile does not change the model.
    families : dict of str to FamilyModel
    header : dict
        Provenance and scores, as stored.
    """

    hardware: str
    machine: Machine
    families: dict[str, FamilyModel]
    header: dict[str, Any] = field(default_factory=dict)

    def outside(self, group: OperatorGroup) -> NDArray[np.object_]:
        """Return for each call why it is outside the applicability domain, or ``""``."""
        name = group.kind.name
        for family in self.families.values():
            if name in family.domains:
                return family.domains[name].reasons(group)
        return np.full(len(group), f"operator '{name}' was never measured on {self.hardware}", dtype=object)

    def answer(self, group: OperatorGroup, extrapolate: bool = False) -> Answer:
        """Return latencies with intervals where the domain holds (everywhere it can if `extrapolate`)."""
        n, name = len(group), group.kind.name
        reasons = self.outside(group)
        out = Answer.none(n, "")
        out.reason[:] = reasons
        family = next((f for f in self.families.values() if name in f.domains), None)
        if family is None:
            return out
        inside = reasons == ""
        if extrapolate:
            # A dtype without rows has no column to stand on; sizes and parameters can be extrapolated.
            inside = np.isin(effective_dtype(group), family.domains[name].dtypes)
        if not inside.any():
            return out
        chosen = group if inside.all() else take(group, inside)
        names, x = features.build(chosen, self.machine)
        if tuple(names) != family.feature_names:
            missing = sorted(set(family.feature_names) - set(names))
            if missing:
                raise SchemaVersionError(
                    f"the fitted model of {self.hardware} was made with other features of family '{family.family}'",
                    received=", ".join(missing),
                    allowed="those of this package",
                    next_step="fit it again with `graphs train`",
                )
            # columns that were added since it was fitted are left out; one that changes meaning changes the version
            x = x[:, [names.index(name) for name in family.feature_names]]
        ratio, spread = family.log_ratio(x)
        scale = family.t0_s + self.machine.attainable_s(chosen.flops, chosen.bytes, effective_dtype(chosen))
        half = family.interval.half_width(spread)
        # Outside the domain there is nothing the interval was calibrated on.
        half = np.where(reasons[inside] == "", half, np.nan)
        out.latency_s[inside] = scale * np.exp(ratio)
        out.low_s[inside] = scale * np.exp(ratio - half)
        out.high_s[inside] = scale * np.exp(ratio + half)
        out.source[inside] = "model"
        return Answer(out.latency_s, out.low_s, out.high_s, out.source, out.reason, family.t0_s)


def take(group: OperatorGroup, keep: NDArray[np.bool_]) -> OperatorGroup:
    """Return the calls of a group where `keep` holds."""
    return OperatorGroup(
        group.kind, group.rows[keep], group.dtype[keep], group.itemsize[keep],
        {name: column[keep] for name, column in group.params.items()}, group.flops[keep], group.bytes[keep],
    )  # fmt: skip
