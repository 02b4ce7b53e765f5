"""Import measured CSV files into ``data/``: ``python -m training.dataset.importer HARDWARE --ops FILE ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from graphs.hardware.profile import load_profile
from training.dataset.store import file_hash, read_models, read_ops, write_dataset


def import_measured(hardware: str, ops: Path, models: Path | None, out: Path, date: str, note: str = "") -> str:
    """Check and convert measured tables; return a summary with every rejected row counted.

    Parameters
    ----------
    hardware : str
        Id of the profile that the rows belong to.
    ops, models : Path
        Tables in the columns of `training.dataset.schema`.
    out : Path
        Folder that receives ``ops.parquet``, ``models.parquet`` and ``manifest.json``.
    date : str
        Day of the measurement, ISO format.
    note : str
        How it was measured, in a sentence.
    """
    profile = load_profile(hardware)
    ops_table = read_ops(ops)
    models_table = read_models(models) if models is not None else None
    first = ops_table.frame.iloc[0]
    manifest: dict[str, Any] = {
        "hardware": profile.id,
        "machine": {key: _plain(first.get(key)) for key in ("device", "kind", "threads")},
        "software": {"torch": _plain(first.get("torch"))},
        "date": date,
        "note": note,
        "source_files": {p.name: file_hash(p) for p in (ops, models) if p is not None},
        "rejected": [{"row": r.row, "reason": r.reason} for r in ops_table.rejected],
    }
    write_dataset(out, ops_table.frame, models_table.frame if models_table else None, manifest)
    lines = [ops_table.summary("ops")] + ([models_table.summary("models")] if models_table else [])
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    text = json.loads(json.dumps(value, default=lambda v: v.item()))
    return None if isinstance(text, float) and text != text else text


@click.command()
@click.argument("hardware")
@click.option("--ops", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--models", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="default: data/HARDWARE")
@click.option("--date", required=True, help="day of the measurement, YYYY-MM-DD")
@click.option("--note", default="", help="how it was measured")
def main(hardware: str, ops: Path, models: Path | None, out: Path | None, date: str, note: str) -> None:
    """Import measured tables of HARDWARE."""
    click.echo(import_measured(hardware, ops, models, out or Path("data") / hardware, date, note))


if __name__ == "__main__":
    main()
