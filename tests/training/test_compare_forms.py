"""What a distilled model saves and costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from graphs.errors import DataError
from graphs.hardware.calibration.artifact import HEADER
from training import compare_forms
from training.ablation_render import _forms

HARDWARE = "h200-sxm"


def test_a_model_that_was_not_distilled_is_no_other_form(root: Path) -> None:
    folder = root / "models" / HARDWARE
    with pytest.raises(DataError, match=r"was not distilled; received 'members'; allowed: student"):
        compare_forms.compare(HARDWARE, folder, folder, root / "data" / HARDWARE)


def test_both_forms_side_by_side(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(compare_forms, "ROUNDS", 2)
    monkeypatch.setattr(compare_forms, "MIXED", 40)
    monkeypatch.setattr(compare_forms, "PRODUCTS", 20)
    folder = root / "models" / HARDWARE
    other = tmp_path / HARDWARE
    shutil.copytree(folder, other)
    header = json.loads((other / HEADER).read_text())
    header["provenance"]["form"] = "student"
    header["scores"]["held_out"]["all"]["mape"] += 0.01
    (other / HEADER).write_text(json.dumps(header))
    found = compare_forms.compare(HARDWARE, folder, other, root / "data" / HARDWARE)
    assert found["members"]["bytes"] == (folder / "model.npz").stat().st_size
    assert all(found[name][w] > 0 for name in compare_forms.FORMS for w in ("call_us", "mixed_us", "products_us"))
    page = _forms(json.loads(json.dumps(found)))
    assert "0.0 points of the median and 1.0 of the mean error" in " ".join(page.split())
    header["provenance"]["data_sha256"] = "0" * 64
    (other / HEADER).write_text(json.dumps(header))
    with pytest.raises(DataError, match="fitted to other data"):
        compare_forms.compare(HARDWARE, folder, other, root / "data" / HARDWARE)
