"""Timing on a CUDA device: device time from graph replays, eager time beside it, clocks watched at every sample."""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from graphs import ops
from training.measure.kernels import Maker, Pool
from training.measure.plan import Entry
from training.measure.stopping import Samples, StoppingRule, collect
from training.measure.timers import bound_sets, buffer_sets, failure_of
from training.measure.timing import Timing

#: Seconds that one graph replay shall last, were each call as slow as launched eagerly: events have steps of 0.5 us.
_REPLAY_S = 1e-3
_MOST_CALLS = 256
#: Eager calls that are timed together; after so many it is known whether more would take too long.
_EAGER_CALLS, _EAGER_PROBE, _EAGER_SLOW_S = 16, 3, 0.05
#: NVML's reasons for lower clocks that make a sample useless: hardware slowdown, thermal (hardware and software),
#: power brake.  The software power cap is not among them: a device at its power cap runs so in use.
_THROTTLED = 0x8 | 0x20 | 0x40 | 0x80
#: A sample below this share of the largest clock does not count either, unless the power cap or a clock that was set
#: (NVML's software power cap and application clocks) explains it.
_LOW_CLOCK, _EXPLAINED = 0.5, 0x4 | 0x2
#: So many low samples in a row are a device that wakes up; if it is still low then, it goes no faster.
_PATIENCE = 20
#: What `Clocks.verdict` says.
GOOD, THROTTLED, ASLEEP = "good", "throttled", "asleep"


class Clocks:
    """Clock and throttle state of one GPU through NVML; `missing` says why where it cannot be asked."""

    def __init__(self, index: int = 0) -> None:
        self.handle: Any = None
        self.missing, self.patience, self.max_hz = "", _PATIENCE, 0.0
        try:
            # Not a dependency: any version that is installed beside the driver will do.
            self.nvml: Any = importlib.import_module("pynvml")
            self.nvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(index).uuid)
            self.handle = self.nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            self.max_hz = 1e6 * self.nvml.nvmlDeviceGetMaxClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
            self._reasons = (
                getattr(self.nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)  # its name since 2023
                or self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons
            )
            self.read()
        except Exception as error:  # NVML has many ways to be missing; each row then says that nobody watched
            self.handle, self.missing = None, f"{type(error).__name__}: {error}"

    def read(self) -> tuple[float | None, int]:
        """Return the SM clock in Hz (None if unknown) and the bits of NVML's throttle reasons.

        Raises
        ------
        RuntimeError
            If NVML answered before and does not now.
        """
        if self.handle is None:
            return None, 0
        try:
            hz = 1e6 * self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
            return hz, int(self._reasons(self.handle))
        except self.nvml.NVMLError as error:
            raise RuntimeError(f"NVML tells no clock: {error}") from error

    def verdict(self, hz: float | None, reasons: int) -> str:
        """Return whether a sample taken in this state counts (`GOOD`), or why not (`THROTTLED`, `ASLEEP`)."""
        if hz is None:
            return GOOD
        if reasons & _THROTTLED:
            return THROTTLED
        if hz >= _LOW_CLOCK * self.max_hz or reasons & _EXPLAINED:
            self.patience = _PATIENCE
            return GOOD
        if not self.patience:
            return GOOD
        self.patience -= 1
        return ASLEEP


class CudaTimer:
    """Times calls on a CUDA device.

    Parameters
    ----------
    cache_bytes : float
        L2.
    rule : StoppingRule
    memory_bytes : float
        Most that all buffer sets together may take.
    """

    def __init__(self, cache_bytes: float, rule: StoppingRule | None = None, memory_bytes: float = 3e9) -> None:
        self.cache_bytes, self.memory_bytes = cache_bytes, memory_bytes
        self.rule = rule or StoppingRule(half_width=0.01, min_samples=6, max_samples=40, max_time_s=0.1)
        self.pool = Pool("cuda", int(max(3 * cache_bytes, 256 << 20)))
        self.clocks = Clocks()
        if self.clocks.missing:
            warnings.warn(
                f"the GPU's clocks are not watched, so throttled samples count ({self.clocks.missing});"
                " pip install nvidia-ml-py",
                stacklevel=2,
            )
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def time(self, entry: Entry) -> Timing:
        torch.backends.cuda.matmul.allow_tf32 = entry.dtype == "tf32"
        torch.backends.cudnn.allow_tf32 = entry.dtype == "tf32"
        cost = ops.evaluate(entry.op, entry.params, ops.itemsize(entry.dtype))
        sets = max(1, min(buffer_sets(float(cost.bytes), self.cache_bytes), int(self.memory_bytes / cost.bytes)))
        try:
            calls = bound_sets(entry, Maker(entry.dtype, "cuda", self.pool), sets)
            # A capture that fails leaves its stream current: the outer context takes it back.
            with torch.no_grad(), torch.cuda.stream(torch.cuda.current_stream()):
                return self._timing(calls)
        except (RuntimeError, TimeoutError) as error:
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
        warm, _ = self._replayed(calls[:1], eager_s, [])
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
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            for i in range(count):
                calls[i % len(calls)]()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        graph.replay()
        torch.cuda.synchronize()

        def sample() -> float | None:
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


def calls_of_graph(sets: int, about_s: float) -> int:
    """Return how many calls one graph holds: whole rounds over the sets, `_MOST_CALLS` at most where a round fits.

    >>> calls_of_graph(32, 8e-6), calls_of_graph(30, 1e-9), calls_of_graph(2, 1.0)
    (128, 240, 2)
    """
    rounds = math.ceil(_REPLAY_S / (max(about_s, 1e-6) * sets))
    return sets * max(1, min(rounds, _MOST_CALLS // sets))
