"""Fit, score, store: one machine's subgraph model and its card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graphs.hardware.calibration.subgraph_model import CARD, Setting, save_subgraphs
from graphs.hardware.profile import HardwareProfile
from training.subgraphs.card import write_card
from training.subgraphs.dataset import CAMPAIGNS, SOURCE, Subgraphs
from training.subgraphs.fit import (
    HeldOut,
    default_log_error,
    default_s,
    fit_settings,
    hold_out,
    intervals,
    model_errors,
    score,
)

_BY = {"model": "leave one model out", "family": "leave one family out"}


def train_subgraphs(
    data: Subgraphs, profile: HardwareProfile, folder: Path, progress: Callable[[str], None] = lambda _: None
) -> str:
    """Fit on all rows, score on models and families left out, write model and card; return the card."""
    held = {by: hold_out(data, by, progress) for by in _BY}
    fitted = fit_settings(data, np.ones(len(data.frame), dtype=bool))
    frame = data.frame
    for (precision, thermal), s in fitted.settings.items():
        rows = ((frame["precision"] == precision) & (frame["thermal"] == thermal)).to_numpy()
        fitted.settings[precision, thermal] = Setting(s.cost, s.weights, s.mean, intervals(data, held["model"], rows))
    report = {
        "source": SOURCE,
        "campaigns": list(CAMPAIGNS[profile.id]),
        "rows": dict(data.counts),
        "points": len(fitted.processes.points),
        "length_scales_shortened": fitted.processes.shortened,
        "runs_left_out_of_the_fit": sorted(fitted.left_out),
        "peak_flops_per_s": {d: f.value for d, f in profile.peaks.items()},
        "default_log_error_90": default_log_error(data, profile),
        "scores": _scores(data, profile, held),
        "command": f"python -m training.subgraphs train --subgraphs DIR --hardware {profile.id}",
    }
    save_subgraphs(fitted.model(profile.id, profile.default_thermal_profile, report), folder)
    card = write_card(profile, report)
    (folder / CARD).write_text(card, encoding="utf-8")
    return card


def _scores(data: Subgraphs, profile: HardwareProfile, held: dict[str, HeldOut]) -> list[dict[str, Any]]:
    """Return one entry a campaign and setting: errors of the model and of what it is compared with."""
    frame, out = data.frame, []
    default = default_s(data, profile)
    for (campaign, thermal, precision), part in frame.groupby(["campaign", "thermal", "precision"]):
        rows = np.zeros(len(frame), dtype=bool)
        rows[part.index.to_numpy()] = True
        entry: dict[str, Any] = {"campaign": campaign, "thermal": thermal, "precision": precision}
        for by, what in _BY.items():
            h = held[by]
            answered = np.where(h.inside, h.latency_s, default)
            entry[what] = {
                **score(data, h.latency_s, rows),
                "with the default outside the domain": score(data, answered, rows),
                "rows inside the domain": float(h.inside[rows].mean()),
                "models": model_errors(data, h.latency_s, rows),
            }
        entry["linear cost alone"] = score(data, held["model"].cost_s, rows)
        entry["fixed 20 %"] = score(data, default, rows)
        out.append(entry)
    return out
