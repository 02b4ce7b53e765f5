"""Does the fitted model still hold on this machine?  About twenty operators are timed and compared with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from graphs.errors import DataError, ModelFileError
from graphs.estimation import estimate_operators
from training.measure.plan import Entry, Limits, make_plan
from training.measure.runner import measured_row

#: Exit codes of ``graphs measure --check``.
HOLDS, DRIFTED, UNDECIDED = 0, 3, 4
#: The model still holds if it is off by no more than this factor, either way.
TOLERATED_FACTOR = 1.15
ROWS = 20
#: Largest share of intervals that chance may be blamed for.
_SIGNIFICANCE = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rows say.

    Attributes
    ----------
    code : int
        `HOLDS`, `DRIFTED` or `UNDECIDED` (the rows scatter too much to tell).
    factor, low, high : float
        Trimmed geometric mean of measured / predicted, with its 95 % interval: above 1 the machine is slower than
        the model says.
    inside : int
        Rows inside their 90 % interval, of `n`.
    chance : float
        Probability of so few inside if the intervals are right.
    """

    code: int
    n: int
    factor: float
    low: float
    high: float
    inside: int
    chance: float

    @property
    def text(self) -> str:
        """The verdict in a sentence with its statistics."""
        said = {HOLDS: "the model holds", DRIFTED: "the model does not hold", UNDECIDED: "undecided"}[self.code]
        return (
            f"{said}: this machine takes {self.factor:.2f} times the predicted time (95 % interval {self.low:.2f} to"
            f" {self.high:.2f}, {self.n} operators); {self.inside} of {self.n} lie inside their 90 % interval"
            f" (chance of so few if it holds: {self.chance:.2g})"
        )


def judge(ratios: Sequence[float], inside: Sequence[bool]) -> Verdict:
    """Judge rows.

    Parameters
    ----------
    ratios : sequence of float
        measured / predicted.
    inside : sequence of bool
        Whether each row lies in its 90 % interval.

    Notes
    -----
    The factor is the geometric mean of the ratios after a tenth is trimmed at each end, with Yuen's t interval.  The
    model holds if the factor is within `TOLERATED_FACTOR` of 1 and the models' intervals cover as promised (one-sided
    binomial test).  It has drifted if the interval of the factor lies beyond the tolerated one, or excludes 1 while
    the coverage fails.
    """
    logs = np.sort(np.log(np.asarray(ratios, dtype=np.float64)))
    n = len(logs)
    cut = n // 10
    kept = logs[cut : n - cut]
    centre = float(kept.mean())
    clipped = np.clip(logs, kept[0], kept[-1])
    error = float(clipped.std(ddof=1)) / ((1 - 2 * cut / n) * math.sqrt(n))
    reach = float(stats.t.ppf(0.975, len(kept) - 1)) * error
    low, high = centre - reach, centre + reach
    hits = int(sum(bool(i) for i in inside))
    chance = float(stats.binom.cdf(hits, n, 0.9))
    limit = math.log(TOLERATED_FACTOR)
    covered = chance >= _SIGNIFICANCE
    if low > limit or high < -limit or (not covered and not low <= 0.0 <= high):
        code = DRIFTED
    elif covered and -limit <= centre <= limit:
        code = HOLDS
    else:
        code = UNDECIDED
    return Verdict(code, n, math.exp(centre), math.exp(low), math.exp(high), hits, chance)


def check_entries(mapper: Any, limits: Limits, seed: int, rows: int = ROWS) -> list[Entry]:
    """Return quick configurations inside the model's domain, balanced over kinds.

    Raises
    ------
    ModelFileError
        If the hardware has no fitted model.
    """
    if mapper.calibration is None or mapper.calibration.model is None:
        raise ModelFileError(
            f"'{mapper.resource_model.id}' has no fitted model to check",
            next_step="make one with `graphs measure` and `graphs train`",
        )
    kinds = sorted(k for f in mapper.calibration.model.families.values() for k in f.domains)
    drawn = [e for e in make_plan(limits, 10 * rows, seed, kinds=kinds) if e.what == "op"]
    predicted = predict(drawn, mapper)
    inside = [e for e, s in zip(drawn, predicted["source"], strict=True) if s == "model"]
    return inside[:rows]


def predict(entries: Sequence[Entry], mapper: Any) -> dict[str, Any]:
    """Return predicted seconds, interval ends and sources of entries."""
    r = estimate_operators(
        {
            "op": [e.op for e in entries],
            "dtype": [e.dtype for e in entries],
            "params": [dict(e.params) for e in entries],
        },
        hardware=mapper.resource_model.id,
        calibration=mapper.calibration,
    )
    return {"latency_s": r.latency_s, "low_s": r.interval_low_s, "high_s": r.interval_high_s, "source": r.source}


def run_check(
    entries: Sequence[Entry], mapper: Any, timer: Any, report: Callable[[str], None] = lambda _: None
) -> tuple[Verdict, list[dict[str, Any]]]:
    """Time the entries and judge the model by them.

    Raises
    ------
    DataError
        If too few rows could be measured.
    """
    predicted = predict(entries, mapper)
    rows = []
    for i, entry in enumerate(entries):
        row = measured_row(entry, timer)
        if row["status"] != "ok":
            report(f"{entry.op} {entry.dtype} could not be measured: {row['reason']}")
            continue
        said_us = {k: 1e6 * float(predicted[k][i]) for k in ("latency_s", "low_s", "high_s")}
        rows.append({
            "op": entry.op, "dtype": entry.dtype, "params": dict(entry.params), "measured_us": row["median_us"],
            "predicted_us": said_us["latency_s"], "low_us": said_us["low_s"], "high_us": said_us["high_s"],
        })  # fmt: skip
    if len(rows) < 8:
        raise DataError(
            "too few operators could be measured to judge the model", received=len(rows), allowed=">= 8",
            next_step="see the reasons above",
        )  # fmt: skip
    ratios = [r["measured_us"] / r["predicted_us"] for r in rows]
    inside = [r["low_us"] <= r["measured_us"] <= r["high_us"] for r in rows]
    return judge(ratios, inside), rows
