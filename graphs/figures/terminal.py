"""Charts of characters, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(value: float, largest: float, width: int) -> str:
    """Return a bar to an eighth of a character.

    >>> bar(0.5, 1.0, 4)
    '██'
    """
    if not (largest > 0 and value > 0):
        return ""
    eighths = max(round(8 * width * min(value / largest, 1.0)), 1)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def bar_chart(names: Sequence[str], values: Sequence[float], notes: Sequence[str], width: int = 40) -> str:
    """Return one bar a line, the longest `width` characters wide, with a note behind it."""
    largest = max((v for v in values if v == v), default=0.0)
    wide = max((len(n) for n in names), default=0)
    return "\n".join(
        f"{n.rjust(wide)}  {bar(v, largest, width).ljust(width)}  {note}".rstrip()
        for n, v, note in zip(names, values, notes, strict=True)
    )
