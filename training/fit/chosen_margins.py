"""The chosen margins of the applicability domain: ``margins.json``, read and written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from graphs.errors import DataError
from training.dataset.store import file_hash

FILE = Path(__file__).with_name("margins.json")
SCHEMA_VERSION = 1
#: Error beyond the range over the cross-validated one that a margin may cost.
TOLERANCE = 2.0


@cache
def stored() -> Mapping[str, Any]:
    """Return the stored entry of each family, or raise `DataError`."""
    try:
        raw: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {raw['schema_version']}")
        return dict(raw["families"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the margins of the applicability domain cannot be read ({error})",
            received=str(FILE.name),
            next_step="write them again with `python -m training.fit.margins --hardware h100-sxm`",
        ) from error


def margins_for(family: str) -> dict[str, tuple[float, float]]:
    """Return the margins below and above the measured range by quantity, in factors of two.

    Empty for a family that was not looked at; `Domain.of` then takes its default.

    Raises
    ------
    DataError
        If the stored margins cannot be read.
    """
    entry = stored().get(family, {"margins": {}})
    return {name: (float(low), float(high)) for name, (low, high) in entry["margins"].items()}


def store(families: Mapping[str, Any], hardware: str, data: Path, rows: int, path: Path = FILE) -> None:
    """Write chosen margins with their provenance."""
    out = {
        "schema_version": SCHEMA_VERSION,
        "provenance": {
            "hardware": hardware,
            "data_sha256": file_hash(data / "ops.parquet"),
            "rows": rows,
            "date": date.today().isoformat(),
            "command": f"python -m training.fit.margins --hardware {hardware}",
        },
        "unit": "factors of two, [below, above] the measured range",
        "families": families,
    }
    text = json.dumps(out, indent=1)
    # pairs and evidence on one line each: the file is read by people too
    text = re.sub(r"\{\s+(\"passed\"[^{}]*?)\s+\}", lambda m: "{" + re.sub(r"\s+", " ", m[1]) + "}", text)
    text = re.sub(r"\[\s+([\d.]+),\s+([\d.]+)\s+\]", r"[\1, \2]", text)
    path.write_text(text + "\n", encoding="utf-8")
    stored.cache_clear()
