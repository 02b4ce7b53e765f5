"""The summary dict and what is rendered from it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_rows import made_up, models, summary_of

from graphs.errors import DataError
from graphs.hardware.profile import load_profile
from training.validate.build import to_json
from training.validate.checks import bins, pairs_in_order, reliability, spearman
from training.validate.curve import learning_curve
from training.validate.page import page
from training.validate.reasons import Reasons
from training.validate.render import model_headlines, render, verdict
from training.validate.summary import SCHEMA_VERSION, empty_summary

FIGURES = {"n", "mape", "median_ape", "p90_ape", "within_10pct", "bias", "source_share", "interval_coverage"}
GROUPS = ("by_op", "by_dtype", "by_split", "by_family", "by_size", "by_intensity")


@pytest.fixture(scope="module")
def summary():
    rows, train = made_up()
    out = summary_of(rows, train)
    return {**out, "models": models()}


def test_summary_has_the_documented_keys(summary, root) -> None:
    documented = (root / "docs" / "report-format.md").read_text(encoding="utf-8")
    assert f"schema version {SCHEMA_VERSION}" in documented
    for key in summary:
        assert f"`{key}`" in documented, key
    for key in summary["points"]:
        assert f"`{key}`" in documented or key.startswith("baseline_"), key
    for group in GROUPS:
        assert sum(m["n"] for m in summary[group].values()) == summary["all"]["n"] == 120
        for figures in summary[group].values():
            assert set(figures) >= FIGURES
    for name in ("default_20pct", "roofline", "lookup", "log_linear"):
        assert set(summary["baselines"][name]) >= {"all", "by_op", "by_dtype", "by_split", "rank"}


def test_json_is_standard_json_without_nan(summary) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    again = json.loads(to_json({**summary, "odd": [float("nan"), np.float32(1.5)]}), parse_constant=refuse)
    assert again["odd"] == [None, 1.5]
    assert again["all"]["median_ape"] == summary["all"]["median_ape"]


def test_points_give_the_figures_again(summary) -> None:
    p = summary["points"]
    ape = np.abs(np.array(p["predicted_s"]) / np.array(p["measured_s"]) - 1.0)
    assert np.median(ape) == pytest.approx(summary["all"]["median_ape"], rel=1e-3)
    lookup = np.abs(np.array(p["baseline_lookup_s"]) / np.array(p["measured_s"]) - 1.0)
    assert np.median(lookup) == pytest.approx(summary["baselines"]["lookup"]["all"]["median_ape"], rel=1e-3)


def test_text_and_markdown_say_the_same(summary) -> None:
    text, markdown = render(summary), render(summary, markdown=True)
    assert verdict(summary) in text
    assert verdict(summary) in markdown
    assert verdict(summary).count(".") - len(re.findall(r"\d\.\d", verdict(summary))) == 1  # one sentence
    a = summary["all"]
    row = f"| model | 120 | {100 * a['median_ape']:.1f} % | {100 * a['mape']:.1f} % |"
    assert row in markdown
    assert "| device, roofline | 2 | 15.0 % |" in markdown
    # the same numbers in both
    numbers = re.compile(r"-?\d+\.\d+ %")
    assert sorted(numbers.findall(text)) == sorted(numbers.findall(markdown))


def test_headlines_of_whole_models_use_models_left_out_of_the_fit() -> None:
    m = models()
    assert model_headlines(m) == [("device", m["by_mode"]["device"], "")]
    for r in m["rows"]:
        r["use"] = "in_sample"
    assert "fitted to among them" in model_headlines(m)[0][2]
    left = {"n": 2, "models": 2, "median_ape": 0.42, "mape": 0.43}
    m["left_out"] = {"device": left}
    (mode, figures, how), *_ = model_headlines(m)
    assert (mode, figures) == ("device", left)
    assert "left out" in how
    text = verdict({"all": {"n": 0}, "models": m})
    assert "42.0 %" in text
    assert "15.0 %" not in text


def test_headlines_of_given_models_are_their_own_and_not_those_of_the_fit() -> None:
    m = models()
    m["left_out"] = {"device": {"n": 106, "models": 18, "median_ape": 0.03, "mape": 0.04}}
    assert model_headlines(m) == [("device", m["by_mode"]["device"], "")]
    m["rows"][0]["use"] = "in_sample"
    (_, left, how), (_, unseen, apart) = model_headlines(m)
    assert (left["n"], "left out" in how) == (106, True)
    # the other one: 0.8 ms for 1 ms
    assert (unseen["n"], unseen["mape"], "not fitted to" in apart) == (1, pytest.approx(0.2), True)


class Checker(HTMLParser):
    """Fails on tags that are not closed, on scripts, and on anything from outside."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headers: list[dict[str, str | None]] = []

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        assert tag not in {"script", "link", "iframe", "img"}, tag
        for name, value in attrs:
            assert name not in {"src", "onload", "onclick"}, name
            assert name != "href" or value.startswith("#"), value
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "th":
            self.headers.append(given)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open
        assert self.open.pop() == tag


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(h.get("scope") in ("col", "row") for h in checker.headers)
    outside = set(re.findall(r"(?:https?:)?//[\w.]+", html)) - {"http://www.w3.org"}
    assert outside == set()
    return checker


