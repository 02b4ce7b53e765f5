"""Measured whole models, with their calls priced once: what the terms of whole models are fitted to."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs.errors import DtypeError, TracingError
from graphs.estimates import OperatorEstimate
from graphs.hardware.mappers.base import HardwareMapper
from graphs.ops import canonical
from graphs.pricing import price_operators
from graphs.whole_model import CORRECTABLE, WholeModelTerms, is_conv_fp32, log_half_width
from training.traces import find_trace

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PricedModel:
    """One measured row, and the calls behind it.

    Attributes
    ----------
    model, mode, area : str
        The area is ``language`` for models that begin with token ids, else ``vision``.
    measured_s : float
    rows : list of OperatorEstimate
        Distinct operators, d of them, without corrections.
    run_s : (d,) float64
    width : (d,) float64
        90 % log error of each.
    conv, correctable, unmodelled : (d,) bool
    index : (n,) intp
        Row of each call, in program order.
    counts : (d,) float64
    without_gaps : bool
        Whether the measured time is one of kernels alone.
    """

    model: str
    mode: str
    area: str
    measured_s: float
    rows: list[OperatorEstimate]
    run_s: Array
    width: Array
    conv: NDArray[np.bool_]
    correctable: NDArray[np.bool_]
    unmodelled: NDArray[np.bool_]
    index: NDArray[np.intp]
    counts: Array
    without_gaps: bool

    def times_s(self, terms: WholeModelTerms) -> Array:
        """Return the corrected seconds of each distinct operator; (d,)."""
        factor = terms.factors(self.run_s, self.conv, self.without_gaps)
        return self.run_s * np.where(self.correctable, factor, 1.0)

    def device_s(self, terms: WholeModelTerms) -> float:
        """Return the corrected sum of the calls."""
        return float(self.times_s(terms) @ self.counts)

    def widths(self, terms: WholeModelTerms, total_s: float) -> Array:
        """Return share of the total x log error of each distinct operator; (d,), as `distinct_widths`."""
        seconds = np.where(self.unmodelled, total_s / max(len(self.index), 1), self.times_s(terms) * self.width)
        return np.asarray(self.counts * seconds / total_s)


def family_of(model: str) -> str:
    """Return the letters that begin a model's name: relatives that tell much of one another.

    >>> family_of("vgg16"), family_of("bert-large-s384"), family_of("mobilenet_v2")
    ('vgg', 'bert', 'mobilenet')
    """
    found = re.match(r"[a-zA-Z]+", model)
    return found.group() if found else model


def price_models(models: pd.DataFrame, mapper: HardwareMapper, terms: WholeModelTerms) -> list[PricedModel]:
    """Return every measured row with a stored trace; others are left to validation to list.

    Parameters
    ----------
    models : DataFrame
        model, batch, dtype, mode, median_us.
    mapper : HardwareMapper
    terms : WholeModelTerms
        Only what they carry over is used; corrections are what is to be fitted.
    """
    out = []
    known: dict[tuple[str, int, str], tuple[list[OperatorEstimate], tuple[int, ...]]] = {}
    for record in models.to_dict("records"):
        key = (str(record["model"]), int(record["batch"]), canonical(record["dtype"]))
        mode = str(record["mode"])
        if key not in known:
            try:
                trace = find_trace(*key)
            except (TracingError, DtypeError):
                continue
            bare = WholeModelTerms(related=terms.related, domains=terms.domains)
            order = trace.sequence or tuple(i for i, o in enumerate(trace.operators) for _ in range(o.count))
            known[key] = price_operators(trace, mapper, bare, False), order
        rows, order = known[key]
        index = np.asarray(order, dtype=np.intp)
        out.append(
            PricedModel(
                model=key[0],
                mode=mode,
                area="language" if any(r.op == "embedding" for r in rows) else "vision",
                measured_s=float(record["median_us"]) * 1e-6,
                rows=rows,
                run_s=np.array([r.latency_s for r in rows]),
                width=np.array([log_half_width(r, mapper.default_log_error) for r in rows]),
                conv=np.array([is_conv_fp32(r.op, r.params, r.dtype, terms.conv_from_k) for r in rows], dtype=np.bool_),
                correctable=np.array([r.source in CORRECTABLE for r in rows], dtype=np.bool_),
                unmodelled=np.array([r.source == "unmodelled" for r in rows], dtype=np.bool_),
                index=index,
                counts=np.bincount(index, minlength=len(rows)).astype(np.float64),
                without_gaps=mode == "kernels",
            )
        )
    return out


def equal_models(rows: list[PricedModel]) -> Array:
    """Return weights that keep a model measured in many ways from outvoting the others; (n,)."""
    names = pd.Series([r.model for r in rows])
    return np.asarray(1.0 / np.sqrt(names.map(names.value_counts()).to_numpy(dtype=np.float64)))
