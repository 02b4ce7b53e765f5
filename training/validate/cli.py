"""`graphs validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphs.errors import DataError
from training.validate import compare_render
from training.validate.build import build_summary, load_summary, to_json
from training.validate.compare import compare as compare_summaries
from training.validate.render import render


@click.command()
@click.option("--hardware", help="hardware id")
@click.option(
    "--ops", "ops_file", type=click.Path(exists=True, path_type=Path), help="operator rows (CSV, CSV.gz, parquet)"
)
@click.option("--models", "models_file", type=click.Path(exists=True, path_type=Path), help="whole-model rows")
@click.option("--calibration", help="profile or fitted model to score instead of the shipped one")
@click.option("--data", type=click.Path(path_type=Path), help="folder of measured tables  [default: data/HARDWARE]")
@click.option(
    "--learning-curve",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="figures (JSON) or page of `python -m training.ablation`  [default: those of the same data]",
)
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="compare two: each a hardware id, a folder of a fitted model, or a JSON summary; exit code 1 if what was"
    " good in A got worse in B by more than the noise",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write the summary as JSON (- for stdout)")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path), help="write the report as Markdown")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="write the report as one HTML page")
@click.pass_context
def validate(
    ctx: click.Context, hardware: str | None, ops_file: Path | None, models_file: Path | None, calibration: str | None,
    data: Path | None, learning_curve: Path | None, compare: tuple[str, str] | None, json_file: Path | None,
    markdown_file: Path | None, html_file: Path | None,
) -> None:  # fmt: skip
    """Score a fitted model on rows it has not seen, beside honest baselines.

    Without --ops the held-out rows of the project's data are scored, as predicted by a twin of the model fitted
    without them.  With --ops the model itself is scored on the rows of the file; rows it was fitted on are left out.
    """
    if compare:
        if hardware or ops_file or models_file or markdown_file:
            raise click.UsageError("--compare takes A and B, --json and --html alone")
        _compare(ctx, compare, json_file, html_file)
        return
    if not hardware:
        raise click.UsageError("Missing option '--hardware' (or --compare A B).")
    summary = build_summary(hardware, ops_file, models_file, calibration, data, learning_curve, _command(ctx))
    if markdown_file is not None:
        _write(markdown_file, render(summary, markdown=True))
    if html_file is not None:
        from training.validate.page import page

        _write(html_file, page(summary))
    _output(json_file, summary, render(summary))


def _compare(ctx: click.Context, names: tuple[str, str], json_file: Path | None, html_file: Path | None) -> None:
    (a, name_a), (b, name_b) = (load_summary(n) for n in names)
    found = compare_summaries(a, b, (name_a, name_b))
    if html_file is not None:
        _write(html_file, compare_render.page(found))
    _output(json_file, found, compare_render.render(found))
    if not found["gate"]["passed"]:
        ctx.exit(1)


def _output(json_file: Path | None, data: dict[str, Any], text: str) -> None:
    if json_file is not None and str(json_file) == "-":
        click.echo(to_json(data), nl=False)
        return
    if json_file is not None:
        _write(json_file, to_json(data))
    click.echo(text)


def _command(ctx: click.Context) -> str:
    """Return the command as given, without the files it writes."""
    parts = ["graphs validate"]
    for option in ctx.command.params:
        value = ctx.params.get(option.name or "")
        if value and option.name in ("hardware", "ops_file", "models_file", "calibration", "data", "learning_curve"):
            parts.append(f"{option.opts[0]} {value}")
    return " ".join(parts)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the report cannot be written ({error.strerror or error})", received=str(path),
            allowed="a file that can be written", next_step="name another file",
        ) from error  # fmt: skip
