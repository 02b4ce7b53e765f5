"""Tables to rows of each family: own measurements, rows of a related machine carried over, synthetic shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import DataError
from graphs.hardware.calibration import features
from graphs.hardware.calibration.domain import effective_dtype
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.fitted import take
from graphs.hardware.profile import HardwareProfile
from graphs.ops.batch import OperatorGroup
from training.dataset.splits import assign_splits, config_key, fold_of, identities
from training.dataset.store import read_manifest, read_ops
from training.fit.family import FOLDS, Rows
from training.fit.synthesis import synthesise
from training.fit.transfer import carry_over

#: Synthetic configurations a family.
SYNTHETIC = 24_000
#: A family with fewer training rows is not fitted: nothing could be said of its error.
LEAST_ROWS = 5


@dataclass(frozen=True, slots=True)
class Table:
    """A measured table in training.

    Attributes
    ----------
    frame : DataFrame
        Checked rows with `split`, `key` (as written) and `identity`.
    groups : dict of str to list of OperatorGroup
        By family; `rows` are positions in `frame`.
    virtual : bool
        The rows are of another machine, their latencies already predicted for this one (`training.fewshot`).
    """

    frame: pd.DataFrame
    groups: dict[str, list[OperatorGroup]]
    virtual: bool = False

    @classmethod
    def of(cls, frame: pd.DataFrame, virtual: bool = False) -> Table:
        """Group a frame; adds the columns `key` and `identity`."""
        keys = [config_key(o, d, p) for o, d, p in zip(frame["op"], frame["dtype"], frame["params"], strict=True)]
        frame = frame.assign(key=keys, identity=identities(frame))
        by_family: dict[str, list[OperatorGroup]] = {}
        for group in ops.group_operators(frame["op"], frame["dtype"], frame["params"]):
            by_family.setdefault(group.kind.family, []).append(group)
        return cls(frame, by_family, virtual)


def fittable(table: Table) -> tuple[Table, dict[str, int]]:
    """Return a table without the families that cannot be cross-validated, and how many training rows those have.

    Raises
    ------
    DataError
        If none is left.
    """
    train = (table.frame["split"] == "train").to_numpy()
    kept, thin = {}, {}
    for name, groups in table.groups.items():
        rows = np.concatenate([g.rows for g in groups])
        own = table.frame.iloc[rows[train[rows]]]
        folds = {fold_of(*row, FOLDS) for row in zip(own["op"], own["dtype"], own["params"], strict=True)}
        if len(own) >= LEAST_ROWS and len(folds) > 1:
            kept[name] = groups
        else:
            thin[name] = len(own)
    if not kept:
        raise DataError(
            "no family of operators has enough rows to learn from",
            received=", ".join(f"{name}: {n}" for name, n in thin.items()), allowed=f">= {LEAST_ROWS} training rows",
            next_step="measure longer: graphs measure --budget 10m",
        )  # fmt: skip
    return replace(table, groups=kept), thin


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
    """Return the measured rows with `split`, the manifest, and what was left out in words.

    Raises
    ------
    DataError, SchemaVersionError
    """
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


def family_rows(
    table: Table, family: str, machine: Machine, related: Table | None, seed: int, synthetic: bool = True
) -> Rows:
    """Return everything one family is fitted on.

    Parameters
    ----------
    table : Table
    family : str
    machine : Machine
    related : Table or None
        Rows of a related machine: configurations that were not measured here are carried over.
    seed : int
    synthetic : bool
        Whether to make shapes for a student.
    """
    groups = table.groups[family]
    own = _part(table, groups, machine)
    x, latency = own.x, own.frame["median_us"].to_numpy(dtype=np.float64) * 1e-6
    parts = [own]
    if related is not None and family in related.groups:
        carried = _carried(table, own, latency, related, family, machine, seed)
        if carried is not None:
            parts.append(carried[0])
            x, latency = np.concatenate([x, carried[0].x]), np.concatenate([latency, carried[1]])
    frame = pd.concat([p.frame for p in parts])
    names = features.build(groups[0], machine)[0]
    train = (frame["split"] == "train").to_numpy()
    seen = [take(g, (table.frame["split"].to_numpy()[g.rows] == "train")) for g in groups]
    return Rows(
        family=family,
        names=tuple(names),
        x=x,
        latency_s=latency,
        roofline_s=np.concatenate([p.roofline_s for p in parts]),
        fold=np.array([fold_of(*row, FOLDS) for row in zip(frame["op"], frame["dtype"], frame["params"], strict=True)]),
        train=train,
        own=np.arange(len(train)) < len(own.x),
        synthetic_x=(
            synthesise([g for g in seen if len(g)], machine, SYNTHETIC, seed)
            if synthetic
            else np.empty((0, x.shape[1]))
        ),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """Features and rooflines of some groups of a table, on one machine."""

    frame: pd.DataFrame
    x: NDArray[np.float64]
    roofline_s: NDArray[np.float64]


def _part(table: Table, groups: list[OperatorGroup], machine: Machine) -> _Part:
    return _Part(
        table.frame.iloc[np.concatenate([g.rows for g in groups])],
        np.concatenate([features.build(g, machine)[1] for g in groups]),
        np.concatenate([machine.attainable_s(g.flops, g.bytes, effective_dtype(g)) for g in groups]),
    )


def _carried(
    table: Table, own: _Part, latency_s: NDArray[np.float64], related: Table, family: str, machine: Machine, seed: int
) -> tuple[_Part, NDArray[np.float64]] | None:
    """Return the related machine's other configurations with virtual latencies of this machine.

    The ratio is learnt on shared configurations of the training split alone, so that nothing held out takes part.
    """
    kinds = {g.kind.name for g in table.groups[family]}
    seconds = related.frame["median_us"].to_numpy(dtype=np.float64) * 1e-6
    there_s = dict(zip(related.frame["identity"], seconds, strict=True))
    shared = ((own.frame["split"] == "train") & own.frame["identity"].isin(there_s)).to_numpy()
    here = set(table.frame["identity"])
    groups = []
    for group in related.groups[family]:
        keys = related.frame["identity"].to_numpy()[group.rows]
        new = np.array([k not in here for k in keys], dtype=bool)
        if group.kind.name in kinds and new.any():
            groups.append(take(group, new))
    if not groups:
        return None
    other = _part(related, groups, machine)
    if related.virtual:
        return other, other.frame["median_us"].to_numpy(dtype=np.float64) * 1e-6
    virtual = carry_over(
        own.x[shared],
        np.array([there_s[k] for k in own.frame["identity"].to_numpy()[shared]]),
        latency_s[shared],
        other.x,
        other.frame["median_us"].to_numpy(dtype=np.float64) * 1e-6,
        seed,
    )
    return (other, virtual) if len(virtual) else None
