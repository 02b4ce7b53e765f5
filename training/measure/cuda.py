"""Timing on a CUDA device: device time from graph replays, eager time beside it, clocks watched at every sample."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from graphs import ops
from training.measure.clocks import ASLEEP, THROTTLED, Clocks
from training.measure.kernels import Maker, Pool
from training.measure.plan import Entry
from training.measure.stopping import Samples, StoppingRule, collect
from training.measure.timers import bound_sets, buffer_sets, failure_of
from training.measure.timing import Timing

#: Seconds that one graph replay shall last: events have steps of 0.5 us, and a few us pass between two replays.
_REPLAY_S = 1e-3
_MOST_CALLS = 256
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
        self.clocks = Clocks()
        if self.clocks.missing:
            warnings.warn(
                f"the GPU's clocks are not watched, so throttled samples count ({self.clocks.missing});"
                " pip install nvidia-ml-py",
                stacklevel=2,
            )
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def time(self, entry: Entry) -> Timing:
        allow_tf32(entry.dtype == "tf32")
        cost = ops.evaluate(entry.op, entry.params, ops.itemsize(entry.dtype))
        sets = max(1, min(buffer_sets(float(cost.bytes), self.cache_bytes), int(self.memory_bytes / cost.bytes)))
        try:
            calls = bound_sets(entry, Maker(entry.dtype, self.device, self.pool), sets)
            # A capture that fails leaves its stream current: the outer context takes it back.
            with torch.no_grad(), torch.cuda.stream(torch.cuda.current_stream()):
                return self._timing(calls)
        except (RuntimeError, MemoryError, TimeoutError) as error:
            raise failure_of(error, "cuda") from error

    def _timing(self, calls: list[Callable[[], Any]]) -> Timing:
        # Libraries set up their workspaces on the stream of the capture before it begins.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for call in calls[:3]:
                call()
        torch.cuda.synchronize()
        eager_s, eager_calls = self._eager(calls)
        seen: list[float] = []
        cold, graph_calls = self._replayed(calls, eager_s, seen)
        warm, _ = self._replayed(calls[:1], cold.median_s, [])
        extra = {
            "graph_calls": graph_calls,
            "eager_calls": eager_calls,
            "sm_clock_min_hz": min(seen, default=None),
            "sm_clock_max_hz": max(seen, default=None),
            "clocks": self.clocks.missing or "watched",
        }
        return Timing(cold, len(calls), warm.median_s, eager_s, extra)

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

    def _replayed(self, calls: list[Callable[[], Any]], about_s: float, clocks: list[float]) -> tuple[Samples, int]:
        """Return samples of replays of one graph that holds whole rounds over the buffer sets, and its calls."""
        count = calls_of_graph(len(calls), about_s)
        graph, replay_s = self._captured(calls, count)
        # Launched one by one, small calls take much longer than in a graph: then more of them fit.
        more = calls_of_graph(len(calls), replay_s / count)
        if replay_s < 0.5 * _REPLAY_S and more > count:
            del graph  # its memory first
            count = more
            graph, _ = self._captured(calls, count)
        before, after = _event(), _event()

        def sample() -> float | None:
            # The first replay keeps the device busy while the host launches the second one: without it, the time of
            # that launch would be counted.
            graph.replay()
            before.record()
            graph.replay()
            after.record()
            hz, reasons = self.clocks.read()  # while the device works
            after.synchronize()
            state = self.clocks.verdict(hz, reasons)
            if state == THROTTLED:
                time.sleep(0.05)  # it cools down
                return None
            if state == ASLEEP:
                for _ in range(20):  # only work raises its clock
                    graph.replay()
                torch.cuda.synchronize()
                return None
            if hz is not None:
                clocks.append(hz)
            return float(before.elapsed_time(after)) * 1e-3 / count

        return collect(sample, self.rule, time.perf_counter), count

    def _captured(self, calls: list[Callable[[], Any]], count: int) -> tuple[Any, float]:
        """Return a graph of `count` calls that has been replayed once, and the seconds of its second replay."""
        graph = torch.cuda.CUDAGraph()
        # Outputs of a round stay alive, so that each set has its own: one for all would never leave the cache.
        outputs: list[Any] = [None] * len(calls)
        with torch.cuda.graph(graph, stream=self.stream):
            for i in range(count):
                outputs[i % len(calls)] = calls[i % len(calls)]()
            outputs.clear()
        before, after = _event(), _event()
        graph.replay()  # the first one uploads it
        before.record()
        graph.replay()
        after.record()
        after.synchronize()
        return graph, float(before.elapsed_time(after)) * 1e-3


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def allow_tf32(allowed: bool) -> None:
    """Let fp32 products and convolutions run in TF32, or forbid it: torch allows it for convolutions by default."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def calls_of_graph(sets: int, about_s: float) -> int:
    """Return how many calls one graph holds: whole rounds over the sets, `_MOST_CALLS` at most where a round fits.

    >>> calls_of_graph(32, 8e-6), calls_of_graph(30, 1e-9), calls_of_graph(2, 1.0)
    (128, 240, 2)
    """
    rounds = math.ceil(_REPLAY_S / (max(about_s, 1e-6) * sets))
    return sets * max(1, min(rounds, _MOST_CALLS // sets))
