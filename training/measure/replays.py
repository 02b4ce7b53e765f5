"""Device time on CUDA: replays of a graph that was captured once, sampled while the clocks are watched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from training.measure.clocks import ASLEEP, THROTTLED, Clocks
from training.measure.stopping import Samples, StoppingRule, collect

#: Seconds that one graph replay shall last: events have steps of 0.5 us, and a few us pass between two replays.
_REPLAY_S = 1e-3
_MOST_CALLS = 256
#: Calls that go before a capture.
_WARM_UPS = 3


class Replays:
    """Captures calls on a stream of its own and samples their replays.

    Attributes
    ----------
    clocks : Clocks
        Watched at every sample; `clocks.missing` says why where they cannot be.
    """

    def __init__(self) -> None:
        self.clocks = Clocks()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm_up(self, calls: list[Callable[[], Any]]) -> None:
        """Call some of `calls` on the stream of the capture: libraries set up their workspaces there before it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for i in range(_WARM_UPS):
                calls[i % len(calls)]()
        torch.cuda.synchronize()

    def samples(
        self, calls: list[Callable[[], Any]], rule: StoppingRule, about_s: float = math.inf
    ) -> tuple[Samples, dict[str, Any]]:
        """Return samples of replays of one graph that holds whole rounds over the calls.

        Parameters
        ----------
        calls : list of callable
            Warmed up on this stream, one a buffer set.
        rule : StoppingRule
        about_s : float
            What a call takes; where it is not known, one round is captured and timed first.

        Returns
        -------
        Samples, dict
            Seconds of one call; how many calls the graph holds (``graph_calls``), the clocks of the samples that
            count (``sm_clock_min_hz``, ``sm_clock_max_hz``; None if unknown) and ``clocks``: ``watched``, or why not.

        Raises
        ------
        RuntimeError
            If the calls cannot be captured, with the reason of the capture.
        TimeoutError
            If every sample was throttled.
        """
        count = calls_of_graph(len(calls), about_s)
        graph, replay_s = self._captured(calls, count)
        # Launched one by one, small calls take much longer than in a graph: then more of them fit.
        more = calls_of_graph(len(calls), replay_s / count)
        if replay_s < 0.5 * _REPLAY_S and more > count:
            del graph  # its memory first
            count = more
            graph, _ = self._captured(calls, count)
        clocks: list[float] = []
        samples = collect(lambda: self._sample(graph, count, clocks), rule, time.perf_counter)
        return samples, {
            "graph_calls": count,
            "sm_clock_min_hz": min(clocks, default=None),
            "sm_clock_max_hz": max(clocks, default=None),
            "clocks": self.clocks.missing or "watched",
        }

    def _sample(self, graph: Any, count: int, clocks: list[float]) -> float | None:
        """Return the seconds of a call in one replay, None where it must not count."""
        before, after = _event(), _event()
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

    def _captured(self, calls: list[Callable[[], Any]], count: int) -> tuple[Any, float]:
        """Return a graph of `count` calls that has been replayed once, and the seconds of its second replay."""
        graph = torch.cuda.CUDAGraph()
        # Outputs of a round stay alive, so that each set has its own: one for all would never leave the cache.
        outputs: list[Any] = [None] * len(calls)
        # A capture that fails leaves its stream current: the outer context takes it back.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=self.stream):
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


def calls_of_graph(sets: int, about_s: float) -> int:
    """Return how many calls one graph holds: whole rounds over the sets, `_MOST_CALLS` at most where a round fits.

    >>> calls_of_graph(32, 8e-6), calls_of_graph(30, 1e-9), calls_of_graph(2, 1.0)
    (128, 240, 2)
    """
    rounds = math.ceil(_REPLAY_S / (max(about_s, 1e-6) * sets))
    return sets * max(1, min(rounds, _MOST_CALLS // sets))
