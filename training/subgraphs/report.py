"""docs/subgraph-models.md: how good the subgraph models are, and one model beside a tiny and a large table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.subgraph_model import SubgraphModel
from graphs.hardware.profile import HardwareProfile
from training.subgraphs.dataset import SOURCE, Subgraphs
from training.subgraphs.fit import default_s, hold_out

#: Below this many FLOP a subgraph belongs to the tiny range, above it to the large one.
TINY_FLOPS = 20e6


def tables(data: Subgraphs, profile: HardwareProfile, test: NDArray[np.bool_], ranges: bool) -> NDArray[np.float64]:
    """Return what tables of mean efficiency say of the test rows with FLOP, learned on all others, (n,) seconds.

    One table holds the median efficiency of each leading class; with `ranges` there is one for tiny subgraphs and
    one for large ones, selected by size.  A class that a table lacks takes the 20 % default.
    """
    frame = data.frame
    key = frame["key"].to_numpy()
    flops = np.array([data.described[k].flops for k in key])
    main = np.array([data.described[k].main for k in key], dtype=object)
    cell = main + np.where((flops < TINY_FLOPS) & ranges, "/tiny", "/large")
    peak = profile.peak_flops_per_s("fp32")
    efficiency = flops / (frame["latency_s"].to_numpy() * peak)
    out = default_s(data, profile)
    learn = ~test & (flops > 0)
    for name in sorted(set(cell[test & (flops > 0)])):
        seen = learn & (cell == name)
        asked = test & (cell == name) & (flops > 0)
        if seen.any():
            out[asked] = flops[asked] / (peak * float(np.median(efficiency[seen])))
    return out


def ranges_table(
    data: Subgraphs, profile: HardwareProfile, campaign: str, progress: Callable[[str], None] = lambda _: None
) -> str:
    """Return the comparison as a Markdown table; every estimate has the model of its row left out."""
    frame = data.frame
    held = hold_out(data, "model", progress)
    one, two = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    for name in frame["model"].unique():
        test = (frame["model"] == name).to_numpy()
        one[test] = tables(data, profile, test, ranges=False)[test]
        two[test] = tables(data, profile, test, ranges=True)[test]
    rows = (frame["campaign"] == campaign).to_numpy() & (frame["flops"] > 0).to_numpy()
    flops = np.array([data.described[k].flops for k in frame["key"]])
    measured = frame["latency_s"].to_numpy()
    lines = [
        "| estimate | tiny: median APE | tiny: error of the sum | large: median APE | large: error of the sum |",
        "|---|---|---|---|---|",
    ]
    estimates = {
        "fixed 20 %": default_s(data, profile), "one table": one, "tiny and large table, selected by size": two,
        "the fitted model": held.latency_s,
    }  # fmt: skip
    for what, p in estimates.items():
        cells = []
        for mine in (rows & (flops < TINY_FLOPS), rows & (flops >= TINY_FLOPS)):
            cells.append(f"{100 * np.median(np.abs(p[mine] / measured[mine] - 1)):.1f} %")
            cells.append(f"{100 * (p[mine].sum() / measured[mine].sum() - 1):+.1f} %")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    n = [int((rows & (flops < TINY_FLOPS)).sum()), int((rows & (flops >= TINY_FLOPS)).sum())]
    return "\n".join(lines) + f"\n\n{n[0]} tiny subgraphs and {n[1]} large ones of campaign {campaign}."


def page(models: list[SubgraphModel], ranges: str) -> str:
    """Return docs/subgraph-models.md."""
    return f"""# Subgraph models

Written by `python -m training.subgraphs report --subgraphs DIR`; do not edit.

For the i7-12700K, the Ryzen 9 8945HS and the Jetson AGX Orin the only measurements at hand are fused subgraphs of
public networks, timed node by node in eager mode ({SOURCE}).
The tables name the nodes of each subgraph and hold no shape. Tracing the same torchvision networks gives every node
its operators with exact shapes (`data/fx-shapes`); all node names match, and the recorded FLOP confirm the shapes
(efficientnet_b1 was evidently measured at 240 x 240, all others at 224 x 224).

A model predicts `latency = cost * exp(prediction)`: a non-negative cost of nodes, FLOP and bytes, fitted so that single
odd rows count little, and a Gaussian process over the shapes. Rows of one network resemble each other, so the length
scales that the marginal likelihood finds are too long for a network not seen; they are shortened by the factor that
predicts whole networks best, chosen inside each fit on its own rows.

Every error below is of latency against the recorded means, with whole models (or whole families: all resnets, all
mobilenets ...) left out of the fit in all campaigns; sums hold the subgraphs without FLOP.

| hardware, campaign, setting | left out | subgraphs, median APE | MAPE of model sums | fixed 20 % |
|---|---|---|---|---|
{_rows(models)}

Where a model does not reach a subgraph's shape, the 20 % default answers; the cards in `models/` say how often that
is, and what it costs. What none of this can know: the runs themselves differ. The record of mobilenet_v3_large in
campaign `i7_12700K` takes 1.8 times what the same machine took in the later campaign, subgraph by subgraph, and the
resnet18 runs carry 20 microseconds a subgraph that identical layers of resnet34 do not. Such runs are left out of the
fit by a rule (`training/subgraphs/fit.py`), and scored all the same.

The form of the model and the two thresholds of that rule were chosen while looking at errors of left-out models on
these same tables, of the i7 and of the Jetson at full power: read the errors as those of a method developed here, not
as a test on untouched data.

## One model or a tiny and a large profile

The older system kept two profiles of the i7-12700K, for tiny and for large models, and left the choice to the user.
A table of efficiencies by kind of operation, one for subgraphs below {TINY_FLOPS / 1e6:g} MFLOP and one above, is that
idea with the choice made automatically. One fitted model covers both ranges:

{ranges}

## Thermal profiles

`thermal_profile="30w"`, or `jetson-orin-agx@30w`, selects the peaks, the bandwidth and the fitted setting of a power
mode. Modes differ in clocks, and the subgraphs in shape: one process learns what the modes of a precision share, in
which disturbances of single runs average out, and one of each mode what is left. Each mode has its own cost. The clocks
of the modes are those of the vendor's guide (nominal, unverified: what the board ran at was not recorded), and no
prediction rests on them: they set the peaks of the 20 % default and of the efficiencies shown.
Power modes are not ordered by speed: 50w runs the GPU faster than 30w and the CPU slower, and small subgraphs, which
wait for the CPU, take longer in it.
"""


def _rows(models: list[SubgraphModel]) -> str:
    lines = []
    for m in models:
        for s in m.header["scores"]:
            name = " ".join(filter(None, (m.hardware + ",", s["campaign"], s["thermal"], s["precision"])))
            for by in ("leave one model out", "leave one family out"):
                e: dict[str, Any] = s[by]
                lines.append(
                    f"| {name} | {by.split()[2]} | {_p(e['subgraph_median_ape'])} | {_p(e['model_mape'])} |"
                    f" {_p(s['fixed 20 %']['subgraph_median_ape'])} / {_p(s['fixed 20 %']['model_mape'])} |"
                )
    return "\n".join(lines)


def _p(share: float) -> str:
    return f"{100 * share:.1f} %"
