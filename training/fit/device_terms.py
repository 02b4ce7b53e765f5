"""Corrections of device time, fitted on measured models with each model left out in turn.

Two numbers, each with a physical ground: operators were timed in graph replays, so each holds the gap to the next
kernel, which a sum of kernel durations does not; and dense fp32 convolutions, sparsely measured among cliffs of
algorithm choice, run faster in the shapes that networks have than their operators' mean tells.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graphs.whole_model import WholeModelTerms
from training.fit.priced import PricedModel, equal_models, family_of

Array = NDArray[np.float64]
#: A term needs as many models that show it.
LEAST_MODELS = 3
#: Gaps that are tried, seconds.
GAPS = np.arange(0.0, 1.01e-6, 0.05e-6)
#: Weight of "no correction", and the log error beyond which a row counts less.
RIDGE, HUBER = 0.05, 0.05
#: Rounds of fitting one term after the other.
ROUNDS = 3
#: A factor must lower the error of families left out by this share of it.
WORTH = 0.02


def fit_device_terms(rows: list[PricedModel], base: WholeModelTerms, conv: bool = True) -> WholeModelTerms:
    """Return `base` with the gap, and the factor if `conv`, fitted to rows of modes ``graph`` and ``kernels``."""
    terms = base
    for _ in range(ROUNDS if conv else 1):  # each is fitted beside the other: alone one would make up for both
        terms = _fit_gap(rows, terms)
        if conv:
            terms = _fit_conv(rows, replace(terms, conv_fp32=1.0))
    return terms


def choose_device_terms(rows: list[PricedModel], base: WholeModelTerms) -> tuple[WholeModelTerms, bool]:
    """Return the terms fitted to all rows, and whether the convolution factor earned its place.

    It must lower the mean error of families left out of its fit (a family is `family_of` the name).
    """
    fitted = fit_device_terms(rows, base)
    if fitted.conv_fp32 == 1.0:
        return fitted, False
    with_it, without = (
        np.abs(np.expm1(left_out_errors(rows, base, conv=c, by_family=True))).mean() for c in (True, False)
    )
    if with_it > (1.0 - WORTH) * without:
        return fit_device_terms(rows, base, conv=False), False
    return fitted, True


def terms_without(
    rows: list[PricedModel], base: WholeModelTerms, conv: bool, by_family: bool = False
) -> dict[str, WholeModelTerms]:
    """Return for each model the terms fitted without it (or without its family)."""
    out: dict[str, WholeModelTerms] = {}
    group = family_of if by_family else str
    for name in sorted({r.model for r in rows}):
        rest = [r for r in rows if group(r.model) != group(name)]
        out[name] = fit_device_terms(rest, base, conv)
    return out


def left_out_errors(rows: list[PricedModel], base: WholeModelTerms, conv: bool, by_family: bool = False) -> Array:
    """Return log(predicted / measured) of each row, by terms that have not seen its model (or family)."""
    terms = terms_without(rows, base, conv, by_family)
    return np.array([np.log(r.device_s(terms[r.model]) / r.measured_s) for r in rows])


def error_figures(log_errors: Array) -> dict[str, float]:
    """Return median, mean, 90 % quantile and worst of |predicted / measured - 1|, and the mean with its sign."""
    signed = np.expm1(log_errors)
    errors = np.abs(signed)
    return {
        "median_ape": round(float(np.median(errors)), 4), "mape": round(float(errors.mean()), 4),
        "p90_ape": round(float(np.quantile(errors, 0.9)), 4), "worst_ape": round(float(errors.max()), 4),
        "bias": round(float(signed.mean()), 4),
    }  # fmt: skip


def _fit_gap(rows: list[PricedModel], base: WholeModelTerms) -> WholeModelTerms:
    some = [r for r in rows if r.without_gaps]
    if len({r.model for r in some}) < LEAST_MODELS:
        return base
    weight, measured = equal_models(some), np.log([r.measured_s for r in some])

    def loss(gap: float) -> float:
        terms = replace(base, kernel_gap_s=gap)
        return float(weight @ np.abs(np.log([r.device_s(terms) for r in some]) - measured))

    return replace(base, kernel_gap_s=float(min(GAPS, key=loss)))


def _fit_conv(rows: list[PricedModel], base: WholeModelTerms) -> WholeModelTerms:
    """Robust ridge regression of the log error on the share of time in such convolutions."""
    shares = np.array([(r.times_s(base) * r.counts)[r.conv].sum() / r.device_s(base) for r in rows])
    if len({r.model for r, s in zip(rows, shares, strict=True) if s > 0.1}) < LEAST_MODELS:
        return base
    target = np.log([r.measured_s / r.device_s(base) for r in rows])
    weight = first = equal_models(rows)
    slope = 0.0
    for _ in range(20):
        slope = float((weight * shares) @ target / ((weight * shares) @ shares + RIDGE))
        weight = first * np.minimum(1.0, HUBER / np.maximum(np.abs(target - slope * shares), 1e-9))
    return replace(base, conv_fp32=round(float(np.exp(slope)), 4))
