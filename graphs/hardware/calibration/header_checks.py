"""What the header of a fitted model must say to be usable: the arrays have a digest, the header's numbers have this."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from graphs.hardware.calibration.fitted import EfficiencyModel, FamilyModel
from graphs.hardware.calibration.regressors import (
    Augmented,
    GaussianProcess,
    GaussianProcesses,
    Regressor,
    Student,
    TreeEnsemble,
)


def parse_header(text: str) -> Any:
    """Return JSON as plain data.

    Raises
    ------
    ValueError
        Also for NaN and infinities, which JSON has not, and for nesting without end.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def check(model: EfficiencyModel) -> None:
    """Raise `ValueError` for numbers that would give wrong answers in silence, such as a negative fixed cost."""
    m = model.machine
    _require(m.units >= 1, "machine.units", m.units, "at least 1")
    _positive("machine.bandwidth_bytes_per_s", m.bandwidth_bytes_per_s)
    _require(0 <= m.l2_bytes < math.inf, "machine.l2_bytes", m.l2_bytes, "0 or more bytes")
    _require(bool(m.peaks), "machine.peaks", dict(m.peaks), "at least one peak")
    for dtype, peak in m.peaks.items():
        _positive(f"machine.peaks.{dtype}", peak)
    for family in model.families.values():
        _check_family(family)


def _check_family(f: FamilyModel) -> None:
    where = f"families.{f.family}"
    _require(0 <= f.t0_s < math.inf, f"{where}.t0_s", f.t0_s, "0 or more seconds")
    outputs = sum(m.n_outputs for m in f.members)
    _require(
        0 < outputs == len(f.weights), f"{where}.members", len(f.weights), f"a weight for each of {outputs} outputs"
    )
    for member in f.members:
        _require(_fits(member, len(f.feature_names)), f"{where}.features", len(f.feature_names),
                 f"as many as the arrays of '{member.form}' look at")  # fmt: skip
    _require(all(map(math.isfinite, f.weights.tolist())), f"{where}.members", f.weights.tolist(), "finite weights")
    i = f.interval
    usable = 0 <= i.quantile < math.inf and 0 <= i.floor < math.inf and 0 < i.level < 1
    _require(usable, f"{where}.interval", i, "quantile and floor from 0 up, a level between 0 and 1")
    for op, domain in f.domains.items():
        ends = {*domain.low, *domain.high, *domain.margin}
        _require(ends == set(domain.low) == set(domain.high) == set(domain.margin), f"{where}.domains.{op}",
                 sorted(ends), "low, high and margin of the same quantities")  # fmt: skip
        for value in (*domain.low.values(), *domain.high.values(), *_margins(domain.margin)):
            usable = isinstance(value, (int, float)) and math.isfinite(value)
            _require(usable, f"{where}.domains.{op}", value, "finite numbers")


def _fits(member: Regressor, features: int) -> bool:
    """Return whether a member can be asked with so many features."""
    if isinstance(member, (GaussianProcess, GaussianProcesses)):
        return int(member.points.shape[1]) == features
    if isinstance(member, Student):
        return len(member.shift) == features
    if isinstance(member, TreeEnsemble):
        return int(member.feature.max(initial=-1)) < features
    if isinstance(member, Augmented):
        longer = features + sum(part.n_outputs for part in member.first)
        return all(_fits(p, features) for p in member.first) and all(_fits(p, longer) for p in member.then)
    return True


def _margins(margin: dict[str, tuple[float, float]]) -> Iterator[float]:
    for pair in margin.values():
        yield from pair


def _positive(name: str, value: float) -> None:
    _require(0 < value < math.inf, name, value, "a finite number above 0")


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}")
