"""`graphs train` and `graphs validate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from graphs.errors import DataError, ModelFileError
from graphs.hardware import assets
from graphs.hardware.calibration.artifact import CARD, load_model, save_model
from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import HardwareProfile, load_profile
from training.dataset.store import read_models, read_ops
from training.fit.card import write_card
from training.fit.host import fit_host
from training.fit.model import Trained, calibration_with, train_model
from training.fit.prepare import read_frame
from training.validate import holdout
from training.validate.metrics import metrics
from training.validate.models import score_models
from training.validate.render import render, verdict
from training.validate.summary import summarise


def data_folder(profile: HardwareProfile, given: Path | None) -> Path:
    """Return the folder of measured tables: the given one, or ``data/<id>`` here or in the source tree."""
    if given is not None:
        return given
    relative = profile.data or f"data/{profile.id}"
    if Path(relative).is_dir():
        return Path(relative)
    found = assets.find_asset(relative)
    if found is None:
        raise DataError(
            f"there are no measured data of '{profile.id}'",
            received=relative,
            next_step="run in the source tree, or name the folder with --data",
        )
    return found


@click.command()
@click.option("--hardware", required=True, help="hardware id (see `graphs hardware`)")
@click.option("--data", type=click.Path(path_type=Path), help="folder of measured tables  [default: data/HARDWARE]")
@click.option("--out", type=click.Path(path_type=Path), help="folder of the fitted model  [default: models/HARDWARE]")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--distil/--no-distil",
    default=False,
    show_default=True,
    help="ship a small, fast network that learnt from the members",
)
@click.option("--json", "as_json", is_flag=True, help="print the scores as JSON (progress goes to stderr)")
def train(hardware: str, data: Path | None, out: Path | None, seed: int, distil: bool, as_json: bool) -> None:
    """Fit the efficiency model of one machine to its measured tables."""
    started = time.monotonic()
    profile = load_profile(hardware)
    if profile.data is None and data is None and profile.calibration:
        click.echo(
            f"{profile.id} is calibrated by the {len(profile.calibration['operations'])} measured points in its"
            " profile; there is nothing to fit."
        )
        return

    def progress(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {text}", err=True)

    # With data of one's own the related machine's are used only if they are at hand.
    related = data_folder(load_profile(profile.related), None) if profile.related else None
    trained = train_model(profile.id, data_folder(profile, data), related, seed, distil, progress)
    folder = out or Path("models") / profile.id
    save_model(trained.model, folder)
    held_out = holdout.write(trained, folder)
    progress("scoring the held-out rows")
    train_rows = trained.frame[trained.frame["split"] == "train"]
    summary = summarise(held_out, train_rows, profile, _WHAT_TWIN, trained.model.header["provenance"])
    models = _models_frame(profile, None, None, data)
    if models is not None:
        trained.model.header["eager"] = fit_host(
            models, create_mapper(hardware, calibration=calibration_with(trained.model))
        )
    trained.model.header["scores"] = {
        "held_out": {"all": summary["all"], "by_split": summary["by_split"], "by_family": summary["by_family"]},
        "baselines": {n: b["all"] for n, b in summary["baselines"].items()},
        "noise": summary["noise"],
        "distillation": _distillation(trained, held_out),
    }
    save_model(trained.model, folder)
    (folder / CARD).write_text(write_card(profile, trained.model, summary), encoding="utf-8")
    progress(f"wrote {folder}")
    if as_json:
        click.echo(json.dumps(trained.model.header["scores"], indent=1))
    else:
        click.echo(verdict(summary))


def _distillation(trained: Trained, held_out: Any) -> dict[str, Any]:
    """Return the held-out figures of the members that the network learnt from, beside its own."""
    measured = held_out["median_us"].to_numpy(dtype=float) * 1e-6
    teacher = holdout.predict(held_out, calibration_with(trained.teacher))["predicted_s"].to_numpy()
    return {"members": metrics(measured, teacher), "shipped": metrics(measured, held_out["predicted_s"].to_numpy())}


_WHAT_TWIN = (
    "Held-out rows of the project's own data (random 15 %, whole layer shapes, largest FLOP), predicted by a twin of"
    " the shipped model: the same recipe, fitted without these rows."
)


@click.command()
@click.option("--hardware", required=True, help="hardware id")
@click.option(
    "--ops", "ops_file", type=click.Path(exists=True, path_type=Path), help="operator rows (CSV, CSV.gz, parquet)"
)
@click.option("--models", "models_file", type=click.Path(exists=True, path_type=Path), help="whole-model rows")
@click.option("--calibration", help="profile or fitted model to score instead of the shipped one")
@click.option("--data", type=click.Path(path_type=Path), help="folder of measured tables  [default: data/HARDWARE]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write the summary as JSON (- for stdout)")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path), help="write the report as Markdown")
def validate(
    hardware: str, ops_file: Path | None, models_file: Path | None, calibration: str | None, data: Path | None,
    json_file: Path | None, markdown_file: Path | None,
) -> None:  # fmt: skip
    """Score a fitted model on rows it has not seen, beside honest baselines.

    Without --ops the held-out rows of the project's data are scored, as predicted by a twin of the model fitted
    without them.  With --ops the model itself is scored on the rows of the file; rows it was fitted on are left out.
    """
    profile = load_profile(hardware)
    mapper = create_mapper(hardware, calibration=calibration)
    assert mapper.calibration is not None
    summary = _ops_summary(profile, mapper.calibration, ops_file, models_file, calibration, data)
    models = _models_frame(profile, ops_file, models_file, data)
    if models is not None:
        summary["models"] = score_models(models, mapper)
    text = render(summary)
    if json_file is not None and str(json_file) == "-":
        click.echo(json.dumps(summary, indent=1))
        return
    if json_file is not None:
        _write(json_file, json.dumps(summary, indent=1) + "\n")
    if markdown_file is not None:
        _write(markdown_file, render(summary, markdown=True))
    click.echo(text)


def _ops_summary(
    profile: HardwareProfile, calibration: HardwareCalibration, ops_file: Path | None, models_file: Path | None,
    named: str | None, data: Path | None,
) -> dict[str, Any]:  # fmt: skip
    provenance = dict(calibration.metadata.details)
    empty: dict[str, Any] = {
        "hardware": profile.id,
        "what": "",
        "all": {"n": 0},
        "baselines": {},
        "provenance": provenance,
    }
    if ops_file is None and models_file is not None:
        return {**empty, "by_op": {}, "by_dtype": {}, "by_split": {}}
    frame = None
    if profile.data is not None or data is not None:
        frame, _, notes = read_frame(profile, data_folder(profile, data))
        for note in notes:
            click.echo(note, err=True)
    if ops_file is None:
        if frame is None or calibration.model is None:
            raise ModelFileError(
                f"'{profile.id}' has no fitted model with held-out rows",
                next_step="give measured rows with --ops FILE",
            )
        rows = holdout.read(_model_folder(profile, named), frame)
        return summarise(rows, frame[frame["split"] == "train"], profile, _WHAT_TWIN, provenance)
    table = read_ops(ops_file)
    if table.rejected:
        click.echo(table.summary(ops_file.name), err=True)
    rows = table.frame
    seen = holdout.seen_keys(frame) if frame is not None and calibration.model is not None else set()
    new = [k not in seen for k in holdout.keys_of(rows)]
    if not all(new):
        click.echo(f"{len(new) - sum(new)} of {len(new)} rows were used in fitting and are left out", err=True)
    if not any(new):
        raise DataError(
            f"every row of '{ops_file.name}' was used in fitting",
            received=f"{len(new)} rows",
            next_step="run `graphs validate` without --ops to score held-out rows",
        )
    rows = rows[new].reset_index(drop=True).assign(split="given")
    what = f"Rows of {ops_file.name}, predicted by the shipped model; none of them was used in fitting."
    known = frame if frame is not None else rows.iloc[:0]
    return summarise(holdout.predict(rows, calibration), known, profile, what, provenance)


def _models_frame(profile: HardwareProfile, ops_file: Path | None, models_file: Path | None, data: Path | None) -> Any:
    if models_file is not None:
        table = read_models(models_file)
        if table.rejected:
            click.echo(table.summary(models_file.name), err=True)
        return table.frame
    if ops_file is not None or (profile.data is None and data is None):
        return None
    own = data_folder(profile, data) / "models.parquet"
    return read_models(own).frame if own.is_file() else None


def _model_folder(profile: HardwareProfile, named: str | None) -> Path:
    if named is not None and Path(named).is_dir():
        load_model(Path(named))
        return Path(named)
    found = assets.find_asset(load_calibration(named).profile.model or "" if named else profile.model or "")
    if found is None:
        raise ModelFileError(f"'{profile.id}' has no fitted model", next_step="run `graphs train` first")
    return found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
