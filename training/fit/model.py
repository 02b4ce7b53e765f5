"""A whole machine: tables in, fitted model and held-out predictions out."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import sklearn
import torch

import graphs
from graphs import ops
from graphs.errors import DataError
from graphs.hardware.calibration import features
from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.calibration.domain import Domain, effective_dtype
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.fitted import EfficiencyModel, FamilyModel
from graphs.hardware.profile import HardwareProfile, load_profile
from graphs.hardware.roofline import Roofline
from graphs.ops.batch import OperatorGroup
from training.dataset.splits import assign_splits, fold_of
from training.dataset.store import file_hash, read_manifest, read_ops
from training.fit.family import FOLDS, FittedFamily, Rows, fit_family

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model, and its twin that has not seen the held-out rows.

    Attributes
    ----------
    model, twin : EfficiencyModel
    frame : DataFrame
        The measured rows with their `split`.
    """

    model: EfficiencyModel
    twin: EfficiencyModel
    frame: pd.DataFrame


def machine_of(profile: HardwareProfile) -> Machine:
    """Return what features need to know of a machine."""
    return Machine(
        units=profile.compute_units,
        l2_bytes=profile.last_level_cache_bytes,
        peaks={d: profile.peak_flops_per_s(d) for d in profile.peak_dtypes},
        bandwidth_bytes_per_s=profile.bandwidth_bytes_per_s,
        kind="gpu" if profile.kind == "gpu" else "cpu",
    )


