"""How far beyond the measured range a fitted model may be asked: one margin a family, physical quantity and side.

For each quantity of `graphs.hardware.calibration.domain.physical` the outermost training rows of every kind are
held out together, a quick stand-in of the recipe (boosted trees and a Gaussian process, averaged) is fitted on the
rest, and its error is read against the distance beyond what is left (`training.fit.extremes`).  A margin is the largest
distance up to which the median and the mean error of the rows beyond are at most twice the cross-validated ones, of the
family or of the same rows where those are larger.  Held-out rows of the validation splits take no part.

``python -m training.fit.margins --hardware h100-sxm`` writes ``margins.json`` beside this file; with ``--report`` it
writes ``docs/domain.md`` from that file instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.fit.chosen_margins import FILE, TOLERANCE, store
from training.fit.domain_report import write_report
from training.fit.extremes import Array, Extreme, Table, measure, tables, training_rows

#: Margins in factors of two: steps and bounds; what work and traffic get at least, because problems a few times
#: larger or smaller than those measured are to be inside; and what a quantity gets of which nothing could be held out.
STEP, LEAST, MOST, LEAST_WORK, UNKNOWN = 0.25, 0.5, 4.0, 2.0, 1.0
WORK = ("flops", "bytes", "output elements", "elements read and written")
#: A quantity whose rows held up as far as they reached gets at least this: the data end there, not the model.
UNBROKEN = 3.0
#: Below the smallest measured work or traffic the fixed cost of a call is all that is left, and the model knows it;
#: the default, which has no fixed cost, would answer nanoseconds.
SMALLER_WORK = 12.0
#: A few times larger than the largest measured is inside in any case: there the default errs far more.
LARGER = 2.0
RATIOS = ("arithmetic intensity", "heads a group h/hkv")
#: Rows beyond the range that a step is judged on.
JUDGED_ROWS = 15


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the margin of one side of one quantity rests on.

    Attributes
    ----------
    margin : float
        Factors of two.
    passed : float
        Largest distance up to which the errors are within the tolerance; 0 if nowhere, NaN if nothing could be held
        out.
    reach : float
        Largest distance of a held-out row.
    rows : int
        Held-out rows within the margin.
    median_ratio, mean_ratio : float
        Their error over the family's cross-validated one.
    """

    margin: float
    passed: float
    reach: float
    rows: int
    median_ratio: float
    mean_ratio: float


def widened(margin: float, passed: float | None, reach: float | None, quantity: str, side: str) -> float:
    """Return a margin with what holds beyond the evidence: `UNBROKEN`, `SMALLER_WORK` and `LARGER`."""
    if side == "low" and quantity in WORK:
        return max(margin, SMALLER_WORK)
    if side == "high" and quantity not in RATIOS:
        margin = max(margin, LARGER)
    unbroken = passed is not None and reach is not None and passed > 0 and passed >= min(reach, MOST) - STEP
    return max(margin, UNBROKEN) if unbroken else margin


def choose(some: Sequence[Extreme], work: bool, cv_median: float, cv_mean: float) -> Evidence:
    """Return the margin of one side of one quantity from its held-out rows.

    Parameters
    ----------
    some : sequence of Extreme
        Of one family, quantity and side; may be empty.
    work : bool
        Whether the quantity is work or traffic, which has a larger least margin.
    cv_median, cv_mean : float
        Cross-validated errors of the family.
    """
    least = LEAST_WORK if work else LEAST
    if not some:
        return Evidence(max(least, UNKNOWN), np.nan, np.nan, 0, np.nan, np.nan)
    distance, error = np.concatenate([e.distance for e in some]), np.concatenate([e.ape for e in some])
    reach, passed = float(distance.max()), 0.0
    for step in np.arange(STEP, MOST + STEP / 2, STEP):
        judged = [v for v in (_verdict(e, float(step), cv_median, cv_mean) for e in some) if v is not None]
        if judged and all(judged):
            passed = float(step)
        if step >= reach:  # nothing lies further out: the data end here
            break
    margin = min(max(passed, least), MOST)
    within = distance <= margin
    median, mean = (float(np.median(error[within])), float(error[within].mean())) if within.any() else (np.nan, np.nan)
    return Evidence(margin, passed, reach, int(within.sum()), median / cv_median, mean / cv_mean)


def _verdict(e: Extreme, step: float, cv_median: float, cv_mean: float) -> bool | None:
    """Return whether the rows up to a distance are within the tolerance, or None if too few are that near."""
    within = e.distance <= step
    if within.sum() < min(JUDGED_ROWS, len(within)):
        return None
    error, seen = e.ape[within], e.inside_ape[within]
    # rows that are harder than most even where their like was seen are not so because of the distance
    median, mean = max(cv_median, float(np.median(seen))), max(cv_mean, float(seen.mean()))
    return bool(np.median(error) <= TOLERANCE * median and error.mean() <= TOLERANCE * mean)


def family_margins(t: Table, cv: Array, found: Sequence[Extreme]) -> dict[str, Any]:
    """Return the entry of one family: its cross-validated error, its margins, and what each rests on."""
    median, mean = float(np.median(cv)), float(cv.mean())
    margins, evidence = {}, {}
    for quantity in t.quantities:
        sides = {
            side: choose(
                [e for e in found if (e.quantity, e.side) == (quantity, side)],
                quantity in WORK, median, mean,
            )
            for side in ("low", "high")
        }  # fmt: skip
        margins[quantity] = [widened(e.margin, e.passed, e.reach, quantity, side) for side, e in sides.items()]
        evidence[quantity] = {side: _rounded(e) for side, e in sides.items()}
    return {
        "rows": len(t.y), "cv_median_ape": round(median, 4), "cv_mape": round(mean, 4), "margins": margins,
        "evidence": evidence,
    }  # fmt: skip


def _rounded(e: Evidence) -> dict[str, Any]:
    plain = {name: getattr(e, name) for name in ("passed", "reach", "rows", "median_ratio", "mean_ratio")}
    return {k: None if v != v else v if isinstance(v, int) else round(v, 2) for k, v in plain.items()}


def write(hardware: str, data: Path, path: Path = FILE) -> None:
    """Choose all margins and write them with their provenance."""
    train, _, machine = training_rows(hardware, data)
    families = {}
    for name, t in sorted(tables(train, machine).items()):
        families[name] = family_margins(t, *measure(t))
        print(f"{name}: {len(t.y)} rows, {families[name]['margins']}")
    store(families, hardware, data, len(train), path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the margins, or the report on them."""
    import torch
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(prog="python -m training.fit.margins", description=main.__doc__)
    parser.add_argument("--hardware", default="h100-sxm")
    parser.add_argument("--data", type=Path, help="default: data/<hardware>")
    parser.add_argument("--report", type=Path, nargs="?", const=Path("docs/domain.md"), help="write this Markdown file")
    args = parser.parse_args(argv)
    data = args.data or Path("data") / args.hardware
    torch.set_num_threads(1)  # the processes are small; more threads cost more than they bring
    with threadpool_limits(limits=1):
        if args.report:
            write_report(args.hardware, data, args.report)
        else:
            write(args.hardware, data)


if __name__ == "__main__":
    main()
