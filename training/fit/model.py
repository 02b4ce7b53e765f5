"""A whole machine: tables in, fitted model and held-out predictions out."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import sklearn
import torch
from threadpoolctl import threadpool_limits

import graphs
from graphs.hardware.calibration import features
from graphs.hardware.calibration.calibration import HardwareCalibration, build_calibration
from graphs.hardware.calibration.domain import Domain
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.fitted import EfficiencyModel, FamilyModel, take
from graphs.hardware.profile import HardwareProfile, load_profile
from graphs.hardware.roofline import Roofline
from graphs.ops.batch import OperatorGroup
from training.dataset.store import file_hash
from training.fit.chosen_margins import margins_for
from training.fit.family import FittedFamily, fit_family
from training.fit.kindred import Kindred
from training.fit.prepare import Table, family_rows, fittable, machine_of, read_frame

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model, and its twin that has not seen the held-out rows.

    Attributes
    ----------
    model, twin : EfficiencyModel
    teacher : EfficiencyModel
        The members that the twin learnt from; the twin itself where nothing was distilled.
    frame : DataFrame
        The measured rows with their `split`.
    """

    model: EfficiencyModel
    twin: EfficiencyModel
    teacher: EfficiencyModel
    frame: pd.DataFrame


def train_model(
    hardware: str,
    data: Path,
    related_data: Path | None = None,
    seed: int = 0,
    distil: bool = True,
    progress: Progress = lambda _: None,
    prior: str | None = None,
) -> Trained:
    """Fit the efficiency model of one machine.

    Parameters
    ----------
    hardware : str
        Id of its profile.
    data : Path
        Folder with ``ops.parquet`` and ``manifest.json``.
    related_data : Path, optional
        Folder of the related machine that the profile names: its other configurations are carried over.
    seed : int
        Same seed, data and threads give the same model.
    distil : bool
        Ship a small network that learnt from the fitted members, instead of the members.
    progress : callable
        Receives a line of text now and then.
    prior : str, optional
        Id of other hardware with measured data, whose rows are carried over by `training.fewshot`; then
        `related_data` is not used.

    Raises
    ------
    UnknownHardwareError, DataError, SchemaVersionError
    """
    profile = load_profile(hardware)
    machine = machine_of(profile)
    frame, manifest, notes = read_frame(profile, data)
    related = None
    if prior is not None:
        from training.fewshot import virtual_table

        related = virtual_table(frame, machine, prior, seed, progress)
    elif related_data is not None and profile.related is not None:
        other, _, more = read_frame(load_profile(profile.related), related_data)
        related, notes = Table.of(other), [*notes, *more]
    for note in notes:
        progress(note)
    table, thin = fittable(Table.of(frame))
    for name, n in thin.items():
        progress(f"{name} is left out, the default answers: {n} training rows are too few to learn from")
    kindred = Kindred.of(profile.id, data)
    order = sorted(table.groups, key=lambda name: -sum(len(g) for g in table.groups[name]))
    jobs = int(os.environ.get("GRAPHS_JOBS", "0")) or min(os.cpu_count() or 1, 2)
    progress(f"fitting {len(frame)} rows in {len(order)} families, {jobs} at a time")
    fitted: dict[str, FittedFamily] = {}
    # largest first: the last job then is a short one
    results = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
        joblib.delayed(_fit_named)(table, name, machine, related, kindred, seed, distil) for name in order
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
            "related": prior or (profile.related if related is not None else None),
            "kindred": kindred.hardware if kindred else None,
            "seed": seed,
            "form": "student" if distil else "members",
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
        for name in sorted(table.groups):
            f, stack = fitted[name], getattr(fitted[name], which)
            domains = {}
            for group in table.groups[name]:
                seen = group if which == "final" else _train_rows(group, frame)
                if len(seen):
                    domains[group.kind.name] = Domain.of(seen, margins_for(name))
            families[name] = FamilyModel(
                family=name,
                t0_s=f.t0_s,
                feature_names=tuple(features.build(table.groups[name][0], machine)[0]),
                members=stack.members,
                weights=stack.weights,
                interval=f.interval,
                domains=domains,
                scores=f.scores,
            )
        return EfficiencyModel(profile.id, machine, families, dict(header))

    return Trained(assemble("final"), assemble("twin"), assemble("teacher"), frame)


def _fit_named(
    table: Table,
    name: str,
    machine: Machine,
    related: Table | None,
    kindred: Kindred | None,
    seed: int,
    distil: bool,
) -> tuple[str, FittedFamily]:
    with threadpool_limits(limits=1):
        rows = family_rows(table, name, machine, related, seed, synthetic=distil)
        if kindred is not None:
            rows = replace(rows, elsewhere=kindred.elsewhere(name, table.groups[name], machine, seed))
        return name, fit_family(rows, seed, distil)


def _train_rows(group: OperatorGroup, frame: pd.DataFrame) -> OperatorGroup:
    return take(group, (frame["split"].to_numpy()[group.rows] == "train"))


def _default_error(frame: pd.DataFrame, profile: HardwareProfile) -> float:
    """Return the 90 % quantile of |log(measured / default)|: how far off the default is on this machine."""
    flops, nbytes = (frame[c].to_numpy(dtype=np.float64) for c in ("flops", "bytes"))
    # moving data needs no arithmetic peak
    peak = np.full(len(frame), np.inf)
    peak[flops > 0] = profile.peak_array(frame["dtype"].to_numpy(dtype=np.str_)[flops > 0])
    default = Roofline.of(flops, nbytes, peak, profile.bandwidth_bytes_per_s).default_s()
    measured = frame["median_us"].to_numpy(dtype=np.float64) * 1e-6
    return round(float(np.quantile(np.abs(np.log(measured / default)), 0.9)), 4)


def _profile_hash(hardware: str) -> str:
    from graphs.hardware import assets

    path = assets.find_asset(f"profiles/{load_profile(hardware).id}.json")
    return file_hash(path) if path else ""


def calibration_with(model: EfficiencyModel) -> HardwareCalibration:
    """Return the calibration of a machine with a model just fitted; the shipped one, perhaps an older, is not read."""
    return build_calibration(load_profile(model.hardware), model)
