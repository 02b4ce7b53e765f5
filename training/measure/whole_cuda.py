"""Forward passes in device time: replays of a captured pass, and the kernels of eager passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.measure.errors import UnmeasurableError
from training.measure.profiler import Kernel, Profiler
from training.measure.replays import Replays
from training.measure.stopping import SAMPLES, Samples, StoppingRule
from training.measure.whole import Way

#: Of replays: no launches are in them, so they scatter as little as those of one operator.
RULE = StoppingRule(half_width=0.01, min_samples=6, max_samples=20, max_time_s=1.0, hard_time_s=5.0)
#: Profiled passes, of which the median counts.
_PASSES = 3


def cuda_ways(replays: Replays, profiler: Profiler, rule: StoppingRule = RULE) -> dict[str, Way]:
    """Return how modes ``graph`` and ``kernels`` are timed, for `training.measure.whole.ModelTimer`."""

    def graph(call: Callable[[], Any]) -> tuple[Samples, dict[str, Any]]:
        replays.warm_up([call])
        return replays.samples([call], rule)

    def kernels(call: Callable[[], Any]) -> tuple[Samples, dict[str, Any]]:
        if profiler.missing:
            raise UnmeasurableError(profiler.missing)
        call()  # what is set up at the first pass is no part of the others
        return kernel_sums([profiler.kernels(call) for _ in range(_PASSES)])

    return {"graph": graph, "kernels": kernels}


def kernel_sums(passes: list[list[Kernel]]) -> tuple[Samples, dict[str, Any]]:
    """Return the seconds that the device was busy in each pass, and their number of kernels (``kernel_count``).

    Parameters
    ----------
    passes : list of list of Kernel

    Raises
    ------
    UnmeasurableError
        If the passes differ in their number: either they are not the same program, or records were lost.
    """
    counts = sorted({len(kernels) for kernels in passes})
    if len(counts) > 1:
        raise UnmeasurableError(f"passes of one network ran {' and '.join(map(str, counts))} kernels")
    seconds = tuple(1e-6 * sum(k.duration_us for k in kernels) for kernels in passes)
    return Samples(seconds, SAMPLES), {"kernel_count": counts[0]}
