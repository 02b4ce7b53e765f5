"""The drift check judges as its statistics say, and the fingerprint keeps machines apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from graphs.errors import DataError, GraphsError, UnknownHardwareError
from training.dataset.schema import check_ops
from training.measure import session, target
from training.measure.check import DRIFTED, HOLDS, UNDECIDED, judge
from training.measure.environment import FINGERPRINT_KEYS, differences, fingerprint, record
from training.measure.session import budget_seconds, check_same, chosen_hardware


def rows(factor, spread, seed=0, n=20):
    logs = np.random.default_rng(seed).normal(np.log(factor), spread, n)
    # The 90 % interval of a model whose errors have this spread.
    return np.exp(logs), np.abs(logs) < 1.645 * spread


def test_a_model_that_is_right_holds_nearly_always() -> None:
    codes = [judge(*rows(1.0, 0.08, seed)).code for seed in range(300)]
    assert codes.count(HOLDS) >= 290
    assert codes.count(DRIFTED) <= 6


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_a_machine_that_is_half_as_fast_or_twice_is_found(factor) -> None:
    verdicts = [judge(*rows(factor, 0.08, seed)) for seed in range(100)]
    assert all(v.code == DRIFTED for v in verdicts)
    assert np.median([v.factor for v in verdicts]) == pytest.approx(factor, rel=0.02)
    assert sum(v.low <= factor <= v.high for v in verdicts) >= 88  # 95 % intervals


def test_one_wild_row_does_not_make_a_drift() -> None:
    ratios, inside = rows(1.0, 0.03, 1)
    ratios[3], inside[3] = 30.0, False
    assert judge(ratios, inside).code == HOLDS


def test_intervals_that_fail_without_a_shift_are_not_called_a_hold() -> None:
    ratios, _ = rows(1.0, 0.3, 2)
    assert judge(ratios, [False] * 20).code in (UNDECIDED, DRIFTED)
    assert "0 of 20" in judge(ratios, [False] * 20).text


def environment(**changes):
    return {**dict.fromkeys(FINGERPRINT_KEYS, "same"), **changes}


def test_the_fingerprint_moves_with_machine_software_and_threads_only() -> None:
    same = fingerprint(environment(load_at_start=0.1, started="now"))
    assert same == fingerprint(environment(load_at_start=9.9, started="later"))
    for key in FINGERPRINT_KEYS:
        assert fingerprint(environment(**{key: "other"})) != same, key
    assert differences(environment(torch="2"), environment(torch="3")) == ["torch: 2 / 3"]


def test_this_environment_is_recorded_in_full() -> None:
    here = record("cpu")
    assert all(here[k] is not None for k in ("device", "cores", "threads", "torch", "blas", "memory_bytes"))
    assert here["threads"] >= 1
    assert fingerprint(here) == fingerprint(record("cpu"))


def test_a_run_is_not_resumed_on_another_machine(tmp_path) -> None:
    about = {"hardware": "toy", "environment": environment(torch="2.0"), "fingerprint": "0"}
    request = session.Request("toy", tmp_path, 60.0, resume=True)
    with pytest.raises(GraphsError, match=r"torch: 3\.0 / 2\.0"):
        check_same(about, environment(torch="3.0"), request)


def test_rows_of_two_fingerprints_are_not_pooled() -> None:
    frame = pd.DataFrame({
        "op": ["relu", "relu"], "dtype": "fp32", "params": ['{"numel": 8}', '{"numel": 9}'], "median_us": [1.0, 2.0],
        "fingerprint": ["aaa", "bbb"],
    })  # fmt: skip
    with pytest.raises(DataError, match="aaa, bbb"):
        check_ops(frame)
    assert len(check_ops(frame.assign(fingerprint="aaa")).frame) == 2


def test_known_hardware_that_this_machine_is_not_is_refused(monkeypatch) -> None:
    from graphs.hardware.detect import DetectedHardware

    monkeypatch.setattr(target, "detect_hardware", lambda: [DetectedHardware("cpu", "Acme 9000", None)])
    with pytest.raises(UnknownHardwareError, match="not 'h100-pcie-80gb'"):
        chosen_hardware("h100-pcie-80gb", "cpu")
    with pytest.raises(UnknownHardwareError, match="small letters"):
        chosen_hardware("My Machine!", "cpu")
    assert chosen_hardware("my-machine", "cpu") == ("cpu", "my-machine")


@pytest.mark.parametrize("text", ["0", "-5m", "ten", "5 weeks", "1.2.3s"])
def test_an_unusable_budget_is_an_error(text) -> None:
    with pytest.raises(GraphsError, match="positive time"):
        budget_seconds(text)
    assert budget_seconds("1.5h") == 5400


def test_a_gpu_that_is_not_there_is_refused_and_never_replaced_by_the_cpu(monkeypatch) -> None:
    from graphs.hardware.detect import DetectedHardware

    monkeypatch.setattr(target, "detect_hardware", lambda: [DetectedHardware("cpu", "Acme 9000", None)])
    with pytest.raises(UnknownHardwareError, match=r"no gpu.*Acme 9000"):
        chosen_hardware("auto", "gpu")
    assert chosen_hardware("auto", "cpu")[0] == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UnknownHardwareError, match="no CUDA device"):
        session.prepared("gpu", None)
