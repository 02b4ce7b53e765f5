"""More rows for a data set that exists: what it is short of, and whether the new rows may be pooled with the old ones.

A run with ``--extend DIR`` first times a sample of DIR's configurations again.  The new rows stay in a folder of their
own, with their fingerprint; they agree with the old ones if the sample differs by no more than three times the retest
noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.errors import GraphsError
from training.measure.plan import Limits, config_key
from training.measure.shapes import Rng, draw

#: Configurations that are timed again.
SAMPLE = 60
#: Kinds with fewer rows than this are short whatever their shapes.
FEW = 120
#: How far the sample may be off, in medians of the retests' differences.
TOLERATED_NOISES = 3.0
#: File of a run with the outcome.
AGREEMENT = "agreement.json"

Triple = tuple[str, str, Mapping[str, Any]]
#: Shapes that models on GPUs are known to be short of: kinds, dtypes, and which parameters.
_SHORT: tuple[tuple[tuple[str, ...], tuple[str, ...], Callable[[Mapping[str, Any]], bool]], ...] = (
    (("conv2d",), ("fp32", "tf32", "bf16", "fp16"), lambda p: p["groups"] > 1),
    (("conv2d",), ("fp32", "tf32", "bf16", "fp16"), lambda p: p["k"] == 7),
    (("conv2d", "dwconv2d"), ("fp32",), lambda p: p["n"] == 1),
    (("sdpa", "sdpa_decode"), ("tf32",), lambda p: p["hkv"] < p["h"]),
    (("linear", "matmul", "addmm"), ("fp32",), lambda p: p["m"] <= 16),
    (("upsample2d", "cumsum", "index_select", "embedding"), ("fp32", "bf16", "fp16"), lambda p: True),
)


def sample(old: pd.DataFrame, dtypes: Iterable[str], rng: Rng, count: int = SAMPLE) -> list[Triple]:
    """Return configurations of a table to time again: kinds in turn, at random within each."""
    rows = old[old["dtype"].isin(list(dtypes))].sample(frac=1.0, random_state=int(rng.integers(2**31)))
    turn = rows.groupby("op").cumcount()
    chosen = rows.assign(turn=turn).sort_values("turn", kind="stable").head(count)
    return list(zip(chosen["op"], chosen["dtype"], chosen["params"], strict=True))


def missing(old: pd.DataFrame, dtypes: Iterable[str], rng: Rng, each: int = 40) -> list[Triple]:
    """Return configurations that a table is short of, in turns, none of which it has.

    Parameters
    ----------
    old : DataFrame
    dtypes : iterable of str
        Those that are measured.
    rng : Generator
    each : int
        Configurations of each shortage.
    """
    measured = set(dtypes)
    have = {config_key(*row) for row in zip(old["op"], old["dtype"], old["params"], strict=True)}
    counts = old["op"].value_counts()
    few = tuple(kind for kind in sorted(ops.kinds()) if counts.get(kind, 0) < FEW)
    columns: list[list[Triple]] = []
    for kinds, wanted, fits in (*_SHORT, *(((kind,), ("fp32", "bf16"), lambda p: True) for kind in few)):
        own = [d for d in wanted if d in measured]
        found: list[Triple] = []
        for _ in range(60 * each if own else 0):
            op, dtype = (options[int(rng.integers(len(options)))] for options in (kinds, own))
            try:
                params = ops.get(op).validate(draw(op, rng))
            except GraphsError:
                continue  # a random shape whose parameters do not fit together
            if fits(params) and (key := config_key(op, dtype, params)) not in have:
                have.add(key)
                found.append((op, dtype, params))
            if len(found) == each:
                break
        columns.append(found)
    return [column[i] for i in range(each) for column in columns if i < len(column)]


def asked(old: pd.DataFrame, limits: Limits, seed: int) -> list[Triple]:
    """Return what a run that extends a table measures: the sample first, then what is short."""
    rng = np.random.default_rng(seed)
    return [*sample(old, limits.peaks, rng), *missing(old, limits.peaks, rng)]


def agreement(old: pd.DataFrame, new: pd.DataFrame) -> dict[str, Any]:
    """Return how far the configurations that both tables have are apart, and whether the tables may be pooled.

    Returns
    -------
    dict
        ``rows`` in both, ``difference`` (median of |new / old - 1|), ``factor`` (median of new / old), ``noise``
        (median difference of the retests of either table, the larger one; None if there are none), ``pool``.
    """
    frames = [
        f.assign(key=[config_key(*row) for row in zip(f["op"], f["dtype"], f["params"], strict=True)])
        for f in (old, new)
    ]
    both = frames[0].merge(frames[1], on="key", suffixes=("_old", "_new"))
    ratio = (both["median_us_new"] / both["median_us_old"]).to_numpy(dtype=np.float64)
    noises = []
    for f in frames:
        again = f[f["retest_us"].notna()]
        if len(again):
            noises.append(float(((again["retest_us"] - again["median_us"]).abs() / again["median_us"]).median()))
    noise = max(noises, default=None)
    off = float(np.median(np.abs(ratio - 1))) if len(ratio) else None
    enough = len(ratio) >= SAMPLE // 2 and noise is not None and off is not None
    return {
        "rows": len(ratio),
        "difference": off,
        "factor": float(np.median(ratio)) if len(ratio) else None,
        "noise": noise,
        "pool": bool(enough and off <= TOLERATED_NOISES * noise),  # type: ignore[operator]
    }