def test_page_is_well_formed_and_self_contained(summary) -> None:
    html = page(summary)
    checker = check(html)
    assert {"scatter-t", "cdf-t", "roofline-t", "reliability-t", "by-op-t", "bias-t", "rank-t"} <= set(checker.ids)
    assert verdict(summary) in html
    assert "&lt;vgg&gt; b8" in html
    assert "<vgg>" not in html
    assert "prefers-color-scheme:dark" in html
    assert "No learning curve is stored" in html
    assert len(html) < 2_000_000


def test_page_of_whole_models_alone_and_of_a_learning_curve() -> None:
    empty = {**empty_summary(load_profile("h100-sxm"), {}), "models": models()}
    html = page(empty)
    check(html)
    assert "scatter-t" not in html
    curve = [{"share": s, "median_ape": 0.1 / s, "mape": 0.2 / s, "rows": 10} for s in (0.25, 0.5, 1.0)]
    html = page({**empty, "learning_curve": curve})
    assert "25 % of the rows: 40 % median" in html


def test_every_point_of_the_scatter_is_a_row(summary) -> None:
    from graphs.figures import Scale
    from training.validate.figures import draw

    svg = draw(summary)["scatter"]
    sx, sy = (Scale.parse(re.search(rf'data-{a}="([^"]+)"', svg)[1]) for a in "xy")
    path = re.search(r'<path d="([^"]+)" class="p c1" data-series="model"', svg)[1]
    at = np.array(re.findall(r"M([\d.]+) ([\d.]+)h0", path), dtype=float)
    np.testing.assert_allclose(np.log(sx.inverse(at[:, 0])), np.log(summary["points"]["measured_s"]), atol=0.01)
    np.testing.assert_allclose(np.log(sy.inverse(at[:, 1])), np.log(summary["points"]["predicted_s"]), atol=0.01)


