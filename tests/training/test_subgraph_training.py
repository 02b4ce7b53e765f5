"""Public subgraph tables: what is read, dropped and flagged, and that a fit recovers a known cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graphs.errors import DataError
from graphs.hardware.calibration import load_calibration
from graphs.hardware.profile import load_profile
from training.subgraphs import fit, process
from training.subgraphs.dataset import FILE, Subgraphs, read_subgraphs
from training.subgraphs.report import tables
from training.subgraphs.shapes import read_nodes
from training.subgraphs.train import train_subgraphs

SHAPES = Path(__file__).parents[2] / "data" / "fx-shapes"
MODELS = ("resnet18", "resnet34", "mobilenet_v2", "vgg11")


def synthetic_latency_s(flops: float, nbytes: float, nodes: int) -> float:
    return 3e-6 * nodes + flops / 4e11 + nbytes / 4e10


def row(model: str, names: list[str], **changes: object) -> dict[str, object]:
    from graphs.hardware.calibration.subgraph_features import describe

    nodes = read_nodes(SHAPES, model, 1)
    d = describe([c for n in names if n in nodes for c in nodes[n].calls], len(names), 4)
    ms = 1e3 * synthetic_latency_s(d.flops, d.nbytes, d.nodes)
    return {
        "hardware_id": "i7_12700K", "precision": "fp32", "model": model, "batch_size": 1, "flops": d.flops,
        "latency_mean_ms": ms, "latency_std_ms": 0.01 * ms, "latency_min_ms": ms, "latency_max_ms": 1.1 * ms,
        "n_nodes": len(names), "node_names": "|".join(names), "fusion_pattern": "x",
    } | changes  # fmt: skip


def table(folder: Path, extra: list[dict[str, object]]) -> Path:
    rows = [row(m, [n]) for m in MODELS for n in read_nodes(SHAPES, m, 1)]
    pd.DataFrame(rows + extra).to_csv(folder / FILE, index=False)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Subgraphs:
    names = list(read_nodes(SHAPES, "resnet34", 1))
    slow = []
    for n in names:
        r = row("resnet34", [n], hardware_id="intel_core_i7_12700k")
        slow.append(r | {"latency_mean_ms": float(str(r["latency_mean_ms"])) * 1.8})
    return read_subgraphs(table(tmp_path, slow), SHAPES, "i7-12700k")


def test_rows_that_cannot_be_used_are_dropped_and_counted(tmp_path: Path) -> None:
    bad = [
        row("resnet18", ["conv1"], precision="fp16"),
        row("resnet18", ["conv1"], latency_mean_ms=0.0),
        row("resnet18", ["conv1", "no_such_node"]),
        row("resnet18", ["conv1"], flops=1e9),
        row("resnet18", ["conv1"], latency_std_ms=1e9),
        row("resnet18", ["conv1"], hardware_id="another machine"),
    ]
    before = read_subgraphs(table(tmp_path, []), SHAPES, "i7-12700k")
    counts = read_subgraphs(table(tmp_path, bad), SHAPES, "i7-12700k").counts
    counts.subtract(before.counts)
    assert {k: v for k, v in counts.items() if v} == {
        "read": 5,
        "kept": 1,
        "dropped: precision is emulated here, or not asked for": 1,
        "dropped: no latency": 1,
        "dropped: a node is not in the recorded network": 1,
        "dropped: recorded FLOP contradict the recovered shapes": 1,
        "flagged: noisy (std above half of the mean, or a maximum above 3 means)": 1,
    }


def test_missing_table_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_subgraphs(tmp_path, SHAPES, "i7-12700k")
    with pytest.raises(DataError, match="batch 7"):
        read_nodes(SHAPES, "resnet18", 7)


def test_recorded_networks_are_those_of_the_papers() -> None:
    from graphs import ops

    # multiply-adds at one image, from the networks' publications
    for network, gmac in (("resnet18", 1.82), ("resnet50", 4.09), ("vgg16", 15.5), ("mobilenet_v2", 0.30),
                          ("efficientnet_b0", 0.39)):  # fmt: skip
        flops = sum(
            int(ops.evaluate(op, p, 4).flops)
            for node in read_nodes(SHAPES, network, 1).values()
            for op, p in node.calls
            if op in ("conv2d", "dwconv2d", "linear")
        )
        assert flops / 2e9 == pytest.approx(gmac, rel=0.03), network


def test_a_slow_run_is_left_out_of_the_fit_and_still_scored(data: Subgraphs) -> None:
    everything = np.ones(len(data.frame), dtype=bool)
    assert fit.disturbed_runs(data, everything) == ["intel_core_i7_12700k//fp32/resnet34/1"]


def test_left_out_models_are_predicted_from_the_others(data: Subgraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HYPER_ROWS", 40)
    held = fit.hold_out(data, "model")
    clean = (data.frame["campaign"] == "i7_12700K").to_numpy()
    good = fit.score(data, held.latency_s, clean)
    assert good["subgraph_median_ape"] < 0.05
    assert good["model_mape"] < 0.05
    # the disturbed run was not learned from, and its score shows what it is
    bad = fit.score(data, held.latency_s, ~clean)
    assert bad["model_mape"] == pytest.approx(1 - 1 / 1.8, abs=0.05)
    assert good["models"] == 4


def test_cost_is_recovered_and_never_negative() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1.0, (200, 4)) * np.array([1.0, 1e9, 1e6, 1e3])
    truth = np.array([3e-6, 2e-12, 1e-11, 0.0])
    found = fit.fit_cost(x, x @ truth)
    np.testing.assert_allclose(found[:3], truth[:3], rtol=1e-6)
    assert (found >= 0).all()


def test_tables_of_two_ranges_are_learned_on_other_models_only(data: Subgraphs) -> None:
    test = (data.frame["model"] == "vgg11").to_numpy()
    profile = load_profile("i7-12700k")
    two = tables(data, profile, test, ranges=True)
    changed = data.frame.assign(latency_s=np.where(test, 1e3, data.frame["latency_s"]))
    again = tables(Subgraphs(changed, data.described), profile, test, ranges=True)
    np.testing.assert_array_equal(two[test], again[test])


def test_a_trained_folder_answers_as_a_calibration(
    data: Subgraphs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "HYPER_ROWS", 40)
    monkeypatch.setattr(process, "HYPER_STEPS", 20)
    folder = tmp_path / "new"
    card = train_subgraphs(data, load_profile("i7-12700k"), folder)
    assert "intel_core_i7_12700k//fp32/resnet34/1" in card
    calibration = load_calibration(folder)
    assert calibration.profile.id == "i7-12700k"
    known = [d for d in data.described if d.flops > 1e6][:20]
    answer = calibration.subgraphs.answer(known, "fp32") if calibration.subgraphs else None
    assert answer is not None
    truth = [synthetic_latency_s(d.flops, d.nbytes, d.nodes) for d in known]
    np.testing.assert_allclose(answer.latency_s, truth, rtol=0.1)
    assert (answer.low_s <= answer.latency_s).all()
