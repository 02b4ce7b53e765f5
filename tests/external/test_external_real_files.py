"""The real files of the sources, where GRAPHS_EXTERNAL_DATA names their folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphs
from training.external import aiconfigurator, neusight
from training.external.baselines import Lookup
from training.external.features import rooflines
from training.external.skus import aic_group
from training.external.source import AICONFIGURATOR, NEUSIGHT, data_folder
from training.external.splits import splits

pytestmark = pytest.mark.external


def test_flop_and_bytes_of_every_neusight_row_agree(external_data: Path) -> None:
    frame = neusight.read_ops(data_folder(NEUSIGHT, external_data))  # raises where a row disagrees
    assert len(frame) > 300_000
    assert set(frame["op"]) == set(neusight.OURS) | set(neusight.STAND_IN)


def test_lookup_repeats_the_figures_of_another_implementation(external_data: Path) -> None:
    """An implementation of other hands had 4.6 % on another random 20 % of H100 bf16, and 12.1 % on the same top m."""
    frame = aiconfigurator.read_gemm(data_folder(AICONFIGURATOR, external_data))
    one = frame[frame["set"] == "h100_sxm bfloat16"].reset_index(drop=True)
    m, n, k, seconds = (one[c].to_numpy(dtype=float) for c in ("m", "n", "k", "latency_s"))
    roofline = rooflines(one).attainable_s
    for split, published, differs in (("random", 0.046, 0.15), ("largest", 0.121, 0.01)):
        held = splits(one)[split]
        table = Lookup.fit(m[~held], n[~held], k[~held], seconds[~held], roofline[~held])
        answers = table.predict(m[held], n[held], k[held], roofline[held])
        assert np.nanmean(np.abs(answers / seconds[held] - 1)) == pytest.approx(published, rel=differs)


def test_shipped_sku_is_right_about_its_rows(external_data: Path) -> None:
    frame = aiconfigurator.read_gemm(data_folder(AICONFIGURATOR, external_data))
    one = frame[frame["set"] == "h200_sxm bfloat16"].sample(2000, random_state=0)
    call = aic_group(one)
    e = graphs.create_mapper("h200-sxm+trtllm1.3").map_operators([call])
    assert (e.source == "model").all()
    seconds = one["latency_s"].to_numpy(dtype=float)
    assert np.median(np.abs(e.latency_s / seconds - 1)) < 0.05
    assert ((e.interval_low_s <= seconds) & (seconds <= e.interval_high_s)).mean() > 0.85
