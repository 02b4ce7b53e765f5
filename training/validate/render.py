"""The accuracy summary as a terminal table and as Markdown; both say the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphs.cli.text import percent, seconds, shorten, table
from training.validate.metrics import metrics
from training.validate.models import worst_models

HEADER = ["", "rows", "median", "mean", "p90", "within 10 %", "bias", "in interval", "half-width", "default"]
#: Of the rows of whole models, in the order of `metrics`.
_COLUMNS = ("measured_s", "predicted_s", "low_s", "high_s")


def render(summary: dict[str, Any], markdown: bool = False) -> str:
    """Return the summary as text."""

    def make(header: list[str], rows: list[list[str]]) -> str:
        return _markdown(header, rows) if markdown else table(header, rows, "l" + "r" * (len(header) - 1))

    def title(text: str) -> str:
        return f"\n## {text}\n" if markdown else f"\n{text}"

    lines = [("# " if markdown else "") + f"Accuracy on {summary['hardware']}", "", verdict(summary), ""]
    if summary.get("all", {}).get("n"):
        lines += [summary["what"], "Errors are |predicted / measured - 1|; bias is the geometric mean ratio - 1."]
        lines += [title("Against the baselines"), make(HEADER, versus(summary))]
        for key, name in (
            ("by_split", "By split"),
            ("by_family", "By family"),
            ("by_dtype", "By dtype"),
            ("by_size", "By roofline time"),
            ("by_intensity", "By arithmetic intensity (FLOP/byte)"),
            ("by_op", "By operator"),
        ):
            lines += [title(name), make(HEADER, [figure_row(k, v) for k, v in summary[key].items()])]
        lines += [title("Outside the applicability domain"), _fallback(summary)]
        lines += [title("Choosing between options"), _rank(summary)]
        lines += [title("Worst rows"), make(_WORST, [_worst(w) for w in summary["worst"][:10]])]
    models = summary.get("models") or {}
    if models.get("n"):
        lines += [title("Whole models"), make(HEADER, model_rows(models)), ""]
        header = ["worst models", "batch", "dtype", "mode", "measured", "predicted", "error"]
        worst = [
            [w["model"], str(w["batch"]), w["dtype"], w["mode"], seconds(w["measured_s"]), seconds(w["predicted_s"]),
             f"{100 * (w['predicted_s'] / w['measured_s'] - 1):+.0f} %"] for w in worst_models(models)
        ]  # fmt: skip
        lines.append(make(header, worst))
    if models.get("skipped"):
        lines.append(
            f"\n{len(models['skipped'])} model rows were not scored; first reason: {models['skipped'][0]['reason']}"
        )
    lines += [title("Provenance"), *(f"{'- ' if markdown else ''}{k}: {v}" for k, v in summary["provenance"].items())]
    return "\n".join(lines) + "\n"


def verdict(summary: dict[str, Any]) -> str:
    """Return the result in a sentence."""
    a, parts = summary.get("all", {}), []
    if a.get("n"):
        best = min((b["all"]["median_ape"], n) for n, b in summary["baselines"].items())
        noise = summary["noise"].get("median_ape")
        parts.append(
            f"over {a['n']} operator rows it had not seen, the model is off by {percent(a['median_ape'])} (median) and"
            f" {percent(a['mape'])} (mean), where the best baseline, {best[1]}, is off by {percent(best[0])} (median)"
            + (f" and a second measurement by {percent(noise)}" if noise is not None else "")
        )
    for mode, figures, how in model_headlines(summary.get("models") or {})[:1]:
        parts.append(
            f"over {figures['n']} whole-model runs ({mode} time{how}) it is off by {percent(figures['median_ape'])}"
            f" (median) and {percent(figures['mape'])} (mean)"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else "No rows were scored."


def model_headlines(models: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return (mode, figures, how they were come by) of whole models.

    Rows of models that nothing was fitted to speak for themselves.  Of the others, the figures are those of each model
    left out of the fit; in-sample figures are only shown, and said to be, where there are no others.
    """
    out: list[tuple[str, dict[str, Any], str]] = []
    for mode in ("device", "eager"):
        rows = [r for r in models.get("rows", []) if (r["mode"] == "eager") == (mode == "eager")]
        unseen = [r for r in rows if r.get("use", "unseen") == "unseen"]
        left_out = models.get("left_out", {}).get(mode, {})
        shown = models.get("by_mode", {}).get(mode, {})
        found: list[tuple[str, dict[str, Any], str]] = []
        if left_out.get("median_ape") is not None and left_out.get("mape") is not None and len(unseen) < len(rows):
            found.append((mode, left_out, ", each model left out of the fit in turn"))
        if unseen:
            apart = len(unseen) < len(rows)
            found.append((mode, _of_runs(unseen) if apart else shown, ", models it was not fitted to" if apart else ""))
        if not found and shown.get("n"):
            found.append((mode, shown, ", models it was fitted to among them" if rows else ""))
        out += sorted(found, key=lambda f: -f[1]["n"])
    return out


