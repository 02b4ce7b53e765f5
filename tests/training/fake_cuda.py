"""A CUDA device that is not there: streams, events, graphs, profiler and NVML with the rules and errors of real ones.

Two clocks run: the host's, which launching costs time, and each stream's, on which kernels follow one another.  What
the real interface refuses is refused here: work on a stream that is being captured but needs the host to wait, an
elapsed time of events that have not happened or were made without timing, a capture on the default stream, anything
after an illegal access, and (up to torch 2.11) any capture after one that failed.

The profiler sees what ends on any stream while it is on, graphs included; it takes seconds to set up, slows launches
while it is on, and writes its events in another order than that of their start.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import torch

CAPTURING = "CUDA error: operation not permitted when stream is capturing"
INVALIDATED = "CUDA error: operation failed due to a previous error during capture"
ILLEGAL = "CUDA error: an illegal memory access was encountered"


class Stream:
    def __init__(self, device):
        self.device, self.free_at, self.warm, self.capture = device, 0.0, False, None
        device.streams.append(self)

    def wait_stream(self, other):
        self.free_at = max(self.free_at, other.free_at)


class Event:
    def __init__(self, device, enable_timing=False):
        self.device, self.timing, self.at = device, enable_timing, None

    def record(self, stream=None):
        self.device.check()
        stream = stream or self.device.current
        self.at = max(self.device.host_s, stream.free_at)

    def synchronize(self):
        self.device.check()
        self.device.host_s = max(self.device.host_s, self.at)

    def elapsed_time(self, other):
        if not (self.timing and other.timing):
            raise ValueError("both events must be created with argument 'enable_timing=True'")
        if max(self.at, other.at) > self.device.host_s:
            raise RuntimeError("CUDA error: device not ready")
        return 1e3 * (other.at - self.at)


class Graph:
    def __init__(self, device):
        self.device, self.kernels, self.ended, self.replays = device, [], False, 0
        device.graphs.append(self)

    def replay(self):
        d = self.device
        d.check()
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        d.host_s += d.graph_launch_s + d.node_launch_s * len(self.kernels)
        d.current.free_at = max(d.host_s, d.current.free_at)
        for seconds, name in self.kernels:
            d.run(seconds, name)
        self.replays += 1


class Capture:
    """`torch.cuda.graph`: as there, a failing end of the capture leaves its stream current."""

    def __init__(self, device, graph, stream):
        self.device, self.graph, self.stream = device, graph, stream

    def __enter__(self):
        d = self.device
        d.synchronize()
        d.empty_cache()
        self.before, d.current = d.current, self.stream
        if self.stream is d.default:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self.stream.capture, self.valid = self, True

    def __exit__(self, *_):
        d, self.stream.capture = self.device, None
        if not self.valid:
            d.poisoned = not d.ends_failed_captures
            raise RuntimeError(INVALIDATED)
        self.graph.ended = True
        d.current = self.before


class Profile:
    """`torch.profiler.profile`."""

    def __init__(self, device, activities):
        assert [a.name for a in activities] == ["CUDA"]
        self.device, self.events = device, []

    def __enter__(self):
        d = self.device
        d.check()
        if d.profile is not None:
            raise RuntimeError("Profiler is already enabled on this thread")
        if d.profiler_fails:
            raise d.profiler_fails
        d.host_s += 0.005 if d.sessions else 2.0
        d.sessions.append(d.host_s)
        d.profile, self.launch_s, d.launch_s = self, d.launch_s, 3 * d.launch_s
        self.events += [e for e in d.recent if _end(e) > d.host_s]
        return self

    def __exit__(self, *_):
        d = self.device
        d.profile, d.launch_s = None, self.launch_s
        self.events = [e for e in self.events if _end(e) <= d.host_s]

    def export_chrome_trace(self, path):
        seen = [] if self.device.blind else self.events
        complete = [{"ph": "X", "cat": category, "name": name, "ts": 1e6 * start, "dur": round(1e6 * seconds, 3)}
                    for name, category, start, seconds in seen]  # fmt: skip
        host = [{"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0.5, "dur": 77.0},
                {"ph": "X", "cat": "overhead", "name": "Activity Buffer Request", "ts": 0.6, "dur": 1500.0},
                {"ph": "X", "cat": "gpu_user_annotation", "name": "a mark", "ts": 0.7, "dur": 99.0},
                {"ph": "M", "name": "process_name", "ts": 0.8, "args": {}}]  # fmt: skip
        Path(path).write_text(json.dumps({"schemaVersion": 1, "traceEvents": [*host, *reversed(complete)]}))


def _end(event):
    _, _, start, seconds = event
    return start + seconds


class StreamContext:
    def __init__(self, device, stream):
        self.device, self.stream = device, stream

    def __enter__(self):
        self.before, self.device.current = self.device.current, self.stream

    def __exit__(self, *_):
        self.device.current = self.before


class FakeDevice:
    """One GPU.

    Attributes
    ----------
    host_s : float
        The host's clock.
    launch_s, graph_launch_s, node_launch_s : float
        What launching a kernel, a graph, and each node of it costs the host.
    ends_failed_captures : bool
        Whether a capture that failed is ended, as from torch 2.12 on.
    profiler_fails : Exception or None
        What starting the profiler raises.
    blind : bool
        Whether the profiler sees nothing, as without the right to.
    sessions : list of float
        When the host started a session of the profiler.
    """

    def __init__(self, launch_s=30e-6, ends_failed_captures=True):
        self.host_s, self.launch_s, self.graph_launch_s, self.node_launch_s = 0.0, launch_s, 20e-6, 0.4e-6
        self.ends_failed_captures, self.sticky, self.poisoned, self.slept = ends_failed_captures, "", False, 0.0
        self.streams: list[Stream] = []
        self.default = self.current = Stream(self)
        self.graphs: list[Graph] = []
        self.launched: list[object] = []
        self.profile, self.profiler_fails, self.blind = None, None, False
        self.sessions: list[float] = []
        self.recent: deque[tuple[str, str, float, float]] = deque(maxlen=100)

    def check(self):
        if self.sticky:
            raise RuntimeError(self.sticky)

    def run(self, seconds, name, category="kernel"):
        """Let the current stream be busy."""
        start = self.current.free_at
        self.current.free_at = start + seconds
        self.recent.append((name, category, start, seconds))
        if self.profile is not None:
            self.profile.events.append(self.recent[-1])

    def launch(self, seconds, what=None, waits=False, illegal=False, name="a_kernel", category="kernel"):
        """One kernel on the current stream; `waits`: the host waits for it, as a copy from pageable memory does."""
        self.check()
        self.host_s += self.launch_s
        stream = self.current
        if stream.capture:
            if waits or not stream.warm:  # a library that is called first here allocates its workspace
                stream.capture.valid = False
                raise RuntimeError(CAPTURING)
            stream.capture.graph.kernels.append((seconds, name))
        else:
            stream.warm = True
            stream.free_at = max(self.host_s, stream.free_at)
            self.run(seconds, name, category)
            if waits:
                self.host_s = stream.free_at
            if illegal:
                self.sticky = ILLEGAL
        self.launched.append(what)

    def synchronize(self):
        self.check()
        if self.current.capture:
            self.current.capture.valid = False
            raise RuntimeError(CAPTURING)
        self.host_s = max(self.host_s, *(stream.free_at for stream in self.streams))

    def empty_cache(self):
        self.check()
        if self.poisoned:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED, please report a bug to PyTorch")

    def sleep(self, seconds):
        self.slept += seconds
        self.host_s += seconds

    def install(self, monkeypatch, nvml=None):
        """Put the device behind `torch.cuda`, its host clock behind the timers', and NVML where it is imported."""
        from training.measure import cuda, profiler, replays

        properties = SimpleNamespace(
            name="Toy GPU", uuid="0123", major=9, minor=0, multi_processor_count=10, L2_cache_size=1 << 20,
            total_memory=8 << 30, pci_domain_id=0, pci_bus_id=7, pci_device_id=0,
        )  # fmt: skip
        put = {
            "is_available": lambda: True, "get_device_properties": lambda index=0: properties,
            "get_device_name": lambda index=0: properties.name, "get_device_capability": lambda: (9, 0),
            "Stream": lambda: Stream(self), "Event": lambda **k: Event(self, **k), "CUDAGraph": lambda: Graph(self),
            "graph": lambda graph, stream: Capture(self, graph, stream), "synchronize": self.synchronize,
            "stream": lambda stream: StreamContext(self, stream), "current_stream": lambda: self.current,
            "empty_cache": self.empty_cache,
        }  # fmt: skip
        for name, value in put.items():
            monkeypatch.setattr(torch.cuda, name, value)
        clock = SimpleNamespace(perf_counter=lambda: self.host_s, sleep=self.sleep)
        for module in (cuda, replays):
            monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(torch.profiler, "profile", lambda activities: Profile(self, activities))
        monkeypatch.setattr(profiler, "probe", lambda device: self.launch(1e-6, "probe"))
        monkeypatch.setitem(sys.modules, "pynvml", nvml or FakeNvml())
        return self


class FakeNvml:
    """A GPU of 2 GHz.

    Parameters
    ----------
    states : sequence of (MHz or None, reasons)
        What it answers, one reading after another, the last one for ever (the first reading is that of the beginning);
        None: it is lost.
    event_reasons : bool
        Whether the driver knows the reasons under their name of 2023, as the library does.
    mig : bool
        Whether the UUID is that of a slice, which is none of a GPU.
    """

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, states=((1980, 0),), event_reasons=True, mig=False):
        self.states, self.event_reasons, self.mig = list(states), event_reasons, mig
        self.now = self.states[0]

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if self.mig:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetHandleByPciBusId(self, address):  # noqa: N802
        return address

    def nvmlDeviceGetMaxClockInfo(self, handle, clock):  # noqa: N802
        return 2000

    def nvmlDeviceGetClockInfo(self, handle, clock):  # noqa: N802
        self.now = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if self.now[0] is None:
            raise self.NVMLError("GPU is lost")
        return self.now[0]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):  # noqa: N802
        if not self.event_reasons:
            raise self.NVMLError("Function Not Found")
        return self.now[1]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
        return self.now[1]
