"""Subgraph models from the public tables: ``python -m training.subgraphs train --subgraphs DIR --hardware ID``."""

from __future__ import annotations

from pathlib import Path

import click

from graphs.hardware.profile import load_profile
from training.subgraphs.dataset import CAMPAIGNS, read_subgraphs
from training.subgraphs.shapes import NETWORKS, write

SHAPES = Path("data/fx-shapes")


@click.group()
def main() -> None:
    """Fit and describe the subgraph models."""


@main.command()
@click.option("--subgraphs", type=click.Path(exists=True, path_type=Path), required=True, help="folder of the tables")
@click.option("--hardware", type=click.Choice(sorted(CAMPAIGNS)), required=True)
@click.option("--shapes", type=click.Path(path_type=Path), default=SHAPES, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="default: the folder that the profile names")
def train(subgraphs: Path, hardware: str, shapes: Path, out: Path | None) -> None:
    """Fit the model of HARDWARE, score it with models and families left out, and write it with its card."""
    from training.subgraphs.train import train_subgraphs

    profile = load_profile(hardware)
    folder = out or Path(str(profile.subgraph_model))
    data = read_subgraphs(subgraphs, shapes, hardware)
    click.echo("\n".join(f"{n:7d} {what}" for what, n in data.counts.items()))
    click.echo(train_subgraphs(data, profile, folder, lambda text: click.echo(f"  left out: {text}", err=True)))


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=SHAPES, show_default=True)
def shapes(out: Path) -> None:
    """Record the operator calls of every node of the public networks (needs torchvision)."""
    for network in NETWORKS:
        click.echo(str(write(out, network)))


@main.command()
@click.option("--subgraphs", type=click.Path(exists=True, path_type=Path), required=True, help="folder of the tables")
@click.option("--shapes", type=click.Path(path_type=Path), default=SHAPES, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/subgraph-models.md"), show_default=True)
def report(subgraphs: Path, shapes: Path, out: Path) -> None:
    """Write the page on the shipped models, and compare one model with a tiny and a large table."""
    from graphs.hardware.calibration.subgraph_model import load_subgraphs
    from training.subgraphs.report import page, ranges_table

    found = [Path(str(load_profile(h).subgraph_model)) for h in CAMPAIGNS]
    data = read_subgraphs(subgraphs, shapes, "i7-12700k")
    ranges = ranges_table(data, load_profile("i7-12700k"), "i7_12700K")
    out.write_text(page([load_subgraphs(folder) for folder in found], ranges), encoding="utf-8")
    click.echo(str(out))


if __name__ == "__main__":
    main()
