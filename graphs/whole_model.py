"""What whole models showed beyond the sum of their operators: corrections and intervals, as fitted and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.errors import ModelFileError
from graphs.estimates import OperatorEstimate
from graphs.hardware.calibration.domain import Domain
from graphs.hardware.calibration.fitted import EfficiencyModel
from graphs.host import Host
from graphs.ops.batch import OperatorGroup

#: Key in the header of a fitted model.
HEADER_KEY = "whole_models"
#: 90 % log error assumed of a call that another machine's domain covers; of a proxy, times its own width.
CARRIED_LOG_ERROR = 0.5
PROXY_WIDTH = 2.0
#: Sources of calls that the corrections are for.
CORRECTABLE = ("model", "proxy")
#: No gap makes a kernel shorter than this share of its predicted time.
LEAST_SHARE = 0.3

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IntervalTerms:
    """90 % interval of whole models: half-width = quantile x difficulty, in log latency.

    The difficulty has a part that all operators share, a part that is independent from one distinct operator to the
    next, a constant, and one for the share of time that the device waits for the host:
    ``sqrt((shared * sum s)^2 + sum s^2 + constant^2 + (waiting * w)^2)``, s = share of time x log half-width of
    the operator.  The quantile is conformal, over rows that were predicted without their model; the other three, few
    values of each, were chosen on all of these rows.
    """

    quantile: float
    shared: float
    constant: float
    waiting: float = 0.0
    rows: int = 0
    models: int = 0

    def difficulty(self, widths: Array, waiting_share: float) -> float:
        """Return the difficulty of one model.

        Parameters
        ----------
        widths : (d,) float64
            Share of the total x log half-width of each distinct operator.
        waiting_share : float
            Of the total.
        """
        return float(
            np.sqrt(
                (self.shared * widths.sum()) ** 2 + (widths**2).sum() + self.constant**2
                + (self.waiting * waiting_share) ** 2
            )
        )  # fmt: skip

    def half_width(self, widths: Array, waiting_share: float) -> float:
        """Return the half-width in log latency (see `difficulty`)."""
        return self.quantile * self.difficulty(widths, waiting_share)


@dataclass(frozen=True)
class WholeModelTerms:
    """Terms of one machine; the empty ones change nothing.

    Attributes
    ----------
    kernel_gap_s : float
        Time between two kernels that the measured operators hold and a sum of kernel durations does not.
    conv_fp32, conv_from_k : float, int
        Factor on dense fp32 convolutions of such a kernel or wider, learnt from measured models.
    host : Host or None
    intervals : dict of str to IntervalTerms
        ``device`` and ``eager``.
    eager_log_error : float
        Older models: 90 % log error of eager time.
    related, domains
        Machine whose rows took part in the fit, and where they lie, by operator kind.
    """

    kernel_gap_s: float = 0.0
    conv_fp32: float = 1.0
    conv_from_k: int = 2
    host: Host | None = None
    intervals: Mapping[str, IntervalTerms] = field(default_factory=dict)
    eager_log_error: float = float("nan")
    related: str = ""
    domains: Mapping[str, Domain] = field(default_factory=dict)

    @classmethod
    def of(cls, model: EfficiencyModel | None) -> WholeModelTerms:
        """Read the terms of a fitted model; a model without them has only what its older header says of eager time.

        Raises
        ------
        ModelFileError
            If the header's terms are incomplete or no usable numbers.
        """
        header = {} if model is None else model.header
        if model is not None and HEADER_KEY in header:
            try:
                terms = cls.from_dict(header[HEADER_KEY])
                terms.check()
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ModelFileError(
                    f"the whole-model terms of the fitted model of {model.hardware} are unusable"
                    f" ({type(error).__name__}: {error})",
                    next_step="restore the folder, or fit it again with `graphs train`",
                ) from error
            return terms
        old = header.get("eager", {})
        if "host_s_per_call" not in old:
            return cls()
        return cls(host=Host.from_dict(old), eager_log_error=float(old.get("lomo_log_error_90", "nan")))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> WholeModelTerms:
        """Read what training wrote (`docs/whole-models.md` names every key)."""
        device, carried = raw.get("device", {}), raw.get("related", {})
        names = IntervalTerms.__dataclass_fields__
        return cls(
            kernel_gap_s=float(device.get("kernel_gap_s", 0.0)),
            conv_fp32=float(device.get("conv_fp32", 1.0)),
            conv_from_k=int(device.get("conv_from_k", 2)),
            host=Host.from_dict(raw["host"]) if "host" in raw else None,
            intervals={
                mode: IntervalTerms(**{k: v for k, v in entry.items() if k in names})
                for mode, entry in raw.get("intervals", {}).items()
            },
            related=str(carried.get("hardware", "")),
            domains={kind: Domain.from_dict(d) for kind, d in carried.get("domains", {}).items()},
        )

    def check(self) -> None:
        """Raise `ValueError` for terms that would make a time negative or unknown."""
        host = self.host or Host()
        numbers = {
            "kernel_gap_s": self.kernel_gap_s, "operator_s": host.operator_s, "table_scale": host.table_scale,
            "start_s": host.start_s, "gap_s": host.gap_s, **host.table_s,
            **{f"{m} {n}": getattr(i, n) for m, i in self.intervals.items() for n in ("quantile", "shared", "constant",
                                                                                     "waiting")},
        }  # fmt: skip
        for name, value in numbers.items():
            if not 0 <= value < np.inf:
                raise ValueError(f"{name} is {value!r}; allowed: a number from 0 up")
        if not 0 < self.conv_fp32 < np.inf:
            raise ValueError(f"conv_fp32 is {self.conv_fp32!r}; allowed: a factor above 0")

    def factors(self, latency_s: Array, conv: NDArray[np.bool_], without_gaps: bool) -> Array:
        """Return latency in a model / latency alone of each call; (n,).

        Parameters
        ----------
        latency_s : (n,) float64
        conv : (n,) bool
            Whether `is_conv_fp32`.
        without_gaps : bool
            Kernel durations alone, as a profiler adds them up.
        """
        factor = np.where(conv, self.conv_fp32, 1.0)
        if not without_gaps:
            return factor
        gap = self.kernel_gap_s / np.maximum(latency_s, 1e-12)
        return np.asarray(np.maximum(factor - gap, LEAST_SHARE * factor))

    def corrected(self, row: OperatorEstimate, without_gaps: bool) -> OperatorEstimate:
        """Return a call as it runs in a model (see `factors`); what no model priced stays as it is."""
        if row.source not in CORRECTABLE:
            return row
        conv = is_conv_fp32(row.op, row.params, row.dtype, self.conv_from_k)
        factor = float(self.factors(np.array([row.latency_s]), np.array([conv]), without_gaps)[0])
        if factor == 1.0:
            return row
        remark = ""
        if conv and self.conv_fp32 != 1.0:
            remark = f"x {self.conv_fp32:.2f}: measured models ran such convolutions faster than they run alone"
        low, high = row.interval_s
        return replace(
            row, latency_s=row.latency_s * factor, interval_s=(low * factor, high * factor),
            efficiency=row.efficiency / factor, compute_efficiency=row.compute_efficiency / factor,
            reason="; ".join(filter(None, (row.reason, remark))),
        )  # fmt: skip

    def carried_over(self, group: OperatorGroup, model: EfficiencyModel) -> Array:
        """Return latencies of calls that only the related machine's rows cover; (n,), NaN elsewhere."""
        nothing = np.full(len(group), np.nan)
        if group.kind.name not in self.domains:
            return nothing
        inside = self.domains[group.kind.name].reasons(group) == ""
        return np.where(inside, model.answer(group, extrapolate=True).latency_s, nothing) if inside.any() else nothing


