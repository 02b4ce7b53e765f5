"""Scoring, choosing and rendering on made-up rows whose law is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from external_rows import attention_rows, gemm_rows, write

from graphs.errors import DataError
from training.external import aiconfigurator
from training.external.__main__ import main
from training.external.evaluate import evaluate, prepare
from training.external.features import features, raw_columns
from training.external.members import Choice, Rows, base_s, choose, fit_predict
from training.external.render import page as page_of


def test_a_grid_with_one_percent_of_scatter_is_learnt(tmp_path: Path) -> None:
    frame = aiconfigurator.read_gemm(write(tmp_path, gemm_rows(list(range(1, 400, 13)))) / "aiconfigurator")
    score = evaluate(frame[frame["set"] == "h100_sxm bfloat16"], only=("random",))["splits"]["random"]
    assert score["model"]["mape"] < 0.03
    for name in ("roofline", "default_20pct", "log_linear"):
        assert score["model"]["mape"] < score[name]["mape"]
    assert score["lookup"]["missed"] == 0


def test_nothing_of_the_held_out_latencies_reaches_a_prediction(tmp_path: Path) -> None:
    frame = aiconfigurator.read_gemm(write(tmp_path) / "aiconfigurator")
    rows = prepare(frame[frame["set"] == "h100_sxm fp8"].reset_index(drop=True))
    held = np.arange(len(rows.x)) % 4 == 0
    spoilt = rows.take(held)
    spoilt.latency_s[:] = 1.0
    for choice in (Choice(), Choice(beyond=True, weights=(1.0, 0.0, 0.0))):
        first = fit_predict(rows.take(~held), rows.take(held), choice, 0)
        np.testing.assert_array_equal(first, fit_predict(rows.take(~held), spoilt, choice, 0))


def test_a_straight_line_is_chosen_where_only_it_extrapolates() -> None:
    rng = np.random.default_rng(0)
    nbytes = 10 ** rng.uniform(4, 9, 400)
    seconds = (2e-5 + nbytes / 3e11) * rng.normal(1, 0.005, 400)
    x = np.log(nbytes)[:, None]
    rows = Rows(x, seconds, nbytes / 9e11, nbytes / 8, nbytes, 4e7, np.zeros(1, dtype=bool))
    large = nbytes > np.quantile(nbytes, 0.8)
    train = rows.take(~large)
    chosen = choose(train, train.bytes > np.quantile(train.bytes, 0.8), ("roofline", "affine", "cache"), 0)
    assert chosen.base in ("affine", "cache")
    error = np.abs(fit_predict(train, rows.take(large), chosen, 0) / seconds[large] - 1)
    assert np.median(error) < 0.02
    assert np.all(base_s("cache", train, rows) > 0)


def test_raw_columns_are_those_of_m_alone(tmp_path: Path) -> None:
    frame = aiconfigurator.read_gemm(write(tmp_path) / "aiconfigurator")
    one = frame[(frame["set"] == "h100_sxm fp8") & (frame["n"] == 256) & (frame["k"] == 256)]
    raw = raw_columns(one)
    assert len(raw) == 6
    x = features(one)
    assert np.isfinite(x).all()
    lg_m = np.log2(one["m"].to_numpy(dtype=float))
    assert any(np.allclose(x[:, i], lg_m) for i in raw)


def test_attention_features_are_finite(tmp_path: Path) -> None:
    frame = aiconfigurator.read_context(write(tmp_path) / "aiconfigurator")
    assert len(frame) == len(attention_rows())
    for _, rows in frame.groupby("set"):
        assert np.isfinite(features(rows)).all()


def test_command_writes_a_page_without_rows_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, work = write(tmp_path / "data"), tmp_path / "out", tmp_path / "work"
    arguments = ["--data", str(data), "--out", str(out), "--only", "gemm", "--sets", "fp8", "--work", str(work)]
    main(arguments)
    assert "h100_sxm fp8" in capsys.readouterr().out
    page = (out / "aiconfigurator.md").read_text(encoding="utf-8")
    for part in ("Apache-2.0", "095f58a", "sha256", "source's lookup", "top decade of m", "subgraph-models.md"):
        assert part in page.replace("The top", "the top")
    summary = json.loads((out / "aiconfigurator.json").read_text(encoding="utf-8"))
    assert set(summary["tables"]["gemm"]["h100_sxm fp8"]["splits"]) == {"random", "new_shape", "largest"}
    assert "latency" not in json.dumps(summary["tables"])
    main(arguments)
    assert "h100_sxm fp8" not in capsys.readouterr().out  # nothing was scored again
    assert (out / "aiconfigurator.md").read_text(encoding="utf-8") == page
    with pytest.raises(DataError, match="no set"):
        main([*arguments[:-4], "--sets", "nothing"])


@pytest.mark.parametrize("name", ["aiconfigurator", "neusight"])
def test_committed_pages_are_those_of_the_committed_figures(name: str, root: Path) -> None:
    folder = root / "docs" / "validation"
    summary = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert (folder / f"{name}.md").read_text(encoding="utf-8") == page_of(summary)
    if name == "aiconfigurator":
        # what was chosen while looking at rows that are scored here
        assert page_of(summary).count("slightly optimistic") == 2
