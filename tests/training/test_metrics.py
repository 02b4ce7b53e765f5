"""The error figures, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.validate.metrics import metrics


def test_by_hand() -> None:
    measured = np.array([1.0, 2.0, 4.0, 8.0])
    predicted = np.array([1.05, 1.0, 4.0, 16.0])  # +5 %, -50 %, 0, +100 %
    m = metrics(measured, predicted, np.array([0.9, 1.5, np.nan, 7.0]), np.array([1.1, 2.5, np.nan, 7.5]),
                np.array(["model", "model", "default", "model"]))  # fmt: skip
    assert m["n"] == 4
    assert m["mape"] == pytest.approx((0.05 + 0.5 + 0 + 1.0) / 4)
    assert m["median_ape"] == pytest.approx((0.05 + 0.5) / 2)
    assert m["within_10pct"] == 0.5
    assert m["bias"] == pytest.approx((1.05 * 0.5 * 1 * 2) ** 0.25 - 1)
    assert m["interval_coverage"] == pytest.approx(2 / 3)  # the row without an interval does not count
    assert m["source_share"] == {"model": 0.75, "default": 0.25}


def test_no_rows_give_no_figures() -> None:
    m = metrics(np.empty(0), np.empty(0))
    assert m["n"] == 0
    assert m["mape"] is None
    assert m["interval_coverage"] is None


def test_fractions_not_percent() -> None:
    assert metrics(np.array([1.0]), np.array([2.0]))["mape"] == 1.0
