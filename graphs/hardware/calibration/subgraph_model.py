"""A fitted model of fused subgraphs: a linear cost of nodes, FLOP and bytes, times what a Gaussian process adds.

``latency = cost * exp(prediction)``.  The cost is a sum over nodes of dispatch, traffic and arithmetic, as the
subgraphs were timed; it carries the sizes, so that the process only has to know how far shapes depart from it.
One process a setting (precision and thermal profile); the settings share points and length scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.errors import ModelFileError, SchemaVersionError
from graphs.hardware.calibration.arrays import pack, replace_file, unpack
from graphs.hardware.calibration.header_checks import parse_header
from graphs.hardware.calibration.regressors import GaussianProcess
from graphs.hardware.calibration.subgraph_features import CLASSES, NAMES, SUBGRAPH_FEATURES_VERSION, Described

FORMAT = "graphs-subgraph-model"
SCHEMA_VERSION = 1
HEADER, ARRAYS, CARD = "subgraphs.json", "subgraphs.npz", "CARD.md"
_INDEX = {name: i for i, name in enumerate(NAMES)}
_WORKING = CLASSES[:5]
#: Columns of the linear cost: seconds per node, call, FLOP and byte.
COST_NAMES = (
    "nodes", "flops", "bytes", "weight bytes", "smooth bytes", *(f"{c} calls" for c in CLASSES),
    *(f"{c} bytes" for c in CLASSES), *(f"flops led by {c}" for c in _WORKING),
)  # fmt: skip
#: What the domain of a kind of subgraph spans, by column of the features.
RANGES = ("nodes", "flops", "bytes", "first rows", "first columns", "first depth", "first groups")
CHOICES = ("first kernel", "first stride")
#: Widening of a measured range, in factors of two: what shapes of networks left out were seen to need.
MARGIN = 1.0
#: A cost below this is no launch of anything, seconds.
LEAST_COST_S = 1e-7


def costs(described: Sequence[Described]) -> NDArray[np.float64]:
    """Return the columns of the linear cost, (n, c)."""
    x = np.stack([d.row for d in described])
    flops, nbytes = (np.array([getattr(d, a) for d in described], dtype=np.float64) for a in ("flops", "nbytes"))

    def linear(name: str) -> NDArray[np.float64]:
        return np.asarray(np.exp2(x[:, _INDEX[name]]) - 1.0)

    columns = [np.array([float(d.nodes) for d in described]), flops, nbytes, linear("weights"), linear("smooth bytes")]
    columns += [x[:, _INDEX[f"{c} count"]] for c in CLASSES]
    columns += [linear(f"{c} bytes") for c in CLASSES]
    columns += [x[:, _INDEX[f"first is {c}"]] * flops for c in _WORKING]
    return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class SubgraphAnswer:
    """What the model says of n subgraphs: seconds, NaN where it has no answer; `reason` says why, else ""."""

    latency_s: NDArray[np.float64]
    low_s: NDArray[np.float64]
    high_s: NDArray[np.float64]
    reason: NDArray[np.object_]


@dataclass(frozen=True)
class Setting:
    """What is fitted for one precision and thermal profile.

    Attributes
    ----------
    cost : (c,) float64
        Seconds per unit of `COST_NAMES`.
    weights : (m,) float64
        Of the process; see `regressors.GaussianProcess`.
    mean : float
    half_width : dict of str to float
        90 % half-width of the log latency by leading class, ``""`` for any other.
    """

    cost: NDArray[np.float64]
    weights: NDArray[np.float64]
    mean: float
    half_width: dict[str, float]


@dataclass(frozen=True)
class SubgraphModel:
    """The subgraph model of one machine.

    Attributes
    ----------
    hardware : str
    default_thermal : str
        Thermal profile that answers when none is named; "" where there is only one.
    points : (m, f) float32
        Standardised features that the processes are conditioned on.
    shift, scale : (f,) float64
    settings : dict of (precision, thermal) to Setting
    domains : dict of str to dict
        By leading class: ``low`` and ``high`` of `RANGES`, ``choices`` of `CHOICES`, and the ``classes`` seen.
    header : dict
        Provenance and scores, as stored.
    """

    hardware: str
    default_thermal: str
    points: NDArray[np.float32]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    settings: dict[tuple[str, str], Setting]
    domains: dict[str, dict[str, Any]]
    header: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def processes(self) -> dict[tuple[str, str], GaussianProcess]:
        return {
            key: GaussianProcess(self.points, s.weights, self.shift, self.scale, s.mean)
            for key, s in self.settings.items()
        }

    def answer(
        self, described: Sequence[Described], precision: str, thermal: str = "", extrapolate: bool = False
    ) -> SubgraphAnswer:
        """Return latencies with 90 % intervals inside the domain (everywhere if `extrapolate`, without intervals)."""
        n = len(described)
        nan = np.full(n, np.nan)
        key = self._key(precision, thermal)
        if key not in self.settings:
            known = ", ".join(" ".join(filter(None, k)) for k in self.settings)
            why = (
                f"subgraphs in {' '.join(filter(None, key))} were never measured on {self.hardware} (measured: {known})"
            )
            return SubgraphAnswer(nan, nan.copy(), nan.copy(), np.full(n, why, dtype=object))
        reason = np.array([self.outside(d) for d in described], dtype=object)
        inside = reason == ""
        asked = np.ones(n, dtype=bool) if extrapolate else inside
        if not asked.any():
            return SubgraphAnswer(nan, nan.copy(), nan.copy(), reason)
        chosen = [d for d, a in zip(described, asked, strict=True) if a]
        setting = self.settings[key]
        log = np.log(np.maximum(costs(chosen) @ setting.cost, LEAST_COST_S))
        log = log + self.processes[key].predict(np.stack([d.row for d in chosen]))
        half = np.array([setting.half_width.get(d.main, setting.half_width[""]) for d in chosen])
        half = np.where(inside[asked], half, np.nan)
        out = [nan, nan.copy(), nan.copy()]
        for array, values in zip(out, (log, log - half, log + half), strict=True):
            array[asked] = np.exp(values)
        return SubgraphAnswer(out[0], out[1], out[2], reason)

    def cost_s(self, described: Sequence[Described], precision: str, thermal: str = "") -> NDArray[np.float64]:
        """Return the linear cost alone, seconds: what calls of one subgraph take in relation to each other."""
        setting = self.settings[self._key(precision, thermal)]
        return np.maximum(costs(described) @ setting.cost, LEAST_COST_S)

    def _key(self, precision: str, thermal: str) -> tuple[str, str]:
        # fp32 was measured with TF32 allowed where the hardware has it; elsewhere tf32 runs as fp32
        return ("fp32" if precision == "tf32" else precision, thermal or self.default_thermal)

    def outside(self, d: Described) -> str:
        """Return why a subgraph is outside the applicability domain, or ""."""
        return outside(self.domains, d, self.hardware)


def domains_of(described: Sequence[Described]) -> dict[str, dict[str, Any]]:
    """Return the domains that measured subgraphs span, by leading class."""
    out: dict[str, dict[str, Any]] = {}
    for main in sorted({d.main for d in described}):
        mine = [d for d in described if d.main == main]
        x = np.stack([d.row for d in mine])
        out[main] = {
            "low": {r: round(float(x[:, _INDEX[r]].min()), 4) for r in RANGES},
            "high": {r: round(float(x[:, _INDEX[r]].max()), 4) for r in RANGES},
            "choices": {c: sorted({round(float(v), 4) for v in x[:, _INDEX[c]]}) for c in CHOICES},
            "classes": sorted({c for d in mine for c in d.classes}),
        }
    return out


def outside(domains: Mapping[str, Mapping[str, Any]], d: Described, hardware: str) -> str:
    """Return why a subgraph is outside these domains, or ""."""
    domain = domains.get(d.main)
    if domain is None:
        return f"subgraphs led by {d.main} were never measured on {hardware}"
    if unseen := set(d.classes) - set(domain["classes"]):
        return f"subgraphs led by {d.main} were never measured with {', '.join(sorted(unseen))} on {hardware}"
    for name in CHOICES:
        value = round(float(d.row[_INDEX[name]]), 4)
        if value not in domain["choices"][name]:
            seen = ", ".join(f"{2.0**v:.3g}" for v in domain["choices"][name])
            return f"{name} {2.0**value:.3g} was never measured (measured: {seen})"
    for name in RANGES:
        value, low, high = float(d.row[_INDEX[name]]), domain["low"][name], domain["high"][name]
        # rounding of the stored range is no reason
        if value > high + MARGIN + 1e-3:
            return f"{name} is {2.0 ** (value - high):.3g}x above the largest measured (margin {2.0**MARGIN:.3g}x)"
        if value < low - MARGIN - 1e-3:
            return f"{name} is {2.0 ** (low - value):.3g}x below the smallest measured (margin {2.0**MARGIN:.3g}x)"
    return ""


def save_subgraphs(model: SubgraphModel, folder: Path) -> None:
    """Write header and arrays; the bytes depend on the model alone."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {"points": model.points, "shift": model.shift, "scale": model.scale}
    settings = []
    for i, ((precision, thermal), s) in enumerate(model.settings.items()):
        arrays |= {f"{i}/cost": s.cost, f"{i}/weights": s.weights, f"{i}/mean": np.array(s.mean)}
        settings.append({"precision": precision, "thermal": thermal, "half_width": s.half_width})
    blob, digest = pack(arrays)
    header = {
        "format": FORMAT, "schema_version": SCHEMA_VERSION, "features_version": SUBGRAPH_FEATURES_VERSION,
        "hardware": model.hardware, "default_thermal": model.default_thermal, "arrays_sha256": digest,
        "settings": settings, "domains": model.domains, "report": model.header,
    }  # fmt: skip
    text = json.dumps(header, indent=1, allow_nan=False) + "\n"
    replace_file(folder / ARRAYS, blob)
    replace_file(folder / HEADER, text.encode())


