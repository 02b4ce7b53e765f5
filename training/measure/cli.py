"""`graphs measure`: a bare machine in, a data set and a profile out; or a check of the model there is."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from training.measure.plan import DTYPE_WEIGHTS
from training.measure.session import Request, budget_seconds, limits_of, prepared, timers
from training.measure.session import measure as run_session


def _names(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for text in value for part in text.split(",") if part)


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    with suppress(ValueError):
        found = tuple(int(part) for part in value.split(","))
    if not found or min(found) < 1:
        raise click.BadParameter(f"'{value}' is no list of whole numbers from 1 up, such as 1,8")
    return found


def _device(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return "gpu" if value == "cuda" else value


@click.command()
@click.option("--hardware", default="auto", show_default=True, help="id of this machine, known or new; auto: detect it")
@click.option("--out", type=click.Path(path_type=Path), help="folder for the data set and the profile")
@click.option("--budget", default="10m", show_default=True, help="time for measuring: 90s, 10m, 1.5h")
@click.option("--resume", is_flag=True, help="continue the run in --out")
@click.option("--models", multiple=True, callback=_names,
              help="networks (names of stored traces, torchvision:NAME, hf:NAME, trace files; comma-separated) whose"
                   " operators are all measured, first")  # fmt: skip
@click.option("--only-models", is_flag=True, help="measure nothing but the operators of --models")
@click.option("--whole-models", is_flag=True,
              help="also time forward passes of whole networks that can be built here; on a GPU eager, from a CUDA"
                   " graph, and as the sum of their kernels")  # fmt: skip
@click.option("--kernels", type=click.FloatRange(0, 1), metavar="SHARE",
              help="share of the operators of which the names of the CUDA kernels are recorded, from 0 to 1"
                   "  [default: 0.25 on a GPU]")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="threads of the framework  [default: all cores]")
@click.option("--dtypes", multiple=True, callback=_names, help="fp32,bf16,...  [default: all that are not emulated]")
@click.option("--batches", default="1,8", show_default=True, callback=_numbers,
              help="batch sizes of the networks' layers")  # fmt: skip
@click.option("--rows", type=click.IntRange(min=1), help="measure so many configurations, whatever it takes")
@click.option("--like", help="choose configurations where the fitted model of this other hardware is least sure")
@click.option("--extend", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="folder of this hardware's data: time a sample of it again, then what it is short of")  # fmt: skip
@click.option(
    "--device",
    type=click.Choice(["cpu", "gpu", "cuda"]),
    callback=_device,
    help="which device  [default: the GPU if there is one]",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--note", default="", help="a sentence for the manifest: under which conditions")
@click.option("--check", is_flag=True, help="time 20 operators in under a minute: does the fitted model hold here?")
@click.option("--calibration", help="--check: profile or fitted model to check instead of the shipped one")
@click.option("--json", "as_json", is_flag=True, help="print the summary as JSON (progress goes to stderr)")
def measure(
    hardware: str, out: Path | None, budget: str, resume: bool, models: tuple[str, ...], only_models: bool,
    whole_models: bool, kernels: float | None, threads: int | None, dtypes: tuple[str, ...],
    batches: tuple[int, ...], rows: int | None,
    like: str | None, extend: Path | None, device: str | None, seed: int, note: str, check: bool,
    calibration: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure operators on this machine, for `graphs train`.

    The run can be killed at any time and continued with --resume.  Close other programs: what they take is measured
    too.  With --check nothing is written; exit code 0: the model holds, 3: it does not, 4: undecided.
    """
    started = time.monotonic()

    def report(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {text}", err=True)

    if check:
        sys.exit(_check(hardware, device, threads, seed, calibration, as_json, report))
    if out is None:
        raise click.UsageError("give the folder to write to with --out DIR")
    request = Request(
        hardware=hardware, out=out, budget_s=budget_seconds(budget), resume=resume, models=models, whole=whole_models,
        threads=threads, rows=rows, seed=seed, dtypes=dtypes, batches=batches, only_models=only_models, like=like,
        device=device, note=note, extends=extend, kernels=kernels,
    )  # fmt: skip
    summary = run_session(request, report)
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    click.echo(_told(summary))


def _told(summary: dict[str, Any]) -> str:
    noise = summary["noise"]
    floor = (
        f"{100 * noise['median']:.1f} % median over {noise['n']} retests" if noise["n"] else "not known (no retests)"
    )
    out, profile, also = summary["out"], summary["profile"], ""
    if (a := summary.get("agreement")) is not None:
        known = a["difference"] is not None and a["noise"] is not None
        said = f"{100 * a['difference']:.1f} % apart (noise {100 * a['noise']:.1f} %)" if known else "not comparable"
        also = f"{a['rows']} rows timed again: {said}; they may {'' if a['pool'] else 'NOT '}be pooled\n"
    if summary["kernels"]:
        also += f"the kernels of {summary['kernels']} operators are named\n"
    return also + (
        f"{summary['rows']} operators and {summary['models']} rows of whole models of {summary['hardware']}"
        f" in {summary['took_s']:.0f} s ({summary['failed']} failed); noise floor {floor}\n"
        f"data set: {out}; profile: {profile}\n"
        f"next: graphs train --hardware {profile} --data {out} --out {out}/model"
    )


def _check(
    hardware: str, device: str | None, threads: int | None, seed: int, calibration: str | None, as_json: bool,
    report: Any,
) -> int:  # fmt: skip
    from graphs.hardware.detect import this_hardware
    from graphs.hardware.mappers.registry import create_mapper
    from training.measure.check import check_entries, run_check

    named = this_hardware() if hardware == "auto" else hardware
    mapper = create_mapper(named, calibration=calibration)
    profile = mapper.resource_model
    kind = "gpu" if profile.kind == "gpu" else "cpu"
    environment = prepared(kind, threads)
    fitted_on = (
        mapper.calibration.model.header["provenance"]["machine"]
        if mapper.calibration and mapper.calibration.model
        else {}
    )
    if fitted_on.get("threads") and kind == "cpu" and fitted_on["threads"] != environment["threads"]:
        report(
            f"the model was fitted with {fitted_on['threads']:.0f} threads, this process has {environment['threads']}"
        )
    peaks = {d: f.value for d, f in profile.peaks.items() if d in DTYPE_WEIGHTS}
    found = {"peak_flops_per_s": peaks, "bandwidth_bytes_per_s": profile.bandwidth_bytes_per_s}
    limits = limits_of(120.0, environment, found)
    entries = check_entries(mapper, limits, seed)
    verdict, rows = run_check(entries, mapper, timers(kind, environment)["op"], report)
    if as_json:
        click.echo(json.dumps({**asdict(verdict), "text": verdict.text, "rows": rows}, indent=1))
        return verdict.code
    for r in rows:
        click.echo(f"  {r['op']:<20} {r['dtype']:<5} measured {r['measured_us']:10.1f} us  predicted"
                   f" {r['predicted_us']:10.1f} ({r['low_us']:.1f} to {r['high_us']:.1f})")  # fmt: skip
    click.echo(verdict.text)
    return verdict.code
