"""What a traced model needs of a device's memory, and whether it fits.  Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphs.tracing.trace import Trace

#: What tensors take is not all that a process takes: the allocator's fragments, the libraries' workspaces and the
#: context come on top.  A model that leaves less than this share free is neither said to fit nor not to.
RESERVE = 0.1


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a model's tensors on one device.

    None where a trace does not hold what is asked (those of older versions know no buffers), or the capacity of the
    hardware is not known.

    Attributes
    ----------
    parameters_bytes, buffers_bytes : int or None
        Of distinct tensors, in the traced dtype.
    activations_peak_bytes : int or None
        Largest sum of the other tensors alive at once: inputs, what the operators made, and in a training step the
        gradients and what the backward pass keeps.  A tensor lives until its last reference is dropped, views share
        the memory of their base, and in-place operators make none, as in the framework.  Work space inside an
        operator is not counted.
    optimizer_bytes : int
        State of the optimizer of a training step.
    total_peak_bytes : int or None
        The sum.
    capacity_bytes : int or None
        Memory of the device.
    fits : bool or None
        Whether the total leaves a tenth (`RESERVE`) of the capacity free; None in between, and where unknown.
    """

    parameters_bytes: int
    buffers_bytes: int | None
    activations_peak_bytes: int | None
    optimizer_bytes: int
    total_peak_bytes: int | None
    capacity_bytes: int | None = None
    fits: bool | None = None


def memory(trace: Trace, capacity_bytes: float | None = None) -> Memory:
    """Return what a traced model needs, and whether it fits into `capacity_bytes`.

    >>> from graphs.tracing import Trace
    >>> m = memory(Trace((), parameter_bytes=800, buffer_bytes=50, peak_activation_bytes=100), 1000)
    >>> m.total_peak_bytes, m.fits, memory(Trace((), parameter_bytes=2000), 1000).fits
    (950, None, False)
    """
    activations = trace.peak_activation_bytes or None
    known = trace.parameter_bytes + (trace.buffer_bytes or 0) + (activations or 0) + trace.optimizer_bytes
    total = known if activations is not None else None
    fits: bool | None = None
    if capacity_bytes is not None:
        if known > capacity_bytes:
            # Whatever is not known comes on top.
            fits = False
        elif total is not None and total <= (1 - RESERVE) * capacity_bytes:
            fits = True
    return Memory(
        trace.parameter_bytes, trace.buffer_bytes, activations, trace.optimizer_bytes, total,
        None if capacity_bytes is None else int(capacity_bytes), fits,
    )  # fmt: skip
