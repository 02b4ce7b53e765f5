"""From tables to a fitted model to an accuracy report, through the command line, on a small share of real rows."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from graphs import ops
from graphs.cli.main import cli
from graphs.hardware.calibration.artifact import load_model
from training.dataset.store import read_ops, write_dataset

OPS = ("relu", "add", "mul", "sdpa_decode")
FIGURES = {"n", "mape", "median_ape", "p90_ape", "within_10pct", "bias", "source_share", "interval_coverage"}


def run(*args: str):
    out = CliRunner().invoke(cli, [str(a) for a in args], prog_name="graphs")
    assert out.exit_code == 0, out.output
    return out


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    frame = read_ops(root / "data" / "h100-sxm" / "ops.parquet").frame
    some = frame[frame["op"].isin(OPS)].reset_index(drop=True)
    write_dataset(folder / "data", some, None, {
        "hardware": "h100-sxm", "machine": {"device": "x"}, "software": {"torch": "x"}, "date": "2026-01-01",
    })  # fmt: skip
    run("train", "--hardware", "h100-sxm", "--data", folder / "data", "--out", folder / "model")
    return folder, some


def test_artifact_is_arrays_and_json_with_provenance(trained) -> None:
    folder, some = trained
    model = load_model(folder / "model")
    assert set(model.families) == {"unary", "binary", "sdpa_decode"}
    p = model.header["provenance"]
    assert p["rows"] == len(some)
    assert (
        p["data_sha256"]
        == json.loads((folder / "data" / "manifest.json").read_text())["files"]["ops.parquet"]["sha256"]
    )
    assert (folder / "model" / "CARD.md").read_text().startswith("---\nlicense: mit")


def test_held_out_rows_are_predicted_better_than_by_any_baseline(trained) -> None:
    folder, _ = trained
    run("validate", "--hardware", "h100-sxm", "--data", folder / "data", "--calibration", folder / "model",
        "--json", folder / "report.json", "--markdown", folder / "report.md",
        "--html", folder / "report.html")  # fmt: skip
    s = json.loads((folder / "report.json").read_text())
    assert {"all", "by_op", "by_dtype", "by_split", "models", "baselines"} <= set(s) | {"models"}
    assert set(s["baselines"]) >= {"default_20pct", "roofline", "lookup", "log_linear"}
    assert set(s["all"]) >= FIGURES
    for group in ("by_op", "by_dtype", "by_split"):
        assert sum(g["n"] for g in s[group].values()) == s["all"]["n"]
        assert set(s["baselines"]["lookup"][group]) == set(s[group])
    assert s["all"]["median_ape"] < 0.06
    for name, baseline in s["baselines"].items():
        assert s["all"]["median_ape"] < baseline["all"]["median_ape"], name
        assert s["all"]["mape"] < baseline["all"]["mape"], name
    assert "# Accuracy on h100-sxm" in (folder / "report.md").read_text()
    assert f"{100 * s['all']['median_ape']:.1f} %" in (folder / "report.html").read_text(encoding="utf-8")


def test_own_rows_are_scored_by_the_model_and_rows_of_the_fit_are_left_out(trained, tmp_path) -> None:
    folder, some = trained
    own = some.head(40).copy()
    unseen = own.head(5).copy()
    unseen["params"] = [
        {**p, "numel": p["numel"] + 8} if "numel" in p else {**p, "skv": p["skv"] + 8} for p in unseen["params"]
    ]
    import pandas as pd

    # a row of the fit in another spelling is a row of the fit
    own["params"] = [ops.get(o).validate(p) for o, p in zip(own["op"], own["params"], strict=True)]
    own["params"] = [{k: float(v) if type(v) is int else v for k, v in p.items()} for p in own["params"]]

    table = (
        pd.concat([own, unseen]).assign(params=lambda d: d["params"].map(json.dumps)).drop(columns=["flops", "bytes"])
    )
    table.to_csv(folder / "own.csv", index=False)
    out = run("validate", "--hardware", "h100-sxm", "--data", folder / "data", "--calibration", folder / "model",
              "--ops", folder / "own.csv", "--json", "-")  # fmt: skip
    s = json.loads(out.stdout)
    assert s["all"]["n"] == 5
    assert "40 of 45 rows were used in fitting and are left out" in out.stderr
    assert "none of them was used in fitting" in s["what"]
    # what another table says of the rows of the fit is not known to be so
    write_dataset(tmp_path / "data", some.head(300), None, {"hardware": "h100-sxm"})
    out = run("validate", "--hardware", "h100-sxm", "--data", tmp_path / "data", "--calibration", folder / "model",
              "--ops", folder / "own.csv", "--json", "-")  # fmt: skip
    assert "may have seen some of them" in json.loads(out.stdout)["what"]


def test_predictions_of_another_table_are_refused(trained, tmp_path) -> None:
    folder, some = trained
    shutil.copytree(folder / "model", tmp_path / "model")
    write_dataset(tmp_path / "data", some.head(300), None, {"hardware": "h100-sxm"})
    out = CliRunner().invoke(
        cli,
        [
            "validate",
            "--hardware",
            "h100-sxm",
            "--data",
            str(tmp_path / "data"),
            "--calibration",
            str(tmp_path / "model"),
        ],
    )
    assert out.exit_code == 2
    assert "not those of the present data" in out.stderr


def test_data_of_other_hardware_are_refused(trained) -> None:
    folder, _ = trained
    out = CliRunner().invoke(cli, ["train", "--hardware", "h200-sxm", "--data", str(folder / "data")])
    assert out.exit_code == 2
    assert "measured on other hardware" in out.stderr


def test_loaded_model_predicts_as_the_fitted_one(trained) -> None:
    """Save and load change nothing: float32 arrays are kept bit for bit."""
    folder, _ = trained
    a, b = load_model(folder / "model"), load_model(folder / "model")
    for name, family in a.families.items():
        x = np.random.default_rng(0).normal(size=(20, len(family.feature_names)))
        np.testing.assert_array_equal(family.log_ratio(x)[0], b.families[name].log_ratio(x)[0])


def fails(*args: object) -> str:
    """Run a command that must end with exit code 2 and a line that says why."""
    out = CliRunner().invoke(cli, [str(a) for a in args], prog_name="graphs")
    assert out.exit_code == 2, out.output
    assert "Traceback" not in out.output
    return out.stderr


@pytest.mark.parametrize("option", ["--json", "--markdown", "--html"])
def test_reports_that_cannot_be_written(trained, tmp_path, option) -> None:
    folder, _ = trained
    (tmp_path / "file").write_text("x")
    args = ("validate", "--hardware", "h100-sxm", "--data", folder / "data", "--calibration", folder / "model")
    for place in (tmp_path, tmp_path / "file" / "report"):
        said = fails(*args, option, place)
        assert "the report cannot be written (" in said
        assert f"received '{place}'" in said


def test_damaged_predictions_and_tables_are_typed_errors(trained, tmp_path) -> None:
    folder, _ = trained
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copytree(folder / "data", tmp_path / "data")
    args = ("validate", "--hardware", "h100-sxm", "--data", tmp_path / "data", "--calibration", tmp_path / "model")
    whole = (tmp_path / "model" / "held_out.parquet").read_bytes()
    for damaged in (b"no parquet", whole[: len(whole) // 2], (folder / "data" / "ops.parquet").read_bytes()):
        (tmp_path / "model" / "held_out.parquet").write_bytes(damaged)
        said = fails(*args)
        assert "held_out.parquet' cannot be read" in said
        assert "graphs train" in said
    (tmp_path / "data" / "ops.parquet").write_bytes(b"no parquet")
    assert "ops.parquet" in fails(*args)


def test_hardware_fitted_to_public_measurements_names_their_page() -> None:
    said = fails("validate", "--hardware", "t4+torch2.1")
    assert "public measurements of NeuSight" in said
    assert "docs/validation/neusight.md" in said
    assert "--ops FILE" in said


def test_a_seed_of_training_is_not_negative() -> None:
    assert "'--seed': -1 is not in the range" in fails("train", "--hardware", "h100-sxm", "--seed", "-1")
