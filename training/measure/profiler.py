"""What a call runs on a CUDA device, kernel by kernel, as torch's profiler sees it."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity

from training.measure.cuda import CudaTimer
from training.measure.errors import DeviceLostError, UnmeasurableError
from training.measure.plan import Entry
from training.measure.stopping import SAMPLES, Samples
from training.measure.timers import failure_of
from training.measure.timing import Timing

#: Categories of a trace's events that occupy the device; the others are the host's, or marks beside the kernels.
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
#: Beyond the tracing library's levels: it says two lines at every session by default.
_SILENT = "6"


class Kernel(NamedTuple):
    """A kernel, copy or fill that ran on the device.

    Attributes
    ----------
    name : str
    duration_us : float
    """

    name: str
    duration_us: float


class Profiler:
    """Names and durations of the kernels that a call runs.

    Setting up the device's tracing takes seconds, and it stays set up from then on.  So this is done here: make it
    before the first row is timed, and all rows are timed in the same state.

    Attributes
    ----------
    missing : str
        Why there are no kernels to be seen on this machine; empty where there are.  Every `kernels` then fails with
        this reason, at once.

    Parameters
    ----------
    device : str
        Where the tensors of the first session live.
    """

    def __init__(self, device: str = "cuda") -> None:
        self.missing = ""
        os.environ.setdefault("KINETO_LOG_LEVEL", _SILENT)  # read once, at the first session
        try:
            self.kernels(lambda: probe(device))
        except DeviceLostError:
            raise
        except UnmeasurableError as error:
            self.missing = f"the profiler does not work here: {error.problem}"
            warnings.warn(f"no names of kernels are recorded; {self.missing}", stacklevel=2)

    def kernels(self, call: Callable[[], Any]) -> list[Kernel]:
        """Return what one call runs on the device, in order of start.

        The device is idle when the call begins, and has finished when the session ends.

        Raises
        ------
        UnmeasurableError
            If the call or the profiler fails, or the profiler sees nothing (`DeviceLostError`: the device answers
            nothing any more).
        """
        if self.missing:
            raise UnmeasurableError(self.missing)
        try:
            torch.cuda.synchronize()  # nothing of earlier work may count
            with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as session:
                call()
                torch.cuda.synchronize()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "trace.json"
                session.export_chrome_trace(str(path))
                trace = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            found = kernels_of(trace)
        except Exception as error:  # a profiler has many ways to fail; the row says which, and the run goes on
            raise failure_of(error, "cuda") from error
        return found


def probe(device: str) -> None:
    """Run a kernel that any device has."""
    torch.ones(1 << 16, device=device).mul_(2.0)


def kernels_of(trace: dict[str, Any]) -> list[Kernel]:
    """Return what ran on the device according to a trace in Chrome's format, in order of start.

    The format is used because it tells kernels, copies and fills from marks and the host's calls by a category that
    all versions of torch write, which the events in Python do not; its times are microseconds.

    Raises
    ------
    UnmeasurableError
        If nothing ran, or something took no time.

    >>> kernels_of({"traceEvents": [{"ph": "X", "cat": "kernel", "name": "b", "ts": 9.5, "dur": 2.25},
    ...                             {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 1, "dur": 4},
    ...                             {"ph": "X", "cat": "gpu_memset", "name": "Memset (Device)", "ts": 7, "dur": 1.5}]})
    [Kernel(name='Memset (Device)', duration_us=1.5), Kernel(name='b', duration_us=2.25)]
    """
    events = [e for e in trace["traceEvents"] if e.get("cat") in _ON_DEVICE and e.get("ph") == "X"]
    if not events:
        raise UnmeasurableError("the profiler saw nothing on the device (with KINETO_LOG_LEVEL=4 it may say why)")
    found = [Kernel(str(e["name"]), float(e["dur"])) for e in sorted(events, key=lambda e: float(e["ts"]))]
    if bad := next((k for k in found if not k.duration_us > 0), None):
        raise UnmeasurableError(f"the profiler tells {bad.duration_us} us for '{bad.name[:80]}'")
    return found


class KernelTimer:
    """Times the kernels of a single, cold call, with their names.

    Parameters
    ----------
    timer : CudaTimer
        Whose buffers are used.
    profiler : Profiler
    """

    def __init__(self, timer: CudaTimer, profiler: Profiler) -> None:
        self.timer, self.profiler = timer, profiler
        self._evicting: torch.Tensor | None = None

    def time(self, entry: Entry) -> Timing:
        """Return the sum of the kernels as the only sample; `extra` has ``kernels``: [[name, us], ...] in order."""
        if self.profiler.missing:
            raise UnmeasurableError(self.profiler.missing)
        try:
            # Binding runs the call once, which loads its kernels and sets up the library.
            (call,) = self.timer.bound(entry, 1)
            self._evict()
        except RuntimeError as error:
            raise failure_of(error, "cuda") from error
        with torch.no_grad():
            found = self.profiler.kernels(call)
        total_s = 1e-6 * sum(k.duration_us for k in found)
        extra = {"kernels": [[k.name, round(k.duration_us, 3)] for k in found]}
        return Timing(Samples((total_s,), SAMPLES), 1, extra=extra)

    def _evict(self) -> None:
        """Fill the cache with something else, so that the call is a cold one."""
        if self._evicting is None:
            nbytes = int(2 * self.timer.cache_bytes)
            self._evicting = torch.empty(nbytes, dtype=torch.uint8, device=self.timer.device)
        self._evicting.zero_()
