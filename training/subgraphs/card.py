"""CARD.md of a subgraph model."""

from __future__ import annotations

from typing import Any

from graphs.hardware.profile import HardwareProfile


def write_card(profile: HardwareProfile, report: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    rows = "\n".join(f"- {n} {what}" for what, n in report["rows"].items())
    slow = "".join(f"- {run}\n" for run in report["runs_left_out_of_the_fit"]) or "- none\n"
    return f"""---
license: mit
tags: [latency, efficiency, calibration, subgraphs, {profile.kind}]
hardware: {profile.id}
metrics: [median_ape, mape]
---

# Subgraph model of {profile.name}

Predicts the latency of a fused subgraph (convolution + batch norm + activation, squeeze-excite, attention block ...)
from the exact shapes of its operators: `latency = cost * exp(prediction)`, where the cost is a non-negative sum of
seconds per node, FLOP and byte, and the prediction is a Gaussian process over {report["points"]} distinct subgraphs:
one that the settings of a precision share, and one of each setting's own. Its length scales are those of the marginal
likelihood times {report["length_scales_shortened"]:g}, the factor that predicts whole networks best. Subgraphs without
FLOP are learned as latencies like all others.

Source: {report["source"]}. Campaigns {", ".join(report["campaigns"])}.
No measured row is part of this package. Rebuild it with `{report["command"]}`.

What was measured: torch.fx, eager, node by node with a synchronisation after each node. A sum of subgraphs therefore
holds a dispatch for every node; it is no end-to-end latency (on the Jetson the median ratio of the two is 3.8).

## Rows

{rows}

Runs that the machine was evidently slower in are left out of the fit, and scored all the same:

{slow}
## Errors with whole models left out

Against the recorded means, all campaigns of the left-out model unseen. Subgraphs: those with FLOP. Sums: all
subgraphs of a model at a batch, those without FLOP included. The model answers every row here, outside its domain too;
the last two columns say what the 20 % default makes of rows outside.
The form of the model was chosen while looking at errors of this kind on the i7 and the Jetson at full power.

{_table(report["scores"], "leave one model out")}

## Errors with whole families of models left out

{_table(report["scores"], "leave one family out")}

## Compared with

{_baselines(report["scores"])}

## Signed error of each model's sum, the model left out

{_models(report["scores"])}
"""


def _table(scores: list[dict[str, Any]], by: str) -> str:
    lines = [
        "| set | subgraphs | median APE | MAPE | sums | MAPE of sums | median | inside the domain | "
        "with default: median / sums |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in scores:
        e, d = s[by], s[by]["with the default outside the domain"]
        lines.append(
            f"| {_name(s)} | {e['subgraphs']} | {_p(e['subgraph_median_ape'])} | {_p(e['subgraph_mape'])} |"
            f" {len(e['models'])} | {_p(e['model_mape'])} | {_p(e['model_median_ape'])} |"
            f" {_p(e['rows inside the domain'])} | {_p(d['subgraph_median_ape'])} / {_p(d['model_mape'])} |"
        )
    return "\n".join(lines)


def _baselines(scores: list[dict[str, Any]]) -> str:
    lines = ["| set | estimate | median APE of subgraphs | MAPE of sums |", "|---|---|---|---|"]
    for s in scores:
        for what in ("linear cost alone", "fixed 20 %"):
            e = s[what]
            lines.append(f"| {_name(s)} | {what} | {_p(e['subgraph_median_ape'])} | {_p(e['model_mape'])} |")
    return "\n".join(lines)


def _models(scores: list[dict[str, Any]]) -> str:
    parts = []
    for s in scores:
        errors = ", ".join(f"{m} {100 * e:+.1f} %" for m, e in s["leave one model out"]["models"].items())
        parts.append(f"- {_name(s)}: {errors}")
    return "\n".join(parts)


def _name(s: dict[str, Any]) -> str:
    return " ".join(filter(None, (s["campaign"], s["thermal"], s["precision"])))


def _p(share: float) -> str:
    return f"{100 * share:.1f} %"
