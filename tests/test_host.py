"""The host's launch times, and the queue between host and device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs.errors import GraphsError
from graphs.host import Host, call_key, queue_s

times = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=100)
@given(times, st.floats(0, 5))
def test_the_queue_is_what_a_step_by_step_simulation_gives(calls: list[tuple[float, float]], start: float) -> None:
    launched, ended = start, 0.0
    for host, device in calls:
        launched += host
        ended = max(ended, launched) + device
    host_s, device_s = np.array(calls).T
    assert queue_s(host_s, device_s, start) == pytest.approx(ended)


def test_a_slow_host_hides_all_but_the_last_call_and_a_slow_device_all_but_the_first_launch() -> None:
    ten, one = np.full(5, 10.0), np.ones(5)
    assert queue_s(ten, one) == 51.0
    assert queue_s(one, ten) == 51.0
    # a long call early gives the host time to run ahead: a maximum of the two sums (50, 62) would say 62
    assert queue_s(ten, np.array([1.0, 1.0, 1.0, 1.0, 58.0])) == 108.0
    assert queue_s(np.empty(0), np.empty(0), 3.0) == 3.0


@pytest.mark.parametrize(
    ("op", "params", "dtype", "key"),
    [
        ("conv2d", {"k": 1, "fmt": "channels_last"}, "fp32", "conv2d/1/channels_last/full"),
        ("conv2d", {"k": 7}, "fp16", "conv2d/k/contiguous/half"),
        ("batchnorm", {"fmt": "contiguous"}, "tf32", "batchnorm/contiguous/full"),
        ("linear", {"m": 1}, "bf16", "linear/half"),
    ],
)
def test_calls_are_classed_by_what_the_host_does(op: str, params: dict[str, object], dtype: str, key: str) -> None:
    assert call_key(op, params, dtype) == key


def test_a_call_costs_its_own_time_and_that_of_its_class() -> None:
    host = Host(operator_s=1e-5, table_s={"relu/full": 8e-6, "linear/half": 2e-5, "linear/full": 4e-5}, table_scale=0.5)
    assert host.call_s("relu", {}, "fp32") == pytest.approx(1.4e-5)
    # no relu in half precision was measured: the kind stands in; no softmax at all: the middle of everything
    assert host.call_s("relu", {}, "bf16") == pytest.approx(1.4e-5)
    assert host.call_s("softmax", {}, "fp32") == pytest.approx(2e-5)
    assert Host(scale=3.0, operator_s=1e-5, table_scale=1.0).call_s("softmax", {}, "fp32") == pytest.approx(3e-5)


def test_another_host_is_seconds_or_settings() -> None:
    measured = Host(operator_s=1e-5, table_s={"relu/full": 8e-6}, table_scale=1.0, start_s=5e-5, gap_s=2e-6)
    assert measured.with_settings(None) is measured
    assert measured.with_settings(2e-5) == Host(operator_s=2e-5)
    assert measured.with_settings({"scale": 0.5}).call_s("relu", {}, "fp32") == pytest.approx(9e-6)
    own = measured.with_settings({"operator_s": 1e-5, "kernel_s": 4e-6})
    assert own.start_s == 5e-5
    assert own.call_s("relu", {}, "fp32") == pytest.approx(1.4e-5)
    assert own.call_s("conv2d", {"k": 3}, "bf16") == pytest.approx(1e-5 + 4 * 4e-6)
    assert measured.with_settings(Host()) == Host()


@pytest.mark.parametrize("given_", [-1.0, float("nan"), True, "fast", {"speed": 2.0}, {"scale": -1.0}])
def test_a_host_that_cannot_be_is_refused(given_: object) -> None:
    with pytest.raises(GraphsError, match="host"):
        Host().with_settings(given_)  # type: ignore[arg-type]


def test_stored_form_comes_back_and_the_older_one_is_read() -> None:
    host = Host(operator_s=1e-5, table_s={"relu/full": 8e-6}, table_scale=0.5, start_s=5e-5, gap_s=2e-6)
    assert Host.from_dict(host.to_dict()) == host
    assert Host.from_dict({"host_s_per_call": 3e-5, "lomo_mape": 0.1}) == Host(operator_s=3e-5)
