"""What each ingredient of the recipe is worth: ``python -m training.ablation --hardware ID --out docs/accuracy.md``.

All figures are cross-validated by grouped folds inside the training split; held-out rows take no part.
`training.ablation_render` turns them into a page.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from graphs.errors import DataError
from graphs.hardware.profile import HardwareProfile, load_profile
from training.ablation_render import render
from training.ablation_terms import (
    CLASSES,
    CURVE_FOLDS,
    CURVE_SHARES,
    FULL,
    JOINT,
    LATENCY,
    RARE,
    RECIPE,
    ROOFLINE,
    STACK,
    TREES_JOINT,
    figures,
)  # fmt: skip
from training.compare_forms import compare
from training.dataset.kernels import TABLE as KERNELS
from training.dataset.kernels import read_kernels
from training.dataset.store import read_manifest
from training.fit.family import Recipe, Rows, _out_of_fold, _Processes, _prune, _Trees, _weigh, recipes_for
from training.fit.gp import fit_gp, fit_hyperparameters
from training.fit.kindred import Kindred
from training.fit.prepare import Table, family_rows, machine_of, read_frame
from training.validate.baselines import baselines

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Progress = Callable[[str], None]
#: Absolute percentage errors of training rows by what predicted them.
Errors = dict[str, Array]

ORACLE_FAMILIES = ("conv2d", "gemm")
#: Rows a family keeps with --quick.
QUICK_ROWS = 300


def _ape(predicted: Array, truth: Array) -> Array:
    """Return |predicted / measured - 1| of two logarithms."""
    return np.abs(np.expm1(predicted - truth))


def _cross_weighted(outputs: Array, y: Array, fold: NDArray[np.int64]) -> Array:
    """Combine outputs (k, n); the weights for a fold are fitted on the other folds, so no row weighs its own error."""
    out = np.empty(len(y))
    for k in np.unique(fold):
        mine = fold == k
        out[mine] = _weigh(outputs[:, ~mine], y[~mine]) @ outputs[:, mine]
    return out


def ingredients(rows: Rows, seed: int) -> tuple[Errors, Errors]:
    """Return errors of every ingredient, (n_train,), and of the learning curve, in rows of `CURVE_FOLDS`."""
    train, fold = rows.train, rows.fold[rows.train]
    t0 = float(np.quantile(rows.latency_s[train], 0.01))
    y = np.log(rows.latency_s / (t0 + rows.roofline_s))
    truth = y[train]
    recipes = recipes_for(rows, y, seed)
    trees, processes = recipes[0], recipes[-1]
    assert isinstance(trees, _Trees)
    assert isinstance(processes, _Processes)
    likely = _Processes.tuned(rows, y, seed, robust=False) if processes.robust else processes
    plain = replace(likely, tail=None, nested=False)
    out: Errors = {}
    for name, offset in ((LATENCY, np.zeros(len(y))), (ROOFLINE, np.log(rows.roofline_s))):
        target = np.log(rows.latency_s) - offset
        out[name] = _ape(_out_of_fold(rows, target, [trees])[0], target[train])
    # one row of outputs each: trees, joint process, one a partition
    each = _out_of_fold(rows, y, [trees, plain])
    out[FULL], out[JOINT] = _ape(each[0], truth), _ape(each[1], truth)
    for name, some in ((TREES_JOINT, each[:2]), (CLASSES, each[1:]), (STACK, each)):
        out[name] = _ape(_cross_weighted(some, truth, fold), truth)
    if len(recipes) > 2 or processes.tail is not None or processes.nested or processes.robust:
        each = _out_of_fold(rows, y, recipes)
    out[RECIPE] = _ape(_cross_weighted(each, truth, fold), truth)
    return out, _curve(rows, y, recipes, each, seed)


def curve_alone(rows: Rows, seed: int) -> Errors:
    """Return errors of the learning curve without the ingredients, which cost twice as much again."""
    t0 = float(np.quantile(rows.latency_s[rows.train], 0.01))
    y = np.log(rows.latency_s / (t0 + rows.roofline_s))
    recipes = recipes_for(rows, y, seed)
    return _curve(rows, y, recipes, _out_of_fold(rows, y, recipes), seed)


def _curve(rows: Rows, y: Array, recipes: Sequence[Recipe], each: Array, seed: int) -> Errors:
    """Return errors by share of the rows learnt from; `each` are the recipes' out-of-fold outputs, (k, n_train)."""
    train, fold = rows.train, rows.fold[rows.train]
    truth = y[train]
    weights = _weigh(each, truth)
    recipes, kept = _prune(recipes, weights)
    weights = weights[kept] / weights[kept].sum()
    scored = np.isin(fold, CURVE_FOLDS)
    curve: Errors = {"1": _ape(weights @ each[kept], truth)[scored]}
    order = np.random.default_rng(seed).permutation(len(y))
    for share in CURVE_SHARES[:-1]:
        predicted = np.full(len(y), np.nan)
        for k in CURVE_FOLDS:
            inside: Mask = train & (rows.fold == k)
            outside: Mask = train & (rows.fold != k)
            if inside.any():
                part = _first(outside, order, share)
                classes = rows.labels(inside)
                fitted = [r.fit(rows, y, part) for r in recipes]
                each_here = np.concatenate([m.outputs(rows.x[inside], classes) for m in fitted])
                predicted[inside] = weights @ each_here
        curve[f"{share:g}"] = _ape(predicted[train], truth)[scored]
    return curve


