"""Why a row is far off: computed from the row, its measurement and the training rows around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs.hardware.profile import HardwareProfile
from training.validate.baselines import Dimensions, attainable_s, dimensions

#: Nearest training rows that are looked at.
NEIGHBOURS = 6
#: Spread of samples, over the median, that makes a measurement doubtful.
NOISY = 0.10
#: Ratio of the largest to the smallest efficiency among neighbours that makes a cliff.
CLIFF = 2.0
#: Factor, in every dimension, within which a training row is near.
NEAR = 2.0
#: How far beyond the nearest measured size counts as extrapolation.
BEYOND = 1.05

Array = NDArray[np.float64]


class Reasons:
    """The training rows, by kind and dtype, to explain single rows with.

    Parameters
    ----------
    train : DataFrame
        op, dtype, params, flops, bytes, median_us.
    profile : HardwareProfile
    """

    def __init__(self, train: pd.DataFrame, profile: HardwareProfile) -> None:
        self._profile = profile
        latency = train["median_us"].to_numpy(dtype=np.float64) * 1e-6
        self._efficiency = attainable_s(train, profile) / latency if len(train) else np.empty(0)
        self._by_key: dict[tuple[Any, ...], tuple[NDArray[np.int64], Array]] = {}
        for d in dimensions(train).values():
            for level in (2, None):
                members: dict[tuple[Any, ...], list[int]] = {}
                for i, key in enumerate(d.keys):
                    members.setdefault(key[:level], []).append(i)
                for key, places in members.items():
                    self._by_key[key] = (d.rows[places], d.log2[places])

    def explain(self, rows: pd.DataFrame) -> list[str]:
        """Return what is known of each row, in words; every number is computed."""
        out = [""] * len(rows)
        if not len(rows):
            return out
        efficiency = attainable_s(rows, self._profile) / (rows["median_us"].to_numpy(dtype=np.float64) * 1e-6)
        for d in dimensions(rows).values():
            for i, at in enumerate(d.rows):
                row = rows.iloc[int(at)]
                parts = [p for p in (_outside(row), _noisy(row)) if p]
                parts += self._around(d, i, float(efficiency[at])) if row["source"] != "default" else []
                out[int(at)] = "; ".join(parts)
        return out

    def _around(self, d: Dimensions, i: int, efficiency: float) -> list[str]:
        """Compare a row with the training rows of its kind, dtype and discrete parameters."""
        key, x = d.keys[i], d.log2[i]
        same = self._by_key.get(key)
        parts = []
        if same is None or len(same[0]) < NEIGHBOURS:
            count = 0 if same is None else len(same[0])
            parts.append(f"only {count} training rows share its dtype and discrete parameters")
            same = self._by_key.get(key[:2])
            if same is None or len(same[0]) < NEIGHBOURS:
                return parts
        known = same[1]
        over, under = x - known.max(axis=0), known.min(axis=0) - x
        far = np.maximum(over, under)
        j = int(far.argmax())
        if far[j] > np.log2(BEYOND):
            side = "largest" if over[j] > under[j] else "smallest"
            limit = known.max(axis=0)[j] if side == "largest" else known.min(axis=0)[j]
            times = 2.0 ** far[j]
            parts.append(
                f"extrapolation: {d.names[j]} is {2.0 ** x[j]:.6g}, {times:.1f} times"
                f" {'above' if side == 'largest' else 'below'} the {side} of such rows ({2.0**limit:.6g})"
            )
        # The last column, bytes, follows from the others.
        off = np.abs(known - x)[:, :-1]
        distance = off.max(axis=1)
        nearest = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        near = nearest[distance[nearest] <= np.log2(NEAR)]
        here = f"this row at {_share(efficiency)}"
        if not len(near):
            closest = int(nearest[0])
            worst = int(off[closest].argmax())
            parts.append(
                f"sparse: no training row like it within a factor {NEAR:.0f}; the nearest"
                f" ({2.0 ** float(off[closest, worst]):.1f} times in {d.names[worst]}) runs at"
                f" {_share(float(self._efficiency[same[0][closest]]))} of the roofline, {here}"
            )
            return parts
        around = self._efficiency[same[0][near]]
        low, high = float(around.min()), float(around.max())
        several = f"{len(near)} training rows within a factor {NEAR:.0f} run at {_share(low)} to {_share(high)}"
        one = f"the one training row within a factor {NEAR:.0f} runs at {_share(low)}"
        those = f"{several if len(near) > 1 else one} of the roofline"
        if max(high, efficiency) / min(low, efficiency) > CLIFF:
            parts.append(f"kernel cliff: {those}, {here}")
        else:
            parts.append(f"the model's own error: {those}, {here}")
        return parts


def _share(value: float) -> str:
    return f"{value:.2g}"


def _outside(row: pd.Series) -> str:
    return f"outside the domain: {row['reason']}" if row["source"] == "default" else ""


def _noisy(row: pd.Series) -> str:
    parts = []
    for column, name in (("std_us", "its samples spread by"), ("retest_us", "a second timing differs by")):
        value = row.get(column)
        if value is None or pd.isna(value):
            continue
        off = value / row["median_us"] if column == "std_us" else abs(value / row["median_us"] - 1.0)
        if off > NOISY:
            parts.append(f"{name} {100 * off:.0f} %")
    return "noisy measurement: " + ", ".join(parts) if parts else ""
