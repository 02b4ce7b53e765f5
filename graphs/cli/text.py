"""Numbers and tables as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from graphs.figures.units import percent, seconds, si

__all__ = ["percent", "seconds", "shorten", "si", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> str:
    """Return a plain-text table; `right` has an ``r`` at the place of each right-aligned column."""
    cells = [list(map(str, header)), *[list(map(str, r)) for r in rows]]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    lines = []
    for j, r in enumerate(cells):
        parts = [
            c.rjust(w) if right[i : i + 1] == "r" else c.ljust(w)
            for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
        if j == 0:
            lines.append("  ".join("-" * w for w in widths))
    return "\n".join(lines)


def shorten(text: str, width: int) -> str:
    """Return text of at most `width` characters."""
    return text if len(text) <= width else text[: width - 3] + "..."
