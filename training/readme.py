"""Write the accuracy table into README.md from the fitted models' own scores: ``python -m training.readme``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from graphs.cli.text import percent

_MARK = re.compile(r"(<!-- accuracy:begin -->\n).*?(<!-- accuracy:end -->)", re.DOTALL)


def accuracy_table(headers: list[dict[str, Any]]) -> str:
    """Return a Markdown table: held-out error of the model, of the best baseline and of the measurement itself."""
    lines = [
        "| hardware | held-out rows | median / mean error | within 10 % | best baseline (median / mean) | fixed 20 % |"
        " retest |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for h in headers:
        scores = h["scores"]
        a = scores["held_out"]["all"]
        # the fixed 20 % has a column of its own
        others = {n: b for n, b in scores["baselines"].items() if n != "default_20pct"}
        name, best = min(others.items(), key=lambda item: item[1]["median_ape"])
        default = scores["baselines"]["default_20pct"]
        noise = scores["noise"].get("median_ape")
        lines.append(
            f"| {h['hardware']} | {a['n']} | {_pair(a)} | {percent(a['within_10pct'], 0)} | {name} {_pair(best)} |"
            f" {_pair(default)} | {percent(noise) if noise is not None else '-'} |"
        )
    return "\n".join(lines) + "\n"


def _pair(m: dict[str, Any]) -> str:
    return f"{100 * m['median_ape']:.1f} / {100 * m['mape']:.1f} %"


@click.command()
@click.option("--check", is_flag=True, help="fail if the table is not the models' present scores")
def main(check: bool) -> None:
    """Write the accuracy table into README.md."""
    root = Path(__file__).resolve().parent.parent
    headers = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((root / "models").glob("*/model.json"))]
    readme = root / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = _MARK.sub(lambda m: m[1] + accuracy_table([h for h in headers if h.get("scores")]) + m[2], old)
    if check and new != old:
        raise SystemExit("README.md does not show the models' present scores; run `python -m training.readme`")
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
