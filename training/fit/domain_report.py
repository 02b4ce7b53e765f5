"""What the applicability domain is worth on splits built to extrapolate; `python -m training.fit.margins --report`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from graphs import ops
from graphs.hardware.calibration.domain import Domain
from graphs.hardware.profile import HardwareProfile, load_profile
from graphs.hardware.roofline import Roofline
from training.fit.chosen_margins import TOLERANCE, margins_for, stored
from training.fit.extremes import (
    Array,
    Mask,
    StandIn,
    Table,
    ape,
    cross_validate,
    hyperparameters,
    tables,
    training_rows,
)

Rule = Callable[[pd.DataFrame], Mask]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one family that the model must not have seen, and what that is to show.

    `expected` is what the domain should make of them: "inside", "outside" or "" where it depends on the row.
    """

    name: str
    family: str
    rule: Rule
    expected: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one split: which rows are outside, errors of the stand-in and of the 20 % default.

    `same` is the cross-validated error of the same rows, where their like was seen; `cv` the median and mean of all.
    """

    split: Split
    outside: Mask
    model: Array
    default: Array
    same: Array
    cv: tuple[float, float]


def _param(name: str, *values: object) -> Rule:
    return lambda f: np.array([p.get(name) in values for p in f["params"]], dtype=bool)


def _kind(name: str) -> Rule:
    return lambda f: np.asarray(f["op"] == name)


def _dtype(name: str) -> Rule:
    """Return the rows of a dtype, without the kinds that run another's kernels for it."""
    return lambda f: np.array(
        [d == name and ops.get(o).uses_matrix_units for o, d in zip(f["op"], f["dtype"], strict=True)], dtype=bool
    )


def _held_out_largest(f: pd.DataFrame) -> Mask:
    return np.asarray(f["split"] == "largest_flops")


def _largest(share: float) -> Rule:
    """Return the rows with the largest FLOP of each kind, among the training rows."""
    return lambda f: np.asarray(f["flops"] > f.groupby("op")["flops"].transform(lambda v: v.quantile(1.0 - share)))


def _smallest(*names: str) -> Rule:
    """Return the 5 % smallest rows of each of several dimensions."""

    def rule(f: pd.DataFrame) -> Mask:
        out = np.zeros(len(f), dtype=bool)
        for name in names:
            value = np.array([p[name] for p in f["params"]], dtype=np.float64)
            out |= value <= np.quantile(value, 0.05)
        return out

    return rule


def _patch(f: pd.DataFrame) -> Mask:
    """Return patch embeddings: the stride is the kernel, and no other row has that stride."""
    return np.array([p.get("k", 0) > 4 and p.get("stride") == p["k"] for p in f["params"]], dtype=bool)


SPLITS = (
    *(Split("largest FLOP (held-out rows)", x, _held_out_largest, "inside") for x in ("gemm", "conv2d", "sdpa")),
    *(Split("largest FLOP (5 % of training rows)", x, _largest(0.05), "")
      for x in ("gemm", "conv2d", "dwconv2d", "sdpa", "sdpa_decode", "rowwise", "nchw", "unary", "binary")),
    Split("smallest n or k", "gemm", _smallest("n", "k"), ""),
    Split("smallest m", "gemm", _smallest("m"), ""),
    Split("unseen kernel size 5", "conv2d", _param("k", 5), "outside"),
    Split("unseen kernel size 5", "dwconv2d", _param("k", 5), "outside"),
    Split("unseen stride 5 and more (patches)", "conv2d", _patch, "outside"),
    Split("unseen dtype tf32", "gemm", _dtype("tf32"), "outside"),
    Split("unseen dtype tf32", "conv2d", _dtype("tf32"), "outside"),
    Split("unseen dtype tf32", "sdpa", _dtype("tf32"), "outside"),
    Split("unseen layout bshd", "sdpa", _param("layout", "bshd"), "outside"),
    Split("unseen mask of booleans", "sdpa", _param("mask", "bool"), "outside"),
    Split("unseen mode bilinear", "nchw", _param("mode", "bilinear"), "outside"),
    Split("unseen kind bmm", "gemm", _kind("bmm"), "outside"),
    Split("unseen kind softmax", "rowwise", _kind("softmax"), "outside"),
    Split("unseen kind conv1d", "conv2d", _kind("conv1d"), "outside"),
    Split("head size 80, between measured ones", "sdpa", _param("d", 80), ""),
    Split("head size 64, between measured ones", "sdpa", _param("d", 64), ""),
    Split("28 x 28 images, between measured ones", "nchw", _param("h", 28), ""),
    Split("image batches of 32, between measured ones", "conv2d", _param("n", 32), ""),
)  # fmt: skip


def reasons(rest: pd.DataFrame, test: pd.DataFrame, family: str) -> np.ndarray:
    """Return for each row of `test` why it is outside the domain of `rest`, or ``""``."""
    margin = margins_for(family)
    domains = {
        g.kind.name: Domain.of(g, margin) for g in ops.group_operators(rest["op"], rest["dtype"], rest["params"])
    }
    out = np.full(len(test), "", dtype=object)
    for g in ops.group_operators(test["op"], test["dtype"], test["params"]):
        known = domains.get(g.kind.name)
        out[g.rows] = known.reasons(g) if known else f"operator '{g.kind.name}' was never measured"
    return out


