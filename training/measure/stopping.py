"""When a configuration has been sampled often enough: an object of its own, apart from any clock.

The median is known when its 95 % confidence interval is narrow.  The interval comes from order statistics, so that
nothing is assumed of the noise: with n samples it reaches from the k-th smallest to the k-th largest, k the largest
rank with P(Binomial(n, 1/2) < k) <= 2.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

#: Why sampling ended.
NARROW, TIME, SAMPLES = "narrow", "time", "samples"


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return a distribution-free confidence interval of the median; infinite where the samples are too few.

    >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (1.0, 6.0)
    >>> median_interval([1.0, 2.0])
    (-inf, inf)
    """
    ordered, n = sorted(values), len(values)
    tail, rank = 0.0, 0
    # Largest rank k with P(Binomial(n, 1/2) <= k - 1) <= (1 - level) / 2.
    while True:
        tail += math.comb(n, rank) * 0.5**n
        if tail > (1 - level) / 2 or rank > n // 2:
            break
        rank += 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """Sample until the median is known, within bounds on samples and time.

    Attributes
    ----------
    half_width : float
        Stop when half the 95 % interval of the median is at most this share of the median.
    min_samples, max_samples : int
    min_time_s : float
        No narrow interval counts before so much time has gone into samples: a few in quick succession agree with one
        another, not with a second timing later.
    max_time_s : float
        Stop after `min_samples` once this much time has gone into samples.
    hard_time_s : float
        Stop at once, with as few as one sample, once this much time has gone into samples.
    """

    half_width: float = 0.02
    min_samples: int = 6
    max_samples: int = 60
    min_time_s: float = 0.015
    max_time_s: float = 0.25
    hard_time_s: float = 2.0

    def verdict(self, samples_s: Sequence[float], elapsed_s: float) -> str | None:
        """Return why sampling ends now, or None to go on.

        Parameters
        ----------
        samples_s : sequence of float
            Seconds of a call, so far.
        elapsed_s : float
            Seconds spent on these samples.
        """
        if samples_s and elapsed_s >= self.hard_time_s:
            return TIME
        if len(samples_s) < self.min_samples:
            return None
        low, high = median_interval(samples_s)
        if elapsed_s >= self.min_time_s and high - low <= 2 * self.half_width * median(samples_s):
            return NARROW
        if elapsed_s >= self.max_time_s:
            return TIME
        return SAMPLES if len(samples_s) >= self.max_samples else None


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw samples of one configuration and why there are no more.

    Attributes
    ----------
    seconds : tuple of float
        Of one call each (the mean over the calls of a sample).
    stopped : str
        ``narrow``, ``time`` or ``samples``.
    dropped : int
        Samples thrown away because the device was throttled.
    """

    seconds: tuple[float, ...]
    stopped: str
    dropped: int = 0

    @property
    def median_s(self) -> float:
        return median(self.seconds)


def collect(
    sample: Callable[[], float | None], rule: StoppingRule, clock: Callable[[], float], max_dropped: int = 50
) -> Samples:
    """Call `sample` until the rule says stop.

    Parameters
    ----------
    sample : callable
        Returns the seconds of one call, or None for a sample that must not count (throttled).
    rule : StoppingRule
    clock : callable
        Seconds, monotonic; a test passes a fake.
    max_dropped : int
        Waiting is bounded: after so many samples that do not count, the next such one ends the sampling.

    Raises
    ------
    TimeoutError
        If it ends without any sample that counts.
    """
    seconds: list[float] = []
    dropped, started = 0, clock()
    while True:
        value = sample()
        if value is None and dropped < max_dropped:
            dropped += 1
            continue
        if value is not None:
            seconds.append(value)
        elif not seconds:
            raise TimeoutError(f"{dropped} samples in a row were throttled")
        else:
            return Samples(tuple(seconds), TIME, dropped)
        verdict = rule.verdict(seconds, clock() - started)
        if verdict is not None:
            return Samples(tuple(seconds), verdict, dropped)
