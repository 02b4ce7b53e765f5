"""Fits the subgraph model of one machine, and scores it with whole models, and whole families of models, left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from graphs.hardware.calibration.subgraph_model import LEAST_COST_S, Setting, SubgraphModel, costs, domains_of, outside
from graphs.hardware.profile import HardwareProfile
from graphs.hardware.roofline import DEFAULT_EFFICIENCY
from training.subgraphs.dataset import Subgraphs
from training.subgraphs.process import Processes, fit_processes

#: Rounds of the cost's fit, and the relative error from which a row counts less.
ROUNDS, TRUSTED = 4, 0.2
#: A run is left out of the fit where the same run of another campaign took this much less time (median ratio) ...
TWIN_RATIO = 1.15
#: ... or where its element-wise subgraphs at batch 1 lie this far above all others (median log residual).
SLOW_RUN = 0.4
#: Rows that a class needs for an interval of its own.
INTERVAL_ROWS = 60
LEVEL = 0.9


@dataclass(frozen=True)
class Fitted:
    """What is fitted on some rows: one setting each, over points that they share."""

    processes: Processes
    settings: dict[tuple[str, str], Setting]
    domains: dict[str, dict[str, Any]]
    left_out: Counter[str]

    def model(self, hardware: str, thermal: str, header: dict[str, Any]) -> SubgraphModel:
        """Return the model that answers queries."""
        p = self.processes
        return SubgraphModel(hardware, thermal, p.points, p.shift, p.scale, self.settings, self.domains, header)


def fit_settings(data: Subgraphs, rows: NDArray[np.bool_], seed: int = 0) -> Fitted:
    """Fit every setting on the chosen rows of `data`."""
    frame = data.frame
    slow = disturbed_runs(data, rows)
    run = _runs(frame)
    kept = rows & ~run.isin(slow).to_numpy()
    key = frame["key"].to_numpy()
    used = np.unique(key[kept])
    distinct, where = np.unique(np.stack([data.described[k].row for k in used]).round(6), axis=0, return_inverse=True)
    point_of = np.full(len(data.described), -1)
    point_of[used] = where.ravel()
    table = costs(data.described)

    latency = frame["latency_s"].to_numpy()
    names = sorted(set(zip(frame["precision"], frame["thermal"], strict=True)))
    residuals = np.full((len(names), len(distinct)), np.nan)
    cost = {}
    for name, row in zip(names, residuals, strict=True):
        mine = kept & (frame["precision"] == name[0]).to_numpy() & (frame["thermal"] == name[1]).to_numpy()
        cost[name] = fit_cost(table[key[mine]], latency[mine])
        residual = np.log(latency[mine] / np.maximum(table[key[mine]] @ cost[name], LEAST_COST_S))
        points, inverse = np.unique(point_of[key[mine]], return_inverse=True)
        # one point each distinct subgraph, at the mean of its repeats: what the process cannot tell apart
        row[points] = np.bincount(inverse, residual) / np.bincount(inverse)
    of = point_of[key[kept]]
    members = [np.isin(np.arange(len(distinct)), of[part]) for part in _models(frame[kept])]
    processes = fit_processes(distinct, residuals, [precision for precision, _ in names], members, seed)
    settings = {
        name: Setting(cost[name], processes.weights[i], float(processes.means[i]), {}) for i, name in enumerate(names)
    }
    return Fitted(processes, settings, domains_of([data.described[k] for k in used]), Counter(slow))


def _models(frame: pd.DataFrame) -> list[NDArray[np.bool_]]:
    return [(frame["model"] == m).to_numpy() for m in sorted(frame["model"].unique())]


def fit_cost(table: NDArray[np.float64], latency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return non-negative seconds per unit of each column: least squares of the relative error, outliers trusted less.

    Iteratively reweighted (Huber, "Robust Estimation of a Location Parameter", 1964): a row off by more than
    `TRUSTED` counts in proportion to its error, not to the square.  Errors are relative to the geometric mean of
    measured and fitted, so that an estimate twice too high weighs as one twice too low.
    """
    size = (table / latency[:, None]).max(axis=0)
    size[size == 0.0] = 1.0
    scale = latency
    trust = np.ones(len(latency))
    for _ in range(ROUNDS + 1):
        found, _ = nnls(table * (trust / scale)[:, None] / size, trust * latency / scale)
        fitted = np.maximum(table @ (found / size), LEAST_COST_S)
        scale = np.sqrt(latency * fitted)
        off = np.abs(np.log(latency / fitted))
        trust = np.sqrt(TRUSTED / np.maximum(off, TRUSTED))
    return np.asarray(found / size)


def disturbed_runs(data: Subgraphs, rows: NDArray[np.bool_]) -> list[str]:
    """Return the runs (a model at a batch in one campaign) that the machine was evidently slower in.

    They are left out of the fit; never of the scores.
    """
    frame = data.frame[rows]
    run = _runs(frame)
    twins = ["precision", "thermal", "model", "batch", "key"]
    ratio = frame["latency_s"] / frame.groupby(twins)["latency_s"].transform("min")
    by_run = ratio.groupby(run).median()
    slow = set(by_run[by_run > TWIN_RATIO].index)
    table, key, latency = costs(data.described), frame["key"].to_numpy(), frame["latency_s"].to_numpy()
    for _, part in frame.reset_index(drop=True).groupby(["precision", "thermal"]):
        i = part.index.to_numpy()
        cost = fit_cost(table[key[i]], latency[i])
        residual = np.log(latency[i] / np.maximum(table[key[i]] @ cost, LEAST_COST_S))
        small = np.array([data.described[k].main == "binary" for k in key[i]]) & (part["batch"] == 1).to_numpy()
        medians = pd.Series(residual[small]).groupby(run.to_numpy()[i][small]).median()
        slow |= set(medians[medians > SLOW_RUN].index)
    return sorted(slow)


