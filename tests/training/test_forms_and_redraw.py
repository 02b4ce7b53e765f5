"""What a distilled model saves and costs, and domains drawn anew around the rows of a fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from graphs.errors import DataError
from graphs.hardware.calibration.artifact import HEADER, load_model
from training import forms
from training.ablation_render import _forms
from training.fit import redraw

HARDWARE = "h200-sxm"


def test_a_model_that_was_not_distilled_is_no_other_form(root: Path) -> None:
    folder = root / "models" / HARDWARE
    with pytest.raises(DataError, match=r"was not distilled; received 'members'; allowed: student"):
        forms.compare(HARDWARE, folder, folder, root / "data" / HARDWARE)


def test_both_forms_side_by_side(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(forms, "ROUNDS", 2)
    monkeypatch.setattr(forms, "MIXED", 40)
    monkeypatch.setattr(forms, "PRODUCTS", 20)
    folder = root / "models" / HARDWARE
    other = tmp_path / HARDWARE
    shutil.copytree(folder, other)
    header = json.loads((other / HEADER).read_text())
    header["provenance"]["form"] = "student"
    header["scores"]["held_out"]["all"]["mape"] += 0.01
    (other / HEADER).write_text(json.dumps(header))
    found = forms.compare(HARDWARE, folder, other, root / "data" / HARDWARE)
    assert found["members"]["bytes"] == (folder / "model.npz").stat().st_size
    assert all(found[name][w] > 0 for name in forms.FORMS for w in ("call_us", "mixed_us", "products_us"))
    page = _forms(json.loads(json.dumps(found)))
    assert "0.0 points of the median and 1.0 of the mean error" in " ".join(page.split())
    header["provenance"]["data_sha256"] = "0" * 64
    (other / HEADER).write_text(json.dumps(header))
    with pytest.raises(DataError, match="fitted to other data"):
        forms.compare(HARDWARE, folder, other, root / "data" / HARDWARE)


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
