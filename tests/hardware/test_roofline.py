"""The roofline against numbers worked out by hand, and what must hold for any work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs.hardware.roofline import DEFAULT_EFFICIENCY, Roofline

# 1 TFLOP/s and 100 GB/s: ridge point 10 FLOP/B.  Three calls: compute-bound, memory-bound, on the ridge.
ROOF = Roofline.of(np.array([4e9, 1e6, 1e9]), np.array([1e8, 1e9, 1e8]), 1e12, 1e11)


def test_times_by_hand() -> None:
    np.testing.assert_allclose(ROOF.compute_s, [4e-3, 1e-6, 1e-3])
    np.testing.assert_allclose(ROOF.memory_s, [1e-3, 1e-2, 1e-3])
    np.testing.assert_allclose(ROOF.attainable_s, [4e-3, 1e-2, 1e-3])


def test_default_takes_a_fifth_of_the_peak_and_all_of_the_bandwidth() -> None:
    assert DEFAULT_EFFICIENCY == 0.20
    np.testing.assert_allclose(ROOF.default_s(), [20e-3, 1e-2, 5e-3])


def test_both_efficiencies() -> None:
    latency = np.array([8e-3, 5e-3, 1e-3])
    # the second is faster than the memory allows: data in a cache, never clipped
    np.testing.assert_allclose(ROOF.efficiency(latency), [0.5, 2.0, 1.0])
    np.testing.assert_allclose(ROOF.compute_efficiency(latency), [0.5, 2e-4, 1.0])


def test_bound_depends_on_the_share_of_the_peak_taken_for_attainable() -> None:
    latency = ROOF.default_s()
    assert ROOF.bound(latency).tolist() == ["compute", "memory", "compute"]
    roof = Roofline.of(np.array([4e8]), np.array([1e8]), 1e12, 1e11)
    assert roof.bound(latency[:1], 1.0).tolist() == ["memory"]
    assert roof.bound(latency[:1], DEFAULT_EFFICIENCY).tolist() == ["compute"]


@pytest.mark.parametrize(("overhead", "bound"), [(0.0, "memory"), (0.004, "memory"), (0.006, "overhead")])
def test_overhead_bound_where_the_fixed_cost_is_more_than_half(overhead: float, bound: str) -> None:
    assert ROOF.bound(np.array([1.0, 1e-2, 1.0]), overhead_s=overhead)[1] == bound


work = st.floats(1.0, 1e15)


@given(flops=work, nbytes=work, peak=work, bandwidth=work)
def test_default_is_between_one_and_five_times_the_attainable(
    flops: float, nbytes: float, peak: float, bandwidth: float
) -> None:
    roof = Roofline.of(np.array([flops]), np.array([nbytes]), peak, bandwidth)
    default = roof.default_s()
    assert roof.attainable_s[0] <= default[0] <= 5.0 * roof.attainable_s[0] * (1 + 1e-12)
    assert 0.2 * (1 - 1e-12) <= roof.efficiency(default)[0] <= 1.0
    assert roof.compute_efficiency(default)[0] <= 0.2 * (1 + 1e-12)
    assert roof.compute_efficiency(default)[0] * default[0] * peak == pytest.approx(flops)
    # five times the FLOP of a compute-bound call take five times as long, and never less than before
    more = Roofline.of(np.array([5 * flops]), np.array([nbytes]), peak, bandwidth).default_s()
    assert default[0] <= more[0] <= 5 * default[0] * (1 + 1e-12)


def test_no_arithmetic_means_no_compute_time() -> None:
    roof = Roofline.of(np.zeros(1), np.array([1e11]), np.inf, 1e11)
    assert roof.default_s()[0] == 1.0
    assert roof.bound(roof.default_s()).tolist() == ["memory"]