@dataclass(frozen=True)
class HeldOut:
    """Predictions of rows whose model (or family) was left out, (n,): seconds, and whether inside that fit's domain."""

    latency_s: NDArray[np.float64]
    cost_s: NDArray[np.float64]
    inside: NDArray[np.bool_]


def hold_out(data: Subgraphs, by: str, progress: Callable[[str], None] = lambda _: None) -> HeldOut:
    """Predict each group of `by` ("model" or "family") from all others, in every campaign and setting."""
    frame = data.frame
    latency, cost = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    inside = np.zeros(len(frame), dtype=bool)
    table, key = costs(data.described), frame["key"].to_numpy()
    for group in sorted(frame[by].unique()):
        test = (frame[by] == group).to_numpy()
        fitted = fit_settings(data, ~test)
        model = fitted.model("", "", {})
        for (precision, thermal), setting in fitted.settings.items():
            mine = test & (frame["precision"] == precision).to_numpy() & (frame["thermal"] == thermal).to_numpy()
            asked, inverse = np.unique(key[mine], return_inverse=True)
            linear = np.maximum(table[asked] @ setting.cost, LEAST_COST_S)
            x = np.stack([data.described[k].row for k in asked])
            predicted = linear * np.exp(model.processes[precision, thermal].predict(x))
            latency[mine], cost[mine] = predicted[inverse], linear[inverse]
            why = np.array([outside(fitted.domains, data.described[k], "") == "" for k in asked])
            inside[mine] = why[inverse]
        progress(f"{by} {group}")
    return HeldOut(latency, cost, inside)


def default_s(data: Subgraphs, profile: HardwareProfile) -> NDArray[np.float64]:
    """Return the fixed 20 % estimate of each row: max(flops / (0.20 peak), bytes / bandwidth)."""
    out = np.empty(len(data.frame))
    key, precisions = data.frame["key"].to_numpy(), data.frame["precision"].tolist()
    thermals = [profile.at(t) if t else profile for t in data.frame["thermal"]] if profile.thermal else None
    for i, (k, precision) in enumerate(zip(key, precisions, strict=True)):
        d, machine = data.described[k], thermals[i] if thermals else profile
        compute = d.flops / (DEFAULT_EFFICIENCY * machine.peak_flops_per_s(precision))
        out[i] = max(compute, d.nbytes / machine.bandwidth_bytes_per_s)
    return out


def default_log_error(data: Subgraphs, profile: HardwareProfile) -> float:
    """Return the 90 % quantile of |log(recorded / 20 % default)| of the subgraphs that the default answers."""
    default = default_s(data, profile)
    known = default > 0
    return _quantile(np.abs(np.log(data.frame["latency_s"].to_numpy()[known] / default[known])))


def intervals(data: Subgraphs, held: HeldOut, rows: NDArray[np.bool_], classes: Sequence[str] = ()) -> dict[str, float]:
    """Return the 90 % quantile of |log error| of models left out, by leading class; "" for all others."""
    error = np.abs(np.log(held.latency_s / data.frame["latency_s"].to_numpy()))
    main = np.array([data.described[k].main for k in data.frame["key"]])
    rows = rows & held.inside
    out = {"": _quantile(error[rows])}
    for c in sorted(set(main[rows])):
        mine = rows & (main == c)
        if mine.sum() >= INTERVAL_ROWS:
            out[str(c)] = _quantile(error[mine])
    return out


def score(data: Subgraphs, predicted: NDArray[np.float64], rows: NDArray[np.bool_]) -> dict[str, float]:
    """Return errors against the recorded means: of subgraphs with FLOP, and of model sums over all subgraphs."""
    frame, p = data.frame[rows], predicted[rows]
    measured = frame["latency_s"].to_numpy()
    ape = np.abs(p / measured - 1.0)[frame["flops"].to_numpy() > 0]
    sums = pd.DataFrame({"model": frame["model"], "batch": frame["batch"], "p": p, "m": measured})
    total = sums.groupby(["model", "batch"]).sum()
    error = (total["p"] / total["m"] - 1.0).abs()
    return {
        "subgraphs": len(ape), "subgraph_median_ape": float(np.median(ape)), "subgraph_mape": float(ape.mean()),
        "models": len(total), "model_mape": float(error.mean()), "model_median_ape": float(error.median()),
    }  # fmt: skip


def model_errors(data: Subgraphs, predicted: NDArray[np.float64], rows: NDArray[np.bool_]) -> dict[str, float]:
    """Return the signed relative error of each model's sum, by ``name b batch``."""
    frame = data.frame[rows].assign(p=predicted[rows])
    total = frame.groupby(["model", "batch"])[["p", "latency_s"]].sum()
    return {f"{m} b{b}": float(r["p"] / r["latency_s"] - 1.0) for (m, b), r in total.iterrows()}


def _runs(frame: pd.DataFrame) -> pd.Series:
    columns = [frame[c].astype(str) for c in ("campaign", "thermal", "precision", "model", "batch")]
    return columns[0].str.cat(columns[1:], sep="/")


def _quantile(error: NDArray[np.float64]) -> float:
    """Return the split-conformal quantile: rank ceil((n + 1) level) of n errors."""
    n = len(error)
    return float(np.sort(error)[min(n, int(np.ceil((n + 1) * LEVEL))) - 1])
