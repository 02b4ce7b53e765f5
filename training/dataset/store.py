"""Reading and writing measured tables: ``data/<hardware>/{ops,models}.parquet`` beside a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from graphs.errors import DataError, SchemaVersionError
from training.dataset.schema import Table, check_models, check_ops

#: Version of the manifest and of the columns.  Raise it when an old reader would misread new files.
SCHEMA_VERSION = 1


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV (``.csv``, ``.csv.gz``) or parquet file as it is.

    Raises
    ------
    DataError
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.name.endswith((".csv", ".csv.gz")):
            return pd.read_csv(path)
    except Exception as error:  # pandas and pyarrow raise many kinds; all mean that the file is not readable
        raise DataError(f"table '{path}' cannot be read ({error})", next_step="check the path and the file") from error
    raise DataError(
        "a table of an unknown format", received=path.name, allowed=".csv, .csv.gz or .parquet", next_step="convert it"
    )


def read_ops(path: Path) -> Table:
    """Read and check an operator table."""
    return check_ops(read_table(path), Path(path).name)


def read_models(path: Path) -> Table:
    """Read and check a table of whole-model latencies."""
    return check_models(read_table(path), Path(path).name)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as hex.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read ({error.strerror or error})", received=str(path), allowed="a readable file",
            next_step="check the path and the rights to it",
        ) from error  # fmt: skip


def write_dataset(
    folder: Path, ops_table: pd.DataFrame, models_table: pd.DataFrame | None, manifest: Mapping[str, Any]
) -> None:
    """Write checked tables and their manifest; each file is replaced in one step."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"ops.parquet": ops_table.assign(params=ops_table["params"].map(_canonical_json))}
    if models_table is not None:
        files["models.parquet"] = models_table
    described: dict[str, Any] = {}
    for name, frame in files.items():
        temporary = folder / f".{name}.tmp"
        frame.to_parquet(temporary, index=False, compression="zstd")
        os.replace(temporary, folder / name)
        described[name] = {"sha256": file_hash(folder / name), "rows": len(frame), "columns": list(frame.columns)}
    text = json.dumps({"schema_version": SCHEMA_VERSION, **manifest, "files": described}, indent=2)
    temporary = folder / ".manifest.json.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, folder / "manifest.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest and check that the files are those it describes.

    Raises
    ------
    DataError, SchemaVersionError
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"manifest '{path}' cannot be read ({error})",
            next_step="import the tables with `python -m training.dataset.importer`",
        ) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files", {}), dict):
        raise DataError(
            f"'{path}' is no manifest of measured tables", received=type(manifest).__name__,
            allowed="a JSON object with an object 'files'", next_step="restore it, or import the tables again",
        )  # fmt: skip
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"manifest '{path}' has another schema version",
            received=manifest.get("schema_version"),
            allowed=SCHEMA_VERSION,
            next_step="upgrade graphs, or import the tables again",
        )
    for name, described in manifest.get("files", {}).items():
        known = described.get("sha256") if isinstance(described, dict) else None
        if not (path.parent / name).is_file() or file_hash(path.parent / name) != known:
            raise DataError(
                f"'{path.parent / name}' is missing or is not the file that its manifest describes",
                next_step="restore it, or import the tables again",
            )
    return dict(manifest)


def _canonical_json(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True, separators=(",", ":"))
