"""A short run: families that few rows cannot teach, and the score on another folder's held-out rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from graphs import ops
from graphs.errors import DataError
from graphs.hardware.profile import load_profile
from training.dataset.store import write_dataset
from training.fit.prepare import LEAST_ROWS, Table, fittable, read_frame
from training.measure import trial
from training.measure.finish import write_profile

ENVIRONMENT = {
    "kind": "cpu", "device": "AMD EPYC", "vendor": "AuthenticAMD", "family": 25, "model": 17, "cores": 2, "threads": 2,
    "torch": "0.0", "cache_bytes": {"l3": 32e6}, "memory_bytes": 8e9, "clock_hz": None,
}  # fmt: skip
CEILINGS = {"peak_flops_per_s": {"fp32": 1e11}, "how": {"fp32": "products"}, "bandwidth_bytes_per_s": 2e10}


def frame_of(**rows):
    """`rows`: by kind, how many rows of it in training."""
    made = []
    for op, n in rows.items():
        for i in range(n):
            params = {"numel": 1000 + i} if op == "relu" else {"rows": 8 + i, "cols": 64}
            cost = ops.evaluate(op, params, 4)
            made.append({"op": op, "dtype": "fp32", "params": params, "flops": cost.flops, "bytes": cost.bytes,
                         "median_us": 10.0 + i, "retest_us": np.nan, "split": "train"})  # fmt: skip
    return pd.DataFrame(made)


def test_a_family_of_few_rows_is_left_out_and_named() -> None:
    table, thin = fittable(Table.of(frame_of(relu=30, softmax=LEAST_ROWS - 1)))
    assert list(table.groups) == ["unary"]
    assert thin == {"rowwise": LEAST_ROWS - 1}
    held_out = frame_of(relu=30, softmax=30)
    held_out.loc[held_out["op"] == "softmax", "split"] = "random"  # rows that nothing may be learnt from
    assert list(fittable(Table.of(held_out))[0].groups) == ["unary"]
    with pytest.raises(DataError, match="measure longer"):
        fittable(Table.of(frame_of(relu=2)))


def test_a_short_run_is_scored_on_the_committed_held_out_rows(monkeypatch, tmp_path, root) -> None:
    own = frame_of(relu=40).drop(columns="split").assign(kind="cpu", device="AMD EPYC", retest_us=11.0)
    write_profile(tmp_path, trial.NAME, ENVIRONMENT, CEILINGS)
    write_dataset(tmp_path, own, None, {
        "hardware": trial.NAME, "machine": {"device": "AMD EPYC", "kind": "cpu", "threads": 2},
        "software": {"torch": "0.0"}, "date": "2026-01-01", "note": "a test", "environment": ENVIRONMENT,
    })  # fmt: skip
    asked = []

    def fitted(hardware, folder, progress):
        frame = read_frame(load_profile(hardware), folder)[0]
        asked.append((hardware, len(frame)))
        return SimpleNamespace(frame=frame, twin="twin", final="final")

    def predicted(rows, calibration):
        assert calibration == "calibration with twin"
        seconds = rows["median_us"].to_numpy() * 1.2e-6
        return rows.assign(predicted_s=seconds, low_s=seconds / 2, high_s=2 * seconds, source="model", reason="",
                           extrapolated_s=seconds)  # fmt: skip

    monkeypatch.setattr(trial, "train_model", fitted)
    monkeypatch.setattr(trial, "calibration_with", lambda model: f"calibration with {model}")
    monkeypatch.setattr(trial.holdout, "predict", predicted)
    said: list[str] = []
    found = trial.score(tmp_path, "epyc-2c", root / "data" / "epyc-2c", said.append)
    assert asked == [(trial.NAME, 40)]
    committed = read_frame(load_profile("epyc-2c"), root / "data" / "epyc-2c")[0]
    held_out = committed[committed["split"] != "train"]
    assert found["all"]["n"] == (held_out["dtype"] == "fp32").sum()
    assert [line for line in said if line.startswith(f"{(held_out['dtype'] == 'bf16').sum()} held-out rows")]
    assert found["all"]["median_ape"] == pytest.approx(0.2)
    assert [line for line in said if "torch: 0.0" in line]  # other software is told
    text = trial.told(found)
    assert "median   20.0 %" in text
    assert "within 10 %    0.0 %" in text
    assert "log_linear" in text
