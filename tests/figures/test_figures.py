"""Figures: positions are the data, text is escaped, nothing is taken from outside."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from graphs.figures import Interval, Row, Scale, Series, bar_chart, dots, error_bars, lines, plane
from graphs.figures.charts import MANY
from graphs.figures.scale import Axis, span

SVG = "{http://www.w3.org/2000/svg}"
#: Half of the last digit of a coordinate, px.
ROUNDING = 0.051


def parse(svg: str) -> tuple[ElementTree.Element, Scale, Scale | None]:
    root = ElementTree.fromstring(svg)
    plot = next(g for g in root.iter(f"{SVG}g") if g.get("class") == "plot")
    y = plot.get("data-y")
    return root, Scale.parse(plot.get("data-x", "")), Scale.parse(y) if y else None


def positions(root: ElementTree.Element, attribute: str, name: str) -> np.ndarray:
    path = next(p for p in root.iter(f"{SVG}path") if p.get(attribute) == name)
    return np.array(re.findall(r"M(-?[\d.]+) (-?[\d.]+)", path.get("d", "")), dtype=float)


@pytest.mark.parametrize("log", [False, True])
def test_scale_goes_there_and_back(log) -> None:
    s = Scale(0.5, 80.0, 300.0, 20.0, log)
    values = np.array([0.5, 1.0, 33.3, 80.0])
    np.testing.assert_allclose(s.inverse(s(values)), values)
    assert Scale.parse(s.describe()) == s
    assert s(values)[0] == 300.0
    assert s([1000.0])[0] == 20.0  # outside: on the edge, never beyond the frame


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (1e-6, 1e-1, True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (0.9, 25.0, True, [1.0, 2.0, 5.0, 10.0, 20.0]),
        (0.029, 0.049, True, [0.03, 0.035, 0.04, 0.045]),
        (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.5, 0.5, False, [-0.4, -0.2, 0.0, 0.2, 0.4]),
    ],
)
def test_ticks_are_round_and_inside(low, high, log, expected) -> None:
    np.testing.assert_allclose(Scale(low, high, 0.0, 1.0, log).ticks(), expected, atol=1e-12)


def test_points_and_intervals_of_a_plane_are_the_data() -> None:
    x, y = np.array([1e-6, 3e-5, 2e-3]), np.array([2e-6, 2e-5, 5e-3])
    axis = Axis(*span([1e-7, 1e-2]), "s", True)
    svg = plane("t", "d", axis, axis, [Series("a", x, y, "c1", y / 2, y * 3)], guides=[Series("g", x, x)])
    root, sx, sy = parse(svg)
    assert sy is not None
    at = positions(root, "data-series", "a")
    np.testing.assert_allclose(at[:, 0], sx(x), atol=ROUNDING)
    np.testing.assert_allclose(at[:, 1], sy(y), atol=ROUNDING)
    np.testing.assert_allclose(np.log(sy.inverse(at[:, 1])), np.log(y), atol=0.01)
    interval = next(p for p in root.iter(f"{SVG}path") if p.get("data-interval") == "a").get("d", "")
    bars = np.array(re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", interval), dtype=float)
    np.testing.assert_allclose(bars[:, 1], sy(y / 2), atol=ROUNDING)
    np.testing.assert_allclose(bars[:, 2], sy(y * 3), atol=ROUNDING)


def test_rows_without_an_interval_draw_none() -> None:
    x = np.array([1.0, 2.0])
    svg = plane("t", "d", Axis(0.5, 3, "x"), Axis(0.5, 3, "y"), [Series("a", x, x, low=x * np.nan, high=x * np.nan)])
    assert "nan" not in svg
    assert "data-interval" not in svg


def test_many_points_are_thinned_where_they_cover_each_other_and_nowhere_else() -> None:
    x = np.concatenate([np.full(MANY, 1.0), [2.0]])
    svg = plane("t", "d", Axis(0, 3, "x"), Axis(0, 3, "y"), [Series("a", x, x)])
    root, sx, _ = parse(svg)
    at = positions(root, "data-series", "a")
    np.testing.assert_allclose(at[:, 0], sx([1.0, 2.0]), atol=ROUNDING)
    path = next(p for p in root.iter(f"{SVG}path") if p.get("data-series") == "a")
    assert path.get("data-of") == str(MANY + 1)


def test_lines_and_their_marks_are_the_data() -> None:
    x, y = np.array([1.0, 4.0, 16.0]), np.array([10.0, 35.0, 90.0])
    root, sx, sy = parse(lines("t", "d", Axis(1, 16, "b", True), Axis(0, 100, "y"), [Series("a", x, y)], marks=True))
    assert sy is not None
    at = positions(root, "data-marks", "a")
    np.testing.assert_allclose(sx.inverse(at[:, 0]), x, rtol=0.01)
    np.testing.assert_allclose(sy.inverse(at[:, 1]), y, rtol=0.01)


def test_bars_end_at_their_value_and_start_at_the_origin() -> None:
    rows = [Row("a", [0.3], Interval(0.1, 0.4)), Row("b", [-0.2])]
    root, sx, _ = parse(error_bars("t", "d", Axis(-0.5, 0.5, "e"), rows))
    bars = {r.get("data-row"): r for r in root.iter(f"{SVG}rect") if r.get("data-row")}
    for row in rows:
        end = float(bars[row.name].get("data-end", "nan"))
        assert sx.inverse(end) == pytest.approx(row.values[0], abs=0.001)
        edges = sorted([float(sx(0.0)), float(sx(row.values[0]))])
        left, width = (float(bars[row.name].get(k, "nan")) for k in ("x", "width"))
        assert [left, left + width] == pytest.approx(edges, abs=2 * ROUNDING)


def test_dots_are_the_data_and_missing_values_are_left_out() -> None:
    rows = [Row("a", [0.1, 0.5]), Row("b", [None, 0.9])]
    root, sx, _ = parse(dots("t", "d", Axis(0, 1, "x"), rows, [("m", "c1"), ("n", "c2")]))
    found = {(c.get("data-row"), c.get("data-series")): float(c.get("cx", "nan"))
             for c in root.iter(f"{SVG}circle") if c.get("data-row")}  # fmt: skip
    assert set(found) == {("a", "m"), ("a", "n"), ("b", "n")}
    assert sx.inverse(found["b", "n"]) == pytest.approx(0.9, abs=0.001)


def test_text_is_escaped_and_described() -> None:
    svg = dots('<a> & "b"', "x < y", Axis(0, 1, "x"), [Row("<script>", [0.5])], [("m", "c1")], style=True)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert [root.find(f"{SVG}{t}").text for t in ("title", "desc")] == ['<a> & "b"', "x < y"]
    assert {root.find(f"{SVG}{t}").get("id") for t in ("title", "desc")} == set(root.get("aria-labelledby").split())
    assert "<script>" not in svg
    assert "prefers-color-scheme:dark" in svg
    assert [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "t"] == ['<a> & "b"']
    assert 'class="t"' not in dots("a", "b", Axis(0, 1, "x"), [Row("c", [0.5])], [("m", "c1")])


def test_bars_of_characters_are_proportional() -> None:
    chart = bar_chart(["a", "bb"], [10.0, 5.0], ["10", "5"], width=8).splitlines()
    assert chart == [" a  ████████  10", "bb  ████      5"]
    assert "█" not in bar_chart(["a"], [float("nan")], ["?"])
