"""Numbers with units, as text for people."""

from __future__ import annotations

import math


def seconds(value: float) -> str:
    """Return a duration with a unit that suits it.

    >>> seconds(2.7605e-3)
    '2.76 ms'
    """
    if not math.isfinite(value):
        return "?"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g} {unit}" if value < 999.5 else f"{value:.0f} s"
    return f"{value * 1e9:.3g} ns" if value else "0 s"


def si(value: float, unit: str = "") -> str:
    """Return a number with an SI prefix.

    >>> si(989e12, "FLOP/s")
    '989 TFLOP/s'
    """
    if not math.isfinite(value):
        return "?"
    for scale, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def percent(value: float, digits: int = 1) -> str:
    """Return a share as a percentage.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "-"
