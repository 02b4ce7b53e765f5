"""What an estimate says: one row a call, and the sums that people ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from graphs.errors import GraphsError

if TYPE_CHECKING:
    from graphs.tracing.memory import Memory

#: Name of the group of what is no module's: launching by the host.
HOST = "(host)"
#: Name of the group of calls that the model makes itself, outside its children.
ROOT = "(model)"


@dataclass(frozen=True, slots=True)
class OperatorEstimate:
    """One operator call.

    Attributes
    ----------
    op, params, dtype
        The call, in the words of `graphs.ops`.
    flops, bytes : int
    latency_s : float
    efficiency : float
        Attainable time / latency.
    compute_efficiency : float
        flops / (latency x peak).
    bound : str
        ``compute``, ``memory`` or ``overhead``.
    source : str
        ``model``, ``calibrated_roofline``, ``proxy``, ``default``, ``overhead``, ``unmodelled``.
    reason : str
        Why another source than the model answered, or a remark.
    interval_s : (float, float)
        90 % interval; NaN where no model answered.
    module : str
        Path of the module that made the call.
    """

    op: str
    params: dict[str, Any]
    dtype: str
    flops: int
    bytes: int
    latency_s: float
    efficiency: float
    compute_efficiency: float
    bound: str
    source: str
    reason: str
    interval_s: tuple[float, float]
    module: str = ""


@dataclass(frozen=True, slots=True)
class TimeShare:
    """Calls that belong together, and their part of the total.

    Attributes
    ----------
    name : str
    calls : int
        Operator calls; waiting for the host is no call.
    latency_s : float
        Sum over the calls.
    share : float
        Of the total, 0 to 1.
    """

    name: str
    calls: int
    latency_s: float
    share: float


@dataclass(frozen=True)
class LatencyEstimate:
    """Latency of a whole model on one machine.

    Attributes
    ----------
    latency_s : float
    interval_s : (float, float)
        90 % interval; NaN where nothing was calibrated.
    operators : tuple of OperatorEstimate
        One a call, in program order; their latencies add up to `latency_s`.
    name, hardware, dtype, mode, batch
        What was asked.
    notes : tuple of str
        What was assumed while tracing.
    host_s : float
        Mode ``eager``: how long the host is busy launching; NaN where that was not measured, or in mode ``device``.
    interval_source : str
        What the interval rests on.
    memory : Memory or None
        Bytes of parameters, buffers and peak activations, and whether they fit the hardware.
    """

    latency_s: float
    interval_s: tuple[float, float]
    operators: tuple[OperatorEstimate, ...] = field(repr=False)
    name: str
    hardware: str
    dtype: str
    mode: str
    batch: int
    notes: tuple[str, ...] = ()
    host_s: float = float("nan")
    interval_source: str = ""
    memory: Memory | None = None

    @cached_property
    def coverage(self) -> dict[str, dict[str, float]]:
        """Shares by source: ``{"operators": {source: share}, "time": {source: share}}``.

        Host overhead is no operator: it has a share of time alone.
        """
        shares = self.by_source()
        calls = max(sum(s.calls for s in shares), 1)
        return {
            "operators": {s.name: s.calls / calls for s in shares if s.name != "overhead"},
            "time": {s.name: s.share for s in shares},
        }

    @property
    def flops(self) -> int:
        """Algorithmic FLOP of all operators (multiply-add = 2)."""
        return sum(o.flops for o in self.operators)

    @cached_property
    def device_s(self) -> float:
        """Sum of the operators: how long the device is busy."""
        return float(sum(o.latency_s for o in self.operators if o.source != "overhead"))

    @property
    def waiting_s(self) -> float:
        """What eager execution adds: the device waits for the host (on a CPU: the framework's own time)."""
        # both are rounded sums
        return max(self.latency_s - self.device_s, 0.0)

    @property
    def throughput_per_s(self) -> float:
        """Inputs a second: batch / latency; NaN where the batch is not known."""
        return self.batch / self.latency_s if self.batch and self.latency_s else float("nan")

    def by_kind(self) -> tuple[TimeShare, ...]:
        """Return the time of each operator kind, longest first."""
        return self._shares(lambda o: o.op)

    def by_source(self) -> tuple[TimeShare, ...]:
        """Return the time of each source, longest first."""
        return self._shares(lambda o: o.source)

    def by_module(self, depth: int = 1) -> tuple[TimeShare, ...]:
        """Return the time of each module, longest first.

        Parameters
        ----------
        depth : int
            Parts of the path to keep: at 1 the children of the model, ``"layers"``; at 2 ``"layers.0"``.  Calls of
            the model itself are ``"(model)"``, waiting for the host is ``"(host)"``.

        Raises
        ------
        GraphsError
            For a depth below 1.
        """
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise GraphsError("a module depth counts from 1", received=depth, allowed="1, 2, 3, ...")

        def name(o: OperatorEstimate) -> str:
            return HOST if o.source == "overhead" else ".".join(o.module.split(".")[:depth]) or ROOT

        return self._shares(name)

    def _shares(self, name: Callable[[OperatorEstimate], str]) -> tuple[TimeShare, ...]:
        sums: dict[str, list[float]] = {}
        for o in self.operators:
            entry = sums.setdefault(name(o), [0, 0.0])
            entry[0] += o.source != "overhead"
            entry[1] += o.latency_s
        total = max(sum(t for _, t in sums.values()), 1e-300)
        shares = [TimeShare(n, int(calls), t, t / total) for n, (calls, t) in sums.items()]
        return tuple(sorted(shares, key=lambda s: -s.latency_s))
