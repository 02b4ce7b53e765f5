"""The queue of host and device, fitted on measured eager passes with each model left out in turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from graphs.host import Host, queue_s
from graphs.whole_model import WholeModelTerms
from training.fit.device_terms import LEAST_MODELS, WORTH
from training.fit.priced import PricedModel, equal_models, family_of

Array = NDArray[np.float64]
#: First guess, seconds and factors.
GUESS = {"start_s": 20e-6, "gap_s": 1.5e-6, "operator_s": 15e-6, "table_scale": 0.6, "conv_fp32": 1.0}
#: Weights of staying at the first guess: of terms that the data may say nothing of, and of a correction.
WEAK, RIDGE = 1e-4, 0.01


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows predicted by a queue that has not seen their model.

    Attributes
    ----------
    log_errors : (n,) float64
        log(predicted / measured); NaN where nothing is left to fit the queue to.
    widths : list of (d,) float64
        As `PricedModel.widths`.
    waiting : (n,) float64
        Share of the total that the device waits for the host.
    """

    log_errors: Array
    widths: list[Array]
    waiting: Array


@dataclass(frozen=True)
class QueueFit:
    """How eager time is fitted on one machine.

    Attributes
    ----------
    overlap : bool
        Whether the device runs beside the host.
    table : dict of str to float
        Seconds to launch each class of calls.
    terms : WholeModelTerms
        Device terms.
    unseen : dict of str to WholeModelTerms
        Those fitted without a model, by its name.
    conv : bool
        Fit the factor on convolutions here, where no device time was measured.
    """

    overlap: bool
    table: dict[str, float]
    terms: WholeModelTerms
    unseen: dict[str, WholeModelTerms] = field(default_factory=dict)
    conv: bool = False

    @property
    def free(self) -> list[str]:
        """Terms that are fitted: on one machine only what every call costs, and the convolutions."""
        queue = ["start_s", "gap_s", "operator_s", *(["table_scale"] if self.table else [])]
        return [*(queue if self.overlap else ["operator_s"]), *(["conv_fp32"] if self.conv else [])]

    def fit(self, rows: list[PricedModel], terms: WholeModelTerms | None = None) -> tuple[Host, WholeModelTerms]:
        """Return host and device terms with the least mean absolute log error of eager time."""
        terms = self.terms if terms is None else terms
        launch = [self._table_s(r) for r in rows]
        weight, measured = equal_models(rows), np.log([r.measured_s for r in rows])
        weight = weight / weight.sum()
        start = np.log([GUESS[k] for k in self.free])
        stay = np.array([RIDGE if k == "conv_fp32" else WEAK for k in self.free])
        run = [r.times_s(terms) for r in rows]

        def loss(x: Array) -> float:
            host, device = self._read(x, terms)
            times = [r.times_s(device) for r in rows] if self.conv else run
            total = [self._total_s(r, host, t, s) for r, t, s in zip(rows, times, launch, strict=True)]
            return float(weight @ np.abs(np.log(total) - measured) + stay @ (x - start) ** 2)

        simplex = np.vstack([start, start + np.diag([0.2 if k == "conv_fp32" else 0.7 for k in self.free])])
        options = {"maxiter": 250, "xatol": 0.01, "fatol": 1e-5, "initial_simplex": simplex}
        return self._read(minimize(loss, start, method="Nelder-Mead", options=options).x, terms)

    def left_out(self, rows: list[PricedModel], by_family: bool = False) -> LeftOut:
        """Return every row as predicted without its model (or its family)."""
        group = family_of if by_family else str
        errors, waiting = np.full(len(rows), np.nan), np.zeros(len(rows))
        widths: list[Array] = [np.empty(0)] * len(rows)
        for name in sorted({group(r.model) for r in rows}):
            here = [i for i, r in enumerate(rows) if group(r.model) == name]
            rest = [r for r in rows if group(r.model) != name]
            if not rest:
                continue
            host, terms = self.fit(rest, self.unseen.get(rows[here[0]].model, self.terms))
            for i in here:
                r = rows[i]
                total = self._total_s(r, host, r.times_s(terms), self._table_s(r))
                errors[i] = np.log(total / r.measured_s)
                waiting[i] = max(total - r.device_s(terms), 0.0) / total
                widths[i] = r.widths(terms, total)
        return LeftOut(errors, widths, waiting)

    def with_convolutions_if_worth(self, rows: list[PricedModel]) -> QueueFit:
        """Return a fit with the factor on convolutions, if families left out of it are predicted better."""
        showing = {r.model for r in rows if (r.run_s * r.counts)[r.conv].sum() > 0.1 * r.run_s @ r.counts}
        if len(showing) < LEAST_MODELS:
            return self
        if len({family_of(r.model) for r in rows}) < 2:
            return self
        more = replace(self, conv=True)
        with_it, without = (np.abs(np.expm1(f.left_out(rows, by_family=True).log_errors)).mean() for f in (more, self))
        return more if with_it <= (1.0 - WORTH) * without else self

    def _read(self, x: Array, terms: WholeModelTerms) -> tuple[Host, WholeModelTerms]:
        values = dict(zip(self.free, np.exp(x).tolist(), strict=True))
        conv = values.pop("conv_fp32", terms.conv_fp32)
        return Host(table_s=self.table, **values), replace(terms, conv_fp32=conv)

    def _table_s(self, row: PricedModel) -> Array:
        unit = Host(table_s=self.table, table_scale=1.0)
        return np.array([unit.call_s(o.op, o.params, o.dtype) for o in row.rows], dtype=np.float64)

    def _total_s(self, row: PricedModel, host: Host, run_s: Array, table_s: Array) -> float:
        """Return eager time: `graphs.estimation.eager_s` on arrays."""
        launch = host.operator_s + host.table_scale * table_s
        if not self.overlap:
            return host.start_s + float((launch + run_s) @ row.counts)
        return queue_s(launch[row.index], (run_s + host.gap_s * (run_s > 0))[row.index], host.start_s)
