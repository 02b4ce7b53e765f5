"""The kinds of figure: a plane of points, lines, rows of dots, rows of signed bars.

Every figure states its scales in ``data-x`` and ``data-y`` of its plot, so that positions can be read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphs.figures.scale import Axis, Scale
from graphs.figures.svg import Svg, fill, number, text_width

Array = NDArray[np.float64]
WIDTH = 420.0
#: What labels keep from the right edge: their width is estimated, and wide letters make them wider.
_EDGE = 4.0
_BOTTOM, _TOP, _RIGHT = 44.0, 12.0, 14.0
#: Points of one series above which those are left out that fall on a pixel cell that is taken already.
MANY = 4000
_ROW = 18.0


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y) of one colour class (``c1``-``c6``, ``e0``-``e5``), with an interval in y where there is one."""

    name: str
    x: Array
    y: Array
    colour: str = "c1"
    low: Array | None = None
    high: Array | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Interval:
    """A range beside a dot."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a row chart: its name, values in the order of the legend, an interval, and a note at the right."""

    name: str
    values: Sequence[float | None]
    interval: Interval | None = None
    note: str = ""


def plane(
    title: str, desc: str, x: Axis, y: Axis, series: Sequence[Series], *, guides: Sequence[Series] = (),
    height: float = 330.0, key: str = "plane", style: bool = False,
) -> str:  # fmt: skip
    """Return points over two axes, above guide lines."""
    svg, sx, sy = _frame(title, desc, x, y, height, key, [(s.name, s.colour) for s in series if s.name])
    with svg.group(class_="plot", data_x=sx.describe(), data_y=sy.describe()):
        for g in guides:
            svg.add("path", d=_polyline(sx, sy, g), class_="g d" if g.dashed else "g", data_series=g.name)
        for s in series:
            keep = visible(s, sx, sy)
            px, py = sx(s.x[keep]), sy(s.y[keep])
            if s.low is not None and s.high is not None:
                low, high = sy(s.low[keep]), sy(s.high[keep])
                d = "".join(
                    f"M{number(a)} {number(b)}V{number(c)}" for a, b, c in zip(px, low, high, strict=True)
                    if np.isfinite(b + c)
                )  # fmt: skip
                if d:
                    svg.add("path", d=d, class_=f"i {s.colour}", data_interval=s.name)
            d = "".join(f"M{number(a)} {number(b)}h0" for a, b in zip(px, py, strict=True))
            if d:
                svg.add("path", d=d, class_=f"p {s.colour}", data_series=s.name, data_of=len(s.x))
    return svg.render(style)


