"""Intervals of whole models: conformal quantiles over models, each left out in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.whole_model import IntervalTerms
from training.fit.priced import family_of

Array = NDArray[np.float64]
LEVEL = 0.9
#: Parts of the difficulty that are tried.
SHARED = (0.0, 0.1, 0.2, 0.4, 0.8)
CONSTANT = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
WAITING = (0.0, 0.1, 0.2, 0.4)
#: Fewer models say nothing of the next one.
LEAST_MODELS = 5


def fit_interval(
    models: Sequence[str], log_errors: Array, widths: Sequence[Array], waiting: Array
) -> dict[str, Any] | None:
    """Return the terms of the interval and how they did on models left out, or None where too few were measured.

    Parameters
    ----------
    models : sequence of str
        Name of the model of each row, n of them.
    log_errors : (n,) float64
        log(predicted / measured), predicted by terms that have not seen the model.
    widths : sequence of (d,) float64
        Share of the total x log half-width of each distinct operator.  Rows with one that is not finite are left out.
    waiting : (n,) float64
        Share of the total that the device waits for the host.

    Returns
    -------
    dict
        The fields of `IntervalTerms`; ``lomo_coverage`` and ``lomo_half_width`` (median, log latency) of intervals
        whose quantile was taken over other families of models; the other parts were chosen on all rows.
    """
    # A call answered by the default, where that was never compared with a measurement, has no bound.
    known = [i for i, w in enumerate(widths) if np.isfinite(w).all()]
    models, widths = [models[i] for i in known], [widths[i] for i in known]
    log_errors, waiting = log_errors[known], waiting[known]
    names = np.asarray(models)
    if len(set(models)) < LEAST_MODELS:
        return None
    families = np.array([family_of(m) for m in models])
    errors = np.abs(log_errors)
    tried = []
    for shared, constant, wait in itertools.product(SHARED, CONSTANT, WAITING if waiting.any() else (0.0,)):
        terms = IntervalTerms(1.0, shared, constant, wait)
        difficulty = np.array([terms.difficulty(w, s) for w, s in zip(widths, waiting, strict=True)])
        half = difficulty * _left_out_quantiles(errors / difficulty, names, families)
        # Winkler's interval score: width, and what lies outside at 2 / alpha a unit
        score = (2 * half + 2 / (1 - LEVEL) * np.maximum(errors - half, 0.0)).mean()
        tried.append((float(score), shared, constant, wait, difficulty, half))
    _, shared, constant, wait, difficulty, half = min(tried, key=lambda t: t[0])
    return {
        "quantile": round(_quantile(errors / difficulty), 4), "shared": shared, "constant": constant, "waiting": wait,
        "rows": len(names), "models": len(set(models)),
        "lomo_coverage": round(float((errors <= half).mean()), 4),
        "lomo_half_width": round(float(np.median(half)), 4),
    }  # fmt: skip


def _left_out_quantiles(scores: Array, names: NDArray[Any], families: NDArray[Any]) -> Array:
    """Return for each row the conformal quantile of rows of other families; of other models where one family is all."""
    out = np.empty(len(scores))
    for family in np.unique(families):
        here = families == family
        rest = ~here
        if len(set(names[rest])) < LEAST_MODELS - 1:
            for name in np.unique(names[here]):
                out[names == name] = _quantile(scores[names != name])
        else:
            out[here] = _quantile(scores[rest])
    return out


def _quantile(scores: Array) -> float:
    """Return the split conformal quantile: the ceil(level (n + 1))-th smallest, the largest where n is too small."""
    n = len(scores)
    rank = min(int(np.ceil(LEVEL * (n + 1))), n)
    return float(np.sort(scores)[rank - 1])
