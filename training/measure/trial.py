"""What a short run from nothing is worth: ``python -m training.measure.trial --budget 10m --out DIR``.

Measures this machine for the budget, as hardware that nothing is known of, fits a model to these rows alone, and
scores it on the held-out rows of the data set that is committed for this machine.  The scored model has seen no
held-out configuration, even where the short run timed it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

from graphs.cli.text import percent
from graphs.errors import GraphsError
from graphs.hardware.detect import this_hardware
from graphs.hardware.profile import load_profile
from training.dataset.store import read_manifest
from training.fit.model import calibration_with, train_model
from training.fit.prepare import read_frame
from training.measure.environment import differences
from training.measure.journal import RUN
from training.measure.session import Request, budget_seconds, measure
from training.validate import holdout
from training.validate.sources import data_folder
from training.validate.summary import summarise

#: Name of the machine in the run: nobody's profile, model or data.
NAME = "short-run"


def score(folder: Path, known_as: str, data: Path | None = None, progress: Any = lambda _: None) -> dict[str, Any]:
    """Fit a model to a folder's rows and return its summary on the held-out rows of a committed data set.

    Parameters
    ----------
    folder : Path
        Of a run of `measure`, with the hardware id `NAME`.
    known_as : str
        Hardware id of the committed data set.
    data : Path, optional
        Its folder; ``data/ID`` by default.

    Raises
    ------
    DataError, UnknownHardwareError
    """
    known = load_profile(known_as)
    source = data_folder(known, data)
    profile = load_profile(str(folder / f"{NAME}.json"))
    frame, manifest, _ = read_frame(known, source)
    here = read_manifest(folder)["environment"]
    for text in differences(here, manifest.get("environment", {})):
        progress(f"not as in {source}: {text} (here / there)")
    trained = train_model(profile.id, folder, progress=progress)
    rows = frame[frame["split"] != "train"]
    measured = rows["dtype"].isin(profile.peak_dtypes)
    if not measured.all():
        progress(f"{(~measured).sum()} held-out rows are of dtypes that this run left out, and are not scored")
    rows = rows[measured].reset_index(drop=True)
    own = trained.frame[trained.frame["split"] == "train"]
    predicted = holdout.predict(rows, calibration_with(trained.twin))
    what = f"{len(rows)} held-out rows of {source}, predicted by a model of {len(own)} rows of a short run"
    found = summarise(predicted, own, profile, what, {})
    return {**found, "rows_learnt_from": len(own), "own_noise": _noise(trained.frame)}


def _noise(frame: pd.DataFrame) -> float | None:
    both = frame[frame["retest_us"].notna()]
    return float(((both["retest_us"] - both["median_us"]).abs() / both["median_us"]).median()) if len(both) else None


def told(found: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    rows = {"model": found["all"], **{n: b["all"] for n, b in found["baselines"].items()}}
    lines = [f"{found['what']}:"]
    for name, m in rows.items():
        lines.append(
            f"  {name:<14} median {percent(m['median_ape']):>8}  mean {percent(m['mape']):>8}"
            f"  within 10 % {percent(m['within_10pct']):>8}"
        )
    shares = ", ".join(f"{name} {percent(share)}" for name, share in found["all"]["source_share"].items())
    noise = found["noise"].get("median_ape")
    floors = {"short run": found["own_noise"], "committed data": noise}
    lines.append(f"  answered by: {shares}")
    lines.append(
        "  retest noise (median): "
        + ", ".join(f"{name} {percent(v) if v is not None else 'unknown'}" for name, v in floors.items())
    )
    return "\n".join(lines)


@click.command()
@click.option("--budget", default="10m", show_default=True, help="time for measuring")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the run; scored again if whole")
@click.option("--hardware", default="auto", show_default=True, help="id of the committed data set of this machine")
@click.option("--data", type=click.Path(path_type=Path), help="folder of that data set  [default: data/ID]")
@click.option("--seed", default=1, show_default=True, help="another one than the committed run's gives other shapes")
@click.option("--threads", type=click.IntRange(min=1), help="threads of the framework  [default: all cores]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write the whole summary")
def main(
    budget: str, out: Path, hardware: str, data: Path | None, seed: int, threads: int | None, json_file: Path | None
) -> None:
    """Measure, fit and score a model of this machine from a short run alone."""
    started = time.monotonic()

    def progress(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {text}", err=True)

    try:
        known_as = this_hardware() if hardware == "auto" else hardware
        kind = load_profile(known_as).kind
        measure(
            Request(NAME, out, budget_seconds(budget), resume=(out / RUN).is_file(), threads=threads, seed=seed,
                    device="gpu" if kind == "gpu" else "cpu", kernels=0.0),
            progress,
        )  # fmt: skip
        found = score(out, known_as, data, progress)
    except GraphsError as error:
        raise click.ClickException(str(error)) from error
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    click.echo(told(found))


if __name__ == "__main__":
    main()
