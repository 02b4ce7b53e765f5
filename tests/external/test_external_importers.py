"""Importers of public measurements: words, FLOP, bytes, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from external_rows import gemm_rows, neusight_rows, write

from graphs.errors import DataError
from training.external import aiconfigurator, neusight
from training.external.source import AICONFIGURATOR, NEUSIGHT, data_folder


def test_gemm_counts_each_operand_at_its_own_size(tmp_path: Path) -> None:
    frame = aiconfigurator.read_gemm(write(tmp_path) / "aiconfigurator")
    row = frame[frame["dtype"] == "fp8"].iloc[0]
    m, n, k = int(row["m"]), int(row["n"]), int(row["k"])
    assert (row["op"], row["set"]) == ("linear", "h100_sxm fp8")
    assert row["flops"] == 2 * m * n * k
    assert row["bytes"] == m * k + n * k + 2 * m * n  # the output of an fp8 product is bf16
    assert row["latency_s"] == pytest.approx(row["latency_ms"] / 1e3)


@pytest.mark.parametrize("window", [0, 1, 3, 8, 20])
def test_scores_of_a_causal_prompt_with_a_window(window: int) -> None:
    """Count the pairs one by one; the closed form counts the diagonal by half."""
    s = 8
    pairs = sum(min(i, window or s) for i in range(1, s + 1))
    closed = aiconfigurator.scores(np.array([float(s)]), np.array([float(window)]))[0]
    assert closed == pytest.approx(pairs - min(window or s, s) / 2)


def test_attention_in_our_words(tmp_path: Path) -> None:
    folder = write(tmp_path) / "aiconfigurator"
    context, generation = aiconfigurator.read_context(folder), aiconfigurator.read_generation(folder)
    row = context[(context["window"] == 0) & (context["kv_dtype"] == "fp8") & (context["hkv"] == 1)].iloc[0]
    s = int(row["seq"])
    assert row["flops"] == 2 * row["b"] * 8 * s * s * 128  # half of 4 b h s s d
    assert row["bytes"] == row["b"] * 8 * s * 128 * (2 + 2) + 2 * row["b"] * s * 128 * 1
    row = generation[(generation["window"] == 128) & (generation["seq"] == 1024)].iloc[0]
    assert (row["op"], row["s"], row["skv"]) == ("sdpa_decode", 1, 1024)
    assert row["flops"] == 4 * row["b"] * 8 * 128 * 128  # no more than the window's keys


def test_every_neusight_operator_has_its_flop_and_bytes(tmp_path: Path) -> None:
    frame = neusight.read_ops(write(tmp_path) / "neusight")
    assert set(frame["op"]) == set(neusight.OURS) | set(neusight.STAND_IN)
    for op, rows in frame.groupby("op"):
        calls = neusight.group(rows)
        assert calls.bytes[0] == rows["bytes"].iloc[0], op
        assert calls.flops[0] * (6 / 8 if op == "layernorm" else 1) == rows["flops"].iloc[0], op


@pytest.mark.parametrize("column", ["flops", "bytes"])
def test_rows_that_disagree_with_the_operator_are_refused(tmp_path: Path, column: str) -> None:
    rows = neusight_rows()
    rows.loc[0, column] += 4
    with pytest.raises(DataError, match=f"{column} of 1 of 1 'bmm' rows"):
        neusight.read_ops(write(tmp_path, operators=rows) / "neusight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"latency_ms": 0.0}, "unusable latency"), ({"latency_ms": float("nan")}, "unusable latency"),
     ({"system": "h900"}, "not known"), ({"dtype": "fp3"}, "element sizes"), ({"m": 0}, "below 1")],
)  # fmt: skip
def test_unusable_gemm_rows_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        aiconfigurator.read_gemm(write(tmp_path, gemm=gemm_rows().assign(**changes)) / "aiconfigurator")


def test_a_missing_column_or_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, gemm=gemm_rows().drop(columns="k"))
    with pytest.raises(DataError, match="lacks the columns k"):
        aiconfigurator.read_gemm(folder / "aiconfigurator")
    monkeypatch.delenv("GRAPHS_EXTERNAL_DATA", raising=False)
    with pytest.raises(DataError, match="not found"):
        data_folder(NEUSIGHT)
    monkeypatch.setenv("GRAPHS_EXTERNAL_DATA", str(folder))
    assert data_folder(AICONFIGURATOR) == folder / "aiconfigurator"


def test_provenance_names_the_very_files(tmp_path: Path) -> None:
    path = write(tmp_path) / "neusight" / neusight.FILE
    before = NEUSIGHT.provenance([path])
    assert (before["licence"], len(before["files"][neusight.FILE])) == ("MIT-style", 64)
    path.write_bytes(path.read_bytes() + b"\n")
    assert NEUSIGHT.provenance([path])["files"] != before["files"]
