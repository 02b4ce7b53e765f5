"""The ablation page: every part is there, combinations keep up with their parts, the oracle reads the right rows."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from graphs.errors import DataError
from training import ablation
from training.ablation_render import render
from training.dataset.kernels import convert, family_of_kernel, read_kernels, write_kernels


@pytest.fixture(scope="module")
def found(root):
    return ablation.run("h100-sxm", root / "data" / "h100-sxm", quick=True)


def test_every_ingredient_baseline_and_share_is_scored_on_the_same_rows(found) -> None:
    (family,) = found["families"].values()
    assert {m["rows"] for m in family["errors"].values()} == {ablation.QUICK_ROWS}
    assert {ablation.LATENCY, ablation.FULL, ablation.STACK, "lookup", "default_20pct"} <= set(family["errors"])
    assert len({m["rows"] for m in family["curve"].values()}) == 1
    assert [float(s) for s in sorted(family["curve"], key=float)] == list(ablation.CURVE_SHARES)


def test_stack_keeps_up_with_its_members_and_beats_the_baselines(found) -> None:
    errors = found["pooled"]["errors"]
    for member in (ablation.FULL, ablation.JOINT, ablation.CLASSES):
        # weights are fitted on squared log errors of 300 rows, so the mean may move a little
        assert errors[ablation.STACK]["mape"] < 1.1 * errors[member]["mape"] + 0.003
    for baseline in ("default_20pct", "roofline", "lookup", "log_linear"):
        assert errors[ablation.STACK]["mape"] < errors[baseline]["mape"]


def test_more_rows_help(found) -> None:
    curve = found["pooled"]["curve"]
    assert curve["1"]["mape"] < curve["0.25"]["mape"]


def test_the_curve_alone_is_the_same_curve(found, root) -> None:
    alone = ablation.run("h100-sxm", root / "data" / "h100-sxm", quick=True, curve_only=True)
    assert alone["pooled"] == {"curve": found["pooled"]["curve"]}
    assert alone["data_sha256"] == found["data_sha256"]
    assert "--curve-only" in alone["command"]


def test_oracle_uses_what_the_kernel_tells_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    n = 300
    x, kernel = rng.normal(size=(n, 3)), rng.integers(0, 3, n)
    y = 0.2 * x[:, 0] + 0.5 * kernel + rng.normal(0, 0.01, n)
    labels = pd.DataFrame({"longest": np.array(list("abc"))[kernel], "count": 1, "tile_m": 64, "tile_n": 64})
    errors = ablation.oracle(x, y, rng.integers(0, 5, n), labels, seed=0)
    blind, knowing, _ = (float(np.median(e)) for e in errors.values())
    # without the kernel a spread of 0.41 is left, with it the noise of 0.01
    assert blind > 0.2
    assert knowing < 0.03


def test_weights_for_a_fold_do_not_see_it() -> None:
    fold = np.repeat([0, 1], 50)
    y = np.random.default_rng(1).normal(size=100)
    # each output is right in one fold alone: weights fitted without fold 0 take the output that is wrong there
    outputs = np.stack([np.where(fold == 0, y, y + 1.0), np.where(fold == 1, y, y + 1.0)])
    np.testing.assert_allclose(ablation._cross_weighted(outputs, y, fold), y + 1.0, atol=1e-4)


def test_smaller_parts_of_the_curve_lie_in_larger_ones() -> None:
    mask, order = np.arange(200) % 3 > 0, np.random.default_rng(0).permutation(200)
    quarter, half = (ablation._first(mask, order, s) for s in (0.25, 0.5))
    assert quarter.sum() == pytest.approx(mask.sum() / 4, abs=1)
    assert not (quarter & ~half).any()
    assert not (half & ~mask).any()


def test_page_and_targets(found, root, tmp_path) -> None:
    def score(median: float, mean: float, within: float) -> dict[str, float]:
        return {"n": 7, "median_ape": median, "mape": mean, "within_10pct": within}

    folder = tmp_path / "models" / "h100-sxm"
    folder.mkdir(parents=True)
    held_out = {"by_split": {"random": score(0.035, 0.06, 0.80), "largest_flops": score(0.05, 0.1, 0.9)}}
    scores = {
        "held_out": held_out,
        "distillation": {"members": score(0.03, 0.06, 0.8), "shipped": score(0.04, 0.06, 0.8)},
    }
    header = {"scores": scores, "provenance": {"form": "student"}}
    (folder / "model.json").write_text(json.dumps(header))
    page = render(found, tmp_path / "models", tmp_path)
    assert found["data_sha256"][:16] in page
    assert "not for publication" in page
    assert "| h100-sxm | random | 7 | 3.0 / 7.0 / 83 | 3.5 / 6.0 / 80 | median 0.5, within 10 % 3.0 |" in page
    assert "| h100-sxm | largest FLOP | 7 | 5.0 / 10.0 | 5.0 / 10.0 / 90 | reached |" in page
    assert "+1.00 / +0.00" in page
    header["provenance"]["form"] = "members"
    (folder / "model.json").write_text(json.dumps(header))
    assert "distillation" not in render(found, tmp_path / "models", tmp_path)


def test_command_renders_stored_figures_of_the_same_data_only(found, root, tmp_path) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["--hardware", "h100-sxm", "--from", str(figures), "--models", str(tmp_path)]
    arguments += ["--data", str(root / "data" / "h100-sxm"), "--out", str(tmp_path / "page.md")]
    figures.write_text(json.dumps(found))
    out = CliRunner().invoke(ablation.main, arguments)
    assert out.exit_code == 0, out.output
    assert (tmp_path / "page.md").read_text().startswith("# What the accuracy rests on")
    figures.write_text(json.dumps(found | {"data_sha256": "0" * 64}))
    assert isinstance(CliRunner().invoke(ablation.main, arguments).exception, DataError)


def _calls(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([("relu", "fp32", p, k) for p, k in rows], columns=["op", "dtype", "params", "kernels"])


def test_kernel_table_survives_a_round_trip(tmp_path) -> None:
    names = {"0": "nvjet_sm90_tst_128x64_64x8_2x1_v_bz_TNT", "7": "void splitKreduce_kernel<32>(int)", "9": "unused"}
    frame, used = convert(_calls(('{"numel": 8}', "[[7, 1.5], [0, 2.5], [7, 1.0]]")), names)
    assert set(used) == {"0", "7"}
    write_kernels(tmp_path, frame, used)
    (row,) = read_kernels(tmp_path).to_dict("records")
    assert row == {"longest": "nvjet", "tile_m": 128, "tile_n": 64, "key": 'relu|fp32|{"numel":8}', "count": 3}


@pytest.mark.parametrize(
    "rows",
    [
        [('{"numel": 8}', "[[5, 1.0]]")],
        [('{"numel": 8}', "[]")],
        [('{"numel": 8}', "[[0, -1.0]]")],
        [('{"numel": 8}', "[[0, 1.0]]"), ('{"numel":8}', "[[0, 1.0]]")],
    ],
    ids=["unknown name", "no kernels", "negative time", "twice"],
)
def test_bad_kernel_rows_are_refused(rows) -> None:
    with pytest.raises(DataError):
        convert(_calls(*rows), {"0": "a"})


def test_committed_kernel_names_belong_to_measured_rows(root) -> None:
    kernels = read_kernels(root / "data" / "h100-sxm")
    frame = pd.read_parquet(root / "data" / "h100-sxm" / "ops.parquet", columns=["op", "dtype", "params"])
    from training.dataset.splits import config_key

    measured = {config_key(*row) for row in frame.itertuples(index=False)}
    assert set(kernels["key"]) <= measured
    assert kernels["key"].is_unique


def test_kernel_families_drop_dtypes_and_sizes() -> None:
    a, b = (
        f"cutlass_80_tensorop_{d}_s16816gemm_{d}_{t}_32x3_nn_align8" for d, t in (("f16", "64x64"), ("bf16", "256x128"))
    )
    assert family_of_kernel(a) == family_of_kernel(b) == "cutlass_80_tensorop"
