"""Fit the model of one SKU on public measurements and write it: profile, arrays, header and card."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

import graphs
from graphs.errors import ProfileError
from graphs.hardware import assets
from graphs.hardware.calibration.artifact import ARRAYS, CARD, save_model
from graphs.hardware.calibration.domain import effective_dtype
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.fitted import EfficiencyModel, FamilyModel, take
from graphs.hardware.profile import from_dict
from graphs.hardware.roofline import DEFAULT_EFFICIENCY
from training.external.baselines import affine, neighbours
from training.external.compact import Measured, fit_final, fit_twin
from training.external.skus import Sku, files, find, measured
from training.external.source import AICONFIGURATOR
from training.fit.prepare import machine_of
from training.validate.metrics import metrics

Array = NDArray[np.float64]

#: What a profile of a machine alone holds that is not true of the machine with another software.
_OWN = ("aliases", "data", "related", "model", "measured", "calibration")
#: What the profile of an AIConfigurator SKU says of what its model leaves out.
LIMITS = (
    "The fitted model answers bf16 linear layers and bf16 attention over all keys (causal prompts and decoding steps)."
    " The source also measured fp8 and sliding windows; docs/validation scores models of them, but none is shipped:"
    " fp8 is answered by the 20 % default where the machine has such units, and an attention with a window is no"
    " operator here."
)


def ship(name: str, data: Path | None, out: Path, seed: int = 0) -> dict[str, Any]:
    """Fit a SKU and write ``out/<id>/`` and ``out/../profiles/<id>.json``; return its scores.

    Raises
    ------
    UnknownHardwareError, DataError, ProfileError
    """
    sku = find(name)
    raw = profile_of(sku)
    profile = from_dict(raw, origin=sku.id)
    machine = machine_of(profile)
    rows = measured(sku, data)
    twins = {f: fit_twin(f, kinds, machine, seed) for f, kinds in sorted(rows.items())}
    scores = score(EfficiencyModel(sku.id, machine, twins), rows)
    families = {f: fit_final(twin, rows[f], machine, seed) for f, twin in twins.items()}
    header: dict[str, Any] = {
        "provenance": {
            "data": sku.source.title,
            "data_sha256": ", ".join(sku.source.provenance(files(sku, data))["files"].values()),
            **sku.source.provenance(files(sku, data)),
            "rows": sum(len(m.latency_s) for kinds in rows.values() for m in kinds),
            "machine": {"device": profile.name, "kind": profile.kind},
            "software": sku.software,
            "measured": f"before {sku.source.date}",
            "date": date.today().isoformat(),
            "seed": seed,
            "form": "two boosted ensembles a family",
            "versions": {
                "graphs": graphs.__version__, "python": platform.python_version(), "numpy": np.__version__,
                "scikit-learn": sklearn.__version__,
            },
            "command": f"python -m training.external --fit {sku.id} --out models",
        },
        "default_log_error_90": _default_error(rows, machine),
        "scores": scores,
    }  # fmt: skip
    folder = out / sku.id
    save_model(EfficiencyModel(sku.id, machine, families, header), folder)
    (folder / CARD).write_text(card(sku, profile.name, families, header), encoding="utf-8")
    target = out.parent / "profiles" / f"{sku.id}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    a = scores["held_out"]["all"]
    print(
        f"{sku.id}: {header['provenance']['rows']} rows, {(folder / ARRAYS).stat().st_size / 1e3:.0f} kB,"
        f" held out median/mean APE {100 * a['median_ape']:.1f}/{100 * a['mape']:.1f} %,"
        f" interval {100 * a['interval_coverage']:.0f} %", flush=True,
    )  # fmt: skip
    return scores


def profile_of(sku: Sku) -> dict[str, Any]:
    """Return the profile of the machine with this software: the base's peaks, and the pointer to this model."""
    path = assets.find_asset(f"profiles/{sku.base}.json")
    if path is None:
        raise ProfileError(f"no profile '{sku.base}'", received=sku.base, next_step="add profiles/ for the base first")
    base = json.loads(path.read_text(encoding="utf-8"))
    software = ", ".join(f"{k} {v}" for k, v in sku.software.items())
    raw = {k: v for k, v in base.items() if k not in _OWN}
    aliases = [f"v100-pcie-16gb+{sku.id.split('+')[1]}"] if sku.base == "v100-pcie-32gb" else []
    notes = [
        f"The machine is that of '{sku.base}'; the fitted model is of {software} as {sku.source.title} measured it"
        f" ({sku.source.method}).",
    ]
    if sku.source is AICONFIGURATOR:
        notes.append(LIMITS)
    if aliases:
        notes.append("Measured on the 32 GB card; the 16 GB card has the same units, clocks and bandwidth.")
    return raw | {
        "id": sku.id, "name": f"{base['name']} ({software})", "base": sku.base, "model": f"models/{sku.id}",
        "aliases": aliases, "notes": [*base.get("notes", ()), *notes],
    }  # fmt: skip


