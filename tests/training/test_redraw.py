"""Domains drawn anew around the rows of a fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from graphs.errors import DataError
from graphs.hardware.calibration.artifact import HEADER, load_model
from training.fit import redraw

HARDWARE = "h200-sxm"


def test_domains_are_drawn_anew_and_nothing_else_changes(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "models" / HARDWARE, tmp_path / HARDWARE)
    path = tmp_path / HARDWARE / HEADER
    header = json.loads(path.read_text())
    domain = header["families"]["sdpa"]["domains"]["sdpa"]
    for part in ("low", "high", "margin"):
        domain[part].pop("keys a query skv/s")
    path.write_text(json.dumps(header))
    out = CliRunner().invoke(redraw.main, ["--hardware", HARDWARE, "--models", str(tmp_path)])
    assert out.exit_code == 0, out.output
    assert json.loads(path.read_text()) == json.loads((root / "models" / HARDWARE / HEADER).read_text())
    assert load_model(tmp_path / HARDWARE).families["sdpa"].domains["sdpa"].margin["keys a query skv/s"] == (0.0, 0.0)
    header["provenance"]["data_sha256"] = "0" * 64
    path.write_text(json.dumps(header))
    out = CliRunner().invoke(redraw.main, ["--hardware", HARDWARE, "--models", str(tmp_path)])
    assert isinstance(out.exception, DataError)
