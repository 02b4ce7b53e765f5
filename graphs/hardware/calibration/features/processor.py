"""Features of calls on a CPU: fresh memory for large results, threads at work, and what each thread touches.

Columns are added for CPUs alone, after all others, so that the fitted models of GPUs keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphs.hardware.calibration.features.columns import Array, Columns, ceil_div, log2
from graphs.hardware.calibration.features.machine import Machine
from graphs.ops.batch import OperatorGroup

#: Largest threshold of glibc's allocator (mallopt(3), M_MMAP_THRESHOLD): larger results are mapped anew at every
#: call, and each of their pages faults when it is first written.
MAPPED_BYTES = 2.0**25
#: Order of magnitude of a first write to fresh pages of 4 KiB, seconds a byte (0.4 us a page).
FAULT_S_PER_BYTE = 1e-10
#: Elements below which the framework leaves a loop to one thread (at::internal::GRAIN_SIZE).
GRAIN = 32768.0
#: Private second-level cache of a core, bytes; only its order of magnitude matters.
CORE_CACHE = 2.0**21


def add_processor(
    c: Columns,
    group: OperatorGroup,
    machine: Machine,
    result_bytes: Any,
    elements: Any,
    pieces: Any = np.inf,
    grain: Any = GRAIN,
    scratch: Sequence[Any] = (),
) -> None:
    """Add the columns of a CPU; nothing for other machines.

    Parameters
    ----------
    result_bytes : (n,) float64
        Bytes of the result.
    elements : (n,) float64
        Elements that its loops walk over.
    pieces : (n,) float64, optional
        Independent parts that threads share out, where they are fewer than elements.
    grain : (n,) float64, optional
        Elements below which the loop stays on one thread.
    scratch : sequence of (n,) float64, optional
        Bytes of each further buffer that the call allocates.
    """
    if machine.kind != "cpu":
        return
    fault_s = sum(fresh_bytes(size) for size in (result_bytes, *scratch)) * FAULT_S_PER_BYTE
    roofline_s = machine.attainable_s(group.flops, group.bytes, group.dtype)
    c.add("fresh", fault_s > 0)
    c.add("lg_fresh_over_roofline", log2(1.0 + fault_s / (roofline_s + 1e-6)))
    threads = np.minimum(np.minimum(float(machine.units), ceil_div(elements, grain)), pieces)
    c.log("threads", threads)
    c.log("elements_per_thread", elements / threads)
    c.add("lg_thread_bytes_over_cache", np.clip(log2(group.bytes / threads / CORE_CACHE), -6.0, 6.0))


def fresh_bytes(size: Any) -> Array:
    """Return the bytes of a buffer that are mapped anew at every call: all or none."""
    size = np.asarray(size, dtype=np.float64)
    # the allocator adds a header and alignment to what is asked for
    return np.where(size > MAPPED_BYTES - 256.0, size, 0.0)
