"""Scoring, choosing and rendering on made-up rows whose law is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from external_rows import attention_rows, gemm_rows, write

from graphs.errors import DataError
from training.external import aiconfigurator, neusight_net, prefill
from training.external.__main__ import main
from training.external.baselines import additive
from training.external.evaluate import evaluate, prepare
from training.external.features import features, raw_columns, wave_terms
from training.external.members import Choice, Rows, base_s, choose, fit_predict, kernel_probabilities
from training.external.render import page as page_of
from training.external.splits import splits


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


def test_the_law_of_prefill_goes_on_beyond_the_longest_prompt() -> None:
    grid = [(b, h, s) for b in (1, 4, 16) for h in (4, 32) for s in (64, 128, 256, 512, 1024, 1536, 4096, 16384)]
    frame = pd.DataFrame(grid, columns=["b", "h", "s"]).astype(np.float64)
    frame = frame.assign(
        system="h100_sxm", dtype="bfloat16", d=128, window=0,
        flops=2.0 * frame["b"] * frame["h"] * frame["s"] ** 2 * 128,
        bytes=frame["b"] * frame["s"] * 128 * (4 * frame["h"] + 8),
    )  # fmt: skip
    terms = prefill.Terms.of(frame)
    truth = np.log([1.5e-5, 4.0, 2.0, 1.0, 1.7, 0.8])
    seconds = terms.latency_s(truth) * np.random.default_rng(0).normal(1.0, 0.01, len(frame))
    frame = frame.assign(latency_s=seconds)
    short = frame["s"] <= 1536
    error = np.abs(prefill.fit_predict(frame[short], frame[~short]) / frame.loc[~short, "latency_s"] - 1.0)
    assert error.max() < 0.15
    # what holds the efficiency of the longest prompt seen does not
    last = frame[frame["s"] == 1536].set_index(["b", "h"])
    held = [last.at[(r.b, r.h), "latency_s"] * (r.s / 1536) ** 2 / r.latency_s for r in frame[~short].itertuples()]
    assert np.median(np.abs(np.array(held) - 1.0)) > 0.2


def test_whole_waves_explain_a_library_of_one_kernel() -> None:
    rng = np.random.default_rng(1)
    b, m, n, k = (rng.integers(1, high, 900).astype(np.float64) for high in (200, 900, 900, 900))
    tiles = b * np.ceil(m / 128) * np.ceil(n / 64)
    seconds = 1e-5 + np.ceil(tiles / 80) * (2e-6 + 128 * 64 * 8 * np.ceil(k / 8) * 2.4e-11)
    frame = pd.DataFrame(
        {"gpu": "V100-PCIE-32GB", "b": b, "m": m, "n": n, "k": k, "bytes": 4.0 * b * (m * k + k * n + m * n)}
    )
    terms = wave_terms(frame)
    large = b * m * n * k > np.quantile(b * m * n * k, 0.8)
    error = np.abs(additive(terms[~large], seconds[~large], terms[large]) / seconds[large] - 1.0)
    assert np.median(error) < 0.01


def test_the_kernel_of_a_query_is_never_read() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(300, 2))
    kernel = (x[:, 0] > 0.5).astype(np.int64)
    one = np.ones(300)
    rows = Rows(x, np.exp(kernel + 0.1 * x[:, 1]), one, one, one, 1.0, np.zeros(2, dtype=bool), one[:, None], kernel)
    held = np.arange(300) % 3 == 0
    train, query = rows.take(~held), rows.take(held)
    of_train, of_query = kernel_probabilities(train, query, 0)
    assert ((of_query[:, 1] > 0.5) == (query.kernel == 1)).mean() > 0.95
    assert of_train.shape == (200, 2)
    lied = dataclasses.replace(query, kernel=1 - query.kernel, latency_s=np.ones(100))
    choice = Choice("waves", (1.0, 0.0, 0.0), kernels=True)
    np.testing.assert_array_equal(fit_predict(train, query, choice, 0), fit_predict(train, lied, choice, 0))


def test_neusights_method_learns_a_law_of_its_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"rows": rng.integers(2000, 90000, 600), "cols": rng.integers(600, 4000, 600)}).astype(float)
    nbytes = 8.0 * frame["rows"] * frame["cols"]
    frame = frame.assign(gpu="T4", op="softmax", kind="softmax", set="T4 softmax", grid_x=frame["rows"],
                         latency_s=nbytes / 2.5e11, flops=5 * frame["rows"] * frame["cols"], bytes=nbytes)  # fmt: skip
    frame = frame.assign(**dict.fromkeys(("b", "m", "n", "k", "c_in", "c_out", "ksize", "in_size"), np.nan))
    monkeypatch.setattr(neusight_net, "WIDTH", 32)
    predicted = neusight_net.predictions(frame, "random", "softmax")["T4 softmax"]
    measured = frame["latency_s"].to_numpy()[splits(frame)["random"]]
    assert np.median(np.abs(predicted / measured - 1.0)) < 0.05


def test_tiles_of_a_query_are_those_of_the_nearest_measured_row() -> None:
    frame = pd.DataFrame({
        "gpu": "T4", "op": "bmm", "kind": "bmm", "b": 1.0, "m": [100.0, 1000.0, 990.0], "n": 256.0, "k": 64.0,
        "rows": np.nan, "cols": np.nan, "latency_s": 1e-4,
        "kernel": ["volta_sgemm_32x128_nn", "volta_sgemm_128x64_nn", "never read"],
    })  # fmt: skip
    asked = neusight_net.cut(frame, np.array([False, False, True]), np.array([True, True, False]))
    # 64 rows by 128 columns: 16 x 2 tiles, one wave of 40 units
    assert asked.waves[0] == 1.0
    assert asked.x[0, 0] == pytest.approx(np.log2(2 * 64 * 128 * 64 * 40 / 8.141e12))
