"""The applicability domain: which queries lie within what was measured, and by how much others do not.

A query is inside if its operator kind, dtype and every discrete parameter were measured, and if each of its
physical quantities lies within the measured range widened by a margin.  The quantities are those that time depends
on (work, traffic, intensity, parallel and sequential extent), not the raw dimensions.  Training reads the margins off
rows held out at the extremes (`training.fit.margins`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.memory import permuted_runs
from graphs.ops.batch import OperatorGroup

#: Margin on each side of the measured range, in factors of two, unless training chose another.
DEFAULT_MARGIN = 3.0
#: Margins below and above a measured range, in factors of two.
Margin = tuple[float, float]
#: Integer parameters that select another algorithm rather than a size.
DISCRETE = {
    "conv2d": ("k", "kw", "stride", "pad", "padw"),
    "dwconv2d": ("k", "kw", "stride", "pad", "padw"),
    # kernels are compiled for a head size: between two measured ones the error is three times the usual
    "sdpa": ("d",),
    "sdpa_decode": ("d",),
    "nchw": ("k", "stride", "pad", "scale", "groups"),
}


def effective_dtype(group: OperatorGroup) -> NDArray[np.str_]:
    """Return dtypes with tf32 as fp32 for kinds without matrix units, which run the same kernels for both."""
    if group.kind.uses_matrix_units:
        return group.dtype
    return np.where(group.dtype == "tf32", "fp32", group.dtype)


def discrete_params(group: OperatorGroup) -> list[str]:
    """Return the parameters whose values must have been measured."""
    chosen = DISCRETE.get(group.kind.family, ())
    return [p.name for p in group.kind.params if p.type in (bool, str)] + [
        p.name for p in group.kind.params if p.type is int and p.name in chosen
    ]


def physical(group: OperatorGroup) -> dict[str, NDArray[np.float64]]:
    """Return the log2 of the physical quantities of each call, by name.

    Bytes; FLOP where they are not proportional to them; arithmetic intensity where matrix units may take part; and for
    the kinds with a structure of their own its parallel and sequential extents.
    """
    p, out = group.params, {}
    if np.all(group.flops > 0) and group.kind.family not in ("unary", "binary"):
        out["flops"] = group.flops
    if group.kind.uses_matrix_units:
        out["arithmetic intensity"] = group.flops / group.bytes
    out["bytes"] = group.bytes
    family = group.kind.family
    if family == "gemm":
        b = p.get("b", np.ones(len(group)))
        out["output elements"] = b * p["m"] * p["n"]
        out["k"] = p["k"]
        out["m"], out["n"] = p["m"], p["n"]
    elif family in ("sdpa", "sdpa_decode"):
        out["parallel rows b*h*s"] = p["b"] * p["h"] * p.get("s", np.ones(len(group)))
        out["queries s"] = p.get("s", np.ones(len(group)))
        out["keys skv"] = p["skv"]
        if family == "sdpa":
            # few queries on many keys leave other units idle than as many keys as queries do
            out["keys a query skv/s"] = p["skv"] / p["s"]
        out["heads a group h/hkv"] = p["h"] / p["hkv"]
    elif family == "rowwise":
        out["rows"] = p["rows"]
        out["columns"] = p["cols"]
    elif family in ("conv2d", "dwconv2d"):
        out["elements read and written"] = group.bytes / group.itemsize
        out["groups"] = p.get("groups", np.ones(len(group)))
        out["channels a group"] = p["c"] / out["groups"]
        out["filters a group"] = p["o"] / out["groups"]
        if family == "dwconv2d":
            # a dense convolution is a matrix product over all pixels of all images: one image's size is no limit
            out["pixels h*w"] = p["h"] * p["w"]
    elif family == "nchw":
        out["planes n*c"] = p["n"] * p["c"]
        out["pixels h*w"] = p["h"] * p["w"]
    elif family in ("binary", "mem"):
        out |= _layout(group)
    return {name: np.log2(np.maximum(v, 1e-12)) for name, v in out.items()}


def _layout(group: OperatorGroup) -> dict[str, NDArray[np.float64]]:
    """Return what the time of a broadcast or a move depends on beside its bytes: extents, parts, tables, runs."""
    p, out = group.params, {}
    if "cols" in p:
        out["rows"], out["columns"] = p["rows"], p["cols"]
    if "h" in p and "w" in p:
        out["pixels h*w"] = p["h"] * p["w"]
    if "d" in p:
        out["run d"] = p["d"]
    if "vocab" in p:
        out["table rows"], out["columns"] = p["vocab"], p["dim"]
    if "parts" in p:
        out["parts"] = p["parts"]
    if "c" in p and p["c"].dtype == object:
        out["parts"] = np.array([len(c) for c in p["c"]], dtype=np.float64)
    if "perm" in p:
        runs = [permuted_runs(s, q) for s, q in zip(p["shape"], p["perm"], strict=True)]
        out["contiguous run"] = np.array([min(r[1:3]) for r in runs], dtype=np.float64)
    return out


@dataclass(frozen=True, slots=True)
class Domain:
    """Support of the measured rows of one operator kind.

    Attributes
    ----------
    dtypes : tuple of str
    choices : dict of str to tuple
        Measured values of each discrete parameter.
    low, high : dict of str to float
        Measured range of each quantity of `physical`, log2.
    margin : dict of str to (float, float)
        Widening of that range below and above, in factors of two; 0 where the measured rows do not vary at all.
    """

    dtypes: tuple[str, ...]
    choices: dict[str, tuple[Any, ...]]
    low: dict[str, float]
    high: dict[str, float]
    margin: dict[str, Margin]

    @classmethod
    def of(cls, group: OperatorGroup, margin: Mapping[str, float | Sequence[float]] | None = None) -> Domain:
        """Return the domain spanned by measured calls of one kind.

        Parameters
        ----------
        group : OperatorGroup
        margin : mapping of str to float or (float, float), optional
            Factors of two on both sides, or below and above; `DEFAULT_MARGIN` for quantities left out.
        """
        quantities = physical(group)
        margin = margin or {}
        # What was never varied is as good as a parameter of one value.
        fixed = {n for n, v in quantities.items() if len(v) > 1 and float(v.max() - v.min()) < 1e-9}
        return cls(
            dtypes=tuple(sorted(set(effective_dtype(group).tolist()))),
            choices={
                name: tuple(sorted({_plain(v) for v in group.params[name].tolist()}, key=str))
                for name in discrete_params(group)
            },
            # rounded outwards: a measured row is inside its own domain
            low={n: math.floor(float(v.min()) * 1e6) / 1e6 for n, v in quantities.items()},
            high={n: math.ceil(float(v.max()) * 1e6) / 1e6 for n, v in quantities.items()},
            margin={n: (0.0, 0.0) if n in fixed else _pair(margin.get(n, DEFAULT_MARGIN)) for n in quantities},
        )

    def reasons(self, group: OperatorGroup) -> NDArray[np.object_]:
        """Return for each call why it is outside, or ``""`` where it is inside; (n,) object."""
        out = np.full(len(group), "", dtype=object)
        dtype = effective_dtype(group)
        self._mark(
            out, ~np.isin(dtype, self.dtypes),
            lambda i: f"dtype {dtype[i]} of {group.kind.name} was never measured here (measured: {_join(self.dtypes)})",
        )  # fmt: skip
        for name, measured in self.choices.items():
            column = group.params[name]
            # tolist() gives plain values, NaN (a parameter left out) as None
            unseen = np.array([_plain(v) not in measured for v in column.tolist()], dtype=bool)
            self._mark(
                out, unseen,
                lambda i, name=name, column=column, measured=measured: (
                    f"{name}={_plain(column[i])} of {group.kind.name} was never measured here"
                    f" (measured: {_join(measured)})"
                ),
            )  # fmt: skip
        for name, value in physical(group).items():
            if name not in self.low:  # a model fitted before this quantity was thought of
                continue
            low, high, (below, above) = self.low[name], self.high[name], self.margin[name]
            self._mark(
                out, value > high + above,
                lambda i, n=name, v=value, h=high, m=above: (
                    f"{n} {_number(v[i])} is {_factor(v[i] - h)} above the largest measured,"
                    f" {_number(h)} (margin {_factor(m)})"
                ),
            )  # fmt: skip
            self._mark(
                out, value < low - below,
                lambda i, n=name, v=value, lo=low, m=below: (
                    f"{n} {_number(v[i])} is {_factor(lo - v[i])} below the smallest measured,"
                    f" {_number(lo)} (margin {_factor(m)})"
                ),
            )  # fmt: skip
        return out

    @staticmethod
    def _mark(out: NDArray[np.object_], outside: NDArray[np.bool_], text: Any) -> None:
        for i in np.flatnonzero(outside):
            if not out[i]:
                out[i] = text(i)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the model's header."""
        return {
            "dtypes": list(self.dtypes), "choices": {k: list(v) for k, v in self.choices.items()},
            "low": self.low, "high": self.high, "margin": {n: list(m) for n, m in self.margin.items()},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Domain:
        return cls(
            tuple(raw["dtypes"]), {k: tuple(v) for k, v in raw["choices"].items()},
            dict(raw["low"]), dict(raw["high"]), {n: _pair(m) for n, m in raw["margin"].items()},
        )  # fmt: skip


def _pair(margin: float | Sequence[float]) -> Margin:
    if isinstance(margin, Sequence):
        below, above = margin
        return float(below), float(above)
    return float(margin), float(margin)


def _plain(value: Any) -> Any:
    """Return a parameter value as JSON would give it back: whole floats as ints, NaN (left out) as None."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def _join(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _number(log2_value: float) -> str:
    return f"{2.0 ** float(log2_value):.3g}"


def _factor(log2_ratio: float) -> str:
    return f"{2.0 ** float(log2_ratio):.3g}x"
