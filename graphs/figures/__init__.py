"""Figures as SVG text and as terminal text, from plain numbers: no plotting library, no scripts, no network."""

from graphs.figures.charts import Interval, Row, Series, dots, error_bars, lines, plane
from graphs.figures.scale import Scale
from graphs.figures.svg import STYLE
from graphs.figures.terminal import bar_chart

__all__ = ["STYLE", "Interval", "Row", "Scale", "Series", "bar_chart", "dots", "error_bars", "lines", "plane"]
