"""Single operators by the model of subgraphs: each is a subgraph of one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import ops
from graphs.hardware.calibration.fitted import Answer
from graphs.hardware.calibration.subgraph_features import describe
from graphs.hardware.calibration.subgraph_model import SubgraphModel
from graphs.ops.batch import OperatorGroup

Call = tuple[str, dict[str, Any]]
#: Answers that do not rest on a measurement of this kind at this size: the model goes first where it knows the call.
SUBSTITUTES = ("proxy", "calibrated_roofline")
#: Kinds whose class of nodes holds others alone in every subgraph that was ever measured.
NEVER_MEASURED = ("conv_transpose2d",)


def fill(
    model: SubgraphModel,
    group: OperatorGroup,
    answer: Answer,
    thermal: str = "",
    extrapolate: bool = False,
    measured: bool = False,
) -> None:
    """Write into `answer` what the model says of the calls that it has no answer for, or only a substitute.

    Where neither answers, the reason is the model's, or the one that was there if the kind was `measured` by itself.
    """
    unanswered = np.isnan(answer.latency_s) | np.isin(answer.source, SUBSTITUTES)
    if group.kind.name in NEVER_MEASURED:
        open_ = np.isnan(answer.latency_s)
        answer.reason[open_] = f"no subgraph with a {group.kind.name} was ever measured on {model.hardware}"
        return
    for dtype in np.unique(group.dtype[unanswered]).tolist():
        rows = np.flatnonzero(unanswered & (group.dtype == dtype))
        # tables repeat calls: each is described once
        calls, inverse = _distinct([_call(group, int(i)) for i in rows])
        found = model.answer([describe([c], 1, ops.itemsize(dtype)) for c in calls], dtype, thermal, extrapolate)
        priced = ~np.isnan(found.latency_s[inverse])
        own, row = inverse[priced], rows[priced]
        answer.latency_s[row] = found.latency_s[own]
        answer.low_s[row], answer.high_s[row] = found.low_s[own], found.high_s[own]
        answer.source[row], answer.reason[row] = "model", found.reason[own]
        if not measured:
            open_ = ~priced & (answer.source[rows] == "")
            why = [f"{group.kind.name} as a subgraph of one node: {text}" for text in found.reason[inverse[open_]]]
            answer.reason[rows[open_]] = why


def _call(group: OperatorGroup, i: int) -> Call:
    params = {}
    for name, column in group.params.items():
        value = column[i]
        if column.dtype.kind == "f":
            if value != value:
                continue
            value = int(value)
        types = {p.name: p.type for p in group.kind.params}
        params[name] = bool(value) if types[name] is bool else value if types[name] is tuple else types[name](value)
    return group.kind.name, params


def _distinct(calls: Sequence[Call]) -> tuple[list[Call], NDArray[np.int64]]:
    seen: dict[str, int] = {}
    kept: list[Call] = []
    inverse = np.empty(len(calls), dtype=np.int64)
    for i, call in enumerate(calls):
        key = repr(call)
        if key not in seen:
            seen[key] = len(kept)
            kept.append(call)
        inverse[i] = seen[key]
    return kept, inverse
