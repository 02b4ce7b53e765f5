"""Every fitted model that is shipped: loads, is what its profile points at, is small, and answers for its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphs
from graphs import ops
from graphs.hardware.calibration.artifact import load_model
from graphs.hardware.calibration.calibration import load_calibration
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import hardware_ids, load_profile
from graphs.pricing import price_operators
from graphs.whole_model import WholeModelTerms

ROOT = Path(__file__).resolve().parent.parent
MB = 1e6
LIMITS = {"h100-sxm": 3 * MB}
OTHERS, TOTAL = 2 * MB, 12 * MB
FITTED = sorted(p.parent.name for p in (ROOT / "models").glob("*/model.json"))
#: Machines with data of their own must have a model: a missing one fails here rather than being skipped.
MEASURED = sorted(p.parent.name for p in (ROOT / "data").glob("*/ops.parquet"))


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_every_measured_machine_has_its_model() -> None:
    assert "h100-sxm" in MEASURED
    assert [m for m in MEASURED if m not in FITTED] == []


def test_all_models_together_are_small() -> None:
    assert sum(size(ROOT / "models" / name) for name in FITTED) <= TOTAL


def test_profiles_and_models_point_at_each_other() -> None:
    pointed = {load_profile(h).model for h in hardware_ids()}
    assert {f"models/{name}" for name in FITTED} <= pointed


@pytest.mark.parametrize("name", FITTED)
def test_model_is_small_and_has_a_card(name: str) -> None:
    folder = ROOT / "models" / name
    assert size(folder) <= LIMITS.get(name, OTHERS)
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    assert name in card
    assert "license:" in card
    assert not list(folder.glob("*.pkl")) + list(folder.glob("*.joblib")) + list(folder.glob("*.pt"))


@pytest.mark.parametrize("name", FITTED)
def test_model_loads_and_is_of_its_hardware(name: str) -> None:
    model = load_model(ROOT / "models" / name)
    profile = load_profile(model.hardware)
    calibration = load_calibration(name)
    assert calibration.model is not None
    assert calibration.model.hardware == model.hardware == profile.id
    # efficiencies refer to these peaks; a profile that changed since would re-scale every one of them
    assert model.machine.bandwidth_bytes_per_s == profile.bandwidth_bytes_per_s
    for dtype, peak in model.machine.peaks.items():
        assert peak == profile.peak_flops_per_s(dtype)
    for family in model.families.values():
        assert family.t0_s > 0
        assert family.weights.sum() == pytest.approx(1.0)
        assert (family.weights >= 0).all()  # the joint process may serve rare classes only
        assert 0 < family.interval.quantile < np.inf
        assert family.domains
        for op in family.domains:
            assert ops.get(op).family == family.family


@pytest.mark.parametrize("name", FITTED)
def test_header_says_what_it_was_fitted_on(name: str) -> None:
    header = json.loads((ROOT / "models" / name / "model.json").read_text())
    provenance = header["provenance"]
    assert {"data_sha256", "rows", "software", "versions", "date", "seed"} <= set(provenance)
    manifest = ROOT / provenance["data"] / "manifest.json"
    if manifest.is_file():
        described = json.loads(manifest.read_text())["files"]["ops.parquet"]
        assert provenance["data_sha256"] == described["sha256"]


def measured(name: str) -> tuple[Any, Any]:
    store = pytest.importorskip("training.dataset.store")
    frame = store.read_ops(ROOT / "data" / name / "ops.parquet").frame
    return frame, graphs.estimate_operators(frame, hardware=name)


@pytest.mark.parametrize("name", MEASURED)
def test_every_measured_row_gets_a_sound_answer_from_the_model(name: str) -> None:
    frame, e = measured(name)
    assert len(e) == len(frame) > 500
    assert np.isfinite(e.latency_s).all()
    assert (e.latency_s > 0).all()
    assert (e.efficiency > 0).all()
    # all of them were measured, so all are inside
    outside = e.source != "model"
    assert not outside.any(), f"{outside.sum()} measured rows outside, such as {e.reason[outside][:3].tolist()}"
    assert (e.interval_low_s < e.latency_s).all()
    assert (e.latency_s < e.interval_high_s).all()
    np.testing.assert_allclose(e.flops, frame["flops"].to_numpy(dtype=float))
    np.testing.assert_allclose(e.bytes, frame["bytes"].to_numpy(dtype=float))
    # the model has seen these rows: beyond the noise of the measurement, a large error here is a mistake of storage or
    # inference, not of fitting
    ape = np.abs(e.latency_s * 1e6 / frame["median_us"].to_numpy(dtype=float) - 1.0)
    retest = (frame["retest_us"] / frame["median_us"] - 1.0).abs().dropna()
    assert np.median(ape) < max(0.05, retest.median())
    assert np.quantile(ape, 0.99) < max(1.0, retest.quantile(0.99))


@pytest.mark.parametrize("name", [m for m in FITTED if m in MEASURED])
def test_far_outside_and_unmeasured_dtypes_are_the_default(name: str) -> None:
    model = load_model(ROOT / "models" / name)
    op = next(op for op in ("matmul", "linear") if op in model.families["gemm"].domains)
    domain = model.families["gemm"].domains[op]
    side = int(2.0 ** ((domain.high["flops"] - 1) / 3) * 10_000 ** (1 / 3))
    mapper = create_mapper(name)
    (group,) = ops.group_operators([op], ["fp32"], [{"m": side, "n": side, "k": side}])
    e = mapper.map_operators([group])
    assert e.source[0] == "default"
    assert e.compute_efficiency[0] == pytest.approx(0.20)
    assert "above the largest measured" in e.reason[0]
    if "fp64" in mapper.resource_model.peaks:
        (group,) = ops.group_operators([op], ["fp64"], [{"m": 512, "n": 512, "k": 512}])
        e = mapper.map_operators([group])
        assert (e.source[0], e.compute_efficiency[0]) == ("default", pytest.approx(0.20))
        assert "fp64" in e.reason[0]


@pytest.mark.parametrize("name", [m for m in FITTED if m in MEASURED])
def test_a_few_times_larger_than_measured_is_inside(name: str) -> None:
    model = load_model(ROOT / "models" / name)
    domain = model.families["gemm"].domains["linear"]
    side = int(2.0 ** ((domain.high["flops"] - 1) / 3) * 2 ** (1 / 3))
    (group,) = ops.group_operators(["linear"], ["fp32"], [{"m": side, "n": side, "k": side}])
    assert create_mapper(name).map_operators([group]).source[0] == "model"


@pytest.mark.parametrize(("name", "batch"), [("resnet18", 64), ("resnet50", 1)])
def test_known_networks_are_within_a_quarter_of_their_measured_time(name: str, batch: int) -> None:
    """The regressors see no whole model, and what is fitted on whole models leaves bf16 in graph mode as it is."""
    from graphs.tracing.library import load_trace

    frame = pytest.importorskip("pandas").read_parquet(ROOT / "data" / "h100-sxm" / "models.parquet")
    row = frame[
        (frame["model"] == name) & (frame["batch"] == batch) & (frame["dtype"] == "bf16") & (frame["mode"] == "graph")
    ]
    measured = float(row["median_us"].iloc[0]) * 1e-6
    trace, mapper = load_trace(name, batch, "bf16"), create_mapper("h100-sxm")
    estimate = graphs.estimate(trace, hardware="h100-sxm", mode="graph")
    plain = price_operators(trace, mapper, WholeModelTerms(), False)
    assert estimate.latency_s == pytest.approx(
        sum(o.count * r.latency_s for o, r in zip(trace.operators, plain, strict=True))
    )
    assert abs(estimate.latency_s / measured - 1.0) < 0.25


@pytest.mark.parametrize(("hardware", "most"), [("h100-sxm", 0.08), ("h200-sxm", 0.08), ("xeon-16c", 0.25)])
def test_held_out_rows_are_predicted_better_than_by_every_baseline(hardware: str, most: float) -> None:
    scores = json.loads((ROOT / "models" / hardware / "model.json").read_text())["scores"]
    assert scores["held_out"]["by_split"]["random"]["median_ape"] < most
    for name, baseline in scores["baselines"].items():
        assert scores["held_out"]["all"]["median_ape"] < baseline["median_ape"], name
        assert scores["held_out"]["all"]["mape"] < baseline["mape"], name


@pytest.mark.parametrize("name", ["h200-sxm", "h100-sxm"])
def test_the_stored_model_is_the_one_that_was_fitted(name: str) -> None:
    """Training priced the measured networks with the model in memory and wrote what came out into the header."""
    pandas = pytest.importorskip("pandas")
    priced = pytest.importorskip("training.fit.priced")
    host = pytest.importorskip("training.fit.host")
    mapper = create_mapper(name)
    base = host.related_terms(mapper)[0]
    stored = load_model(ROOT / "models" / name).header["whole_models"]["device"]
    rows = pandas.read_parquet(ROOT / "data" / name / "models.parquet")
    rows = rows[rows["mode"] != "eager"]
    models = priced.price_models(rows, mapper, base)
    assert len(models) == stored["rows"]
    found = np.log([r.device_s(base) / r.measured_s for r in models])
    assert host.error_figures(found) == pytest.approx(stored["plain_sum"], abs=2e-4)
