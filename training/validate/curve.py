"""The learning curve of a report: from the fitted model, from figures of `training.ablation`, or from its pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from graphs.errors import DataError

#: The page that `training.ablation` writes, in the source tree.
PAGE = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"
#: Figures of ``python -m training.ablation --curve-only --figures docs/curves/ID.json``, one file a machine.
CURVES = PAGE.parent / "curves"
_SHA = re.compile(r"SHA-256 `([0-9a-f]{8,})")
_TABLE = re.compile(
    r"^## Learning curve$.*?^\| family \|(.*?)$.*?^\| \*\*pooled\*\* \|(.*?)$", re.DOTALL | re.MULTILINE
)
_SHARE = re.compile(r"([\d.]+) % of the rows")


def learning_curve(given: Path | None, header: dict[str, Any], data_sha256: str | None) -> list[dict[str, Any]]:
    """Return [{share, median_ape, mape, within_10pct}], smallest share first; empty where there is none.

    Parameters
    ----------
    given : Path or None
        JSON of ``python -m training.ablation --figures``, or the Markdown page that it writes.
    header : dict
        Of the fitted model; ``scores.learning_curve`` is used where nothing is given.
    data_sha256 : str or None
        Of the data that the model was fitted on: a curve of other data is refused, or not used where none was given.

    Raises
    ------
    DataError
        If the given file is of other data, or holds no curve.
    """
    if given is None:
        stored: list[dict[str, Any]] = header.get("scores", {}).get("learning_curve", [])
        if stored or not data_sha256:
            return stored
        for path in (*sorted(CURVES.glob("*.json")), PAGE):
            sha, curve = _read(path) if path.is_file() else ("", [])
            if sha and curve and data_sha256.startswith(sha):
                return curve
        return []
    sha, curve = _read(given)
    if not sha or not (data_sha256 or "").startswith(sha):
        raise DataError(
            f"the learning curve in '{given.name}' was made from other data",
            received=sha,
            allowed=data_sha256,
            next_step="make it again with python -m training.ablation --figures",
        )
    if not curve:
        raise DataError(f"'{given.name}' holds no learning curve", next_step="leave out --quick when making it")
    return curve


def _read(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return (SHA-256 of the data or its beginning, curve)."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return _read_page(text)
    try:
        found = json.loads(text)
        curve = [{"share": float(share), **figures} for share, figures in found["pooled"]["curve"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"'{path.name}' holds no figures of training.ablation ({error})",
            next_step="make it with python -m training.ablation --figures",
        ) from error
    return str(found.get("data_sha256", "")), sorted(curve, key=lambda c: float(c["share"]))


def _read_page(text: str) -> tuple[str, list[dict[str, Any]]]:
    sha, table = _SHA.search(text), _TABLE.search(text)
    if sha is None or table is None:
        return "", []
    shares = [float(v) / 100.0 for v in _SHARE.findall(table[1])]
    cells = [c.split("/") for c in table[2].split("|") if c.count("/") == 2]
    curve = [
        dict(
            zip(
                ("share", "median_ape", "mape", "within_10pct"), (share, *(float(v) / 100.0 for v in cell)), strict=True
            )
        )
        for share, cell in zip(shares, cells, strict=False)
    ]
    return sha[1], sorted(curve, key=lambda c: c["share"])
