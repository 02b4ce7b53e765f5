"""What the fitted model of fused subgraphs answers: subgraphs and whole traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphs import ops
from graphs.hardware.calibration.subgraph_features import describe
from graphs.hardware.calibration.subgraph_model import SubgraphAnswer
from graphs.hardware.mappers.fusion import fuse
from graphs.subgraph import Call

if TYPE_CHECKING:
    from graphs.hardware.mappers.base import HardwareMapper


@dataclass(frozen=True, slots=True)
class FusedCall:
    """What a call takes inside its subgraph.

    Attributes
    ----------
    latency_s : float
    interval_s : (float, float)
    subgraph : str
        Kinds of the subgraph it belongs to, joined by ``+``.
    """

    latency_s: float
    interval_s: tuple[float, float]
    subgraph: str


def ask(mapper: HardwareMapper, subgraphs: Sequence[tuple[Sequence[Call], int]], dtype: str) -> SubgraphAnswer | None:
    """Return what the subgraph model says of (calls, nodes) in one dtype; None without such a model."""
    model = None if mapper.calibration is None else mapper.calibration.subgraphs
    if model is None:
        return None
    described = [describe(calls, nodes, ops.itemsize(dtype)) for calls, nodes in subgraphs]
    return model.answer(described, dtype, mapper.thermal_profile or "", mapper.out_of_domain == "extrapolate")


def map_trace(mapper: HardwareMapper, calls: Sequence[tuple[str, Mapping[str, Any], str]]) -> list[FusedCall | None]:
    """Price a traced program subgraph by subgraph.

    Parameters
    ----------
    mapper : HardwareMapper
    calls : sequence of (op, params, dtype)
        In program order; "" where nothing prices a call.

    Returns
    -------
    list of FusedCall or None
        None where the model does not answer, and the call's own estimate stands.  A subgraph's latency is shared
        out among its calls as their linear costs are to each other.
    """
    model = None if mapper.calibration is None else mapper.calibration.subgraphs
    out: list[FusedCall | None] = [None] * len(calls)
    if model is None:
        return out
    names = [op for op, _, _ in calls]
    spans = [s for s in fuse(names) if all(names[s.start : s.stop])]
    for dtype in sorted({d for _, _, d in calls}):
        mine = [s for s in spans if all(d == dtype for _, _, d in calls[s.start : s.stop])]
        asked = [([(op, p) for op, p, _ in calls[s.start : s.stop]], s.nodes) for s in mine]
        found = ask(mapper, asked, dtype) if asked else None
        if found is None:
            continue
        for i, s in enumerate(mine):
            if np.isnan(found.latency_s[i]):
                continue
            alone = [describe([call], 1, ops.itemsize(dtype)) for call in asked[i][0]]
            share = model.cost_s(alone, dtype, mapper.thermal_profile or "")
            share = share / share.sum()
            name = "+".join(names[s.start : s.stop])
            for j, part in enumerate(share.tolist()):
                low, high = found.low_s[i] * part, found.high_s[i] * part
                out[s.start + j] = FusedCall(float(found.latency_s[i] * part), (float(low), float(high)), name)
    return out
