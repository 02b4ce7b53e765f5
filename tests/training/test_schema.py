"""Bad rows are named with their reason, good rows are kept."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from graphs.errors import DataError, SchemaVersionError
from training.dataset.schema import check_models, check_ops
from training.dataset.store import file_hash, read_manifest, read_ops, read_table, write_dataset

GOOD = {
    "op": "matmul",
    "dtype": "fp32",
    "params": '{"m": 2, "n": 3, "k": 4}',
    "flops": 48,
    "bytes": 104,
    "median_us": 5.0,
}


def frame(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame([{**GOOD, **r} for r in rows])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"median_us": np.nan}, "finite and positive"),
        ({"median_us": np.inf}, "finite and positive"),
        ({"median_us": 0.0}, "finite and positive"),
        ({"median_us": -1.0}, "finite and positive"),
        ({"op": "matmull"}, "unknown operator"),
        ({"dtype": "fp31"}, "unknown dtype"),
        ({"params": '{"m": 2, "n": 3}'}, "needs parameter 'k'"),
        ({"params": '{"m": 0, "n": 3, "k": 4}'}, "integer >= 1"),
        ({"params": "not json"}, "cannot be read"),
        ({"flops": 47}, "flops is 47, but matmul with these params has 48"),
        ({"bytes": 100}, "bytes is 100"),
        ({}, "the same configuration stands in row 0"),
    ],
)
def test_bad_row_is_rejected_with_its_number_and_reason(change: dict, words: str) -> None:
    other = {"params": '{"m": 9, "n": 9, "k": 9}', "flops": 2 * 729, "bytes": 4 * 3 * 81}
    table = check_ops(frame({}, change, other))
    assert len(table.frame) == 2
    assert [r.row for r in table.rejected] == [1]
    assert words in table.rejected[0].reason
    assert f"row 1: {table.rejected[0].reason}" in table.summary("t")


def test_good_rows_keep_their_values_and_get_exact_counts() -> None:
    table = check_ops(frame({"flops": None, "bytes": None}))
    row = table.frame.iloc[0]
    assert row["params"] == {"m": 2, "n": 3, "k": 4}
    assert (row["flops"], row["bytes"]) == (48, 4 * (8 + 12 + 6))


def test_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="lacks the columns median_us"):
        check_ops(frame({}).drop(columns="median_us"))


def test_no_usable_row_is_an_error_that_quotes_the_first_reason() -> None:
    with pytest.raises(DataError, match=r"no row of table 'x' is usable.*finite and positive"):
        check_ops(frame({"median_us": -1.0}), "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"mode": "fast"}, "mode"), ({"batch": 0}, "batch"), ({"batch": 1.5}, "batch"),
     ({"kernels": 60}, "in mode 'graph'"), ({"kernels": 0, "mode": "kernels"}, "whole number"),
     ({"kernels": 1.5, "mode": "kernels"}, "whole number")],
)  # fmt: skip
def test_bad_model_rows(change: dict, words: str) -> None:
    good = {"model": "resnet18", "batch": 1, "dtype": "bf16", "mode": "graph", "median_us": 10.0}
    table = check_models(pd.DataFrame([good, {**good, "batch": 2, **change}]))
    assert len(table.frame) == 1
    assert words in table.rejected[0].reason


def test_round_trip_through_parquet(tmp_path) -> None:
    table = check_ops(frame({}))
    write_dataset(tmp_path, table.frame, None, {"hardware": "h100-sxm"})
    again = read_ops(tmp_path / "ops.parquet")
    pd.testing.assert_frame_equal(again.frame, table.frame)
    assert read_manifest(tmp_path)["files"]["ops.parquet"]["rows"] == 1


def test_manifest_notices_a_changed_file_and_another_version(tmp_path) -> None:
    write_dataset(tmp_path, check_ops(frame({})).frame, None, {"hardware": "h100-sxm"})
    manifest = tmp_path / "manifest.json"
    raw = json.loads(manifest.read_text())
    (tmp_path / "ops.parquet").write_bytes(b"changed")
    with pytest.raises(DataError, match="not the file that its manifest describes"):
        read_manifest(tmp_path)
    manifest.write_text(json.dumps({**raw, "schema_version": 99}))
    with pytest.raises(SchemaVersionError, match="received 99"):
        read_manifest(tmp_path)
    manifest.unlink()
    with pytest.raises(DataError, match="importer"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["t.xlsx", "absent.csv", "absent.parquet"])
def test_unreadable_tables(tmp_path, name: str) -> None:
    with pytest.raises(DataError):
        read_table(tmp_path / name)


def test_committed_data_pass_their_own_checks(root) -> None:
    for folder in sorted((root / "data").glob("*/manifest.json")):
        manifest = read_manifest(folder.parent)
        table = read_ops(folder.parent / "ops.parquet")
        assert not table.rejected
        assert len(table.frame) == manifest["files"]["ops.parquet"]["rows"]


def test_files_that_cannot_be_read_are_typed_errors(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        file_hash(tmp_path)
    for text in ("[]", '{"files": []}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match="no manifest"):
            read_manifest(tmp_path)
