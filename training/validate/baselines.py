"""What a predictor has to beat: fixed 20 %, roofline, a lookup table, log-linear interpolation of efficiency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsRegressor

from graphs import ops
from graphs.hardware.profile import HardwareProfile
from graphs.hardware.roofline import Roofline

Array = NDArray[np.float64]
NEIGHBOURS = 4
#: Ridge penalty that keeps the log-linear fit of a handful of rows finite.
_RIDGE = 1e-3


def baselines(train: pd.DataFrame, test: pd.DataFrame, profile: HardwareProfile) -> dict[str, Array]:
    """Return the latency in seconds that each baseline predicts for the rows of `test`.

    Parameters
    ----------
    train : DataFrame
        Rows the table-based baselines may see: op, dtype, params (dict), flops, bytes, median_us.
    test : DataFrame
        The same columns; median_us is not read.

    Returns
    -------
    dict of (n_test,) float64
        ``default_20pct``, ``roofline``, ``lookup`` (mean log efficiency of the nearest rows in log dimensions,
        weighted by 1 / distance), ``lookup_latency`` (the same on log latency), ``log_linear`` (least squares of
        log efficiency on log dimensions).  A table looks among rows of the same kind, dtype and discrete
        parameters, then of the same kind and dtype, then of the same kind; without any it answers the 20 % default.
    """
    roof = _roofline(test, profile)
    out = {"default_20pct": roof.default_s(), "roofline": roof.attainable_s}
    known = _Table(train, _roofline(train, profile).attainable_s)
    query = dimensions(test)
    for name, target, fit in (
        ("lookup", known.log_efficiency, _nearest),
        ("lookup_latency", known.log_latency, _nearest),
        ("log_linear", known.log_efficiency, _linear),
    ):
        predicted = known.predict(query, target, fit)
        latency = np.exp(predicted) if name == "lookup_latency" else roof.attainable_s / np.exp(predicted)
        out[name] = np.where(np.isnan(predicted), out["default_20pct"], latency)
    return out


def _roofline(frame: pd.DataFrame, profile: HardwareProfile) -> Roofline:
    flops, nbytes = (frame[c].to_numpy(dtype=np.float64) for c in ("flops", "bytes"))
    peak = profile.peak_array(frame["dtype"].to_numpy(dtype=np.str_)) if len(frame) else np.empty(0)
    return Roofline.of(flops, nbytes, peak, profile.bandwidth_bytes_per_s)


def attainable_s(frame: pd.DataFrame, profile: HardwareProfile) -> Array:
    """Return the roofline time of each row, (n,) seconds."""
    return np.asarray(_roofline(frame, profile).attainable_s)


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Rows of one kind as a table sees them.

    Attributes
    ----------
    rows : (n,) int64
        Positions in the frame.
    log2 : (n, d) float64
        Logarithms of the integer parameters (of a tuple: of its sum) and of the bytes.
    names : tuple of str
        What the columns of `log2` are.
    keys : list of tuple
        Kind, dtype, then the discrete parameters.
    """

    rows: NDArray[np.int64]
    log2: Array
    names: tuple[str, ...]
    keys: list[tuple[Any, ...]]


def dimensions(frame: pd.DataFrame) -> dict[str, Dimensions]:
    """Return the rows of a frame by kind."""
    out = {}
    for group in ops.group_operators(frame["op"], frame["dtype"], frame["params"]) if len(frame) else []:
        columns, names, discrete = [], [], []
        for p in group.kind.params:
            column = group.params[p.name]
            if p.type is int:
                columns.append(np.log2(np.maximum(np.nan_to_num(column, nan=1.0), 0.5)))
                names.append(p.name)
            elif p.type is tuple:
                columns.append(np.log2([float(np.sum(v)) for v in column]))
                names.append(f"sum of {p.name}")
            else:
                discrete.append(column)
        columns.append(np.log2(group.bytes))
        keys = [(group.kind.name, str(d), *(c[i] for c in discrete)) for i, d in enumerate(group.dtype)]
        out[group.kind.name] = Dimensions(group.rows, np.stack(columns, axis=1), (*names, "bytes"), keys)
    return out


class _Table:
    """Training rows by key."""

    def __init__(self, frame: pd.DataFrame, attainable_s: Array) -> None:
        latency = frame["median_us"].to_numpy(dtype=np.float64) * 1e-6
        self.log_latency = np.log(latency)
        self.log_efficiency = np.log(attainable_s / latency)
        self.by_key: dict[tuple[Any, ...], list[tuple[int, Array]]] = {}
        for d in dimensions(frame).values():
            for i, key in enumerate(d.keys):
                for level in (key, key[:2], key[:1]):
                    self.by_key.setdefault((len(level), *level), []).append((int(d.rows[i]), d.log2[i]))

    def predict(
        self,
        query: dict[str, Dimensions],
        target: Array,
        fit: Callable[[Array, Array, Array], Array],
    ) -> Array:
        out = np.full(sum(len(d.rows) for d in query.values()), np.nan)
        for d in query.values():
            chosen: dict[tuple[Any, ...], list[int]] = {}
            for i, key in enumerate(d.keys):
                for level in (key, key[:2], key[:1]):
                    full = (len(level), *level)
                    if len(self.by_key.get(full, ())) >= NEIGHBOURS:
                        chosen.setdefault(full, []).append(i)
                        break
            for full, members in chosen.items():
                known = self.by_key[full]
                out[d.rows[members]] = fit(
                    np.stack([v for _, v in known]), target[[r for r, _ in known]], d.log2[members]
                )
        return out


def _nearest(x: Array, y: Array, query: Array) -> Array:
    model = KNeighborsRegressor(n_neighbors=NEIGHBOURS, weights="distance").fit(x, y)
    return np.asarray(model.predict(query), dtype=np.float64)


def _linear(x: Array, y: Array, query: Array) -> Array:
    mean = x.mean(axis=0)
    a = x - mean
    slope = np.linalg.solve(a.T @ a + _RIDGE * len(x) * np.eye(a.shape[1]), a.T @ (y - y.mean()))
    # An interpolation does not leave the range of what it interpolates.
    return np.asarray(np.clip(y.mean() + (query - mean) @ slope, y.min(), y.max()))
