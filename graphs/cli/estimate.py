"""`graphs estimate`: how long a model takes, on one machine or several, at one batch or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from graphs.cli.estimate_many import Point, chart_svg, many_to_dict, render_many
from graphs.cli.estimate_text import kinds_svg, render, to_dict
from graphs.errors import GraphsError
from graphs.estimation import MODES, estimate_trace
from graphs.hardware.mappers.base import POLICIES
from graphs.hardware.mappers.registry import create_mapper


@click.command()
@click.argument("model")
@click.option("--hardware", help="hardware id (see `graphs hardware`); ID@PROFILE names a thermal profile")
@click.option("--batch", type=click.IntRange(min=1), help="default: 1, or the batch of a saved trace")
@click.option("--dtype", type=click.Choice(["fp32", "tf32", "fp16", "bf16"]), help="default: as the model is")
@click.option("--mode", type=click.Choice(MODES), default="device", show_default=True)
@click.option("--calibration", help="profile or fitted model to use instead of the shipped one; 'none' for the default")
@click.option("--thermal-profile", help="power mode of the hardware, such as 30w")
@click.option("--out-of-domain", type=click.Choice(POLICIES), default="default", show_default=True)
@click.option("--training-step", is_flag=True, help="forward and backward pass; not validated on measured training")
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), help="add a fused update to --training-step")
@click.option("--compare", metavar="ID,ID,...", help="estimate on each of these machines and compare with the first")
@click.option("--compare-uncalibrated", is_flag=True, help="show the 20 % default beside the calibrated estimate")
@click.option("--sweep", metavar="batch=N,N,...", help="estimate at each of these batches, with the throughput")
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True, help="operators to list")
@click.option("--depth", type=click.IntRange(min=1), default=1, show_default=True, help="module levels to sum time by")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="write a chart as SVG")
@click.option("--json", "as_json", is_flag=True, help="print JSON with every operator")
def estimate(
    model: str, hardware: str | None, batch: int | None, dtype: str | None, mode: Any, calibration: str | None,
    thermal_profile: str | None, out_of_domain: Any, training_step: bool, optimizer: str | None, compare: str | None,
    compare_uncalibrated: bool, sweep: str | None, top: int, depth: int, svg: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Estimate a forward pass of MODEL.

    MODEL is torchvision:NAME (resnet18 and resnet50 need no torchvision), hf:CONFIG, module:pkg.mod:callable, an ONNX
    file, or a trace.json; hf:NAME-sSEQ is a language model on SEQ tokens, hf:NAME-decode-sSEQ its step to the SEQth.
    """
    if optimizer and not training_step:
        raise click.UsageError("--optimizer is part of a training step; add --training-step or leave it out")
    machines = _machines(hardware, compare)
    if calibration and len(machines) > 1:
        raise click.UsageError("--calibration is of one machine; leave it out with --compare")
    if calibration == "none" and compare_uncalibrated:
        raise click.UsageError("--compare-uncalibrated shows a calibration beside none; leave out --calibration none")
    batches: list[int | None] = list(_batches(sweep)) if sweep else [batch]
    if sweep and batch:
        raise click.UsageError("--sweep names the batches; leave out --batch")
    chosen: Any = False if calibration == "none" else calibration
    choices: list[tuple[str, Any]] = [("", chosen)]
    if compare_uncalibrated:
        choices = [("calibrated", chosen), ("20 % default", False)]
    # Mappers first: a wrong name is said before anything is traced.
    mappers = [
        (machine, label, create_mapper(machine, calibration=use, thermal_profile=thermal_profile,
                                       out_of_domain=out_of_domain))
        for machine in machines for label, use in choices
    ]  # fmt: skip
    suffix = f"@{thermal_profile}" if thermal_profile else ""
    points = []
    for size in batches:
        trace = _trace(model, size, dtype, training_step, optimizer)
        points += [
            Point(machine + suffix, label, trace.batch, estimate_trace(trace, mapper, mode))
            for machine, label, mapper in mappers
        ]
    if len(points) == 1:
        result = points[0].estimate
        if svg is not None:
            _write(svg, kinds_svg(result))
        click.echo(
            json.dumps({**to_dict(result, depth), "hardware_asked": points[0].hardware}, indent=1)
            if as_json
            else render(result, top, depth, points[0].hardware)
        )
        return
    if svg is not None:
        _write(svg, chart_svg(points))
    click.echo(json.dumps(many_to_dict(points), indent=1) if as_json else render_many(points))


def _machines(hardware: str | None, compare: str | None) -> list[str]:
    if compare:
        if hardware:
            raise click.UsageError("--compare names the hardware; leave out --hardware")
        machines = [m.strip() for m in compare.split(",") if m.strip()]
        if len(machines) < 2:
            raise GraphsError("--compare takes two machines or more", received=compare,
                              allowed="such as h100-sxm,xeon-16c", next_step="separate them by commas")  # fmt: skip
        return machines
    if not hardware:
        raise click.UsageError("Missing option '--hardware' (or --compare ID,ID,...).")
    return [hardware]


def _batches(text: str) -> list[int]:
    """Return the batches of ``batch=1,2,4``."""
    name, _, values = text.partition("=")
    try:
        found = [int(v) for v in values.split(",")]
    except ValueError:
        found = []
    if name.strip() != "batch" or not found or min(found) < 1:
        raise GraphsError("a sweep names what changes and its values", received=text,
                          allowed="batch=N,N,...", next_step="for example --sweep batch=1,2,4,8")  # fmt: skip
    return sorted(set(found))


def _trace(model: str, batch: int | None, dtype: str | None, training: bool, optimizer: str | None) -> Any:
    """Trace the model once for one batch, or read its trace."""
    from graphs.tracing import frontends

    saved = model.endswith((".json", ".json.gz", ".onnx")) and not model.startswith("hf:")
    size = batch if batch is not None else (0 if saved else 1)
    return frontends.trace_model(model, batch=size, dtype=dtype, training=training, optimizer=optimizer)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise GraphsError(
            f"the chart cannot be written ({error})", received=str(path), allowed="a path that can be written",
            next_step="name another file",
        ) from error  # fmt: skip
