"""Draw the applicability domains of a fitted model anew: ``python -m training.fit.redraw --hardware ID``.

For a rule of the domain that came after the fit.  Regressors, weights, intervals and scores stay as they are, and so do
the stored held-out predictions, of which none may fall outside by the new rule.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd

from graphs.errors import DataError
from graphs.hardware.calibration.artifact import load_model, save_model
from graphs.hardware.calibration.domain import Domain
from graphs.hardware.profile import load_profile
from training.fit.chosen_margins import margins_for
from training.fit.prepare import Table, read_frame
from training.validate import holdout
from training.validate.sources import data_folder


@click.command()
@click.option("--hardware", required=True, help="hardware id")
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="folder of measured tables  [default: data/HARDWARE]")
def main(hardware: str, models: Path, data: Path | None) -> None:
    """Draw the domains of a fitted model anew around the rows it was fitted on."""
    profile = load_profile(hardware)
    folder = models / profile.id
    model = load_model(folder)
    frame, manifest, _ = read_frame(profile, data_folder(profile, data))
    found, fitted = manifest["files"]["ops.parquet"]["sha256"], model.header["provenance"]["data_sha256"]
    if found != fitted:
        raise DataError(
            f"the model in '{folder}' was fitted to other data", received=found, allowed=fitted,
            next_step="fit it again with `graphs train`",
        )  # fmt: skip
    table = Table.of(frame)
    families, held_out = {}, holdout.read(folder, frame)
    answered = dict(zip(held_out.index, held_out["source"], strict=True))
    for name, family in model.families.items():
        groups = [g for g in table.groups[name] if g.kind.name in family.domains]
        families[name] = replace(family, domains={g.kind.name: Domain.of(g, margins_for(name)) for g in groups})
    redrawn = replace(model, families=families)
    moved = _newly_outside(Table.of(held_out), frame, answered)
    if moved:
        raise DataError(
            f"{moved} held-out rows that the fit's twin answered are outside by the new rule", received=hardware,
            next_step="fit the model again with `graphs train`: its scores would change",
        )  # fmt: skip
    save_model(redrawn, folder)
    click.echo(f"wrote the domains of {sum(len(f.domains) for f in families.values())} kinds to {folder}")


def _newly_outside(held_out: Table, frame: pd.DataFrame, answered: dict[int, str]) -> int:
    """Return how many held-out rows the twin answered that its domain, drawn anew, does not hold."""
    train = Table.of(frame[frame["split"] == "train"])
    count = 0
    for name, groups in held_out.groups.items():
        drawn = {g.kind.name: Domain.of(g, margins_for(name)) for g in train.groups.get(name, [])}
        for g in groups:
            if g.kind.name not in drawn:
                continue
            outside = drawn[g.kind.name].reasons(g) != ""
            count += int(np.sum([answered[int(i)] == "model" for i in g.rows[outside]]))
    return count


if __name__ == "__main__":
    main()