def test_stored_curves_are_found_by_the_data_they_were_made_from(tmp_path, monkeypatch) -> None:
    for name, sha, error in (("a", "a" * 64, 0.1), ("b", "b" * 64, 0.2)):
        figures = {"rows": 5, "median_ape": error, "mape": error, "within_10pct": 0.5}
        found = {"data_sha256": sha, "pooled": {"curve": {"1": figures, "0.5": figures}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    monkeypatch.setattr("training.validate.curve.CURVES", tmp_path)
    monkeypatch.setattr("training.validate.curve.PAGE", tmp_path / "none.md")
    assert [c["median_ape"] for c in learning_curve(None, {}, "b" * 64)] == [0.2, 0.2]
    assert learning_curve(None, {}, "c" * 64) == []
    assert learning_curve(None, {}, None) == []


def test_learning_curve_from_figures_and_from_the_page(tmp_path, root) -> None:
    path = tmp_path / "curve.json"
    figures = {"rows": 5, "median_ape": 0.1, "mape": 0.2, "within_10pct": 0.5}
    path.write_text(json.dumps({"data_sha256": "abc", "pooled": {"curve": {"1": figures, "0.25": figures}}}))
    assert [c["share"] for c in learning_curve(path, {}, "abc")] == [0.25, 1.0]
    with pytest.raises(DataError, match="other data"):
        learning_curve(path, {}, "abd")
    stored = [{"share": 1.0, "median_ape": 0.1, "mape": 0.2}]
    assert learning_curve(None, {"scores": {"learning_curve": stored}}, "abc") == stored
    assert learning_curve(None, {}, "abc") == []
    page_text = (root / "docs" / "accuracy.md").read_text(encoding="utf-8")
    sha = re.search(r"SHA-256 `([0-9a-f]+)", page_text)[1]
    curve = learning_curve(root / "docs" / "accuracy.md", {}, sha)
    assert [c["share"] for c in curve] == [0.25, 0.5, 1.0]
    assert f"| {100 * curve[2]['median_ape']:.1f} / {100 * curve[2]['mape']:.1f} / " in page_text


def row(params: dict[str, int], efficiency: float, **more) -> pd.DataFrame:
    from graphs import ops
    from training.validate.baselines import attainable_s

    profile = load_profile("h100-sxm")
    cost = ops.evaluate("matmul", params, 2)
    frame = pd.DataFrame([{"op": "matmul", "dtype": "bf16", "params": params, "flops": cost.flops,
                           "bytes": cost.bytes, "source": "model", "reason": "", **more}])  # fmt: skip
    return frame.assign(median_us=1e6 * attainable_s(frame, profile) / efficiency)


def test_reasons_are_computed_from_the_rows_around() -> None:
    profile = load_profile("h100-sxm")
    smooth = pd.concat([row({"m": 256 + 32 * i, "n": 512, "k": 512}, 0.5) for i in range(8)], ignore_index=True)
    r = Reasons(smooth, profile)
    here = {"m": 300, "n": 512, "k": 512}
    assert r.explain(row(here, 0.48))[0].startswith("the model's own error: ")
    assert r.explain(row(here, 0.1))[0].startswith("kernel cliff: 6 training rows within a factor 2 run at 0.5 to 0.5")
    assert "this row at 0.1" in r.explain(row(here, 0.1))[0]
    far = r.explain(row({"m": 300, "n": 512, "k": 4096}, 0.5))[0]
    assert "extrapolation: k is 4096, 8.0 times above the largest of such rows (512)" in far
    assert "sparse: " in far
    noisy = row(here, 0.5).assign(std_us=lambda d: 0.3 * d["median_us"])
    assert "noisy measurement: its samples spread by 30 %" in r.explain(noisy)[0]
    outside = r.explain(row(here, 0.5, source="default", reason="m is too large").assign(source="default"))[0]
    assert outside == "outside the domain: m is too large"
    other = r.explain(row(here, 0.5).assign(dtype="fp16"))[0]
    assert other == "only 0 training rows share its dtype and discrete parameters"


def test_spearman_is_scipys_with_ties() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 50).astype(float), rng.normal(size=50)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.ones(5), b[:5]) is None


def test_pairs_in_order_counts_only_pairs_that_differ() -> None:
    measured, predicted = np.array([1.0, 1.01, 2.0, 4.0]), np.array([1.0, 0.5, 3.0, 2.5])
    # five pairs are more than 5 % apart; one of them, (2, 4), is told in the wrong order
    assert pairs_in_order(measured, predicted) == (4, 5)


def test_reliability_of_normal_errors_is_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    n, sigma = 20_000, 0.1
    predicted = np.ones(n)
    measured = np.exp(rng.normal(0.0, sigma, n))
    half = 1.6449 * sigma
    out = reliability(np.full(n, "x"), measured, predicted, predicted * np.exp(-half), predicted * np.exp(half))
    for level in out["levels"]:
        assert level["observed"] == pytest.approx(level["nominal"], abs=0.01)
    assert out["by_op"]["x"]["low"] < 0.9 < out["by_op"]["x"]["high"]


def test_bins_are_half_open() -> None:
    assert bins(np.array([0.5, 1.0, 9.9, 10.0]), (1.0, 10.0), ("a", "b", "c")).tolist() == ["a", "b", "b", "c"]


def test_templates_are_files_of_the_package() -> None:
    import training.validate

    folder = Path(training.validate.__file__).parent / "templates"
    assert {p.name for p in folder.iterdir()} == {"base.html.j2", "macros.html.j2", "report.html.j2", "compare.html.j2"}