def _first(mask: Mask, order: NDArray[np.int64], share: float) -> Mask:
    """Keep a share of a mask's rows, the first in a random order, so that smaller shares are parts of larger ones."""
    chosen = order[mask[order]]
    out = np.zeros(len(mask), dtype=bool)
    out[chosen[: max(round(share * len(chosen)), 1)]] = True
    return out


def oracle(x: Array, y: Array, fold: NDArray[np.int64], kernels: pd.DataFrame, seed: int) -> Errors:
    """Return errors of a joint GP without and with the true kernels among its features.

    Parameters
    ----------
    x, y, fold : (n, f), (n,), (n,)
        Rows whose kernels are known.
    kernels : DataFrame
        longest, tile_m, tile_n and count, as `read_kernels` gives them, in the order of the rows.
    seed : int
    """
    family = kernels["longest"].where(kernels["longest"].map(kernels["longest"].value_counts()) >= RARE, "other")
    count = np.log2(kernels["count"].to_numpy(dtype=np.float64))[:, None]
    one_hot = np.column_stack([pd.get_dummies(family).to_numpy(dtype=np.float64), count])
    tile = np.log2(np.maximum(kernels[["tile_m", "tile_n"]].to_numpy(dtype=np.float64), 1.0))
    out: Errors = {}
    for name, more in (
        ("shape alone", np.empty((len(y), 0))),
        ("+ true kernel family, number of kernels", one_hot),
        ("+ its tile", np.column_stack([one_hot, tile])),
    ):
        known = np.column_stack([x, more])
        hyper = fit_hyperparameters(known, y, seed)
        predicted = np.empty(len(y))
        for k in np.unique(fold):
            mine = fold == k
            predicted[mine] = fit_gp(known[~mine], y[~mine], hyper).predict(known[mine])
        out[name] = _ape(predicted, y)
    return out


def _baseline_errors(frame: pd.DataFrame, fold: NDArray[np.int64], profile: HardwareProfile) -> Errors:
    """Return the error of each baseline on training rows, its tables filled from the other folds."""
    out: Errors = {}
    measured = frame["median_us"].to_numpy(dtype=np.float64) * 1e-6
    for k in np.unique(fold):
        mine = fold == k
        predicted = baselines(frame[~mine].reset_index(drop=True), frame[mine].reset_index(drop=True), profile)
        for name, seconds in predicted.items():
            out.setdefault(name, np.empty(len(frame)))[mine] = np.abs(seconds / measured[mine] - 1.0)
    return out


def _noise(frame: pd.DataFrame) -> Array:
    """Return the difference of the second timing of the rows that have one."""
    if "retest_us" not in frame:
        return np.empty(0)
    both = frame[frame["retest_us"].notna()]
    ratio: Array = both["retest_us"].to_numpy(dtype=np.float64) / both["median_us"].to_numpy(dtype=np.float64)
    return np.abs(ratio - 1.0)