def score(twin: EfficiencyModel, rows: Mapping[str, list[Measured]]) -> dict[str, Any]:
    """Return held-out figures of the twin of the shipped model, in the words of the package's summaries."""
    machine = twin.machine
    every: dict[str, list[Array]] = {}
    op_of: list[str] = []
    for m in (m for kinds in rows.values() for m in kinds):
        group = take(m.group, m.held)
        answer = twin.answer(group)
        compute = group.flops / machine.peak_flops_per_s(effective_dtype(group))
        default = np.maximum(compute / DEFAULT_EFFICIENCY, group.bytes / machine.bandwidth_bytes_per_s)
        inside = answer.source == "model"
        columns = {
            "measured": m.latency_s[m.held], "low": answer.low_s, "high": answer.high_s,
            "model": np.where(inside, answer.latency_s, default), "default_20pct": default,
            "fallback": (~inside).astype(np.float64), **_baselines(m, m.held, machine),
        }  # fmt: skip
        for name, column in columns.items():
            every.setdefault(name, []).append(column)
        op_of += [m.group.kind.name] * len(group)
    table = {name: np.concatenate(parts) for name, parts in every.items()}
    operators = np.array(op_of)

    def figures(mask: NDArray[np.bool_], method: str = "model") -> dict[str, Any]:
        bounds = (table["low"][mask], table["high"][mask]) if method == "model" else (None, None)
        out = metrics(table["measured"][mask], table[method][mask], *bounds)
        if method == "model":
            away = float(table["fallback"][mask].mean()) if mask.any() else 0.0
            out["source_share"] = {"model": 1.0 - away, "default": away}
        return out

    everything = np.ones(len(operators), dtype=bool)
    whole = figures(everything)
    return {
        "held_out": {
            "all": whole,
            "by_split": {"random": whole},
            "by_op": {o: figures(operators == o) for o in np.unique(operators).tolist()},
        },
        "baselines": {b: figures(everything, b) for b in ("default_20pct", "roofline", "affine", "lookup")},
        "noise": {},
    }


def _baselines(m: Measured, held: NDArray[np.bool_], machine: Machine) -> dict[str, Array]:
    roofline = machine.attainable_s(m.group.flops, m.group.bytes, effective_dtype(m.group))
    g, seen = m.group, ~held
    dims = np.column_stack([np.log2(c) for n, c in g.params.items() if c.dtype.kind == "f" and (c > 0).all()])
    log_efficiency = np.log(roofline / m.latency_s)
    return {
        "roofline": roofline[held],
        "affine": affine(g.flops[seen], g.bytes[seen], m.latency_s[seen], g.flops[held], g.bytes[held]),
        "lookup": roofline[held] / np.exp(neighbours(dims[seen], log_efficiency[seen], dims[held])),
    }


def _default_error(rows: Mapping[str, list[Measured]], machine: Machine) -> float:
    """Return the 90 % quantile of |log(measured / default)|."""
    errors = []
    for m in (m for kinds in rows.values() for m in kinds):
        compute = m.group.flops / machine.peak_flops_per_s(effective_dtype(m.group))
        default = np.maximum(compute / DEFAULT_EFFICIENCY, m.group.bytes / machine.bandwidth_bytes_per_s)
        errors.append(np.abs(np.log(m.latency_s / default)))
    return round(float(np.quantile(np.concatenate(errors), 0.9)), 4)


def card(sku: Sku, title: str, families: Mapping[str, FamilyModel], header: Mapping[str, Any]) -> str:
    """Return CARD.md."""
    p, held = header["provenance"], header["scores"]["held_out"]
    lines = [
        "---", f"license: {sku.source.licence}", "tags: [latency, efficiency, calibration, gpu]", f"hardware: {sku.id}",
        "metrics: [median_ape, mape]", "---", "", f"# Efficiency model of {title}", "",
        f"Fitted on {p['rows']} measurements of {sku.source.title} ({sku.source.repository}, commit"
        f" {sku.source.commit}, {sku.source.date}, licence {sku.source.licence}); its rows are not part of this"
        f" repository. {sku.source.method[0].upper()}{sku.source.method[1:]}.",
        f"Rebuild it with `{p['command']} --data DIR`, where DIR holds `{sku.source.name}/`.", "",
        "It predicts `(t0 + roofline time) * exp(prediction)`, the prediction being the mean of two boosted ensembles:",
        "",
        *(f"- {f.family}: {', '.join(sorted(f.domains))} ({f.scores['rows']} rows)" for f in families.values()), "",
        "Operators, dtypes and sizes outside this are answered by the 20 % default, which says so. The source does not"
        " record whether linear layers had a bias: both are answered.", "",
        "## Held-out rows", "",
        "20 % of the configurations at random, predicted by a twin: the same recipe and size, fitted without them."
        " Errors are |predicted / measured - 1|; larger models and harder splits are in `docs/validation`.", "",
        "| operator | rows | median | mean | p90 | 90 % interval holds | default |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    lines += [_line(op, f) for op, f in {"all": held["all"], **held["by_op"]}.items()]
    lines += ["", "## Baselines (same rows)", "", "| method | median | mean |", "| --- | ---: | ---: |"]
    for name, f in {"model": held["all"], **header["scores"]["baselines"]}.items():
        lines.append(f"| {name} | {_percent(f['median_ape'])} | {_percent(f['mape'])} |")
    return "\n".join(lines) + "\n"


def _line(op: str, f: Mapping[str, Any]) -> str:
    cells = [_percent(f[k]) for k in ("median_ape", "mape", "p90_ape", "interval_coverage")]
    return f"| {op} | {f['n']} | {' | '.join(cells)} | {_percent(f['source_share']['default'])} |"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