def read_frame(profile: HardwareProfile, folder: Path) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Return the measured rows with `split`, the manifest, and what was left out in words."""
    manifest = read_manifest(folder)
    if manifest["hardware"] != profile.id:
        raise DataError(
            f"the data in '{folder}' were measured on other hardware",
            received=manifest["hardware"],
            allowed=profile.id,
            next_step="name the folder of this hardware with --data",
        )
    table = read_ops(folder / "ops.parquet")
    frame = table.frame
    frame["split"] = assign_splits(frame, "gpu" if profile.kind == "gpu" else "cpu")
    notes = [table.summary("ops")] if table.rejected else []
    return frame, manifest, notes


def train_model(hardware: str, data: Path, seed: int = 0, progress: Progress = lambda _: None) -> Trained:
    """Fit the efficiency model of one machine.

    Parameters
    ----------
    hardware : str
        Id of its profile.
    data : Path
        Folder with ``ops.parquet`` and ``manifest.json``.
    seed : int
        Same seed, data and threads give the same model.
    progress : callable
        Receives a line of text now and then.

    Raises
    ------
    UnknownHardwareError, DataError, SchemaVersionError
    """
    profile = load_profile(hardware)
    machine = machine_of(profile)
    frame, manifest, notes = read_frame(profile, data)
    for note in notes:
        progress(note)
    groups = ops.group_operators(frame["op"], frame["dtype"], frame["params"])
    by_family: dict[str, list[OperatorGroup]] = {}
    for group in groups:
        by_family.setdefault(group.kind.family, []).append(group)
    inputs = {name: _rows(frame, some, machine) for name, some in by_family.items()}
    # largest first: the last job then is a short one
    order = sorted(inputs, key=lambda name: -len(inputs[name].x))
    jobs = int(os.environ.get("GRAPHS_JOBS", "0")) or min(os.cpu_count() or 1, 2)
    progress(f"fitting {len(frame)} rows in {len(order)} families, {jobs} at a time")
    fitted: dict[str, FittedFamily] = {}
    results = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
        joblib.delayed(_fit_named)(name, inputs[name], seed) for name in order
    )
    for name, result in results:
        fitted[name] = result
        s = result.scores
        progress(
            f"  [{len(fitted)}/{len(order)}] {name}: {s['rows']} rows, cross-validated median / mean APE"
            f" {100 * s['cv_median_ape']:.1f} / {100 * s['cv_mape']:.1f} %"
        )
    header = {
        "provenance": {
            "data": f"data/{profile.id}",
            "data_sha256": manifest["files"]["ops.parquet"]["sha256"],
            "rows": len(frame),
            "rows_held_out_by_twin": int((frame["split"] != "train").sum()),
            "machine": manifest["machine"],
            "software": manifest["software"],
            "measured": manifest["date"],
            "date": date.today().isoformat(),
            "seed": seed,
            "jobs": jobs,
            "profile_sha256": _profile_hash(hardware),
            "versions": {
                "graphs": graphs.__version__, "python": platform.python_version(), "numpy": np.__version__,
                "scikit-learn": sklearn.__version__, "torch": torch.__version__.split("+")[0],
            },
            "command": f"graphs train --hardware {profile.id}",
        },
        "default_log_error_90": _default_error(frame, profile),
    }  # fmt: skip

    def assemble(which: str) -> EfficiencyModel:
        families = {}
        for name in sorted(by_family):
            f = fitted[name]
            keep = [slice(None)] * len(by_family[name])
            domains = {}
            for group, _ in zip(by_family[name], keep, strict=True):
                seen = group if which == "final" else _train_rows(group, frame)
                if len(seen):
                    domains[group.kind.name] = Domain.of(seen)
            families[name] = FamilyModel(
                family=name,
                t0_s=f.t0_s,
                feature_names=tuple(features.build(by_family[name][0], machine)[0]),
                members=getattr(f, which),
                weights=f.weights,
                interval=f.interval,
                domains=domains,
                scores=f.scores,
            )
        return EfficiencyModel(profile.id, machine, families, dict(header))

    return Trained(assemble("final"), assemble("twin"), frame)


def _fit_named(name: str, rows: Rows, seed: int) -> tuple[str, FittedFamily]:
    return name, fit_family(rows, seed)


def _rows(frame: pd.DataFrame, groups: list[OperatorGroup], machine: Machine) -> Rows:
    at = np.concatenate([g.rows for g in groups])
    some = frame.iloc[at]
    names = features.build(groups[0], machine)[0]
    x = np.concatenate([features.build(g, machine)[1] for g in groups])
    return Rows(
        x=x,
        latency_s=some["median_us"].to_numpy(dtype=np.float64) * 1e-6,
        roofline_s=np.concatenate([machine.attainable_s(g.flops, g.bytes, effective_dtype(g)) for g in groups]),
        fold=np.array(
            [fold_of(o, d, p, FOLDS) for o, d, p in zip(some["op"], some["dtype"], some["params"], strict=True)]
        ),
        train=(some["split"] == "train").to_numpy(),
        labels=features.partitions(groups[0].kind.family, names, x),
    )


def _train_rows(group: OperatorGroup, frame: pd.DataFrame) -> OperatorGroup:
    from graphs.hardware.calibration.fitted import take

    return take(group, (frame["split"].to_numpy()[group.rows] == "train"))


def _default_error(frame: pd.DataFrame, profile: HardwareProfile) -> float:
    """Return the 90 % quantile of |log(measured / default)|: how far off the default is on this machine."""
    peak = profile.peak_array(frame["dtype"].to_numpy(dtype=np.str_))
    flops, nbytes = (frame[c].to_numpy(dtype=np.float64) for c in ("flops", "bytes"))
    default = Roofline.of(flops, nbytes, peak, profile.bandwidth_bytes_per_s).default_s()
    measured = frame["median_us"].to_numpy(dtype=np.float64) * 1e-6
    return round(float(np.quantile(np.abs(np.log(measured / default)), 0.9)), 4)


def _profile_hash(hardware: str) -> str:
    from graphs.hardware import assets

    path = assets.find_asset(f"profiles/{load_profile(hardware).id}.json")
    return file_hash(path) if path else ""


def calibration_with(model: EfficiencyModel) -> HardwareCalibration:
    """Return the calibration of a machine with another fitted model in it."""
    from dataclasses import replace

    return replace(load_calibration(model.hardware), model=model)
