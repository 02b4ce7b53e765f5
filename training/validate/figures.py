"""The figures of the accuracy page, drawn from the summary alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.figures.charts import Interval, Row, Series, dots, error_bars, lines, plane
from graphs.figures.scale import Axis, span
from graphs.figures.units import percent, seconds, si

Array = NDArray[np.float64]
#: Upper edges of the efficiency classes that colour the roofline plot.
EFFICIENCIES = (0.05, 0.1, 0.25, 0.5, 0.75)
_FIGURES = (("median", "c1", "median_ape"), ("mean", "c2", "mape"), ("P90", "c3", "p90_ape"))
_BASELINES = {"default_20pct": "c6", "roofline": "c5", "lookup": "c2", "lookup_latency": "c4", "log_linear": "c3"}


def draw(summary: dict[str, Any]) -> dict[str, str]:
    """Return the figures of a summary by name; those without data are left out."""
    out: dict[str, str] = {}
    if summary.get("points"):
        p = _arrays(summary["points"])
        out["scatter"] = _scatter(p)
        out["cdf"] = _cdf(p)
        out["roofline"] = _roofline(p, summary["machine"])
        for group, name in (("op", "operator"), ("dtype", "dtype"), ("size", "roofline time"),
                            ("intensity", "arithmetic intensity, FLOP/byte")):  # fmt: skip
            out[f"error_{group}"] = _errors(summary, f"by_{group}", name)
        out["bias"] = _bias(summary)
        if summary["reliability"]["levels"]:
            out["reliability"] = _levels(summary["reliability"]["levels"])
            out["coverage"] = _coverage(summary["reliability"]["by_op"])
        out["rank"] = _rank(summary["rank"]["within_op"])
    if len(summary.get("learning_curve") or []) > 1:
        out["learning"] = learning(summary["learning_curve"])
    out |= {f"models_{i}": svg for i, svg in enumerate(_models((summary.get("models") or {}).get("rows", [])))}
    return out


def error_distribution(summary: dict[str, Any], title: str) -> str:
    """Return the share of rows with at most a given error as a figure that stands alone (an SVG file)."""
    return _cdf(_arrays(summary["points"]), title, style=True)


def _arrays(points: dict[str, Any]) -> dict[str, Any]:
    return {k: _numbers(v) if k.endswith("_s") or k in ("flops", "bytes") else np.array(v) for k, v in points.items()}


def _numbers(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _scatter(p: dict[str, Any]) -> str:
    low, high = span(np.concatenate([p["measured_s"], p["predicted_s"]]))
    axis = [Axis(low, high, f"{n} latency", True, seconds) for n in ("measured", "predicted")]
    ends = np.array([low, high])
    series = []
    for name, keep, colour in (
        ("model", p["source"] != "default", "c1"), ("20 % default, out of domain", p["source"] == "default", "c2"),
    ):  # fmt: skip
        if keep.any():
            series.append(Series(name, p["measured_s"][keep], p["predicted_s"][keep], colour,
                                 p["low_s"][keep], p["high_s"][keep]))  # fmt: skip
    return plane(
        "Predicted against measured latency",
        f"{len(p['measured_s'])} rows; vertical lines are 90 % intervals, the diagonal is a perfect prediction.",
        axis[0], axis[1], series, guides=[Series("equal", ends, ends)], key="scatter",
    )  # fmt: skip


def _cdf(p: dict[str, Any], title: str = "Share of rows with at most a given error", style: bool = False) -> str:
    floor, shares = 1e-3, np.linspace(0.0, 1.0, 201)[1:-1]
    series = []

    def add(name: str, predicted: Array, measured: Array, colour: str, dashed: bool = False) -> None:
        ape = np.abs(predicted / measured - 1.0)
        ape = ape[np.isfinite(ape)]
        if len(ape):
            series.append(Series(name, np.clip(np.quantile(ape, shares), floor, 10.0), shares, colour, dashed=dashed))

    add("model", p["predicted_s"], p["measured_s"], "c1")
    add("retest (noise)", p["retest_s"], p["measured_s"], "ck", True)
    for column in p:
        if column.startswith("baseline_"):
            name = column.removeprefix("baseline_").removesuffix("_s")
            add(name, p[column], p["measured_s"], _BASELINES.get(name, "c6"))
    return lines(
        title,
        "The further left, the better. " + "; ".join(
            f"{s.name}: half of the rows within {_share(float(np.interp(0.5, s.y, s.x)))}" for s in series),
        Axis(floor, 10.0, "error, |predicted / measured - 1|", True, _share), Axis(0.0, 1.0, "share of rows", False,
        lambda v: percent(v, 0)), series, key="cdf", height=320.0, style=style,
    )  # fmt: skip


def _roofline(p: dict[str, Any], machine: dict[str, Any]) -> str:
    keep = (p["flops"] > 0) & (p["bytes"] > 0)
    x = p["flops"][keep] / p["bytes"][keep]
    y = p["flops"][keep] / p["measured_s"][keep]
    efficiency = (p["attainable_s"] / p["measured_s"])[keep]
    classes = np.digitize(efficiency, EFFICIENCIES)
    edges = ["0", *(f"{e:g}" for e in EFFICIENCIES)]
    names = [f"{a}-{b}" for a, b in itertools.pairwise(edges)] + [f"above {edges[-1]}"]
    series = [Series(names[c], x[classes == c], y[classes == c], f"e{c}") for c in range(6) if (classes == c).any()]
    present = set(p["dtype"])
    peaks = {d: v for d, v in machine["peak_flops_per_s"].items() if d in present} or machine["peak_flops_per_s"]
    bandwidth = machine["bandwidth_bytes_per_s"]
    low, high = span(np.append(x, [0.1, 2 * max(peaks.values()) / bandwidth]))
    guides = [Series(f"bandwidth and {d}", np.array([low, v / bandwidth, high]),
                     np.array([low * bandwidth, v, v])) for d, v in peaks.items()]  # fmt: skip
    bottom, top = span(np.append(y, list(peaks.values())))
    return plane(
        "Roofline with measured rows coloured by efficiency",
        f"{int(keep.sum())} measured rows with FLOP. Ceilings: {si(bandwidth, 'B/s')}, "
        + ", ".join(f"{d} {si(v, 'FLOP/s')}" for d, v in peaks.items())
        + ". Colour: attainable time / measured time.",
        Axis(low, high, "arithmetic intensity, FLOP/byte", True, "{:g}".format),
        Axis(bottom, top, "achieved FLOP/s", True, lambda v: si(v)), series, guides=guides, key="roofline",
    )  # fmt: skip


def _errors(summary: dict[str, Any], group: str, name: str) -> str:
    groups = summary[group]
    rows = [Row(k, [m[key] for _, _, key in _FIGURES], note=str(m["n"])) for k, m in groups.items()]
    values = [v for r in rows for v in r.values if v]
    low, high = span(np.array(values))
    noise = summary["noise"].get("median_ape")
    low = min(low, 0.5 * noise) if noise else low
    return dots(
        f"Error by {name}", "Median, mean and 90 % quantile of |predicted / measured - 1|; rows at the right."
        + (f" The dashed line is the noise floor, {_share(noise)}." if noise else ""),
        Axis(max(low, 1e-4), high, "error (log scale); right: rows", True, _share), rows,
        [(n, c) for n, c, _ in _FIGURES], guides=[noise] if noise else [], key=group.replace("_", "-"),
    )  # fmt: skip


def _bias(summary: dict[str, Any]) -> str:
    rows = [Row(k, [m["bias"]], note=f"{100 * m['bias']:+.1f} %") for k, m in summary["by_op"].items()]
    return _signed("Signed bias by operator", "Geometric mean of predicted / measured, minus 1: positive is too slow.",
                   rows, "bias", "bias")  # fmt: skip


def _signed(title: str, desc: str, rows: list[Row], label: str, key: str) -> str:
    ends = [abs(v) for r in rows for v in (*r.values, *((r.interval.low, r.interval.high) if r.interval else ()))
            if v is not None and np.isfinite(v)]  # fmt: skip
    # One wild row must not flatten the others: what lies further out ends at the edge, its note has the number.
    reach = min(max([*ends, 0.05]) * 1.05, 1.0)
    return error_bars(title, desc, Axis(-reach, reach, label, False, lambda v: f"{100 * v:+.0f} %" if v else "0"), rows,
                      key=key)  # fmt: skip


def _levels(levels: list[dict[str, Any]]) -> str:
    x = np.array([v["nominal"] for v in levels])
    y = np.array([v["observed"] for v in levels])
    low = min(0.45, float(y.min()) - 0.03)

    def whole(v: float) -> str:
        return percent(v, 0)

    return lines(
        "Reliability of the interval",
        "Observed against nominal coverage: on the diagonal it holds as often as it says. 90 % is what"
        " the model states; other levels are that interval scaled as for a normal distribution.",
        Axis(low, 1.0, "nominal coverage", False, whole), Axis(low, 1.0, "observed coverage", False, whole),
        [Series("observed", x, y)], marks=True, guides=[Series("nominal", np.array([low, 1.0]), np.array([low, 1.0]),
        dashed=True)], key="reliability",
    )  # fmt: skip


def _coverage(by_op: dict[str, Any]) -> str:
    rows = [Row(k, [v["observed"]], Interval(v["low"], v["high"]), str(v["n"])) for k, v in by_op.items()]
    low = min([v["low"] for v in by_op.values()] + [0.8])
    return dots(
        "Coverage of the 90 % interval by operator", "Share of held-out rows inside their interval; whiskers are 95 %"
        " intervals of that share for the number of rows, at the right. Dashed: 90 %.",
        Axis(low, 1.0, "coverage; right: rows", False, lambda v: percent(v, 0)), rows, [("observed", "c1")],
        guides=[0.9], key="coverage",
    )  # fmt: skip


def _rank(within: dict[str, Any]) -> str:
    rows = [Row(k, [v["spearman"], v["pairs_in_order"]], note=str(v["n"])) for k, v in within.items()]
    values = [v for r in rows for v in r.values if v is not None]
    return dots(
        "Are options put in the right order?", "Spearman's rank correlation within each operator, and the share of"
        " pairs (more than 5 % apart) in the right order; rows at the right.",
        Axis(min([*values, 0.9]) - 0.01, 1.0, "1 is perfect; right: rows", False, "{:.2f}".format), rows,
        [("Spearman", "c1"), ("pairs in order", "c2")], key="rank",
    )  # fmt: skip


def learning(curve: list[dict[str, Any]]) -> str:
    """Return the error against the share of training rows."""
    x = np.array([c["share"] for c in curve])
    series = [
        Series(name, x, np.array([c[key] for c in curve]), colour) for name, colour, key in _FIGURES[:2]
    ]  # fmt: skip
    low, high = span(np.concatenate([s.y for s in series]), margin=0.1)
    return lines(
        "Learning curve", "; ".join(f"{_share(c['share'])} of the rows: {_share(c['median_ape'])} median,"
        f" {_share(c['mape'])} mean" for c in curve),
        Axis(float(x.min()) / 1.1, 1.1, "share of the training rows", True, _share),
        Axis(low, high, "cross-validated error", True, _share), series, marks=True, key="learning",
    )  # fmt: skip


def _models(rows: list[dict[str, Any]]) -> list[str]:
    out = []
    for i, (mode, dtype) in enumerate(sorted({(r["mode"], r["dtype"]) for r in rows})):
        bars = []
        for r in sorted(
            (r for r in rows if (r["mode"], r["dtype"]) == (mode, dtype)), key=itemgetter("model", "batch")
        ):
            m, low, high = r["measured_s"], r["low_s"], r["high_s"]
            known = low is not None and high is not None and np.isfinite(low + high)
            bars.append(Row(f"{_shorten(r['model'])} b{r['batch']}", [r["predicted_s"] / m - 1.0],
                            Interval(low / m - 1.0, high / m - 1.0) if known else None,
                            f"{seconds(m)} → {seconds(r['predicted_s'])}"))  # fmt: skip
        out.append(_signed(
            f"Whole models, {mode}, {dtype}", "Bar: predicted / measured - 1; whisker: the 90 % interval around the"
            " prediction, against the measurement; right: measured → predicted.", bars,
            "predicted / measured - 1", f"models-{i}",
        ))  # fmt: skip
    return out


def _shorten(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"
