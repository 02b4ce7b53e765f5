"""Synthetic configurations near the measured ones, for a student to learn the teacher's answers on.

Parameters of measured rows are recombined and jittered; the result has the spread of the sampling plan without
its size.  No latency is involved: a teacher labels the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import OperatorParameterError
from graphs.hardware.calibration import features
from graphs.hardware.calibration.features import Machine
from graphs.ops.batch import OperatorGroup

Call = tuple[str, dict[str, Any]]

#: Chances that a parameter (or a tied set) is taken from another row, jittered, and that the dtype is.
SWAP, JITTER, DTYPE = 0.35, 0.3, 0.4
#: A synthetic call has at most this many times the FLOP and bytes of the largest measured one.
SLACK = 1.5
#: Parameters that mean something only together.
_TIED: dict[str, tuple[tuple[str, ...], ...]] = {
    "conv2d": (("k", "kw", "stride", "pad", "padw"), ("h", "w")),
    "dwconv2d": (("k", "stride", "pad"), ("h", "w"), ("c", "o", "groups")),
    "conv1d": (("k", "stride", "pad"),),
    "conv_transpose2d": (("k", "stride", "pad"),),
    "maxpool2d": (("k", "stride", "pad"), ("h", "w")),
    "avgpool2d": (("k", "stride", "pad"), ("h", "w")),
    "sdpa": (("h", "hkv"), ("s", "skv")),
    "sdpa_mask": (("h", "hkv"), ("s", "skv")),
    "sdpa_decode": (("h", "hkv"),),
    "permute_copy": (("shape", "perm"),),
    "roll": (("h", "w"),),
}
#: Parameters that choose an algorithm, or that the checks tie too tightly to be moved alone.
_FIXED = {"k", "kw", "stride", "pad", "padw", "groups", "perm", "parts", "scale", "shift", "hkv"}


def synthesise(groups: Sequence[OperatorGroup], machine: Machine, n: int, seed: int) -> NDArray[np.float64]:
    """Return features of about `n` synthetic calls, (about n, f).

    Parameters
    ----------
    groups : list of OperatorGroup
        Measured calls of one family that may be looked at.
    machine : Machine
    n, seed : int
    """
    rng = np.random.default_rng(seed)
    # between equal shares and shares by row count: rare kinds deserve more than their rows
    share = np.array([len(g) for g in groups], dtype=np.float64) ** 0.75
    share /= share.sum()
    parts = []
    for group, fraction in zip(groups, share, strict=True):
        calls = _valid(group.kind, _draw(group, int(np.ceil(n * fraction)), rng))
        if not calls:
            continue
        (made,) = ops.group_operators([group.kind.name] * len(calls), [d for d, _ in calls], [p for _, p in calls])
        x = features.build(made, machine)[1]
        fits = (made.flops <= SLACK * group.flops.max()) & (made.bytes <= SLACK * group.bytes.max())
        parts.append(x[fits & np.isfinite(x).all(axis=1)])
    return np.concatenate(parts)


def _valid(kind: ops.OperatorKind, calls: Sequence[Call]) -> list[Call]:
    out = []
    for dtype, params in calls:
        try:
            out.append((dtype, kind.validate(params)))
        except OperatorParameterError:
            continue  # a recombination that no such operator has
    return out


def _draw(group: OperatorGroup, n: int, rng: np.random.Generator) -> list[Call]:
    rows = [_row(group, i) for i in range(len(group))]
    dtypes = group.dtype.tolist()
    name = group.kind.name
    ties = _TIED.get(name, ())
    fixed = _FIXED | ({"d"} if group.kind.family in ("sdpa", "sdpa_decode") else set())
    if name == "sdpa_decode":
        fixed |= {"s"}
    calls = []
    for i, j, other in rng.integers(0, len(rows), (n, 3)):
        base, donor = rows[i], rows[j]
        params = dict(base)
        seen: set[str] = set()
        for key in base:
            if key in seen:
                continue
            tied = next((t for t in ties if key in t), (key,))
            seen.update(tied)
            if rng.random() < SWAP:
                params.update({t: donor[t] for t in tied if t in donor})
        if rng.random() < 0.7:
            for key, value in params.items():
                if key not in fixed and not isinstance(value, (bool, str)) and rng.random() < JITTER:
                    params[key] = [_jitter(v, rng) for v in value] if isinstance(value, tuple) else _jitter(value, rng)
        _repair(name, params, base)
        calls.append((dtypes[other] if rng.random() < DTYPE else dtypes[i], params))
    return calls


def _row(group: OperatorGroup, i: int) -> dict[str, Any]:
    kinds = {p.name: p.type for p in group.kind.params}
    return {name: kinds[name](column[i]) for name, column in group.params.items()}


def _jitter(value: int, rng: np.random.Generator) -> int:
    """Scale by up to 1.6 either way, then round as the sampling plan does: to 64, to 8, or not at all."""
    moved, r = value * 2.0 ** rng.uniform(-0.7, 0.7), rng.random()
    step = 64 if r < 0.25 and moved > 100 else 8 if r < 0.65 and moved > 12 else 1
    return int(max(step, round(moved / step) * step))


def _repair(name: str, params: dict[str, Any], base: Mapping[str, Any]) -> None:
    """Restore what the kind demands of its parameters, in place."""
    if name == "dwconv2d":
        params["o"] = params["groups"] = params["c"]
    if name in ("sdpa", "sdpa_mask", "sdpa_decode"):
        if base["h"] == base["hkv"]:
            params["hkv"] = params["h"]
        else:
            params["h"] = params["hkv"] * max(1, round(params["h"] / params["hkv"]))
        if name != "sdpa_decode" and base["s"] == base["skv"]:
            params["skv"] = params["s"]
    if name == "groupnorm":
        params["c"] = max(params["groups"], params["c"] // params["groups"] * params["groups"])
    if name == "conv2d" and params["groups"] > 1:
        for key in ("c", "o"):
            params[key] = max(params["groups"], params[key] // params["groups"] * params["groups"])
