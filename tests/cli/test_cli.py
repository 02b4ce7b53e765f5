"""The command line as a user meets it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from graphs.cli.main import cli
from graphs.tracing import library
from graphs.tracing.trace import Trace, TracedOperator


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args), prog_name="graphs")


@pytest.fixture
def trace_file(tmp_path):
    operators = (
        TracedOperator("matmul", {"m": 2048, "n": 2048, "k": 2048}, "fp32", count=2, module="layer"),
        TracedOperator("matmul", {"m": 10**7, "n": 10**4, "k": 10**4}, "fp32", module="huge"),
    )
    return str(Trace(operators, name="toy", batch=1, dtype="fp32").save(tmp_path / "toy.json"))


def test_commands_are_found_through_the_entry_points() -> None:
    out = run("--help")
    assert out.exit_code == 0
    assert {"estimate", "hardware", "train", "validate"} <= set(out.output.split())


def test_help_names_the_forms_that_are_taken() -> None:
    assert "module:pkg.mod:callable" in run("estimate", "--help").output


def test_hardware_lists_peaks_and_says_where_nothing_was_measured() -> None:
    listed = {d["id"]: d for d in json.loads(run("hardware", "--json").output)}
    assert listed["i7-12700k"]["calibration"] == "4 measured points, subgraph model"
    assert listed["h100-sxm"]["peak_flops_per_s"]["bf16"] == 989e12
    assert listed["h100-sxm"]["peak_sources"]["bf16"]
    assert "i7-12700k" in run("hardware").output


def test_estimate_of_a_saved_trace_prints_total_sources_and_reasons(trace_file) -> None:
    out = run("estimate", trace_file, "--hardware", "i7-12700k")
    assert out.exit_code == 0, out.output
    assert "toy, batch 1, fp32, device time on i7-12700k" in out.output
    assert "default: matmul: flops 2e+15 is" in out.output  # which quantity was out, and by how much
    assert "(no interval: the default answered 100 % of the time)" in out.output


def test_estimate_as_json_has_every_operator(trace_file) -> None:
    data = json.loads(run("estimate", trace_file, "--hardware", "i7-12700k", "--json").output)
    assert len(data["operators"]) == 3
    assert data["latency_s"] == pytest.approx(sum(o["latency_s"] for o in data["operators"]))
    assert [o["source"] for o in data["operators"]] == ["model", "model", "default"]
    assert data["operators"][2]["efficiency"] == pytest.approx(0.20)


def test_calibration_none_answers_with_the_default(trace_file) -> None:
    data = json.loads(run("estimate", trace_file, "--hardware", "i7-12700k", "--calibration", "none", "--json").output)
    assert data["coverage"]["time"] == {"default": 1.0}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["estimate", "TRACE", "--hardware", "h1000"], "unknown hardware; received 'h1000'; allowed: b100, h100-sxm"),
        (["estimate", "absent.json", "--hardware", "i7-12700k"], "a trace file cannot be read"),
        (["estimate", "resnet", "--hardware", "i7-12700k"], "torchvision:NAME"),
        (["estimate", "TRACE", "--hardware", "i7-12700k", "--dtype", "bf16"], "trace the module"),
        (
            ["estimate", "TRACE", "--hardware", "i7-12700k", "--calibration", "absent.json"],
            "no calibration of this name",
        ),
        (["estimate", "COLLECTION", "--hardware", "h100-sxm"], "name the model instead, hf:bert-base-s128"),
        (["train", "--hardware", "tpu-v9"], "unknown hardware"),
        (["train", "--hardware", "h100-sxm", "--data", "nowhere"], "training.dataset.importer"),
    ],
)
def test_mistakes_get_one_line_that_says_what_to_do(args, words, trace_file) -> None:
    paths = {"TRACE": trace_file, "COLLECTION": str(library.default_folder() / "bert-base-s128.json.gz")}
    out = run(*[paths.get(a, a) for a in args])
    assert out.exit_code == 2
    assert out.stderr.startswith("Error: ")
    assert words in out.stderr
    assert "Traceback" not in out.output


def test_missing_extra_names_what_to_install(monkeypatch) -> None:
    from importlib.metadata import EntryPoint

    from graphs.cli import main

    broken = EntryPoint("train", "pandas_that_is_not_there.cli:train", main.GROUP)
    monkeypatch.setattr(main.Commands, "_entries", staticmethod(lambda: {"train": broken}))
    monkeypatch.setitem(main._EXTRAS, "pandas_that_is_not_there", "training")
    out = run("train", "--hardware", "x")
    assert out.exit_code == 2
    assert "pip install 'graphs[training]'" in out.stderr
    assert "needs the extra 'training'" in run("--help").output