def run(
    hardware: str, data: Path, seed: int = 0, quick: bool = False, progress: Progress = lambda _: None,
    curve_only: bool = False,
) -> Any:  # fmt: skip
    """Return every figure of the page that comes from training rows, as plain JSON data.

    Parameters
    ----------
    hardware : str
        Id of a profile.
    data : Path
        Folder of its measured tables.
    seed : int
    quick : bool
        The smallest family and few rows, to try the command.
    progress : callable
    curve_only : bool
        Only the learning curve.

    Raises
    ------
    UnknownHardwareError, DataError, SchemaVersionError
    """
    profile = load_profile(hardware)
    machine = machine_of(profile)
    frame, manifest, _ = read_frame(profile, data)
    table = Table.of(frame)
    sizes = {name: sum(len(g) for g in groups) for name, groups in table.groups.items()}
    names = sorted(sizes, key=lambda name: sizes[name])[: 1 if quick else None]
    kindred = Kindred.of(profile.id, data)
    kernels = read_kernels(data) if (data / KERNELS).is_file() else None
    oracle_families = ORACLE_FAMILIES[: 1 if quick else None] if kernels is not None and not curve_only else ()
    parts: dict[str, dict[str, Errors]] = {}
    oracles: dict[str, Any] = {}
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        for name in sorted({*names, *oracle_families} & set(sizes)):
            rows = family_rows(table, name, machine, None, seed, synthetic=False)
            here = table.frame.iloc[np.concatenate([g.rows for g in table.groups[name]])]
            if quick:
                rows = replace(rows, train=_few(rows.train))
            if kindred is not None:
                rows = replace(rows, elsewhere=kindred.elsewhere(name, table.groups[name], machine, seed))
            train = rows.train
            if name in names:
                progress(f"{name}: {train.sum()} training rows")
                if curve_only:
                    parts[name] = {"curve": curve_alone(rows, seed)}
                    continue
                errors, curve = ingredients(rows, seed)
                inside = here[train].reset_index(drop=True)
                errors |= _baseline_errors(inside, rows.fold[train], profile)
                parts[name] = {"errors": errors, "curve": curve, "noise": {"retest": _noise(inside)}}
            if kernels is not None and name in oracle_families:
                progress(f"{name}: oracle")
                oracles[name] = _oracle_of(rows, here, kernels, seed)
    return {
        "hardware": profile.id, "date": date.today().isoformat(), "quick": quick, "seed": seed,
        "command": f"python -m training.ablation --hardware {profile.id}" + (" --quick" if quick else "")
        + (" --curve-only" if curve_only else ""),
        "data_sha256": manifest["files"]["ops.parquet"]["sha256"],
        "families": {n: _summary(p) for n, p in sorted(parts.items())},
        "pooled": _summary(_pooled(list(parts.values()))),
        "oracle": oracles,
    }  # fmt: skip


def _few(train: Mask) -> Mask:
    out = np.zeros(len(train), dtype=bool)
    out[np.random.default_rng(0).permutation(np.flatnonzero(train))[:QUICK_ROWS]] = True
    return out


def _oracle_of(rows: Rows, here: pd.DataFrame, kernels: pd.DataFrame, seed: int) -> dict[str, Any]:
    known = here[["key"]].merge(kernels, on="key", how="left")
    some = rows.train & known["longest"].notna().to_numpy()
    y = np.log(rows.latency_s / (np.quantile(rows.latency_s[rows.train], 0.01) + rows.roofline_s))
    errors = oracle(rows.x[some], y[some], rows.fold[some], known[some].reset_index(drop=True), seed)
    return {"training_rows": int(rows.train.sum()), **{n: figures(a) for n, a in errors.items()}}


def _pooled(parts: list[dict[str, Errors]]) -> dict[str, Errors]:
    return {
        group: {name: np.concatenate([p[group][name] for p in parts]) for name in errors}
        for group, errors in parts[0].items()
    }


def _summary(part: dict[str, Errors]) -> dict[str, Any]:
    return {g: {n: figures(a) for n, a in errors.items() if len(a)} for g, errors in part.items()}


@click.command()
@click.option("--hardware", required=True, help="hardware id")
@click.option("--data", type=click.Path(path_type=Path), help="folder of measured tables  [default: data/HARDWARE]")
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Markdown page to write  [default: print it]")
@click.option("--figures", "store", type=click.Path(path_type=Path), help="also write the figures as JSON")
@click.option(
    "--from", "stored", type=click.Path(exists=True, path_type=Path), help="render figures written earlier, fit nothing"
)
@click.option(
    "--distilled",
    type=click.Path(exists=True, path_type=Path),
    help="the same fit, made with `graphs train --distil`: what that saves and costs",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--quick", is_flag=True, help="one family and few rows, to try the command")
@click.option("--curve-only", is_flag=True, help="only the learning curve, as JSON for --figures; writes no page")
def main(
    hardware: str, data: Path | None, models: Path, out: Path | None, store: Path | None, stored: Path | None,
    distilled: Path | None, seed: int, quick: bool, curve_only: bool,
) -> None:  # fmt: skip
    """Measure what each ingredient of the recipe is worth; write a page with it and with the targets reached."""

    started = time.monotonic()

    def progress(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {text}", err=True)

    folder = data or Path("data") / load_profile(hardware).id
    if stored is not None:
        found = json.loads(stored.read_text(encoding="utf-8"))
        present = read_manifest(folder)["files"]["ops.parquet"]["sha256"]
        if found["data_sha256"] != present:
            raise DataError(
                f"the figures in '{stored}' were made from other data",
                received=found["data_sha256"],
                allowed=present,
                next_step="leave out --from, to fit again",
            )
    else:
        found = run(hardware, folder, seed, quick, progress, curve_only)
    if distilled is not None:
        found["forms"] = compare(found["hardware"], models / found["hardware"], distilled, folder)
        found["command"] += " --distilled DIR"
    if store is not None:
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if curve_only:
        if store is None:
            click.echo(json.dumps(found, indent=1))
        return
    page = render(found, models)
    if out is None:
        click.echo(page)
    else:
        out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
