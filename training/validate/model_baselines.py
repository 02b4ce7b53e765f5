"""What the baselines say of whole models: the sum of what they say of the calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs import ops
from graphs.hardware.mappers.base import HardwareMapper
from graphs.tracing.trace import Trace
from training.validate.baselines import baselines

Array = NDArray[np.float64]


def baseline_sums(traces: Sequence[Trace], mapper: HardwareMapper, table: pd.DataFrame | None) -> dict[str, Array]:
    """Return the seconds that each baseline predicts for whole models.

    Parameters
    ----------
    traces : sequence of Trace, n of them
    mapper : HardwareMapper
    table : DataFrame or None
        Measured operators that the baselines of `training.validate.baselines` may see; without any there are the
        default and the roofline alone.

    Returns
    -------
    dict of (n,) float64
        A call that no table knows, or whose dtype has no peak, takes what the 20 % default says; calls that no
        operator kind describes take nothing.
    """
    calls = [o for t in traces for o in t.operators if o.op]
    if not calls:
        return {}
    owner = np.repeat(np.arange(len(traces)), [sum(bool(o.op) for o in t.operators) for t in traces])
    columns = [o.op for o in calls], [o.dtype for o in calls], [o.params for o in calls]
    e = type(mapper)(mapper.resource_model).map_operators(ops.group_operators(*columns))
    each = {"default_20pct": e.latency_s, "roofline": np.maximum(e.compute_time_s, e.memory_time_s)}
    if table is not None and len(table):
        # the others have no roofline to be so many times slower than
        some = np.flatnonzero(np.isin(columns[1], table["dtype"].unique()))
        frame = pd.DataFrame({"op": columns[0], "dtype": columns[1], "params": columns[2]}).iloc[some]
        frame = frame.assign(flops=e.flops[some], bytes=e.bytes[some]).reset_index(drop=True)
        for name, latency in baselines(table, frame, mapper.resource_model).items():
            if name not in each:
                each[name] = e.latency_s.copy()
                each[name][some] = latency
    counts = np.array([o.count for o in calls], dtype=np.float64)
    total = {n: np.bincount(owner, counts * seconds, minlength=len(traces)) for n, seconds in each.items()}
    return {n: np.asarray(seconds, dtype=np.float64) for n, seconds in total.items()}
