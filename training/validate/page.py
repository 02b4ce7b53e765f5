"""The accuracy summary as one self-contained HTML page: tables, inline SVG, no script and nothing from a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from graphs.figures.svg import STYLE
from graphs.figures.units import percent, seconds
from training.validate.figures import draw
from training.validate.models import worst_models
from training.validate.render import (
    HEADER,
    domain_sentence,
    figure_row,
    model_headlines,
    model_rows,
    params_text,
    verdict,
    versus,
)

#: What a figure says of itself.
_TITLE = re.compile(r"<title[^>]*>(.*?)</title><desc[^>]*>(.*?)</desc>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG and what it says of itself, for the caption."""

    text: str
    title: str
    desc: str

    @classmethod
    def of(cls, svg: str) -> Figure:
        """Take title and description from the SVG."""
        found = _TITLE.search(svg)
        assert found is not None
        return cls(svg, unescape(found[1]), unescape(found[2]))


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page; `left` holds the columns of text; `cards` stacks its rows on a phone."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    cards: bool = False


def environment() -> Environment:
    """Return the templates; a name that a template misspells is an error."""
    return Environment(
        loader=PackageLoader("training.validate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def page(summary: dict[str, Any]) -> str:
    """Return the page of one summary."""
    drawn = {k: Figure.of(svg) for k, svg in draw(summary).items()}
    models = summary.get("models") or {}
    names = ("scatter", "cdf", "roofline", "error_op", "error_dtype", "error_size", "error_intensity", "bias",
             "reliability", "coverage", "rank", "learning")  # fmt: skip
    has_rows = bool(summary.get("points"))
    sections = [("overall", "Overall"), ("where", "Where"), ("interval", "Interval and order"), ("domain", "Domain"),
                ("worst", "Worst rows")] if has_rows else []  # fmt: skip
    sections += [("models", "Whole models")] if models.get("n") else []
    return environment().get_template("report.html.j2").render(
        title=f"How accurate are the estimates for {summary['machine']['name']}?", verdict=verdict(summary),
        hardware=summary["hardware"], what=summary["what"], figure_style=STYLE, tiles=_tiles(summary),
        sections=[*sections, ("learning", "More data"), ("provenance", "Provenance")],
        f={n: drawn.get(n) for n in names}, models=[f for k, f in drawn.items() if k.startswith("models_")],
        t={**(_row_tables(summary) if has_rows else {}), **(_model_tables(models) if models.get("n") else {})},
        domain=domain_sentence(summary) if has_rows else "", skipped=_skipped(models),
        provenance=list(flatten(summary["provenance"])),
    )  # fmt: skip


def flatten(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested provenance as (name, text)."""
    out: list[tuple[str, str]] = []
    for key, v in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(v, dict):
            out += flatten(v, f"{prefix}{key} ")
        elif v is not None:
            out.append((name, str(v)))
    return out


def _tiles(summary: dict[str, Any]) -> list[tuple[str, str]]:
    a, out = summary["all"], []
    if a["n"]:
        out = [
            (percent(a["median_ape"]), f"median error, {a['n']} held-out operators"),
            (percent(a["mape"]), "mean error"), (percent(a["within_10pct"], 0), "of rows within 10 %"),
        ]  # fmt: skip
        if a["interval_coverage"] is not None:
            out.append((percent(a["interval_coverage"], 0), "of 90 % intervals hold"))
        if summary["noise"].get("n"):
            out.append((percent(summary["noise"]["median_ape"]), f"noise floor, {summary['noise']['n']} retests"))
    for mode, m, how in model_headlines(summary.get("models") or {}):
        out.append((percent(m["median_ape"]), f"median error, whole models, {mode} time, {m['n']} runs{how}"))
    return out


def _row_tables(summary: dict[str, Any]) -> dict[str, Table]:
    def grouped(key: str, name: str) -> Table:
        return Table(f"By {name}", [name, *HEADER[1:]], [figure_row(k, v) for k, v in summary[key].items()])

    f = summary["fallback"]
    domain = [figure_row("in the domain: the model", summary["in_domain"])]
    if f["default"]["n"]:
        domain += [figure_row("outside: 20 % default", f["default"]), figure_row("the same, extrapolated",
                                                                                f["extrapolated"])]  # fmt: skip
    domain += [figure_row("all rows, as answered", summary["all"]),
               figure_row("all rows, no domain test", f["all_without_domain"])]  # fmt: skip
    rank = [("model", summary["rank"]), *((n, b["rank"]) for n, b in summary["baselines"].items())]
    return {
        "versus": Table("Against the baselines and the noise of measuring twice", HEADER, versus(summary)),
        "split": grouped("by_split", "split"), "family": grouped("by_family", "family"),
        "domain": Table("What the domain test costs and saves", HEADER, domain),
        "reasons": Table("Why rows were outside", ["reason", "rows"], [[r, str(n)] for r, n in f["reasons"].items()]),
        "rank": Table("Rank correlation, and pairs of one operator more than 5 % apart in the right order",
                      ["", "Spearman", "median within op", "pairs"],
                      [[n, *(_figure(r[k]) for k in ("spearman", "within_op_median", "pairs_in_order"))]
                       for n, r in rank]),
        "worst": Table(
            "Largest |log(predicted / measured)|; the reason is computed from the measurement and the training rows"
            " around it", ["operator", "parameters", "split", "measured", "predicted", "90 % interval", "reason"],
            [[f"{w['op']} {w['dtype']}", params_text(w["params"]), w["split"], seconds(w["measured_s"]),
              seconds(w["predicted_s"]), _interval(w["interval_s"]), w["why"]] for w in summary["worst"]],
            left=(0, 1, 2, 6), cards=True),
    }  # fmt: skip


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return "none" if low is None or high is None else f"{seconds(low)} to {seconds(high)}"


def _model_tables(models: dict[str, Any]) -> dict[str, Table]:
    worst = [
        [w["model"], str(w["batch"]), w["dtype"], w["mode"], seconds(w["measured_s"]), seconds(w["predicted_s"]),
         f"{100 * (w['predicted_s'] / w['measured_s'] - 1):+.0f} %", _interval([w["low_s"], w["high_s"]]),
         _made_of(w)]
        for w in worst_models(models, 15)
    ]  # fmt: skip
    return {
        "models": Table(
            "Sum of operators (device) and with the host (eager) against the measured pass", HEADER, model_rows(models)
        ),
        "worst_models": Table("Worst models", ["model", "batch", "dtype", "mode", "measured", "predicted", "error",
                                               "90 % interval", "what its time is made of"], worst, left=(0, 2, 3, 8),
                              cards=True),
    }  # fmt: skip


def _made_of(w: dict[str, Any]) -> str:
    """Return what the time of a model is made of: its largest operators, or the shares by source."""
    if w.get("why"):
        return str(w["why"])
    shares = sorted(w["time_share"].items(), key=lambda x: -x[1])
    unmodelled = f", {w['unmodelled']} calls unmodelled" if w["unmodelled"] else ""
    return ", ".join(f"{s} {percent(t, 0)}" for s, t in shares if t > 0.005) + unmodelled


def _skipped(models: dict[str, Any]) -> str:
    some = models.get("skipped") or []
    return f"{len(some)} model rows were not scored; first reason: {some[0]['reason']}" if some else ""
