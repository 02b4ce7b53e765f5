"""Learning curves with and without a prior, into docs/few-shot.md: ``python -m training.fewshot_report``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from graphs.cli.text import percent, table
from graphs.hardware.profile import load_profile
from training.dataset.splits import identities
from training.fewshot import Known, Point, known_of, learning_curve, prior_of
from training.fit.prepare import machine_of, read_frame
from training.validate.sources import data_folder

COUNTS = (0, 50, 300, 1000, 10**9)

_TEXT = """# A model from few rows

How far off a model of one machine is on held-out operators, by the number of its own rows that it learnt from, with
and without another machine's model as prior. Written by `python -m training.fewshot_report`; random choice of rows,
mean over three choices.

The prior has not seen the rows it is scored on: held-out configurations, which are the same on every machine, get the
prediction of the prior's twin, configurations that the prior's machine never measured that of its shipped model.
Without prior, the same learner starts from the roofline and the fixed cost of a call that its rows show, and is scored
on the same held-out rows. What all rows give to the full recipe of `graphs train` stands in
[accuracy.md](accuracy.md).
"""


def curves(prior: str, hardware: str, known: Known, data: Path | None = None) -> tuple[dict[str, list[Point]], str]:
    """Return the learning curves of one machine ``with`` and ``without`` the prior, and what they are scored on."""
    profile = load_profile(hardware)
    frame, _, _ = read_frame(profile, data_folder(profile, data))
    peaks = machine_of(load_profile(prior)).peaks
    frame = frame[frame["dtype"].isin(peaks)].reset_index(drop=True)
    machine = machine_of(profile)
    said = prior_of(known, frame)
    answered = np.isfinite(said.there_s)
    held_out = (frame["split"] != "train").to_numpy()
    seen = np.isin(identities(frame), list(known.twin_s))
    scored = (
        f"\nScored on {(held_out & answered).sum()} of {held_out.sum()} held-out rows, those of kinds that {prior} has"
        f" measured;\nits twin answers {(held_out & answered & seen).sum()} of them, its shipped model the rest.\n"
    )
    frame, said = frame[answered].reset_index(drop=True), said.of_rows(answered)
    found = {name: learning_curve(frame, machine, p, COUNTS) for name, p in (("with", said), ("without", None))}
    return found, scored


def flattered(prior: str, hardware: str, known: Known) -> str:
    """Return what is to be said where the prior's model has itself learnt from rows of the other machine."""
    model = known.calibration.model
    if model is None or model.header.get("provenance", {}).get("kindred") != hardware:
        return ""
    return (
        f"\nThe shipped model of {prior} has itself learnt from training rows of {hardware} (never from those scored\n"
        "here), so the columns with a prior flatter: a machine that is new in truth has told the prior nothing.\n"
    )


def section(prior: str, hardware: str, found: dict[str, list[Point]], caveat: str = "") -> str:
    """Return the table of one pair as Markdown."""
    rows = [
        [str(a.rows), *(percent(v) for v in (a.median_ape, a.mape, a.bias)),
         *(percent(v) for v in (b.median_ape, b.mape, b.bias))]
        for a, b in zip(found["with"], found["without"], strict=True)
    ]  # fmt: skip
    header = ["rows", "median", "mean", "bias", "median (no prior)", "mean (no prior)", "bias (no prior)"]
    return f"\n## {prior} to {hardware}\n{caveat}\n```\n{table(header, rows, 'rrrrrrr')}\n```\n"


@click.command()
@click.option("--pair", "pairs", multiple=True, default=("h100-sxm:h200-sxm",), help="PRIOR:HARDWARE")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/few-shot.md"), show_default=True)
def main(pairs: tuple[str, ...], out: Path) -> None:
    """Write the learning curves of pairs of machines with shipped data."""
    text = _TEXT
    for pair in pairs:
        prior, hardware = pair.split(":")
        known = known_of(prior)
        found, scored = curves(prior, hardware, known)
        text += section(prior, hardware, found, scored + flattered(prior, hardware, known))
        click.echo(text.splitlines()[-1], err=True)
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
