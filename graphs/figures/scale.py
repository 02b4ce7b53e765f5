"""From data to pixels and back, with ticks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes
    ----------
    low, high : float
        Data at both ends.
    start, end : float
        Pixels at both ends.
    log : bool

    Examples
    --------
    >>> s = Scale(1.0, 100.0, 0.0, 200.0, log=True)
    >>> float(s(10.0)), float(s.inverse(100.0))
    (100.0, 10.0)
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return pixels; what lies outside is put on the edge."""
        v = np.asarray(values, dtype=np.float64)
        low, high = self.low, self.high
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                v, low, high = np.log(v), math.log(low), math.log(high)
        return self.start + np.clip((v - low) / (high - low), 0.0, 1.0) * (self.end - self.start)

    def inverse(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Return the data at pixels."""
        share = (np.asarray(pixels, dtype=np.float64) - self.start) / (self.end - self.start)
        if self.log:
            return np.asarray(self.low * (self.high / self.low) ** share)
        return np.asarray(self.low + share * (self.high - self.low))

    def ticks(self, about: int = 6) -> list[float]:
        """Return round values inside; decades (every second or third where there are many) on a log axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((last - first) / about))
            decades = [10.0**e for e in range(first, last + 1, step)]
            if len(decades) >= 3:
                return decades
            steps = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
            steps = [t for t in steps if self.low * (1 - 1e-9) <= t <= self.high * (1 + 1e-9)]
            # Over less than a factor of five, even steps are rounder than any of a log axis.
            return steps if len(steps) >= 3 else Scale(self.low, self.high, 0.0, 1.0).ticks(4)
        raw = (self.high - self.low) / max(about, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step_ = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
        first_ = math.ceil(self.low / step_ - 1e-9)
        return [i * step_ for i in range(first_, math.floor(self.high / step_ + 1e-9) + 1)]

    def describe(self) -> str:
        """Return the scale as text, so that a figure can be read back."""
        return f"{'log' if self.log else 'lin'} {self.low!r} {self.high!r} {self.start!r} {self.end!r}"

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Return the scale that `describe` wrote."""
        kind, *values = text.split()
        low, high, start, end = map(float, values)
        return cls(low, high, start, end, kind == "log")


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows: its range, its name and how a tick is written."""

    low: float
    high: float
    label: str
    log: bool = False
    write: Callable[[float], str] = "{:g}".format

    def scale(self, start: float, end: float) -> Scale:
        """Return the axis laid over pixels."""
        return Scale(float(self.low), float(self.high), float(start), float(end), self.log)


def span(values: ArrayLike, log: bool = True, margin: float = 0.03) -> tuple[float, float]:
    """Return a range that holds all finite values, with a margin."""
    v = np.asarray(values, dtype=np.float64).ravel()
    v = v[np.isfinite(v) & ((v > 0) | (not log))]
    if not len(v):
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(v.min()), float(v.max())
    if log:
        ratio = max((high / low) ** margin, 1.05)
        return low / ratio, high * ratio
    room = margin * (high - low) or max(abs(high), 1.0) * margin
    return low - room, high + room
