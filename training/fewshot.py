"""A model of one machine from few rows, with the fitted knowledge of another as prior.

    log latency here = log (latency there x roofline here / roofline there) + residual

The residual is learnt by a Gaussian process over few physical features that all operator kinds share, so that 50 rows
of 28 kinds say something of every kind (`training.fit.residual`).

What "latency there" is must be honest, for most configurations of a second machine were measured on the first one too.
Held-out configurations get the prediction of the prior's twin, which was fitted without them; configurations that the
prior's table does not have, that of the shipped model.  Only where the residual is learnt, on training configurations,
may it be the latency measured there.

``python -m training.fewshot_report`` writes the learning curves into docs/few-shot.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs import ops
from graphs.errors import ModelFileError
from graphs.hardware import assets
from graphs.hardware.calibration.calibration import HardwareCalibration, load_calibration
from graphs.hardware.calibration.domain import effective_dtype
from graphs.hardware.calibration.features import Machine
from graphs.hardware.profile import load_profile
from training.dataset.splits import identities
from training.fit.prepare import Table, machine_of, read_frame
from training.fit.residual import Residual, fit_residual
from training.validate import holdout
from training.validate.sources import data_folder

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the prior's machine.

    Attributes
    ----------
    machine : Machine
    calibration : HardwareCalibration
        With the shipped model.
    measured_s : dict of str to float
        Training rows by `identity`.
    twin_s : dict of str to float
        Held-out rows, as the twin predicted them.
    frame : DataFrame
        All rows, with `split`.
    """

    machine: Machine
    calibration: HardwareCalibration
    measured_s: dict[str, float]
    twin_s: dict[str, float]
    frame: pd.DataFrame


def known_of(hardware: str) -> Known:
    """Return what is known of hardware with measured data and a fitted model.

    Raises
    ------
    ModelFileError, DataError, UnknownHardwareError
    """
    profile = load_profile(hardware)
    calibration = load_calibration(hardware)
    folder = assets.find_asset(profile.model or "")
    if calibration.model is None or folder is None:
        raise ModelFileError(f"'{hardware}' has no fitted model to start from", next_step="see `graphs hardware`")
    frame, _, _ = read_frame(profile, data_folder(profile, None))
    held_out = holdout.read(folder, frame)
    train = frame[frame["split"] == "train"]
    return Known(
        machine_of(profile),
        calibration,
        dict(zip(identities(train), train["median_us"].to_numpy(dtype=np.float64) * 1e-6, strict=True)),
        dict(zip(identities(held_out), held_out["extrapolated_s"].to_numpy(dtype=np.float64), strict=True)),
        frame,
    )


@dataclass(frozen=True, slots=True)
class Prior:
    """What the prior says of n configurations.

    Attributes
    ----------
    there_s : (n,) float64
        Latency on the prior's machine; NaN for families that were not measured there.
    t0_s : (n,) float64
        Fixed cost of a call of that family there.
    roofline_there_s : (n,) float64
    """

    there_s: Array
    t0_s: Array
    roofline_there_s: Array

    def of_rows(self, some: NDArray[np.bool_]) -> Prior:
        """Return what it says of some of the configurations."""
        return Prior(self.there_s[some], self.t0_s[some], self.roofline_there_s[some])


