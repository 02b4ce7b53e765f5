"""The comparison of two summaries as text, Markdown and a page."""

from __future__ import annotations

from typing import Any

from graphs.cli.text import table as text_table
from graphs.figures.charts import Row, dots
from graphs.figures.scale import Axis, span
from graphs.figures.svg import STYLE
from graphs.figures.units import percent, seconds

_FIGURES = (("median_ape", "median"), ("mape", "mean"), ("within_10pct", "within 10 %"),
            ("interval_coverage", "interval holds"))  # fmt: skip
ROW_HEADER = ("row", "measured", "before", "after", "|log error| rose by")


def verdict(c: dict[str, Any]) -> str:
    """Return the outcome in a sentence."""
    gate, (a, b) = c["gate"], c["names"]
    if not gate["applied"]:
        text = f"{a} and {b} are shown side by side; the regression gate was not applied: {gate['reason']}."
        r = c["device_ratio"]
        if r:
            text += (
                f" Over {r['rows']} shared operators {b} takes {r['measured_median']:.2f} of the time of {a} as"
                f" measured and {r['predicted_median']:.2f} as predicted (medians)"
            )
            named = r["faster_device_named"]
            text += f"; where they differ by more than 5 %, the faster is named in {percent(named)}." if named else "."
        return text
    if gate["passed"]:
        return (
            f"Nothing that was good in {a} got worse in {b} by more than the noise ({percent(gate['noise'], 2)}), in"
            f" {len(gate['tested'])} groups over {c['shared']} shared rows and {c['shared_models']} model runs."
        )
    groups = ", ".join(r["group"] for r in gate["regressions"])
    return f"REGRESSION: {b} is worse than {a} by more than the noise ({percent(gate['noise'], 2)}) in {groups}."


def header() -> list[str]:
    """Return the columns of the table of figures."""
    a, b = "A", "B"
    return ["group", "rows A", "rows B", *(f"{n} {s}" for _, n in _FIGURES[:2] for s in (a, b, "change")),
            *(f"{n} {s}" for _, n in _FIGURES[2:] for s in (a, b))]  # fmt: skip


def rows(c: dict[str, Any]) -> list[list[str]]:
    """Return the table of figures as text."""
    out = []
    for g in c["groups"]:
        line = [g["group"], str(g["a"]["n"]), str(g["b"]["n"])]
        for key, _ in _FIGURES[:2]:
            x, y = g["a"][key], g["b"][key]
            line += [_p(x), _p(y), f"{100 * (y - x):+.1f}" if x is not None and y is not None else "-"]
        for key, _ in _FIGURES[2:]:
            line += [_p(g["a"][key], 0), _p(g["b"][key], 0)]
        out.append(line)
    return out


def _p(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else percent(value, digits)


def row_cells(r: dict[str, Any]) -> list[str]:
    """Return a row that got worse, as text."""
    return [r["key"], seconds(r["measured_s"]), seconds(r["before_s"]), seconds(r["after_s"]), f"{r['rise']:.3f}"]


def render(c: dict[str, Any]) -> str:
    """Return the comparison as text."""
    lines = [f"A: {c['names'][0]}", f"B: {c['names'][1]}", "", verdict(c), ""]
    lines.append(text_table(header(), rows(c), "l" + "r" * (len(header()) - 1)))
    for r in c["gate"].get("regressions", []):
        lines += ["", f"{r['group']}: mean |log error| rose by {r['mean_rise']:.4f} (at least {r['low']:.4f}) over"
                  f" {r['n']} rows; the rows behind it:",
                  text_table(ROW_HEADER, [row_cells(x) for x in r["rows"]], "lrrrr")]  # fmt: skip
    return "\n".join(lines) + "\n"


def page(c: dict[str, Any]) -> str:
    """Return the comparison as a self-contained page."""
    from training.validate.page import Figure, Table, environment

    def change(prefix: str, name: str) -> Figure | None:
        chosen = [g for g in c["groups"] if g["group"].startswith(prefix) and g["a"]["median_ape"] is not None
                  and g["b"]["median_ape"] is not None]  # fmt: skip
        if not chosen:
            return None
        data = [Row(g["group"].removeprefix(prefix), [g["a"]["median_ape"], g["b"]["median_ape"]]) for g in chosen]
        low, high = span([v for r in data for v in r.values if v])
        return Figure.of(dots(
            f"Median error by {name}", f"A: {c['names'][0]}; B: {c['names'][1]}.",
            Axis(low, high, "median error (log scale)", True, lambda v: f"{100 * v:.3g} %"), data,
            [("A", "c1"), ("B", "c2")], key=f"compare-{name}",
        ))  # fmt: skip

    figures = [change("op ", "operator"), change("family ", "family"), change("dtype ", "dtype"),
               change("split ", "split"), change("models ", "mode of whole models")]  # fmt: skip
    gate = c["gate"]
    return environment().get_template("compare.html.j2").render(
        title=f"{c['names'][0]} against {c['names'][1]}", verdict=verdict(c), figure_style=STYLE, c=c, gate=gate,
        figures=[f for f in figures if f is not None],
        groups=Table("Errors are |predicted / measured - 1|; changes in points", header(), rows(c)),
        regressions=[(r, Table(f"The rows behind it (largest first, at most {len(r['rows'])})", ROW_HEADER,
                               [row_cells(x) for x in r["rows"]], cards=True)) for r in gate.get("regressions", [])],
    )  # fmt: skip
