"""Where the rows that are scored come from: measured tables, whole-model tables, a folder of a fitted model."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from graphs.errors import DataError
from graphs.hardware import assets
from graphs.hardware.profile import HardwareProfile
from training.dataset.store import read_models

WHAT_TWIN = (
    "Held-out rows of the project's own data (random 15 %, whole layer shapes, largest FLOP), predicted by a twin of"
    " the shipped model: the same recipe, fitted without these rows."
)


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


def models_frame(
    profile: HardwareProfile, ops_file: Path | None, models_file: Path | None, data: Path | None
) -> pd.DataFrame | None:
    if models_file is not None:
        table = read_models(models_file)
        if table.rejected:
            click.echo(table.summary(models_file.name), err=True)
        return table.frame
    if ops_file is not None or (profile.data is None and data is None):
        return None
    own = data_folder(profile, data) / "models.parquet"
    return read_models(own).frame if own.is_file() else None