def is_conv_fp32(op: str, params: Mapping[str, Any], dtype: str, from_k: int) -> bool:
    """Return whether a call is a dense fp32 convolution with a kernel of at least `from_k`."""
    return op == "conv2d" and dtype == "fp32" and params["k"] >= from_k and (params.get("groups") or 1) == 1


def log_half_width(row: OperatorEstimate, default_error: float) -> float:
    """Return the 90 % log error of one call: its own, or what is known of its source."""
    low, high = row.interval_s
    if np.isfinite(low) and low > 0:
        own = 0.5 * float(np.log(high / low))
        return own * PROXY_WIDTH if row.source == "proxy" else own
    return CARRIED_LOG_ERROR if row.source == "proxy" else default_error


def distinct_widths(
    rows: Sequence[OperatorEstimate], index: Sequence[int], total_s: float, default_error: float
) -> Array:
    """Return share of the total x log half-width of each distinct operator; (d,).

    An unmodelled call counts as an average call of which nothing is known.

    Parameters
    ----------
    rows : sequence of OperatorEstimate
        Distinct operators.
    index : sequence of int
        Row of each call.
    total_s : float
    default_error : float
        Log error of a call without an interval.
    """
    if not index or total_s <= 0:
        return np.zeros(0)
    counts = np.bincount(np.asarray(index), minlength=len(rows))
    average = total_s / len(index)
    out = [
        n * (average if r.source == "unmodelled" else r.latency_s * log_half_width(r, default_error))
        for n, r in zip(counts, rows, strict=True)
    ]
    return np.array(out, dtype=np.float64) / total_s
