"""Whole-model terms are found again in models made up with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import pandas as pd

from graphs import ops
from graphs.estimates import OperatorEstimate
from graphs.estimation import eager_s, estimate_trace
from graphs.hardware.calibration.calibration import load_calibration
from graphs.hardware.mappers.base import CPUMapper
from graphs.hardware.profile import load_profile
from graphs.host import Host
from graphs.tracing.library import load_trace
from graphs.whole_model import IntervalTerms, WholeModelTerms
from training.fit.device_terms import choose_device_terms, left_out_errors
from training.fit.host import _eager_entry, fit_host, launch_table
from training.fit.model_interval import fit_interval
from training.fit.priced import PricedModel, family_of, price_models
from training.fit.queue_fit import QueueFit
from training.validate.baselines import attainable_s
from training.validate.model_baselines import baseline_sums
from training.validate.models import _fitted_on, score_models

NAMES = ["alpha1", "alpha2", "beta1", "gamma1", "delta1", "epsilon1", "zeta1", "eta1"]


def made_up(name: str, mode: str, seed: int) -> PricedModel:
    """Return a model of 40 calls, a third of them convolutions."""
    rng = np.random.default_rng(seed)
    d = 12
    run = rng.uniform(4e-6, 60e-6, d)
    conv = np.arange(d) % 3 == 0
    rows = [
        OperatorEstimate(
            "conv2d" if c else "relu", {"k": 3, "groups": 1} if c else {"numel": 8}, "fp32", 1, 1, float(t), 1.0, 1.0,
            "memory", "model", "", (0.9 * float(t), 1.1 * float(t)),
        )
        for t, c in zip(run, conv, strict=True)
    ]  # fmt: skip
    index = rng.integers(0, d, 40)
    return PricedModel(
        model=name, mode=mode, area="vision", measured_s=1.0, rows=rows, run_s=run, width=np.full(d, 0.1), conv=conv,
        correctable=np.ones(d, dtype=bool), unmodelled=np.zeros(d, dtype=bool), index=index,
        counts=np.bincount(index, minlength=d).astype(float), without_gaps=mode == "kernels",
    )  # fmt: skip


def measured(row: PricedModel, seconds: float) -> PricedModel:
    return PricedModel(**{**{n: getattr(row, n) for n in PricedModel.__dataclass_fields__}, "measured_s": seconds})


def device_models(truth: WholeModelTerms, noise: float = 0.0) -> list[PricedModel]:
    rng = np.random.default_rng(0)
    rows = [made_up(n, m, i + 10 * j) for i, n in enumerate(NAMES) for j, m in enumerate(("graph", "kernels"))]
    return [measured(r, r.device_s(truth) * float(np.exp(rng.normal(0, noise)))) for r in rows]


def test_gap_and_convolution_factor_are_found_again() -> None:
    truth = WholeModelTerms(kernel_gap_s=0.4e-6, conv_fp32=0.8)
    rows = device_models(truth, noise=0.01)
    found, conv = choose_device_terms(rows, WholeModelTerms())
    assert conv
    assert found.conv_fp32 == pytest.approx(0.8, abs=0.05)
    assert found.kernel_gap_s == pytest.approx(0.4e-6, abs=0.35e-6)
    left_out = np.abs(left_out_errors(rows, WholeModelTerms(), conv=True)).mean()
    plain = np.abs([np.log(r.device_s(WholeModelTerms()) / r.measured_s) for r in rows]).mean()
    assert left_out < 0.4 * plain


def test_a_factor_that_nothing_shows_is_not_kept() -> None:
    found, conv = choose_device_terms(device_models(WholeModelTerms(), noise=0.05), WholeModelTerms())
    assert not conv
    assert found.conv_fp32 == 1.0


def test_terms_without_a_model_have_not_seen_it() -> None:
    rows = device_models(WholeModelTerms(conv_fp32=0.8))
    odd = [measured(r, 50.0 * r.measured_s) if r.model == "eta1" else r for r in rows]
    before, after = (left_out_errors(x, WholeModelTerms(), conv=True) for x in (rows, odd))
    here = np.array([r.model == "eta1" for r in rows])
    # what eta1 was measured at moves its own error by log 50 exactly: its prediction did not move
    assert np.allclose(before[here] - after[here], np.log(50.0))


def test_the_queue_is_found_again() -> None:
    truth = Host(operator_s=20e-6, start_s=40e-6, gap_s=1e-6)
    rows = [made_up(n, "eager", i) for i, n in enumerate(NAMES)]
    rows = [measured(r, eager_s(r.rows, r.index.tolist(), truth, overlap=True)[1]) for r in rows]
    fit = QueueFit(True, {}, WholeModelTerms())
    host, _ = fit.fit(rows)
    for r in rows:
        again = eager_s(r.rows, r.index.tolist(), host, overlap=True)[1]
        assert again == pytest.approx(r.measured_s, rel=0.02)
    assert np.abs(fit.left_out(rows).log_errors).max() < 0.05


def test_on_one_machine_the_convolutions_are_fitted_with_the_host() -> None:
    truth = WholeModelTerms(conv_fp32=0.7)
    rows = [made_up(n, "eager", i) for i, n in enumerate(NAMES)]
    rows = [measured(r, r.device_s(truth) + 25e-6 * r.counts.sum()) for r in rows]
    fit = QueueFit(False, {}, WholeModelTerms()).with_convolutions_if_worth(rows)
    assert fit.conv
    host, terms = fit.fit(rows)
    assert host.operator_s == pytest.approx(25e-6, rel=0.15)
    assert terms.conv_fp32 == pytest.approx(0.7, abs=0.1)


def test_one_model_or_one_family_gives_no_figure_of_unseen_ones() -> None:
    rows = [measured(made_up(n, "eager", i), 1e-3) for i, n in enumerate(("vgg11", "vgg13", "vgg16"))]
    fit = QueueFit(False, {}, WholeModelTerms())
    assert np.isnan(fit.left_out(rows, by_family=True).log_errors).all()
    assert not fit.with_convolutions_if_worth(rows).conv
    entry, _ = _eager_entry(rows, fit)
    assert "lomo" in entry
    assert "left_out_family" not in entry
    alone, interval = _eager_entry(rows[:1], fit)
    assert (alone["models"], interval) == (1, None)
    assert "lomo" not in alone


def test_launch_times_come_from_launch_bound_rows() -> None:
    ops = pd.DataFrame(
        {
            "op": ["relu", "relu", "relu", "linear"], "dtype": ["fp32", "fp32", "fp32", "bf16"],
            "params": ['{"numel": 8}', {"numel": 8}, '{"numel": 9}', '{"m": 1, "n": 1, "k": 1}'],
            "median_us": [1.0, 1.0, 900.0, 2.0], "eager_us": [10.0, 12.0, 900.0, 20.0],
        }
    )  # fmt: skip
    assert launch_table(ops) == pytest.approx({"relu/full": 11e-6, "linear/half": 20e-6})
    assert launch_table(None) == {}


@pytest.mark.parametrize("correlated", [True, False])
def test_intervals_cover_models_that_were_left_out(correlated: bool) -> None:
    rng = np.random.default_rng(3)
    names = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}x{j}" for i in range(40) for j in range(2)]
    widths = [np.full(10, rng.uniform(0.005, 0.05)) for _ in names]
    errors = np.array([rng.normal(0, w.sum() if correlated else np.sqrt((w**2).sum())) for w in widths])
    found = fit_interval(names, errors, widths, np.zeros(len(names)))
    assert found is not None
    assert 0.85 <= found["lomo_coverage"] <= 0.97
    assert found["models"] == len(names)
    terms = IntervalTerms(**{k: found[k] for k in ("quantile", "shared", "constant", "waiting")})
    fresh_widths = [np.full(10, rng.uniform(0.005, 0.05)) for _ in range(2000)]
    fresh = [rng.normal(0, w.sum() if correlated else np.sqrt((w**2).sum())) for w in fresh_widths]
    inside = np.mean([abs(e) <= terms.half_width(w, 0.0) for e, w in zip(fresh, fresh_widths, strict=True)])
    assert 0.8 <= inside <= 0.99


def test_rows_without_a_bound_do_not_spoil_the_interval_of_the_others() -> None:
    names, widths = list("abcdef"), [np.ones(2)] * 5 + [np.array([1.0, np.nan])]
    found = fit_interval(names, np.full(6, 0.1), widths, np.zeros(6))
    assert found is not None
    assert (found["rows"], found["lomo_coverage"]) == (5, 1.0)
    assert np.isfinite(found["quantile"])
    assert fit_interval(names, np.full(6, 0.1), [np.full(1, np.nan)] * 6, np.zeros(6)) is None


def test_too_few_models_have_no_interval() -> None:
    assert fit_interval(["a"] * 50, np.zeros(50), [np.ones(1)] * 50, np.zeros(50)) is None


def test_families_are_the_letters_of_a_name() -> None:
    assert {family_of(n) for n in ("vgg11", "vgg16_bn", "vgg19")} == {"vgg"}
    assert family_of("34x") == "34x"


def test_fitting_prices_models_as_estimates_do() -> None:
    terms = WholeModelTerms(conv_fp32=0.8, conv_from_k=1, host=Host(operator_s=2e-5))

    class WithTerms(CPUMapper):
        whole_model_terms = terms

    mapper = WithTerms(load_profile("xeon-16c"), calibration=load_calibration("xeon-16c"))
    frame = pd.DataFrame([{"model": "alexnet", "batch": 2, "dtype": "fp32", "mode": "eager", "median_us": 5e3}])
    (priced,) = price_models(frame, mapper, terms)
    e = estimate_trace(load_trace("alexnet", 2, "fp32"), mapper, "eager")
    assert priced.device_s(terms) == pytest.approx(e.device_s)
    fit = QueueFit(False, {}, terms)
    assert fit._total_s(priced, Host(operator_s=2e-5), priced.times_s(terms), 0.0) == pytest.approx(e.latency_s)  # type: ignore[arg-type]


def _xeon_rows() -> pd.DataFrame:
    mapper = CPUMapper(load_profile("xeon-16c"), calibration=load_calibration("xeon-16c"))
    names = ["alexnet", "resnet18", "vgg11", "googlenet", "squeezenet1_1", "mobilenet_v2"]
    rows = []
    for n in names:
        trace = load_trace(n, 1, "fp32")
        seconds = sum(o.latency_s for o in estimate_trace(trace, mapper, "graph").operators) + 3e-5 * len(trace)
        rows.append({"model": n, "batch": 1, "dtype": "fp32", "mode": "eager", "median_us": seconds * 1e6})
    return pd.DataFrame(rows)


def measured_operators() -> pd.DataFrame:
    """Every call of AlexNet, all at 10 % of the roofline: what the tables then say of it is known."""
    profile = load_profile("xeon-16c")
    calls = [o for o in load_trace("alexnet", 1, "fp32").operators if o.op]
    frame = pd.DataFrame([{"op": o.op, "dtype": o.dtype, "params": o.params} for o in calls for _ in range(4)])
    cost = [ops.evaluate(o.op, o.params, 4) for o in calls for _ in range(4)]
    frame = frame.assign(flops=[float(c.flops) for c in cost], bytes=[float(c.bytes) for c in cost])
    return frame.assign(median_us=10 * attainable_s(frame, profile) * 1e6)


def test_baselines_of_whole_models_are_sums_over_their_calls() -> None:
    mapper = CPUMapper(load_profile("xeon-16c"))
    traces = [load_trace(name, 1, "fp32") for name in ("alexnet", "vgg11")]
    sums = baseline_sums(traces, mapper, measured_operators())
    np.testing.assert_allclose(sums["lookup"][0], 10 * sums["roofline"][0], rtol=1e-9)
    np.testing.assert_allclose(sums["log_linear"][0], 10 * sums["roofline"][0], rtol=1e-9)
    for i, trace in enumerate(traces):
        bare = estimate_trace(trace, mapper, "graph")
        assert sums["default_20pct"][i] == pytest.approx(sum(o.latency_s for o in bare.operators))
    assert baseline_sums([], mapper, None) == {}


def test_fitted_terms_score_unseen_models_apart_from_seen_ones() -> None:
    calibration = load_calibration("xeon-16c")
    assert calibration.model is not None
    header = dict(calibration.model.header)
    mapper = CPUMapper(load_profile("xeon-16c"), calibration=calibration)
    frame = _xeon_rows()
    extra = {"model": "vit_b_16", "batch": 1, "dtype": "fp32", "mode": "eager", "median_us": 5e4}
    unknown = {"model": "no_such_net", "batch": 1, "dtype": "fp32", "mode": "eager", "median_us": 5e4}
    try:
        calibration.model.header.pop("whole_models")
        calibration.model.header["whole_models"] = fit_host(frame, mapper)
        given = pd.concat([frame, pd.DataFrame([extra, unknown])], ignore_index=True)
        s = score_models(given, mapper, measured_operators())
        alone = score_models(given, mapper)
    finally:
        calibration.model.header.clear()
        calibration.model.header.update(header)
    assert s["by_use"]["in_sample"]["n"] == 6
    assert s["by_use"]["unseen"]["n"] == 1
    assert s["by_area"]["vision"]["n"] == 7
    assert s["by_group"]["vision eager batch 1"]["n"] == 7
    assert s["left_out"]["eager"]["models"] == 6
    # the Contract: the same baselines as of operators; without a table those that need none
    assert {"default_20pct", "roofline", "lookup", "log_linear"} <= set(s["baselines"])
    assert set(alone["baselines"]) == {"default_20pct", "roofline"}
    assert alone["baselines"]["roofline"] == s["baselines"]["roofline"]
    assert s["skipped"][0]["model"] == "no_such_net"
    # most of its time is in its linear layers, and the words name the largest share
    assert "linear" in next(r for r in s["rows"] if r["model"] == "alexnet")["why"]


def test_runs_count_as_seen_by_every_term_that_their_prediction_holds() -> None:
    def fitted_on(**terms: Any) -> dict[str, set[str]]:
        model = SimpleNamespace(header={"whole_models": terms})
        return _fitted_on(SimpleNamespace(calibration=SimpleNamespace(model=model)))  # type: ignore[arg-type]

    both = fitted_on(device={"names": ["a", "b"]}, eager={"names": ["b", "c"]})
    assert both == {"device": {"a", "b"}, "eager": {"a", "b", "c"}}
    # a CPU: its convolution factor is fitted to eager passes
    assert fitted_on(device={"conv_fp32": 0.9}, eager={"names": ["a"]})["device"] == {"a"}
    assert fitted_on(eager={"names": ["a"]}) == {"device": set(), "eager": {"a"}}
    assert fitted_on() == {"device": set(), "eager": set()}