def load_subgraphs(folder: Path) -> SubgraphModel:
    """Load a fitted model.

    Raises
    ------
    ModelFileError
        If a file is missing, damaged, or not a subgraph model.
    SchemaVersionError
        If it was written by another version of this package.
    """
    again = "restore the folder, or fit it again with `python -m training.subgraphs train`"
    try:
        header = parse_header((folder / HEADER).read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']!r}")
        for key, known in (("schema_version", SCHEMA_VERSION), ("features_version", SUBGRAPH_FEATURES_VERSION)):
            if header[key] != known:
                raise SchemaVersionError(
                    f"subgraph model '{folder}' has another {key}", received=header[key], allowed=known, next_step=again
                )
        a = unpack(
            (folder / ARRAYS).read_bytes(),
            header["arrays_sha256"],
            str(folder),
            "restore the folder, or fit the model again",
        )
        settings = {
            (s["precision"], s["thermal"]): Setting(
                a[f"{i}/cost"].astype(np.float64), a[f"{i}/weights"].astype(np.float64), float(a[f"{i}/mean"]),
                {k: float(v) for k, v in s["half_width"].items()},
            )
            for i, s in enumerate(header["settings"])
        }  # fmt: skip
        return SubgraphModel(
            str(header["hardware"]), str(header["default_thermal"]), a["points"], a["shift"], a["scale"], settings,
            header["domains"], header["report"],
        )  # fmt: skip
    except ModelFileError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(
            f"subgraph model '{folder}' cannot be read ({type(error).__name__}: {error})", next_step=again
        ) from error
