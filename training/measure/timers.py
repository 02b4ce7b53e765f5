"""Timing one operator call: on the CPU by the clock, on a GPU by events around graph replays.

Both return the same figures.  `cold`: calls rotate over buffer sets that together exceed the last-level cache (at
most `MAX_SETS`, so small operands stay cached, as activations do).  `warm`: the same buffers again and again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from graphs import ops
from training.measure.errors import DeviceLostError, UnmeasurableError
from training.measure.kernels import Maker, Pool, bind, reserve
from training.measure.plan import Entry
from training.measure.stopping import StoppingRule, collect
from training.measure.timing import Timing

MAX_SETS = 32
#: Seconds that one sample shall last at least: the clock's steps and the loop do not count then.
_SAMPLE_S = 400e-6
_WARM_RULE = StoppingRule(half_width=0.05, min_samples=3, max_samples=6, max_time_s=0.02, hard_time_s=0.1)
#: Slower calls have no warm timing: nothing of them stays in a cache.
_WARM_LIMIT_S = 0.02


def buffer_sets(nbytes: float, cache_bytes: float) -> int:
    """Return how many sets of `nbytes` exceed the cache twice, at most `MAX_SETS`.

    >>> buffer_sets(1e6, 32e6), buffer_sets(1e9, 32e6), buffer_sets(100, 32e6)
    (32, 2, 32)
    """
    return int(min(MAX_SETS, max(2, math.ceil(2 * cache_bytes / max(nbytes, 1.0)))))


class CpuTimer:
    """Times calls on the CPU in a loop over rotating buffers, with a warm allocator.

    Parameters
    ----------
    cache_bytes : float
        Last-level cache.
    rule : StoppingRule
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, cache_bytes: float, rule: StoppingRule | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.cache_bytes, self.rule, self.clock = cache_bytes, rule or StoppingRule(), clock
        self.pool = Pool("cpu", int(max(3 * cache_bytes, 128 << 20)))
        # A large block that was freed once teaches malloc to keep such blocks instead of mapping them anew; those of
        # 32 MiB and more it maps in any case.
        torch.empty((32 << 20) - (1 << 16), dtype=torch.uint8).fill_(0)

    def time(self, entry: Entry) -> Timing:
        calls = self._calls(entry)
        try:
            with torch.no_grad():
                return self._timing(calls)
        except (RuntimeError, MemoryError) as error:
            raise failure_of(error, "cpu") from error

    def _timing(self, calls: list[Callable[[], Any]]) -> Timing:
        first_s = self._elapsed(calls[:1])  # builds the primitive: not a sample
        once_s = self._elapsed(calls[1:2]) if first_s < self.rule.hard_time_s else first_s
        loops = max(1, math.ceil(_SAMPLE_S / max(once_s, 1e-7)))
        cold = collect(_Rotation(self, calls, loops), self.rule, self.clock)
        warm_s = None
        if cold.median_s < _WARM_LIMIT_S:
            loops = max(1, math.ceil(_SAMPLE_S / cold.median_s))
            self._elapsed(calls[:1])
            warm_s = collect(_Rotation(self, calls[:1], loops), _WARM_RULE, self.clock).median_s
        return Timing(cold, len(calls), warm_s)

    def _calls(self, entry: Entry) -> list[Callable[[], Any]]:
        cost = ops.evaluate(entry.op, entry.params, ops.itemsize(entry.dtype))
        maker = Maker(entry.dtype, "cpu", self.pool)
        return bound_sets(entry, maker, buffer_sets(float(cost.bytes), self.cache_bytes))

    def _elapsed(self, calls: list[Callable[[], Any]]) -> float:
        started = self.clock()
        for call in calls:
            call()
        return self.clock() - started


class _Rotation:
    """One sample: `loops` calls, going on through the buffer sets where the last sample ended."""

    def __init__(self, timer: CpuTimer, calls: list[Callable[[], Any]], loops: int) -> None:
        self.timer, self.calls, self.loops, self.position = timer, calls, loops, 0

    def __call__(self) -> float:
        n = len(self.calls)
        run = [self.calls[(self.position + i) % n] for i in range(self.loops)]
        self.position = (self.position + self.loops) % n
        return self.timer._elapsed(run) / self.loops


def bound_sets(entry: Entry, maker: Maker, sets: int) -> list[Callable[[], Any]]:
    """Return calls of one configuration, each with buffers of its own; those of one call never overlap.

    Raises
    ------
    UnmeasurableError
        If memory or the framework refuses.
    """
    try:
        bound = []
        for _ in range(sets):
            reserve(entry.op, entry.params, maker)
            bound.append(bind(entry.op, entry.params, maker))
        with torch.no_grad():
            bound[0][0](*bound[0][1])
    except (RuntimeError, MemoryError, NotImplementedError) as error:
        raise UnmeasurableError(reason_of(error)) from error
    return [_closed(function, args) for function, args in bound]


def _closed(function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: function(*args)


def failure_of(error: BaseException, device: str) -> UnmeasurableError:
    """Return what the runner is told of a failed call: `DeviceLostError` where nothing runs on a GPU any more."""
    reason = error.problem if isinstance(error, UnmeasurableError) else reason_of(first_of(error))
    if device == "cuda":
        try:
            torch.cuda.synchronize()
            # Gives back what an exhausted memory holds; and up to torch 2.11 it refuses for good after a capture that
            # failed, as does every later capture.
            torch.cuda.empty_cache()
        except RuntimeError as lost:
            return DeviceLostError(f"{reason}; the device does not answer since: {reason_of(lost)}")
    return UnmeasurableError(reason)


def first_of(error: BaseException) -> BaseException:
    """Return the failure that came first, where ending a capture failed because of it."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return error


def reason_of(error: BaseException) -> str:
    """Return why a call failed, in a line: ``out of memory``, ``unsupported dtype``, or the framework's words.

    >>> reason_of(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    "out of memory (DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes)"
    """
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    low = text.lower()
    if isinstance(error, MemoryError) or "out of memory" in low or "allocate memory" in low:
        return f"out of memory ({text})"
    if "not implemented for" in low or "unsupported dtype" in low:
        return f"unsupported dtype ({text})"
    return f"{type(error).__name__}: {text}"
