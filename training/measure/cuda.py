"""Timing on a CUDA device: device time from graph replays, eager time beside it, clocks watched at every sample."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from graphs import ops
from training.measure.errors import UnmeasurableError
from training.measure.kernels import Maker, Pool
from training.measure.plan import Entry
from training.measure.stopping import Samples, StoppingRule, collect
from training.measure.timers import bound_sets, buffer_sets, reason_of
from training.measure.timing import Timing

#: Device seconds that one graph replay shall last at least: events have steps of about 0.5 us.
_REPLAY_S = 1e-3
_MOST_NODES = 256
#: NVML's reasons for lower clocks that make a sample useless: hardware slowdown, thermal (hardware and software),
#: power brake.  The software power cap is not among them: a device at its power cap runs so in use.
_THROTTLED = 0x8 | 0x20 | 0x40 | 0x80
#: A sample below this share of the largest clock counts as throttled too, unless the power cap explains it.
_LOW_CLOCK, _POWER_CAP = 0.5, 0x4


class Clocks:
    """Clock and throttle state of one GPU through NVML; says nothing where NVML is not installed."""

    def __init__(self, index: int = 0) -> None:
        self.handle: Any = None
        self.nvml: Any = None
        try:
            # Not a dependency: any version that is installed beside the driver will do.
            pynvml = importlib.import_module("pynvml")

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(index).uuid)
            self.nvml = pynvml
            self.handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            self.max_hz = 1e6 * pynvml.nvmlDeviceGetMaxClockInfo(self.handle, pynvml.NVML_CLOCK_SM)
        except Exception:  # NVML has many ways to be missing; without it clocks are reported as unknown
            self.handle = None

    def read(self) -> tuple[float | None, int]:
        """Return the SM clock in Hz (None if unknown) and the bits of NVML's throttle reasons."""
        if self.handle is None:
            return None, 0
        hz = 1e6 * self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
        return hz, int(self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle))

    def useless(self, hz: float | None, reasons: int) -> bool:
        """Whether a sample taken in this state must not count."""
        if hz is None:
            return False
        return bool(reasons & _THROTTLED) or (hz < _LOW_CLOCK * self.max_hz and not reasons & _POWER_CAP)


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
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def time(self, entry: Entry) -> Timing:
        torch.backends.cuda.matmul.allow_tf32 = entry.dtype == "tf32"
        torch.backends.cudnn.allow_tf32 = entry.dtype == "tf32"
        cost = ops.evaluate(entry.op, entry.params, ops.itemsize(entry.dtype))
        sets = max(1, min(buffer_sets(float(cost.bytes), self.cache_bytes), int(self.memory_bytes / cost.bytes)))
        calls = bound_sets(entry, Maker(entry.dtype, "cuda", self.pool), sets)
        try:
            with torch.no_grad():
                return self._timing(calls)
        except (RuntimeError, TimeoutError) as error:
            raise UnmeasurableError(reason_of(error)) from error
        finally:
            torch.cuda.synchronize()

    def _timing(self, calls: list[Callable[[], Any]]) -> Timing:
        with torch.cuda.stream(self.stream):
            for call in calls[:3]:
                call()
        torch.cuda.synchronize()
        eager_s, eager_calls = self._eager(calls)
        seen: list[float] = []
        cold, nodes = self._replayed(calls, eager_s, seen)
        warm, _ = self._replayed(calls[:1], eager_s, [])
        extra = {
            "graph_nodes": nodes,
            "eager_calls": eager_calls,
            "sm_clock_min_hz": min(seen, default=None),
            "sm_clock_max_hz": max(seen, default=None),
        }
        return Timing(cold, len(calls), warm.median_s, eager_s, extra)

    def _eager(self, calls: list[Callable[[], Any]]) -> tuple[float, int]:
        """Return seconds of a call launched back to back: the larger of launch and kernel."""
        count = 16
        torch.cuda.synchronize()
        started = time.perf_counter()
        for i in range(count):
            calls[i % len(calls)]()
            if i == 2:
                torch.cuda.synchronize()
                if time.perf_counter() - started > 0.05:
                    return (time.perf_counter() - started) / 3, 3
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / count, count

    def _replayed(self, calls: list[Callable[[], Any]], about_s: float, clocks: list[float]) -> tuple[Samples, int]:
        """Return samples of replays of one graph that holds whole rounds over the buffer sets."""
        rounds = max(1, math.ceil(_REPLAY_S / (max(about_s, 1e-6) * len(calls))))
        nodes = max(len(calls), min(_MOST_NODES, rounds * len(calls)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            for i in range(nodes):
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
            if self.clocks.useless(hz, reasons):
                time.sleep(0.05)
                return None
            if hz is not None:
                clocks.append(hz)
            return float(before.elapsed_time(after)) * 1e-3 / nodes

        return collect(sample, self.rule, time.perf_counter), nodes
