"""Write README.md's accuracy table and figure, and the table of whole models: ``python -m training.readme``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from graphs.figures.units import percent

#: The machine of the figure.
SHOWN = "h100-sxm"
_MARK = re.compile(r"(<!-- accuracy:begin -->\n).*?(<!-- accuracy:end -->)", re.DOTALL)


def accuracy_table(headers: list[dict[str, Any]]) -> str:
    """Return a Markdown table of held-out errors and of those of whole networks left out of the fit.

    Parameters
    ----------
    headers : list of dict
        Headers of the fitted models (``model.json``).
    """
    lines = [
        "| hardware | held-out operators | median / mean error | within 10 % | 90 % interval holds |"
        " best baseline | fixed 20 % | noise | networks, device | networks, eager |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for h in headers:
        scores = h["scores"]
        a = scores["held_out"]["all"]
        # the fixed 20 % has a column of its own
        others = {n: b for n, b in scores["baselines"].items() if n != "default_20pct"}
        name, best = min(others.items(), key=lambda item: item[1]["median_ape"])
        timed, default = scores["noise"], scores["baselines"]["default_20pct"]
        noise = f"{percent(timed['median_ape'])} ({timed['n']} rows)" if "median_ape" in timed else "-"
        lines.append(
            f"| {h['hardware']} | {a['n']} | **{_pair(a)}** | {percent(a['within_10pct'], 0)} |"
            f" {percent(a['interval_coverage'], 0)} | {name} {_pair(best)} | {_pair(default)} |"
            f" {noise} | {_networks(h, 'device')} | {_networks(h, 'eager')} |"
        )
    return "\n".join(lines) + "\n"


def models_table(headers: list[dict[str, Any]]) -> str:
    """Return a Markdown table of whole models left out of the fit in turn.

    Parameters
    ----------
    headers : list of dict
        As `accuracy_table`.
    """
    lines = [
        "| hardware, mode | rows / models | plain sum, median / mean APE | left out, median / mean APE | worst |"
        " family left out | interval: coverage, median half-width |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode in ("device", "eager"):
        for h in headers:
            whole = h.get("whole_models", {})
            terms, interval = whole.get(mode) or {}, whole.get("intervals", {}).get(mode)
            if "lomo" not in terms:
                continue
            areas = terms.get("lomo_by_area", {})
            shown = ", ".join(f"{area} {_pair(m)}" for area, m in areas.items()) if len(areas) > 1 else ""
            plain, family = (_pair(terms[k]) if k in terms else "" for k in ("plain_sum", "left_out_family"))
            held = (
                f"{percent(interval['lomo_coverage'], 0)}, {percent(interval['lomo_half_width'], 0)}"
                if interval
                else ""
            )
            lines.append(
                f"| {h['hardware']} {mode} | {terms['rows']} / {terms['models']} | {plain} | {_pair(terms['lomo'])}"
                f"{f' ({shown})' if shown else ''} | {percent(terms['lomo']['worst_ape'], 0)} | {family} | {held} |"
            )
    return "\n".join(lines) + "\n"


def _networks(header: dict[str, Any], mode: str) -> str:
    terms = header.get("whole_models", {}).get(mode) or {}
    return f"{_pair(terms['lomo'])} ({terms['rows']} rows)" if "lomo" in terms else "-"


def _pair(m: dict[str, Any]) -> str:
    return f"{100 * m['median_ape']:.1f} / {100 * m['mape']:.1f} %"


def error_figure(root: Path) -> str:
    """Return the SVG with the distribution of errors on held-out rows, beside the baselines and the noise."""
    from training.validate.build import build_summary
    from training.validate.figures import error_distribution

    summary = build_summary(SHOWN, None, None, None, root / "data" / SHOWN, None, "python -m training.readme")
    return error_distribution(summary, f"Errors on held-out operators, {SHOWN}")


@click.command()
@click.option("--check", is_flag=True, help="fail if a table is not the models' present scores")
def main(check: bool) -> None:
    """Write the accuracy tables into README.md and docs/whole-models.md, and the figure that README.md shows."""
    root = Path(__file__).resolve().parent.parent
    # Measured here: models of other projects' data have pages of their own.
    folders = sorted(p.parent.name for p in (root / "data").glob("*/ops.parquet"))
    headers = [json.loads((root / "models" / f / "model.json").read_text(encoding="utf-8")) for f in folders]
    pages = {"README.md": accuracy_table(headers), "docs/whole-models.md": models_table(headers)}
    for name, table in pages.items():
        page = root / name
        old = page.read_text(encoding="utf-8")
        new = _MARK.sub(rf"\g<1>{table}\g<2>", old)
        if check and new != old:
            raise SystemExit(f"{name} does not show the models' present scores; run `python -m training.readme`")
        if not check:
            page.write_text(new, encoding="utf-8")
    if check:
        return
    figure = root / "docs" / "figures" / f"{SHOWN}-errors.svg"
    figure.parent.mkdir(exist_ok=True)
    figure.write_text(error_figure(root) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