def visible(s: Series, sx: Scale, sy: Scale) -> NDArray[np.intp]:
    """Return the points to draw: all, or of many the first of each pixel cell (of 1.5 px)."""
    if len(s.x) <= MANY:
        return np.arange(len(s.x))
    cells = np.stack([sx(s.x) // 1.5, sy(s.y) // 1.5])
    return np.sort(np.unique(cells, axis=1, return_index=True)[1])


def lines(
    title: str, desc: str, x: Axis, y: Axis, series: Sequence[Series], *, marks: bool = False,
    guides: Sequence[Series] = (), height: float = 300.0, key: str = "lines", style: bool = False,
) -> str:  # fmt: skip
    """Return lines over two axes; `marks` puts a dot, and the interval, at each point."""
    svg, sx, sy = _frame(title, desc, x, y, height, key, [(s.name, s.colour) for s in series if s.name])
    with svg.group(class_="plot", data_x=sx.describe(), data_y=sy.describe()):
        for g in guides:
            svg.add("path", d=_polyline(sx, sy, g), class_="g d" if g.dashed else "g", data_series=g.name)
        for s in series:
            dashed = " d" if s.dashed else ""
            svg.add("path", d=_polyline(sx, sy, s), class_=f"l {s.colour}{dashed}", data_series=s.name)
            if not marks:
                continue
            if s.low is not None and s.high is not None:
                d = "".join(
                    f"M{number(a)} {number(b)}V{number(c)}"
                    for a, b, c in zip(sx(s.x), sy(s.low), sy(s.high), strict=True) if np.isfinite(b + c)
                )  # fmt: skip
                svg.add("path", d=d, class_=f"w {s.colour}", data_interval=s.name)
            d = "".join(f"M{number(a)} {number(b)}h0" for a, b in zip(sx(s.x), sy(s.y), strict=True))
            svg.add("path", d=d, class_=f"p {s.colour}", style="stroke-width:6", data_marks=s.name)
    return svg.render(style)


def dots(
    title: str, desc: str, x: Axis, rows: Sequence[Row], legend: Sequence[tuple[str, str]], *,
    guides: Sequence[float] = (), key: str = "dots", style: bool = False,
) -> str:  # fmt: skip
    """Return one row a name with a dot a value; `legend` names the values and their colour classes."""
    svg, sx, top = _rows(title, desc, x, rows, legend, key)
    with svg.group(class_="plot", data_x=sx.describe()):
        _row_guides(svg, sx, guides, top, len(rows))
        for i, row in enumerate(rows):
            y = top + _ROW * (i + 0.5)
            if row.interval is not None:
                svg.line(float(sx(row.interval.low)), y, float(sx(row.interval.high)), y, "w")
            for value, (name, colour) in zip(row.values, legend, strict=True):
                if value is not None and np.isfinite(value):
                    svg.add("circle", cx=number(float(sx(value))), cy=number(y), r="4", class_=fill(colour),
                            data_row=row.name, data_series=name)  # fmt: skip
    return svg.render(style)


def error_bars(
    title: str, desc: str, x: Axis, rows: Sequence[Row], *, guides: Sequence[float] = (), colour: str = "c1",
    from_: float = 0.0, key: str = "bars", style: bool = False,
) -> str:  # fmt: skip
    """Return one bar a row from `from_` to its first value, with its interval as a whisker."""
    svg, sx, top = _rows(title, desc, x, rows, (), key)
    with svg.group(class_="plot", data_x=sx.describe()):
        _row_guides(svg, sx, guides, top, len(rows))
        origin = float(sx(from_))
        for i, row in enumerate(rows):
            y, value = top + _ROW * (i + 0.5), row.values[0]
            if value is not None and np.isfinite(value):
                at = float(sx(value))
                svg.add("rect", x=number(min(at, origin)), y=number(y - 5), width=number(abs(at - origin)), height="10",
                        class_=fill(colour), opacity="0.75", data_row=row.name, data_end=number(at))  # fmt: skip
            if row.interval is not None and np.isfinite(row.interval.low + row.interval.high):
                low, high = float(sx(row.interval.low)), float(sx(row.interval.high))
                svg.add("path", d=f"M{number(low)} {number(y)}H{number(high)}M{number(low)} {number(y - 3)}v6"
                        f"M{number(high)} {number(y - 3)}v6", class_="w", data_interval=row.name)  # fmt: skip
        svg.line(origin, top, origin, top + _ROW * len(rows), "a")
    return svg.render(style)


def _polyline(sx: Scale, sy: Scale, s: Series) -> str:
    return "M" + "L".join(f"{number(a)} {number(b)}" for a, b in zip(sx(s.x), sy(s.y), strict=True)) if len(s.x) else ""


def _legend(svg: Svg, entries: Sequence[tuple[str, str]], left: float) -> float:
    """Write the legend in as many lines as it takes; return the pixel below it."""
    x, y = left, _TOP + 4
    for i, (name, colour) in enumerate(entries):
        wide = 14 + text_width(name) + 12
        if i and x + wide > svg.width:
            x, y = left, y + 16
        svg.add("circle", cx=number(x + 4), cy=number(y - 4), r="4", class_=fill(colour))
        svg.text(x + 13, y, name)
        x += wide
    return y + 10 if entries else _TOP


def _frame(
    title: str, desc: str, x: Axis, y: Axis, height: float, key: str, entries: Sequence[tuple[str, str]],
) -> tuple[Svg, Scale, Scale]:  # fmt: skip
    labels = [y.write(t) for t in y.scale(1.0, 0.0).ticks()]
    left = 24 + max(text_width(t) for t in labels) + 6
    svg = Svg(WIDTH, height, title, desc, key)
    top = _legend(svg, entries, 8.0)
    svg.height = height + top - _TOP
    bottom = svg.height - _BOTTOM
    sx, sy = x.scale(left, WIDTH - _RIGHT), y.scale(bottom, top)
    last = -1e9
    for t in sx.ticks():
        at = float(sx(t))
        svg.line(at, top, at, bottom, "r")
        half = text_width(x.write(t)) / 2
        # A label that would touch its neighbour or the edge is left out; its grid line stays.
        if at - half > last + 6 and at + half <= WIDTH - _EDGE:
            svg.text(at, bottom + 16, x.write(t), "middle", "m")
            last = at + half
    for t, text in zip(sy.ticks(), labels, strict=True):
        at = float(sy(t))
        svg.line(left, at, WIDTH - _RIGHT, at, "r")
        svg.text(left - 6, at + 4, text, "end", "m")
    svg.add("path", d=f"M{number(left)} {number(top)}V{number(bottom)}H{number(WIDTH - _RIGHT)}", class_="a")
    svg.text((left + WIDTH - _RIGHT) / 2, svg.height - 6, x.label, "middle")
    svg.text(13, (top + bottom) / 2, y.label, "middle", turned=True)
    return svg, sx, sy


def _rows(
    title: str, desc: str, x: Axis, rows: Sequence[Row], legend: Sequence[tuple[str, str]], key: str
) -> tuple[Svg, Scale, float]:
    left = 10 + max((text_width(r.name) for r in rows), default=0.0) + 6
    right = WIDTH - 8 - max((text_width(r.note) for r in rows), default=0.0)
    svg = Svg(WIDTH, 0.0, title, desc, key)
    top = _legend(svg, legend, 8.0)
    bottom = top + _ROW * len(rows)
    svg.height = bottom + _BOTTOM
    sx = x.scale(left, max(right - 8, left + 60))
    last = -1e9
    for t in sx.ticks(4):
        at = float(sx(t))
        svg.line(at, top, at, bottom, "r")
        half = text_width(x.write(t)) / 2
        if at - half > last + 6 and at + half <= WIDTH - _EDGE:
            svg.text(at, bottom + 16, x.write(t), "middle", "m")
            last = at + half
    for i, row in enumerate(rows):
        y = top + _ROW * (i + 0.5) + 4
        svg.text(left - 8, y, row.name, "end")
        if row.note:
            svg.text(WIDTH - 6, y, row.note, "end", "m")
    half = text_width(x.label) / 2
    middle = min(max((sx.start + sx.end) / 2, half + 4), WIDTH - half - 4)
    svg.text(middle, svg.height - 6, x.label, "middle")
    return svg, sx, top


def _row_guides(svg: Svg, sx: Scale, guides: Sequence[float], top: float, count: int) -> None:
    for g in guides:
        at = float(sx(g))
        svg.line(at, top, at, top + _ROW * count, "g d")
