"""The stopping rule, with a fake clock and a noisy fake benchmark."""

from __future__ import annotations

import random
import statistics

import pytest

from training.measure.stopping import NARROW, SAMPLES, TIME, StoppingRule, collect, median_interval


class NoisyBenchmark:
    """Takes `true_s` times a factor of the given spread; its clock moves by what it says it took."""

    def __init__(self, true_s=1e-3, spread=0.05, seed=0, outliers=0.0):
        self.true_s, self.spread, self.outliers = true_s, spread, outliers
        self.rng, self.now = random.Random(seed), 0.0

    def sample(self):
        value = self.true_s * (1 + self.spread * self.rng.gauss(0, 1))
        if self.rng.random() < self.outliers:
            value *= 10
        self.now += value
        return value

    def clock(self):
        return self.now


def test_quiet_benchmark_stops_as_soon_as_the_interval_can_be_narrow() -> None:
    quiet = NoisyBenchmark(spread=1e-4)
    got = collect(quiet.sample, StoppingRule(min_samples=3, min_time_s=0.0), quiet.clock)
    # Six is the least number of samples with a 95 % interval of the median: 2 / 2**6 = 3.1 %, 2 / 2**5 = 6.3 %.
    assert (got.stopped, len(got.seconds)) == (NARROW, 6)


def test_narrow_does_not_count_before_the_least_time() -> None:
    quiet = NoisyBenchmark(spread=1e-4)
    got = collect(quiet.sample, StoppingRule(min_time_s=0.0155), quiet.clock)
    assert (got.stopped, len(got.seconds)) == (NARROW, 16)  # 16 samples of 1 ms


def test_noisier_benchmarks_take_more_samples() -> None:
    rule = StoppingRule(half_width=0.01, max_samples=900, max_time_s=100, hard_time_s=100)
    counts = []
    for spread in (0.01, 0.03, 0.09):
        runs = []
        for seed in range(7):
            noisy = NoisyBenchmark(spread=spread, seed=seed)
            runs.append(len(collect(noisy.sample, rule, noisy.clock).seconds))
        counts.append(statistics.median(runs))
    assert counts[0] < counts[1] < counts[2]
    # The width of the interval falls with the root of the count: three times the noise needs about nine times.
    assert 4 < counts[2] / counts[1] < 20


def test_the_median_found_is_the_true_one_even_with_outliers() -> None:
    rule = StoppingRule(half_width=0.01, max_samples=500, max_time_s=100, hard_time_s=100)
    errors = []
    for seed in range(40):
        noisy = NoisyBenchmark(spread=0.03, seed=seed, outliers=0.1)
        errors.append(abs(collect(noisy.sample, rule, noisy.clock).median_s / noisy.true_s - 1))
    assert statistics.median(errors) < 0.006
    assert max(errors) < 0.04


def test_time_bounds_a_benchmark_that_never_gets_quiet() -> None:
    wild = NoisyBenchmark(spread=0.5, true_s=1e-2)
    got = collect(wild.sample, StoppingRule(max_time_s=0.25), wild.clock)
    assert got.stopped == TIME
    assert 0.25 <= wild.now < 0.35


def test_samples_are_bounded_too() -> None:
    wild = NoisyBenchmark(spread=0.5, true_s=1e-6)
    got = collect(wild.sample, StoppingRule(max_samples=30), wild.clock)
    assert (got.stopped, len(got.seconds)) == (SAMPLES, 30)


def test_a_very_slow_call_is_sampled_once() -> None:
    slow = NoisyBenchmark(true_s=5.0)
    assert len(collect(slow.sample, StoppingRule(hard_time_s=2.0), slow.clock).seconds) == 1


def test_throttled_samples_are_dropped_and_counted() -> None:
    quiet = NoisyBenchmark(spread=1e-4)
    state = iter([None, None, 1, 1, None] + [1] * 50)
    got = collect(lambda: quiet.sample() if next(state) else None, StoppingRule(min_time_s=0), quiet.clock)
    assert got.dropped == 3
    assert len(got.seconds) == 6


def test_waiting_for_a_throttled_device_is_bounded() -> None:
    with pytest.raises(TimeoutError, match="throttled"):
        collect(lambda: None, StoppingRule(), lambda: 0.0, max_dropped=5)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = random.Random(3)
    hits = 0
    for _ in range(2000):
        low, high = median_interval([rng.expovariate(1.0) for _ in range(15)])
        hits += low <= 0.693147 <= high
    # Ranks 4 and 12 of 15: 1 - 2 P(Binomial(15, 1/2) <= 3) = 96.5 %.
    assert hits / 2000 == pytest.approx(0.965, abs=0.012)
