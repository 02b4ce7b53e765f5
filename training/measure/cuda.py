"""Timing of operators on a CUDA device: device time from graph replays, eager time beside it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from graphs import ops
from training.measure.kernels import Maker, Pool
from training.measure.plan import Entry
from training.measure.replays import Replays
from training.measure.stopping import StoppingRule
from training.measure.timers import bound_sets, buffer_sets, failure_of
from training.measure.timing import Timing

#: Eager calls that are timed together; after so many it is known whether more would take too long.
_EAGER_CALLS, _EAGER_PROBE, _EAGER_SLOW_S = 16, 3, 0.05


class CudaTimer:
    """Times calls on a CUDA device.

    Parameters
    ----------
    cache_bytes : float
        L2.
    rule : StoppingRule
    memory_bytes : float
        Most that all buffer sets together may take.
    device : str
        Where the tensors live.
    """

    def __init__(
        self, cache_bytes: float, rule: StoppingRule | None = None, memory_bytes: float = 3e9, device: str = "cuda"
    ) -> None:
        self.cache_bytes, self.memory_bytes, self.device = cache_bytes, memory_bytes, device
        self.rule = rule or StoppingRule(half_width=0.01, min_samples=6, max_samples=40, max_time_s=0.1)
        self.pool = Pool(device, int(max(3 * cache_bytes, 256 << 20)))
        self.replays = Replays()
        self.clocks = self.replays.clocks
        if self.clocks.missing:
            warnings.warn(
                f"the GPU's clocks are not watched, so throttled samples count ({self.clocks.missing});"
                " pip install nvidia-ml-py",
                stacklevel=2,
            )

    def time(self, entry: Entry) -> Timing:
        cost = ops.evaluate(entry.op, entry.params, ops.itemsize(entry.dtype))
        sets = max(1, min(buffer_sets(float(cost.bytes), self.cache_bytes), int(self.memory_bytes / cost.bytes)))
        try:
            calls = self.bound(entry, sets)
            with torch.no_grad():
                return self._timing(calls)
        except (RuntimeError, MemoryError, TimeoutError) as error:
            raise failure_of(error, "cuda") from error

    def bound(self, entry: Entry, sets: int) -> list[Callable[[], Any]]:
        """Return calls of one configuration that have run once, each with buffers of its own.

        Raises
        ------
        UnmeasurableError
            If memory or the framework refuses.
        """
        allow_tf32(entry.dtype == "tf32")
        return bound_sets(entry, Maker(entry.dtype, self.device, self.pool), sets)

    def _timing(self, calls: list[Callable[[], Any]]) -> Timing:
        self.replays.warm_up(calls)
        eager_s, eager_calls = self._eager(calls)
        cold, told = self.replays.samples(calls, self.rule, eager_s)
        warm, _ = self.replays.samples(calls[:1], self.rule, cold.median_s)
        return Timing(cold, len(calls), warm.median_s, eager_s, {**told, "eager_calls": eager_calls})

    def _eager(self, calls: list[Callable[[], Any]]) -> tuple[float, int]:
        """Return seconds of a call launched back to back, the larger of launch and kernel, and of how many calls."""
        probe_s = self._launched(calls, _EAGER_PROBE)
        if probe_s * _EAGER_PROBE > _EAGER_SLOW_S:
            return probe_s, _EAGER_PROBE
        return self._launched(calls, _EAGER_CALLS), _EAGER_CALLS

    def _launched(self, calls: list[Callable[[], Any]], count: int) -> float:
        """Return the mean seconds of `count` calls, from the first launch to the end of the last."""
        torch.cuda.synchronize()
        started = time.perf_counter()
        for i in range(count):
            calls[i % len(calls)]()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / count


def allow_tf32(allowed: bool) -> None:
    """Let fp32 products and convolutions run in TF32, or forbid it: torch allows it for convolutions by default."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
