"""The regression gate: a change that is worse fails, noise does not; exit codes follow."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from click.testing import CliRunner
from report_rows import made_up, models, summary_of

from graphs.errors import DataError
from training.validate.build import load_summary, to_json
from training.validate.cli import validate
from training.validate.compare import compare
from training.validate.compare_render import page, render, verdict


@pytest.fixture(scope="module")
def before():
    rows, train = made_up(n=240)
    return {**summary_of(rows, train), "models": models()}


def changed(summary, factor):
    """Return the summary with predictions multiplied by `factor`, (n,)."""
    out = copy.deepcopy(summary)
    points = out["points"]
    points["predicted_s"] = list(np.array(points["predicted_s"]) * factor)
    return out


def of_op(summary, op, value):
    return np.where(np.array(summary["points"]["op"]) == op, value, 1.0)


def test_a_summary_against_itself_passes(before) -> None:
    gate = compare(before, before, ("a", "b"))["gate"]
    assert gate["applied"]
    assert gate["passed"]
    assert {"all", "op gelu", "dtype bf16", "split random"} <= set(gate["tested"])
    assert "models device" in {g["group"] for g in gate["not_tested"]}  # two model runs are too few


def test_figures_of_models_left_out_of_the_fit_stand_beside_those_of_all(before) -> None:
    left = {"n": 2, "models": 2, "median_ape": 0.3, "mape": 0.4}
    after = {**before, "models": {**before["models"], "left_out": {"device": {**left, "median_ape": 0.2}}}}
    first = {**before, "models": {**before["models"], "left_out": {"device": left, "eager": left}}}
    groups = {g["group"]: g for g in compare(first, after, ("a", "b"))["groups"]}
    found = groups["models device, each left out of the fit"]
    assert (found["a"]["median_ape"], found["b"]["median_ape"]) == (0.3, 0.2)
    assert "models eager, each left out of the fit" not in groups
    assert "models device, each left out of the fit" in render(compare(first, after, ("a", "b")))


def test_an_unknown_name_says_what_may_be_compared() -> None:
    with pytest.raises(DataError, match=r"h100-smx.*JSON file.*folder of a fitted model.*hardware id \(h100-sxm"):
        load_summary("h100-smx")


def test_one_operator_that_got_worse_fails_with_its_rows(before) -> None:
    c = compare(before, changed(before, of_op(before, "gelu", 1.25)), ("a", "b"))
    failed = {r["group"]: r for r in c["gate"]["regressions"]}
    assert not c["gate"]["passed"]
    assert "op gelu" in failed
    assert "op relu" not in failed
    assert failed["op gelu"]["n"] == 60
    assert all(r["key"].startswith("gelu|") for r in failed["op gelu"]["rows"])
    first = failed["op gelu"]["rows"][0]
    assert first["after_s"] / first["before_s"] == pytest.approx(1.25, rel=1e-4)
    assert verdict(c).startswith("REGRESSION: b is worse than a")
    assert "op gelu" in verdict(c)
    assert first["key"] in render(c)


@pytest.mark.parametrize("seed", range(4))
def test_two_equally_noisy_models_pass(before, seed) -> None:
    rng = np.random.default_rng(seed)
    pair = [changed(before, np.exp(rng.normal(0.0, 0.03, before["all"]["n"]))) for _ in range(2)]
    assert compare(*pair, ("a", "b"), seed)["gate"]["passed"]


def test_a_rise_below_the_noise_floor_passes(before) -> None:
    """Every row is worse by less than a second timing differs."""
    assert before["noise"]["median_ape"] == pytest.approx(0.002, rel=0.01)
    p = before["points"]
    away = np.sign(np.log(np.array(p["predicted_s"]) / np.array(p["measured_s"])))
    assert compare(before, changed(before, np.exp(0.0015 * away)), ("a", "b"))["gate"]["passed"]
    assert not compare(before, changed(before, np.exp(0.0045 * away)), ("a", "b"))["gate"]["passed"]


def test_what_was_bad_may_stay_bad(before) -> None:
    """An operator worse than its baselines is not held against the next version."""
    bad = changed(before, of_op(before, "gelu", 30.0))
    worse = changed(before, of_op(before, "gelu", 40.0))
    gate = compare(bad, worse, ("a", "b"))["gate"]
    assert any(g["group"] == "op gelu" and "not good before" in g["why"] for g in gate["not_tested"])
    assert gate["passed"]


def test_one_wild_row_does_not_decide(before) -> None:
    factor = np.ones(before["all"]["n"])
    factor[5] = 1000.0
    assert compare(before, changed(before, factor), ("a", "b"))["gate"]["passed"]


def test_other_hardware_or_new_measurements_are_no_regression(before) -> None:
    worse = changed(before, of_op(before, "gelu", 2.0))
    other = compare(before, {**worse, "hardware": "h200-sxm"}, ("a", "b"))
    assert not other["gate"]["applied"]
    assert other["gate"]["passed"]
    assert other["device_ratio"]["rows"] == 240
    again = copy.deepcopy(worse)
    again["points"]["measured_s"] = [v * 1.1 for v in again["points"]["measured_s"]]
    assert "measured anew" in compare(before, again, ("a", "b"))["gate"]["reason"]


def test_another_schema_version_is_refused(before) -> None:
    with pytest.raises(DataError, match="schema version"):
        compare(before, {**before, "schema_version": 1}, ("a", "b"))


@pytest.mark.parametrize(("factor", "code"), [(1.25, 1), (1.0, 0)])
def test_exit_code_and_files(before, tmp_path, factor, code) -> None:
    (tmp_path / "a.json").write_text(to_json(before))
    (tmp_path / "b.json").write_text(to_json(changed(before, of_op(before, "gelu", factor))))
    out = CliRunner().invoke(
        validate,
        ["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json", str(tmp_path / "c.json"),
         "--html", str(tmp_path / "c.html")],
    )  # fmt: skip
    assert out.exit_code == code, out.output
    assert json.loads((tmp_path / "c.json").read_text())["gate"]["passed"] is (code == 0)
    html = (tmp_path / "c.html").read_text()
    assert ("op gelu got worse" in html) is (code == 1)


def test_page_is_well_formed(before) -> None:
    from test_report import check

    check(page(compare(before, changed(before, of_op(before, "gelu", 1.25)), ("<a>", "b"))))


def test_mistakes_say_what_to_do(tmp_path) -> None:
    (tmp_path / "a.json").write_text("{}")
    out = CliRunner().invoke(validate, ["--compare", str(tmp_path / "a.json"), "h100-sxm"])
    assert isinstance(out.exception, DataError)
    assert "no accuracy summary" in str(out.exception)
    assert "--hardware" in CliRunner().invoke(validate, []).output
    out = CliRunner().invoke(validate, ["--compare", "a", "b", "--hardware", "h100-sxm"])
    assert out.exit_code == 2
