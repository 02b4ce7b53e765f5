"""Intervals against independent judges: crepes on the same scores, and the coverage of the committed predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from graphs.hardware.calibration.features import family_of
from graphs.hardware.profile import load_profile
from training.fit.family import FLOOR, conformal

LEVEL = 0.9
DEVICES = ("h100-sxm", "h200-sxm", "xeon-16c", "epyc-2c")


@pytest.mark.parametrize("n", [50, 199, 1234])
def test_normalised_split_conformal_interval_is_that_of_crepes(n: int) -> None:
    """Half-widths of new rows, for calibration sets where the rank is and is not a whole number."""
    crepes = pytest.importorskip("crepes", reason="crepes (extra 'dev') is not installed")
    rng = np.random.default_rng(n)
    spread = rng.uniform(0.01, 0.4, n)
    residual = rng.normal(0.0, 0.02 + spread)
    new = rng.uniform(0.0, 0.6, 300)

    oracle = crepes.ConformalRegressor().fit(residual, sigmas=spread + FLOOR)
    # crepes takes the integer part of (1 - 0.9) (n + 1), in floating point 19 for n = 199: a hair less is exact
    bounds = oracle.predict_int(np.zeros(len(new)), sigmas=new + FLOOR, confidence=LEVEL - 1e-9)

    half = conformal(np.abs(residual), spread, LEVEL).half_width(new)
    np.testing.assert_allclose(half, bounds[:, 1], rtol=1e-12)
    np.testing.assert_allclose(-half, bounds[:, 0], rtol=1e-12)


def test_crepes_tells_plain_from_normalised_scores() -> None:
    """The comparison above would notice an interval that ignores the spread."""
    crepes = pytest.importorskip("crepes", reason="crepes (extra 'dev') is not installed")
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.01, 0.4, 500)
    residual = rng.normal(0.0, 0.02 + spread)
    plain = crepes.ConformalRegressor().fit(residual).predict_int(np.zeros(3), confidence=LEVEL)[:, 1]
    ours = conformal(np.abs(residual), spread, LEVEL).half_width(np.array([0.05, 0.2, 0.4]))
    assert np.abs(plain / ours - 1.0).max() > 0.2


@pytest.fixture(scope="module")
def random_rows(root: Path) -> dict[str, pd.DataFrame]:
    """Held-out rows of the random split that the twin answered, by hardware, with `share` and `family`.

    The share is |log(measured / predicted)| over the half-width: at most 1 where the interval covers.  The random
    split alone is exchangeable with the rows that the quantile was read from.
    """
    from training.fit.prepare import read_frame
    from training.validate.holdout import read

    out = {}
    for hardware in DEVICES:
        frame = read_frame(load_profile(hardware), root / "data" / hardware)[0]
        rows = read(root / "models" / hardware, frame)
        rows = rows[((rows["source"] == "model") & (rows["split"] == "random")).to_numpy()]
        measured = rows["median_us"].to_numpy(dtype=np.float64) * 1e-6
        half = 0.5 * np.log(rows["high_s"].to_numpy() / rows["low_s"].to_numpy())
        share = np.abs(np.log(measured / rows["predicted_s"].to_numpy())) / half
        out[hardware] = rows.assign(share=share, family=[family_of(op) for op in rows["op"]])
    return out


def _within_band(share: np.ndarray) -> bool:
    """Return whether as many rows are covered as of exact 90 % intervals would be, 99.9 % of the time."""
    low, high = binom.interval(0.999, len(share), LEVEL)
    return bool(low <= (share <= 1.0).sum() <= high)


def test_committed_intervals_cover_what_they_promise_over_all_machines(random_rows: dict[str, pd.DataFrame]) -> None:
    """Thousands of rows tell biases that no single family can: intervals 15 % too narrow or wide are caught."""
    share = np.concatenate([rows["share"].to_numpy() for rows in random_rows.values()])
    assert len(share) > 4000
    assert _within_band(share)
    assert not _within_band(share / 0.85)
    assert not _within_band(share / 1.15)


@pytest.mark.parametrize("hardware", ["h100-sxm", "h200-sxm", "xeon-16c"])
def test_committed_intervals_cover_what_they_promise_in_every_family(
    random_rows: dict[str, pd.DataFrame], hardware: str
) -> None:
    """Held-out rows that the twin answered: covered as often as 9 in 10 would be, two-sided 99.9 % binomial band."""
    rows = random_rows[hardware]
    covered, family = (rows["share"] <= 1.0).to_numpy(), rows["family"].to_numpy(dtype=np.str_)
    checked, wrong = 0, {}
    for name in np.unique(family):
        mine = family == name
        if mine.sum() < 100:
            continue
        checked += 1
        low, high = binom.interval(0.999, int(mine.sum()), LEVEL)
        if not low <= covered[mine].sum() <= high:
            wrong[str(name)] = (
                f"{covered[mine].mean():.3f} of {mine.sum()}, allowed {low / mine.sum():.3f} to {high / mine.sum():.3f}"
            )
    assert not wrong
    if hardware == "h100-sxm":
        assert checked == 10
