"""The shipped models of fused subgraphs: answers, domain, damage, and what a mapper and an estimate make of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import graphs
from graphs.errors import ModelFileError, SchemaVersionError
from graphs.hardware.calibration.subgraph_features import NAMES, describe
from graphs.hardware.calibration.subgraph_model import ARRAYS, HEADER, load_subgraphs, save_subgraphs
from graphs.hardware.mappers.cpu import create_i7_12700k_mapper
from graphs.hardware.mappers.registry import create_mapper
from graphs.subgraph import FusedSubgraph, ParallelismDescriptor
from graphs.tracing.trace import Trace, TracedOperator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "models" / "i7-12700k-subgraphs"
IMAGE = {"n": 1, "c": 64, "h": 56, "w": 56}
CONV = ("conv2d", IMAGE | {"o": 64, "k": 3, "pad": 1})
BLOCK = [CONV, ("batchnorm", IMAGE), ("relu_nd", IMAGE)]


def test_features_know_the_product_behind_a_convolution() -> None:
    row = dict(zip(NAMES, describe(BLOCK, 3, 4).row.tolist(), strict=True))
    assert 2 ** row["first rows"] == pytest.approx(56 * 56)
    assert 2 ** row["first columns"] == pytest.approx(64)
    assert 2 ** row["first depth"] == pytest.approx(64 * 9)
    assert (row["first is conv"], row["norm count"], row["activation count"]) == (1, 1, 1)
    assert 2 ** row["weights"] == pytest.approx(64 * 64 * 9 * 4, rel=1e-5)


def test_features_do_not_depend_on_spelled_out_defaults() -> None:
    full = ("conv2d", CONV[1] | {"kw": 3, "padw": 1, "stride": 1, "groups": 1, "bias": False, "fmt": "contiguous"})
    np.testing.assert_array_equal(describe([CONV], 1, 4).row, describe([full], 1, 4).row)


def test_idle_subgraphs_have_a_latency_too() -> None:
    model = load_subgraphs(FOLDER)
    found = model.answer([describe([], 1, 4)], "fp32")
    assert 1e-7 < found.latency_s[0] < 1e-5  # a view: some microseconds of dispatch


def test_more_work_takes_longer_and_a_fused_block_is_near_the_sum_of_its_nodes() -> None:
    mapper = create_mapper("i7-12700k")
    one = mapper.map_subgraph(FusedSubgraph(0, operators=BLOCK))
    big = {"n": 4, "c": 64, "h": 56, "w": 56}
    four = mapper.map_subgraph(
        FusedSubgraph(0, operators=[("conv2d", CONV[1] | {"n": 4}), ("batchnorm", big), ("relu_nd", big)])
    )
    assert one.source == four.source == "model"
    assert 2.0 < four.estimated_latency / one.estimated_latency < 6.0
    assert one.interval_s[0] < one.estimated_latency < one.interval_s[1]
    # nothing was fused when it was measured
    alone = sum(graphs.estimate_operator(op, p, hardware="i7-12700k").latency_s for op, p in BLOCK)
    assert 0.6 < one.estimated_latency / alone < 1.6


def test_outside_the_domain_the_default_answers_and_names_the_feature() -> None:
    wide = IMAGE | {"c": 65536, "h": 512, "w": 512}
    a = create_mapper("i7-12700k").map_subgraph(
        FusedSubgraph(0, operators=[("conv2d", wide | {"o": 65536, "k": 3, "pad": 1}), ("batchnorm", wide)])
    )
    # the batch norm alone has the measured bandwidth to go by; the convolution has nothing
    assert a.source == "default"
    assert "above the largest measured (margin 2x)" in a.reason


def test_operator_points_of_the_i7_come_before_the_subgraph_model() -> None:
    e = graphs.estimate_operator("matmul", {"m": 2048, "n": 2048, "k": 2048}, hardware="i7-12700k")
    assert e.latency_s == pytest.approx(2 * 2048**3 / 729.7e9)
    r = graphs.estimate_operator("relu", {"numel": 2**24}, hardware="i7-12700k")
    assert (r.source, r.latency_s) == ("calibrated_roofline", pytest.approx(2**27 / 51.6e9))


def test_uncalibrated_mapper_has_no_subgraph_model() -> None:
    a = create_i7_12700k_mapper().map_subgraph(FusedSubgraph(0, operators=BLOCK))
    assert a.source == "default"
    assert a.compute_time == pytest.approx(a.flops / 0.2e12, rel=0.2)


def test_concurrency_divides_the_machine_once() -> None:
    mapper = create_mapper("i7-12700k")
    s = FusedSubgraph(0, operators=BLOCK, parallelism=ParallelismDescriptor(channels=64, spatial=56 * 56))
    alone, shared = (mapper.map_subgraph(s, concurrent_subgraphs=n) for n in (1, 3))
    assert shared.compute_units_allocated == alone.compute_units_allocated // 3
    assert shared.estimated_latency == pytest.approx(3 * alone.estimated_latency)
    assert shared.efficiency == pytest.approx(alone.efficiency / 3)


@pytest.mark.parametrize(("hardware", "dtype"), [("i7-12700k", "fp32"), ("ryzen-9-8945hs", "fp32"),
                                                 ("jetson-orin-agx", "fp16")])  # fmt: skip
def test_a_traced_block_is_priced_as_one_subgraph(hardware: str, dtype: str) -> None:
    trace = Trace(tuple(TracedOperator(op, p, dtype) for op, p in BLOCK), "block", 1, dtype, sequence=(0, 1, 2))
    e = graphs.estimate(trace, hardware=hardware)
    a = create_mapper(hardware).map_subgraph(FusedSubgraph(0, operators=BLOCK), precision=dtype)
    assert e.latency_s == pytest.approx(a.estimated_latency)
    assert [o.source for o in e.operators] == ["model"] * 3
    assert e.operators[0].reason == "part of conv2d+batchnorm+relu_nd"
    assert e.operators[0].latency_s > e.operators[2].latency_s


def test_round_trip_keeps_every_answer(tmp_path: Path) -> None:
    model = load_subgraphs(FOLDER)
    save_subgraphs(model, tmp_path)
    again = load_subgraphs(tmp_path)
    asked = [describe(BLOCK, 3, 4), describe([CONV], 1, 4)]
    np.testing.assert_array_equal(model.answer(asked, "fp32").latency_s, again.answer(asked, "fp32").latency_s)
    assert (tmp_path / ARRAYS).read_bytes() == (FOLDER / ARRAYS).read_bytes()


def test_damage_and_other_versions_are_typed_errors(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "m")
    blob = bytearray((tmp_path / "m" / ARRAYS).read_bytes())
    blob[100] ^= 1
    (tmp_path / "m" / ARRAYS).write_bytes(bytes(blob))
    with pytest.raises(ModelFileError, match="damaged"):
        load_subgraphs(tmp_path / "m")
    header = json.loads((FOLDER / HEADER).read_text())
    (tmp_path / "m" / HEADER).write_text(json.dumps(header | {"features_version": 99}))
    with pytest.raises(SchemaVersionError, match="features_version"):
        load_subgraphs(tmp_path / "m")
    (tmp_path / "m" / HEADER).write_text("{}")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_subgraphs(tmp_path / "m")


@pytest.mark.parametrize("name", ["i7-12700k-subgraphs", "ryzen-9-8945hs", "jetson-orin-agx"])
def test_shipped_models_are_small_and_say_where_they_come_from(name: str) -> None:
    folder = ROOT / "models" / name
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1_000_000
    card = (folder / "CARD.md").read_text()
    assert "branes-ai/graphs, commit b6c5e829c33a1e62c1d4c98dfcb16c034bec8994" in card
    assert "MIT licence" in card
    for s in load_subgraphs(folder).header["scores"]:
        model, default = s["leave one model out"], s["fixed 20 %"]
        assert model["subgraph_median_ape"] < 0.5 * default["subgraph_median_ape"]
        assert model["model_mape"] < 0.5 * default["model_mape"]


def test_the_model_of_other_hardware_is_refused(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    profile = json.loads((ROOT / "profiles" / "ryzen-9-8945hs.json").read_text())
    profile["subgraph_model"] = "models/i7-12700k-subgraphs"
    path = tmp_path / "profiles" / "ryzen-9-8945hs.json"
    path.write_text(json.dumps(profile))
    with pytest.raises(ModelFileError, match="other hardware"):
        graphs.load_calibration(str(path))
