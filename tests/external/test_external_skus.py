"""Models fitted on public measurements: fitting on made-up rows, and what the shipped ones answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from external_rows import gemm_rows, write
from threadpoolctl import threadpool_limits

import graphs
from graphs.errors import UnknownHardwareError
from graphs.hardware import assets
from graphs.hardware.calibration.artifact import load_model
from graphs.hardware.calibration.calibration import load_calibration
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import load_profile
from training.external.compact import shrink
from training.external.ship import profile_of, ship
from training.external.skus import find, skus
from training.fit.trees import fit_trees

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(p.name for p in (ROOT / "models").glob("*+*"))
#: A call every SKU of its source has rows for.
COMMON = {"neusight": ("softmax", {"rows": 4096, "cols": 1024}, "fp32"),
          "aiconfigurator": ("linear", {"m": 512, "n": 4096, "k": 4096}, "bf16")}  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the command does: threads that wait for each other take many times as long on small tables."""
    with threadpool_limits(limits=1):
        yield


def test_every_fitted_sku_is_one_that_can_be_fitted_again() -> None:
    assert set(SHIPPED) <= set(skus())
    with pytest.raises(UnknownHardwareError, match=r"t4\+torch2.1"):
        find("t4+torch9")


@pytest.mark.parametrize("name", sorted(skus()))
def test_shipped_profiles_are_those_that_a_fit_would_write(name: str) -> None:
    path = assets.find_asset(f"profiles/{name}.json")
    assert path is not None
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(profile_of(find(name))))


@pytest.mark.usefixtures("one_thread")
def test_fit_on_made_up_rows_answers_with_interval_and_domain(tmp_path: Path) -> None:
    ms = [1, 3, 8, 20, 64, 65, 128, 200, 512, 1000, 2048, 4096, 8192]
    data = write(tmp_path / "data", gemm=gemm_rows(ms))
    ship("h100-sxm+trtllm1.3", data, tmp_path / "models")
    written = load_model(tmp_path / "models" / "h100-sxm+trtllm1.3")
    profile = json.loads((tmp_path / "profiles" / "h100-sxm+trtllm1.3.json").read_text(encoding="utf-8"))
    base = load_profile("h100-sxm")
    assert profile["model"] == "models/h100-sxm+trtllm1.3"
    assert profile["aliases"] == []  # the names of the machine stay those of its own model
    assert profile["peak_flops_per_s"]["bf16"]["value"] == base.peak_flops_per_s("bf16")
    card = (tmp_path / "models" / "h100-sxm+trtllm1.3" / "CARD.md").read_text(encoding="utf-8")
    for part in ("Apache-2.0", "095f58a", "license:", "bias"):
        assert part in card
    calibration = load_calibration(tmp_path / "profiles" / "h100-sxm+trtllm1.3.json")
    mapper = create_mapper(str(tmp_path / "profiles" / "h100-sxm+trtllm1.3.json"), calibration=calibration)
    (group,) = graphs.ops.group_operators(["linear"], ["bf16"], [{"m": 300, "n": 2048, "k": 2048}])
    e = mapper.map_operators([group])
    law = 3e-6 + 1.3 * max(2 * 300 * 2048**2 / 989e12, (2 * 300 * 2048 + 2048**2) * 2 / 3.35e12)
    assert e.source[0] == "model"
    assert e.interval_low_s[0] < e.latency_s[0] < e.interval_high_s[0]
    assert e.latency_s[0] == pytest.approx(law, rel=0.1)
    assert written.header["scores"]["held_out"]["by_op"]["linear"]["median_ape"] < 0.05
    # the same rows and seed give the same file
    before = (tmp_path / "models" / "h100-sxm+trtllm1.3" / "model.npz").read_bytes()
    ship("h100-sxm+trtllm1.3", data, tmp_path / "models")
    assert (tmp_path / "models" / "h100-sxm+trtllm1.3" / "model.npz").read_bytes() == before


@pytest.mark.usefixtures("one_thread")
def test_shrinking_changes_predictions_by_at_most_a_fifth_of_a_percent() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 50, 2000), rng.normal(size=2000)]).astype(float)
    full = fit_trees(x, np.sin(x[:, 0]) + 0.1 * x[:, 1], 0, max_iter=100)
    small = shrink(full)
    np.testing.assert_allclose(small.predict(x), full.predict(x), atol=2e-3)
    assert sum(a.nbytes for a in small.arrays().values()) < 0.9 * sum(a.nbytes for a in full.arrays().values())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sku_answers_inside_and_says_default_outside(name: str) -> None:
    sku = find(name)
    op, params, dtype = COMMON[sku.source.name]
    inside = graphs.estimate_operator(op, params, dtype, hardware=name)
    assert inside.source == "model"
    assert 0 < inside.interval_s[0] < inside.latency_s < inside.interval_s[1]
    assert 0.01 < inside.efficiency < 2.0
    huge = graphs.estimate_operator("linear", {"m": 2**20, "n": 2**20, "k": 2**17}, dtype, hardware=name)
    assert huge.source == "default"
    assert "above the largest measured" in huge.reason
    for other_op, other_params, other_dtype in (
        ("linear", {"m": 512, "n": 4096, "k": 4096}, "fp16"),
        ("maxpool2d", {"n": 8, "c": 64, "h": 56, "w": 56, "k": 3, "stride": 2, "pad": 1}, dtype),
    ):
        if other_dtype not in load_profile(name).peaks:
            continue
        e = graphs.estimate_operator(other_op, other_params, other_dtype, hardware=name)
        assert e.source == "default"
        assert np.isnan(e.interval_s[0])
        assert "never measured" in e.reason


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sku_says_where_it_comes_from(name: str) -> None:
    sku, profile = find(name), load_profile(name)
    folder = ROOT / "models" / name
    header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert header["provenance"]["commit"] == sku.source.commit
    assert header["provenance"]["licence"] == sku.source.licence
    assert profile.bandwidth_bytes_per_s == load_profile(sku.base).bandwidth_bytes_per_s
    scores = header["scores"]
    assert scores["held_out"]["all"]["median_ape"] < 0.06
    assert 0.85 < scores["held_out"]["all"]["interval_coverage"] < 0.97
    for baseline in scores["baselines"].values():
        assert scores["held_out"]["all"]["mape"] < baseline["mape"]
    assert sum(p.stat().st_size for p in folder.iterdir()) < 600e3
    # two members and their interval, no measured row
    assert {p.name for p in folder.iterdir()} == {"CARD.md", "model.json", "model.npz"}