def run(split: Split, frame: pd.DataFrame, t: Table, cv: Array, profile: HardwareProfile) -> Outcome:
    """Fit the stand-in without the rows of a split and score it on them.

    Parameters
    ----------
    frame : DataFrame
        The rows of `t`, in its order, with `split`.
    cv : (n,) float64
        Their cross-validated errors.
    """
    test = split.rule(frame)
    rest = ~test & np.asarray(frame["split"] == "train")
    model = StandIn(t.family, t.x[rest], t.y[rest], hyperparameters(t.x[rest], t.y[rest]))
    some = frame[test].reset_index(drop=True)
    peak = profile.peak_array(some["dtype"].to_numpy(dtype=np.str_))
    flops, nbytes = (some[c].to_numpy(dtype=np.float64) for c in ("flops", "bytes"))
    default = Roofline.of(flops, nbytes, peak, profile.bandwidth_bytes_per_s).default_s()
    train = np.asarray(frame["split"] == "train")
    return Outcome(
        split=split,
        outside=np.asarray(reasons(frame[rest], some, split.family) != ""),
        model=ape(model.predict(t.x[test]), t.y[test]),
        default=np.abs(default / (some["median_us"].to_numpy(dtype=np.float64) * 1e-6) - 1.0),
        same=cv[test],
        cv=(float(np.median(cv[train])), float(cv[train].mean())),
    )


def outcomes(hardware: str, data: Path) -> list[Outcome]:
    """Return what the domain makes of every split of `SPLITS`."""
    train, held_out, machine = training_rows(hardware, data)
    profile = load_profile(hardware)
    largest = held_out[held_out["split"] == "largest_flops"]
    frame = pd.concat([train, largest], ignore_index=True)
    by_family = tables(frame, machine)
    errors = {name: cross_validate(t, hyperparameters(t.x, t.y)) for name, t in by_family.items()}
    out = []
    for split in SPLITS:
        t, cv = by_family[split.family], errors[split.family]
        own = frame.iloc[t.rows].reset_index(drop=True)
        if split.rule is not _held_out_largest:
            keep = np.asarray(own["split"] == "train")
            own, t, cv = own[keep].reset_index(drop=True), _rows(t, keep), cv[keep]
        out.append(run(split, own, t, cv, profile))
    return out


def _rows(t: Table, keep: Mask) -> Table:
    quantities = {n: v[keep] for n, v in t.quantities.items()}
    return Table(t.family, t.x[keep], t.y[keep], t.kind[keep], t.fold[keep], quantities, t.rows[keep])


def render(hardware: str, some: list[Outcome]) -> str:
    """Return the report as Markdown."""
    lines = [
        "# The applicability domain on splits built to extrapolate",
        "",
        f"Written by `python -m training.fit.margins --hardware {hardware} --report`; do not edit.",
        "",
        "Each split is left out, a quick stand-in of the recipe (boosted trees and a Gaussian process, averaged) is"
        " fitted on the other training rows, and the domain is drawn around those. Errors are median / mean"
        " |predicted / measured - 1|. The ratio is that of the rows inside to the stand-in's cross-validated error, and"
        f" is to be at most {TOLERANCE:g} (in bold where it is not): once to that of the whole family, once to that of"
        " the same rows, because some regions are hard even where they were measured. On the rows outside the 20 %"
        " default answers; what extrapolating would have given stands beside it.",
        "",
        "| split | family | rows | outside | inside: error | cross-validated: family | same rows |"
        " ratio to family | to same rows | outside: 20 % default | outside: extrapolating |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for o in some:
        inside = ~o.outside
        family = _ratio(o.model[inside], *o.cv) if inside.any() else "-"
        seen = o.same[inside]
        same = _ratio(o.model[inside], float(np.median(seen)), float(seen.mean())) if inside.any() else "-"
        lines.append(
            f"| {o.split.name} | {o.split.family} | {len(o.outside)} | {100 * o.outside.mean():.0f} % |"
            f" {_errors(o.model[inside])} | {100 * o.cv[0]:.1f} / {100 * o.cv[1]:.1f} % |"
            f" {_errors(o.same[inside])} | {family} | {same} |"
            f" {_errors(o.default[o.outside])} | {_errors(o.model[o.outside])} |"
        )
    lines += ["", *_margins()]
    return "\n".join(lines) + "\n"


def _ratio(error: Array, median: float, mean: float) -> str:
    each = (float(np.median(error)) / median, float(error.mean()) / mean)
    return " / ".join(f"**{r:.1f}**" if r > TOLERANCE else f"{r:.1f}" for r in each)


def _errors(error: Array) -> str:
    return f"{100 * np.median(error):.1f} / {100 * error.mean():.1f} %" if len(error) else "-"


def _margins() -> list[str]:
    lines = [
        "## Margins",
        "",
        "How many times below the smallest and above the largest measured value a query may lie"
        " (`training/fit/margins.json` has what each rests on).",
        "",
        "| family | quantity: below, above |",
        "|---|---|",
    ]  # fmt: skip
    for family in stored():
        each = (f"{name} {2.0**low:.2g}x, {2.0**high:.2g}x" for name, (low, high) in margins_for(family).items())
        lines.append(f"| {family} | {'; '.join(each)} |")
    return lines


def write_report(hardware: str, data: Path, path: Path) -> None:
    """Run every split and write the Markdown file."""
    path.write_text(render(hardware, outcomes(hardware, data)), encoding="utf-8")
    print(f"written: {path}")
