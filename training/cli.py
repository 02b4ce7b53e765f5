"""`graphs train` and `graphs validate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from graphs.hardware.calibration.artifact import CARD, save_model
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import load_profile
from training.fit.card import write_card
from training.fit.host import fit_host
from training.fit.model import Trained, calibration_with, train_model
from training.validate import holdout
from training.validate.cli import validate
from training.validate.metrics import metrics
from training.validate.render import verdict
from training.validate.sources import WHAT_TWIN, data_folder, models_frame
from training.validate.summary import summarise

#: `validate` is defined in `training.validate.cli`; the entry point may name either place.
__all__ = ["data_folder", "train", "validate"]


@click.command()
@click.option("--hardware", required=True, help="hardware id (see `graphs hardware`)")
@click.option("--data", type=click.Path(path_type=Path), help="folder of measured tables  [default: data/HARDWARE]")
@click.option("--out", type=click.Path(path_type=Path), help="folder of the fitted model  [default: models/HARDWARE]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option(
    "--distil/--no-distil",
    default=False,
    show_default=True,
    help="ship a small, fast network that learnt from the members",
)
@click.option("--prior", help="learn from few rows: start from what was measured on this other hardware")
@click.option("--json", "as_json", is_flag=True, help="print the scores as JSON (progress goes to stderr)")
def train(
    hardware: str, data: Path | None, out: Path | None, seed: int, distil: bool, prior: str | None, as_json: bool
) -> None:
    """Fit the efficiency model of one machine to its measured tables."""
    started = time.monotonic()
    profile = load_profile(hardware)
    if profile.data is None and data is None and profile.calibration:
        click.echo(
            f"{profile.id} is calibrated by the {len(profile.calibration['operations'])} measured points in its"
            " profile; there is nothing to fit. Fit rows of your own with --data DIR."
        )
        return

    def progress(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {text}", err=True)

    # With data of one's own the related machine's are used only if they are at hand.
    related = data_folder(load_profile(profile.related), None) if profile.related else None
    trained = train_model(profile.id, data_folder(profile, data), related, seed, distil, progress, prior)
    folder = out or Path("models") / profile.id
    held_out = holdout.predict_unseen(trained)
    progress("scoring the held-out rows")
    train_rows = trained.frame[trained.frame["split"] == "train"]
    summary = summarise(held_out, train_rows, profile, WHAT_TWIN, trained.model.header["provenance"])
    models = models_frame(profile, None, None, data)
    if models is not None:
        trained.model.header["whole_models"] = fit_host(
            models, create_mapper(hardware, calibration=calibration_with(trained.model)), trained.frame
        )
    trained.model.header["scores"] = {
        "held_out": {"all": summary["all"], "by_split": summary["by_split"], "by_family": summary["by_family"]},
        "baselines": {n: b["all"] for n, b in summary["baselines"].items()},
        "noise": summary["noise"],
        "distillation": _distillation(trained, held_out),
    }
    # all at once and last: until everything is known the folder keeps the model it holds
    save_model(trained.model, folder)
    holdout.write(held_out, folder)
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
