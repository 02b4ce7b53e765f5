"""From a hardware id or a folder or a file to the accuracy summary."""

from __future__ import annotations

import json
import math
import platform
from datetime import date
from pathlib import Path
from typing import Any

import click
import pandas as pd

import graphs
from graphs.errors import DataError, ModelFileError, UnknownHardwareError
from graphs.hardware import assets
from graphs.hardware.calibration.artifact import HEADER, load_model
from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import HardwareProfile, load_profile
from training.dataset.splits import identities
from training.dataset.store import file_hash, read_ops
from training.fit.prepare import read_frame
from training.validate import holdout
from training.validate.curve import learning_curve
from training.validate.models import score_models
from training.validate.sources import WHAT_TWIN, data_folder, models_frame
from training.validate.summary import empty_summary, summarise

#: The source tree, where the pages about the models of public measurements lie.
DOCS = Path(__file__).resolve().parents[2]


def build_summary(
    hardware: str, ops_file: Path | None = None, models_file: Path | None = None, calibration: str | None = None,
    data: Path | None = None, learning_curve_file: Path | None = None, command: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return the summary that every rendering is made from.

    Parameters
    ----------
    hardware : str
        Hardware id.
    ops_file, models_file : Path, optional
        Rows to score instead of the project's held-out rows and models.
    calibration : str, optional
        Profile or fitted model to score instead of the shipped one.
    data : Path, optional
        Folder of measured tables.
    learning_curve_file : Path, optional
        See `training.validate.curve`.
    command : str
        What the reader can run to get this report again.

    Raises
    ------
    DataError, ModelFileError
        If there is nothing to score, or nothing that was not used in fitting.
    """
    profile = load_profile(hardware)
    mapper = create_mapper(hardware, calibration=calibration)
    assert mapper.calibration is not None
    summary = _ops_summary(profile, mapper.calibration, ops_file, models_file, calibration, data)
    models = models_frame(profile, ops_file, models_file, data)
    if models is not None:
        known = _known_operators(profile, data)
        summary["models"] = score_models(models, mapper, known)
    header = mapper.calibration.model.header if mapper.calibration.model is not None else {}
    summary["learning_curve"] = learning_curve(learning_curve_file, header, summary["provenance"].get("data_sha256"))
    summary["provenance"]["report"] = {
        "command": command, "date": date.today().isoformat(), "graphs": graphs.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    return summary


def _known_operators(profile: HardwareProfile, data: Path | None) -> pd.DataFrame | None:
    """Return the rows of a machine, where it was measured: all, because the shipped model was fitted on all of them."""
    if profile.data is None and data is None:
        return None
    return read_frame(profile, data_folder(profile, data))[0]


def load_summary(name: str) -> tuple[dict[str, Any], str]:
    """Return the summary that `name` stands for, and what to call it.

    Parameters
    ----------
    name : str
        A JSON file of `graphs validate --json`, the folder of a fitted model, or a hardware id.

    Raises
    ------
    DataError
        If a JSON file holds something else.
    """
    path = Path(name)
    if path.is_dir() and (path / HEADER).is_file():
        hardware = str(json.loads((path / HEADER).read_text(encoding="utf-8"))["hardware"])
        return build_summary(hardware, calibration=name), name
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(
                f"'{name}' is no JSON ({error})", next_step="write it with graphs validate --json"
            ) from error
        if not isinstance(found, dict) or "schema_version" not in found or "all" not in found:
            raise DataError(
                f"'{name}' is no accuracy summary",
                allowed="a file that `graphs validate --json` wrote",
                next_step="write it again",
            )
        return found, path.name
    try:
        load_profile(name)
    except UnknownHardwareError as error:
        raise DataError(
            "there is nothing of this name to compare",
            received=name,
            allowed=f"a JSON file of graphs validate, the folder of a fitted model, a hardware id ({error.allowed})",
            next_step="write one with `graphs validate --hardware ID --json FILE`; `graphs hardware` lists the ids",
        ) from error
    return build_summary(name), name


def to_json(value: Any) -> str:
    """Return a summary as JSON; numbers that are not finite become null."""

    def plain(v: Any) -> Any:
        if isinstance(v, dict):
            return {str(k): plain(x) for k, x in v.items()}
        if isinstance(v, (list, tuple)):
            return [plain(x) for x in v]
        if isinstance(v, float):
            return v if math.isfinite(v) else None
        return v.item() if hasattr(v, "item") else v

    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def _ops_summary(
    profile: HardwareProfile, calibration: HardwareCalibration, ops_file: Path | None, models_file: Path | None,
    named: str | None, data: Path | None,
) -> dict[str, Any]:  # fmt: skip
    provenance = dict(calibration.metadata.details)
    if ops_file is None and models_file is not None:
        return empty_summary(profile, provenance)
    frame = None
    manifest: dict[str, Any] = {}
    if profile.data is not None or data is not None:
        frame, manifest, notes = read_frame(profile, data_folder(profile, data))
        for note in notes:
            click.echo(note, err=True)
    if ops_file is None:
        if frame is None or calibration.model is None:
            raise _nothing_held_out(profile, calibration)
        rows = holdout.read(_model_folder(profile, named), frame)
        return summarise(rows, frame[frame["split"] == "train"], profile, WHAT_TWIN, provenance)
    table = read_ops(ops_file)
    if table.rejected:
        click.echo(table.summary(ops_file.name), err=True)
    rows = table.frame
    seen = set(identities(frame)) if frame is not None and calibration.model is not None else set()
    new = [k not in seen for k in identities(rows)]
    if not all(new):
        click.echo(f"{len(new) - sum(new)} of {len(new)} rows were used in fitting and are left out", err=True)
    if not any(new):
        raise DataError(
            f"every row of '{ops_file.name}' was used in fitting",
            received=f"{len(new)} rows",
            next_step="run `graphs validate` without --ops to score held-out rows",
        )
    rows = rows[new].reset_index(drop=True).assign(split="given")
    provenance["scored_rows"] = {"file": ops_file.name, "sha256": file_hash(ops_file)}
    what = f"Rows of {ops_file.name}, predicted by {'the shipped model' if named is None else repr(Path(named).name)}; "
    if calibration.model is None or _is_of(manifest, provenance):
        what += "none of them was used in fitting."
    else:
        what += "the rows of its fit are not at hand, so it may have seen some of them."
    known = frame if frame is not None else rows.iloc[:0]
    return summarise(holdout.predict(rows, calibration), known, profile, what, provenance)


def _nothing_held_out(profile: HardwareProfile, calibration: HardwareCalibration) -> ModelFileError:
    """Return the error of hardware without own held-out rows; it names the page of a model of public measurements."""
    header = calibration.model.header if calibration.model is not None else {}
    source = header.get("provenance", {}).get("source")
    if not source:
        return ModelFileError(
            f"'{profile.id}' has no fitted model with held-out rows", allowed="hardware with measured tables, or --ops",
            next_step="give measured rows with --ops FILE",
        )  # fmt: skip
    page = f"docs/validation/{source.lower()}.md"
    where = page if (DOCS / page).is_file() else "docs/validation"
    return ModelFileError(
        f"the model of '{profile.id}' was fitted to the public measurements of {source}, which are not in this"
        " repository, so there are no held-out rows to score",
        allowed="rows of your own, with --ops FILE",
        next_step=f"its accuracy on rows left out of the fit is in {where} of the source tree",
    )


def _is_of(manifest: dict[str, Any], provenance: dict[str, Any]) -> bool:
    """Tell whether a model was fitted on the table of a manifest."""
    digest = manifest.get("files", {}).get("ops.parquet", {}).get("sha256")
    return digest is not None and digest == provenance.get("data_sha256")


def _model_folder(profile: HardwareProfile, named: str | None) -> Path:
    if named is not None and Path(named).is_dir():
        load_model(Path(named))
        return Path(named)
    found = assets.find_asset(load_calibration(named).profile.model or "" if named else profile.model or "")
    if found is None:
        raise ModelFileError(f"'{profile.id}' has no fitted model", next_step="run `graphs train` first")
    return found
