"""The accuracy summary as a terminal table and as Markdown; both say the same."""

from __future__ import annotations

from typing import Any

from graphs.cli.text import percent, seconds, shorten, table
from training.validate.models import worst_models

_HEADER = ["", "rows", "median", "mean", "p90", "within 10 %", "bias", "90 % interval holds", "half-width", "default"]


def render(summary: dict[str, Any], markdown: bool = False) -> str:
    """Return the summary as text."""

    def make(header: list[str], rows: list[list[str]]) -> str:
        return _markdown(header, rows) if markdown else table(header, rows, "l" + "r" * (len(header) - 1))

    def title(text: str) -> str:
        return f"\n## {text}\n" if markdown else f"\n{text}"

    lines = [("# " if markdown else "") + f"Accuracy on {summary['hardware']}", "", verdict(summary), ""]
    if summary.get("all", {}).get("n"):
        lines += [summary["what"], "Errors are |predicted / measured - 1|; bias is the geometric mean ratio - 1."]
        lines += [title("Against the baselines"), make(_HEADER, _versus(summary))]
        for key, name in (
            ("by_split", "By split"),
            ("by_family", "By family"),
            ("by_dtype", "By dtype"),
            ("by_op", "By operator"),
        ):
            lines += [title(name), make(_HEADER, [_row(k, v) for k, v in summary[key].items()])]
        lines += [title("Outside the applicability domain"), _fallback(summary["fallback"])]
        lines += [title("Worst rows"), make(_WORST, [_worst(w) for w in summary["worst"][:10]])]
    models = summary.get("models") or {}
    if models.get("n"):
        rows = [_row(f"mode {k}", v) for k, v in models["by_mode"].items()]
        rows += [_row(f"dtype {k}", v) for k, v in models["by_dtype"].items()]
        rows += [_row(f"device, {k}", v) for k, v in models["baselines"].items()]
        lines += [title("Whole models"), make(_HEADER, rows), ""]
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
    """Return the result in a sentence or two."""
    a, parts = summary.get("all", {}), []
    if a.get("n"):
        best = min((b["all"]["median_ape"], n) for n, b in summary["baselines"].items())
        noise = summary["noise"].get("median_ape")
        parts.append(
            f"Over {a['n']} operator rows the model is off by {percent(a['median_ape'])} (median) and"
            f" {percent(a['mape'])} (mean); the best baseline, {best[1]}, by {percent(best[0])} (median)"
            + (f", and repeating the measurement by {percent(noise)}." if noise is not None else ".")
        )
    m = summary.get("models") or {}
    if m.get("n"):
        device = m["by_mode"].get("device", {})
        shown, name = (device, "device time") if device.get("n") else (m, "eager time")
        parts.append(
            f"Over {shown['n']} whole-model rows ({name}) it is off by {percent(shown['median_ape'])} (median) and"
            f" {percent(shown['mape'])} (mean)."
        )
    return " ".join(parts) or "No rows were scored."


def _versus(summary: dict[str, Any]) -> list[list[str]]:
    rows = [_row("model", summary["all"])]
    rows += [_row(n, b["all"]) for n, b in summary["baselines"].items()]
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


def _row(name: str, m: dict[str, Any]) -> list[str]:
    def p(key: str, digits: int = 1) -> str:
        return "-" if m.get(key) is None else percent(m[key], digits)

    share = m.get("source_share", {}).get("default", 0.0)
    return [
        name, str(m["n"]), p("median_ape"), p("mape"), p("p90_ape"), p("within_10pct", 0), p("bias"),
        p("interval_coverage", 0), p("interval_half_width", 0), percent(share),
    ]  # fmt: skip


_WORST = ["operator", "params", "split", "measured", "predicted", "source"]


def _worst(w: dict[str, Any]) -> list[str]:
    params = " ".join(f"{k}={v}" for k, v in w["params"].items())
    return [
        f"{w['op']} {w['dtype']}",
        shorten(params, 70),
        w["split"],
        seconds(w["measured_s"]),
        seconds(w["predicted_s"]),
        w["source"],
    ]


def _fallback(f: dict[str, Any]) -> str:
    if not f["default"]["n"]:
        return "No row was outside."
    reasons = "".join(f"\n- {n} x {r}" for r, n in f["reasons"].items())
    return (
        f"{f['default']['n']} rows ({percent(f['share'])}) were outside and answered by the 20 % default:"
        f" median / mean error {percent(f['default']['median_ape'])} / {percent(f['default']['mape'])}; extrapolating"
        f" would have given {percent(f['extrapolated']['median_ape'])} / {percent(f['extrapolated']['mape'])}.{reasons}"
    )


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"

    return "\n".join([line(header), line(["---"] + ["---:"] * (len(header) - 1)), *map(line, rows)])
