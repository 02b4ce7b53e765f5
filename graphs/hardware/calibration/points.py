"""Calibration by a few measured operator points and the saturating curve through them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import ProfileError
from graphs.hardware.calibration.domain import Domain
from graphs.ops.batch import OperatorGroup

#: Margins of a curve through points of one aspect ratio, in factors of two: sizes may grow, shapes may not change.
_MARGIN = {"flops": 3.0, "bytes": 3.0, "output elements": 3.0, "arithmetic intensity": 1.0, "k": 1.0, "min(m, n)": 1.0}


class CalibrationWarning(UserWarning):
    """A calibration value was not usable and is ignored."""


@dataclass(frozen=True, slots=True)
class OperationCalibration:
    """One measured operator.

    Attributes
    ----------
    operation_type : str
        Operator kind.
    params : dict
        Its parameters.
    dtype : str
    efficiency : float
        flops / (latency x the profile's peak).
    reason : str
        Why an efficiency above 1 is right, if it is.
    """

    operation_type: str
    params: dict[str, Any]
    dtype: str
    efficiency: float
    reason: str = ""

    @property
    def flops(self) -> int:
        """Exact FLOP of the operator."""
        return int(ops.evaluate(self.operation_type, self.params, ops.itemsize(self.dtype)).flops)


def usable_points(raw: Iterable[Mapping[str, Any]], origin: str) -> list[OperationCalibration]:
    """Return the points with a usable efficiency; warn of each other one, by name and value.

    An efficiency must be above 0, and at most 1 unless the point states a `reason`.
    """
    points = []
    for entry in raw:
        value: Any = entry.get("efficiency")
        reason = str(entry.get("reason", ""))
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value <= 0 or (value > 1 and not reason):
            warnings.warn(
                f"calibration '{origin}' gives {entry.get('op')} {entry.get('params')} the efficiency {value!r}; "
                "allowed: above 0, and above 1 only with a stated reason; the point is ignored and the default "
                "efficiency answers. Correct the profile, or measure the point again.",
                CalibrationWarning,
                stacklevel=3,
            )
            continue
        if missing := {"op", "params", "dtype"} - set(entry):
            raise ProfileError(
                f"a calibration point of '{origin}' lacks {', '.join(sorted(missing))}",
                received=dict(entry),
                allowed="op, params, dtype, efficiency",
                next_step="correct the profile",
            )
        kind = ops.get(str(entry["op"]))
        points.append(
            OperationCalibration(
                kind.name, kind.validate(entry["params"]), ops.canonical(entry["dtype"]), float(value), reason
            )
        )
    return points


@dataclass(frozen=True, slots=True)
class SaturatingCurve:
    """Efficiency of one operator kind by size: ``ceiling * s / (s + half_size)``, s the cube root of half the FLOP.

    For a square matrix product s is its side; `half_size` is the side that reaches half of the ceiling.

    Attributes
    ----------
    points : tuple of OperationCalibration
        Answered exactly where a query equals one of them.
    domain : Domain
    """

    ceiling: float
    half_size: float
    points: tuple[OperationCalibration, ...]
    domain: Domain = field(repr=False)

    @classmethod
    def fit(cls, points: Iterable[OperationCalibration]) -> SaturatingCurve:
        """Fit by least squares of 1/efficiency on 1/s, in which the curve is a straight line.

        A single point, or points that do not rise, give a constant.
        """
        points = tuple(points)
        side = np.array([(p.flops / 2.0) ** (1.0 / 3.0) for p in points])
        inverse = 1.0 / np.array([p.efficiency for p in points])
        slope, intercept = 0.0, float(inverse.mean())
        if len(np.unique(side)) > 1:
            s, i = np.polyfit(1.0 / side, inverse, 1)
            if s > 0 and i > 0:
                slope, intercept = float(s), float(i)
        names = [p.operation_type for p in points]
        (group,) = ops.group_operators(names, [p.dtype for p in points], [p.params for p in points])
        return cls(1.0 / intercept, slope / intercept, points, Domain.of(group, _MARGIN))

    def efficiency(self, group: OperatorGroup) -> NDArray[np.float64]:
        """Return the compute efficiency of each call, (n,): a measured value at a measured point, else the curve.

        Where the points rise with size the curve is held between its measured neighbours, so that a slightly larger
        call is never less efficient than a measured one.
        """
        side = np.cbrt(group.flops / 2.0)
        out = self.ceiling * side / (side + self.half_size)
        by_size = sorted((p.flops, p.efficiency) for p in self.points)
        size, measured = (np.array(v, dtype=np.float64) for v in zip(*by_size, strict=True))
        if (np.diff(measured) >= 0).all():
            at_least = np.append(0.0, measured)[np.searchsorted(size, group.flops, side="right")]
            at_most = np.append(measured, np.inf)[np.searchsorted(size, group.flops, side="left")]
            out = np.clip(out, at_least, at_most)
        for point in self.points:
            same = group.dtype == point.dtype
            for name, value in point.params.items():
                if name in group.params:
                    same &= group.params[name] == value
            out[same] = point.efficiency
        return np.asarray(out)
