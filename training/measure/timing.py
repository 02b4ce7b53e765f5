"""What a timer hands to the runner; needs no framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from training.measure.plan import Entry
from training.measure.stopping import Samples


@dataclass(frozen=True, slots=True)
class Timing:
    """What one configuration took; seconds of one call.

    Attributes
    ----------
    cold : Samples
        The time that is modelled.
    sets : int
        Buffer sets that `cold` rotated over.
    warm_s, eager_s : float or None
        Median on one buffer set; on a GPU also launched call by call, without a graph.
    extra : dict
        Clocks and the like.
    """

    cold: Samples
    sets: int
    warm_s: float | None = None
    eager_s: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Timer(Protocol):
    """Times one entry of a plan, or raises `UnmeasurableError` with the reason."""

    def time(self, entry: Entry) -> Timing: ...