def prior_of(known: Known, target: pd.DataFrame) -> Prior:
    """Return what the prior says of the rows of `target` (op, dtype, params, split)."""
    model = known.calibration.model
    assert model is not None
    n = len(target)
    out = Prior(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
    unseen = holdout.predict(target, known.calibration)["extrapolated_s"].to_numpy(dtype=np.float64)
    for group in ops.group_operators(target["op"], target["dtype"], target["params"]):
        family = model.families.get(group.kind.family)
        if family is None or group.kind.name not in family.domains:
            continue
        out.there_s[group.rows], out.t0_s[group.rows] = unseen[group.rows], family.t0_s
        out.roofline_there_s[group.rows] = known.machine.attainable_s(group.flops, group.bytes, effective_dtype(group))
    for i, (key, split) in enumerate(zip(identities(target), target["split"], strict=True)):
        # The shipped model has seen the prior's whole table: for its rows it must not be asked.
        seen = known.measured_s if split == "train" else known.twin_s
        if np.isfinite(out.there_s[i]) and (key in known.measured_s or key in known.twin_s):
            out.there_s[i] = seen.get(key, np.nan)
    return out


@dataclass(frozen=True, slots=True)
class Shared:
    """Features that all kinds share, and the roofline time, of n configurations on one machine.

    `x` (n, 3) holds log compute time, log memory time and log working set against the cache; `groups` (n, 3) family,
    kind and dtype as integers.
    """

    x: Array
    groups: NDArray[np.int64]
    roofline_s: Array


def shared_features(frame: pd.DataFrame, machine: Machine) -> Shared:
    """Return the physical features of the rows of `frame`."""
    n = len(frame)
    compute, memory, cache = np.empty(n), np.empty(n), np.empty(n)
    groups = np.empty((n, 3), dtype=np.int64)
    kinds = ops.kinds()
    families = sorted({k.family for k in kinds.values()})
    for group in ops.group_operators(frame["op"], frame["dtype"], frame["params"]):
        peak = np.array([machine.peaks.get(d, machine.peaks["fp32"]) for d in effective_dtype(group)])
        compute[group.rows] = np.maximum(group.flops, 1.0) / peak
        memory[group.rows] = group.bytes / machine.bandwidth_bytes_per_s
        cache[group.rows] = group.bytes / max(machine.l2_bytes, 1.0)
        groups[group.rows, 0] = families.index(group.kind.family)
        groups[group.rows, 1] = list(kinds).index(group.kind.name)
    dtypes = ("fp32", "tf32", "bf16", "fp16")
    groups[:, 2] = [dtypes.index(d) if d in dtypes else len(dtypes) for d in frame["dtype"]]
    return Shared(np.log(np.column_stack([compute, memory, cache])), groups, np.maximum(compute, memory))


def base_log_s(prior: Prior, here: Shared) -> Array:
    """Return the log latency here that the prior and the two rooflines alone would say, (n,)."""
    ratio = (prior.t0_s + here.roofline_s) / (prior.t0_s + prior.roofline_there_s)
    return np.asarray(np.log(prior.there_s * ratio))


def learnt(here: Shared, base: Array, latency_s: Array, some: NDArray[np.int64], seed: int = 0) -> Residual:
    """Return the residual learnt from the rows `some` (indices)."""
    return fit_residual(_inputs(here, base, some), here.groups[some], np.log(latency_s[some]) - base[some], seed)


def latency_with(residual: Residual, here: Shared, base: Array, some: NDArray[np.int64]) -> Array:
    """Return predicted seconds of the rows `some` (indices)."""
    return np.asarray(np.exp(base[some] + residual.predict(_inputs(here, base, some), here.groups[some])))


def _inputs(here: Shared, base: Array, some: NDArray[np.int64]) -> Array:
    """Return the features, the time that is known beforehand, and what it exceeds the roofline by: (n, 5).

    The last one is the efficiency that the prior tells: calls that are bound by launch, by memory or by compute there
    carry over to another machine in different ways.
    """
    return np.column_stack([here.x[some], base[some], base[some] - np.log(here.roofline_s[some])])


def virtual_table(
    frame: pd.DataFrame, machine: Machine, prior: str, seed: int = 0, report: Callable[[str], None] = lambda _: None
) -> Table:
    """Return the prior machine's rows with the latencies that this machine is predicted to have.

    Parameters
    ----------
    frame : DataFrame
        Rows measured here, with `split`; the residual is learnt on those of ``train``.
    machine : Machine
        This one.
    prior : str
        Hardware id with measured data.
    """
    known = known_of(prior)
    own = frame[frame["split"] == "train"].reset_index(drop=True)
    said, here = prior_of(known, own), shared_features(own, machine)
    base = base_log_s(said, here)
    rows = np.flatnonzero(np.isfinite(base))
    report(f"residual against {prior} from {len(rows)} rows")
    residual = learnt(here, base, own["median_us"].to_numpy(dtype=np.float64) * 1e-6, rows, seed)
    there = known.frame[known.frame["dtype"].isin(machine.peaks)].reset_index(drop=True)
    query = shared_features(there, machine)
    exact = prior_of(known, there)
    # Carried over is what was measured there, not what was predicted of it.
    exact.there_s[:] = there["median_us"].to_numpy(dtype=np.float64) * 1e-6
    virtual = latency_with(residual, query, base_log_s(exact, query), np.arange(len(there)))
    good = np.isfinite(virtual)
    return Table.of(there.assign(median_us=1e6 * virtual)[good].reset_index(drop=True), virtual=True)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a learning curve: rows learnt from, and errors on held-out rows (fractions)."""

    rows: int
    median_ape: float
    mape: float
    bias: float


def learning_curve(
    frame: pd.DataFrame, machine: Machine, prior: Prior | None, counts: Sequence[int], seeds: Sequence[int] = (0, 1, 2)
) -> list[Point]:
    """Return errors on held-out rows after learning from `counts` random training rows; means over `seeds`.

    Without `prior` the same learner starts from the roofline instead, plus the fixed cost of a call that the chosen
    rows show.  0 rows: the prior alone, or the roofline alone.  All held-out rows that the prior answers are scored.
    """
    here = shared_features(frame, machine)
    latency = frame["median_us"].to_numpy(dtype=np.float64) * 1e-6

    def base_from(some: NDArray[np.int64]) -> Array:
        if prior is not None:
            return base_log_s(prior, here)
        t0 = float(np.quantile(latency[some], 0.01)) if len(some) else 0.0
        return np.asarray(np.log(t0 + here.roofline_s))

    known = np.isfinite(base_from(np.empty(0, dtype=np.int64)))
    train = np.flatnonzero((frame["split"] == "train").to_numpy() & known)
    held_out = np.flatnonzero((frame["split"] != "train").to_numpy() & known)
    points = []
    for count in counts:
        scores = []
        for seed in seeds if 0 < count < len(train) else seeds[:1]:
            some = np.random.default_rng(seed).permutation(train)[:count]
            base = base_from(some)
            got = np.exp(base[held_out])
            if count:
                got = latency_with(learnt(here, base, latency, some, seed), here, base, held_out)
            log = np.log(got / latency[held_out])
            ape = np.abs(np.exp(log) - 1)
            scores.append((np.median(ape), ape.mean(), np.exp(log.mean()) - 1))
        median, mean, bias = np.mean(scores, axis=0)
        points.append(Point(min(count, len(train)), float(median), float(mean), float(bias)))
    return points