def _of_runs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return metrics(*(np.array([r[c] for r in rows], dtype=np.float64) for c in _COLUMNS))


def model_rows(models: dict[str, Any]) -> list[list[str]]:
    """Return the table of whole models as text."""
    rows = [figure_row(f"{k}, each model left out", _complete(v)) for k, v in models.get("left_out", {}).items()]
    if models.get("by_use", {}).get("in_sample", {}).get("n"):
        rows += [figure_row(k.replace("_", " "), v) for k, v in models["by_use"].items()]
    for group in ("mode", "area", "dtype"):
        rows += [figure_row(f"{group} {k}", v) for k, v in models.get(f"by_{group}", {}).items()]
    return rows + [figure_row(f"device, {k}", v) for k, v in models["baselines"].items()]


def _complete(figures: dict[str, Any]) -> dict[str, Any]:
    return {"n": 0, "source_share": {}, **figures}


def versus(summary: dict[str, Any]) -> list[list[str]]:
    """Return rows of the model, the baselines and the noise."""
    rows = [figure_row("model", summary["all"])]
    rows += [figure_row(n, b["all"]) for n, b in summary["baselines"].items()]
    noise = summary["noise"]
    if noise.get("n"):
        rows.append(
            [
                "noise (retest)",
                str(noise["n"]),
                *(percent(noise[k]) for k in ("median_ape", "mape", "p90_ape")),
                *["-"] * 5,
            ]
        )
    return rows


_SOURCES = {"model", "calibrated_roofline", "proxy", "default"}


def figure_row(name: str, m: dict[str, Any]) -> list[str]:
    """Return the figures of a group as text, in the order of `HEADER`."""

    def p(key: str, digits: int = 1) -> str:
        return "-" if m.get(key) is None else percent(m[key], digits)

    share = m.get("source_share", {})
    default = percent(share.get("default", 0.0)) if set(share) & _SOURCES else "-"
    return [
        name, str(m["n"]), p("median_ape"), p("mape"), p("p90_ape"), p("within_10pct", 0), p("bias"),
        p("interval_coverage", 0), p("interval_half_width", 0), default,
    ]  # fmt: skip


_WORST = ["operator", "params", "split", "measured", "predicted", "reason"]


def params_text(params: dict[str, Any]) -> str:
    """Return parameters as ``name=value``."""
    return " ".join(f"{k}={v}" for k, v in params.items())


def _worst(w: dict[str, Any]) -> list[str]:
    return [
        f"{w['op']} {w['dtype']}", shorten(params_text(w["params"]), 70), w["split"], seconds(w["measured_s"]),
        seconds(w["predicted_s"]), w["why"],
    ]  # fmt: skip


def domain_sentence(summary: dict[str, Any]) -> str:
    """Return how many rows were outside the domain, and what answering them by the default cost."""
    f = summary["fallback"]
    if not f["default"]["n"]:
        return "No row was outside."
    return (
        f"Outside, and answered by the 20 % default: {f['default']['n']} of {summary['all']['n']} rows"
        f" ({percent(f['share'], 2)}),"
        f" median / mean error {percent(f['default']['median_ape'])} / {percent(f['default']['mape'])}; extrapolating"
        f" would have given {percent(f['extrapolated']['median_ape'])} / {percent(f['extrapolated']['mape'])}."
    )


def _fallback(summary: dict[str, Any]) -> str:
    reasons = summary["fallback"]["reasons"].items()
    return domain_sentence(summary) + "".join(f"\n- {n} x {r}" for r, n in reasons)


def _rank(summary: dict[str, Any]) -> str:
    rank = summary["rank"]
    if rank["spearman"] is None or rank["pairs_in_order"] is None:
        return "Too few rows to order."
    within = rank["within_op_median"]
    return (
        f"Spearman's rank correlation is {rank['spearman']:.3f} over all rows"
        + (f" and {within:.3f} within an operator (median)" if within is not None else "")
        + f"; of {rank['pairs']} pairs of one operator more than 5 % apart, {percent(rank['pairs_in_order'])} are in"
        " the right order."
    )


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"

    return "\n".join([line(header), line(["---"] + ["---:"] * (len(header) - 1)), *map(line, rows)])
