"""CARD.md of a fitted model: what it is, how good it is, and where it ends."""

from __future__ import annotations

from typing import Any

from graphs.hardware.calibration.fitted import EfficiencyModel
from graphs.hardware.profile import HardwareProfile
from training.validate.render import render


def write_card(profile: HardwareProfile, model: EfficiencyModel, summary: dict[str, Any]) -> str:
    """Return the card as Markdown, with the front matter that model registries read."""
    p = model.header["provenance"]
    families = "\n".join(
        f"- {f.family}: {', '.join(sorted(f.domains))} ({f.scores['rows']} training rows,"
        f" members {', '.join(m.form for m in f.members)})"
        for f in model.families.values()
    )
    return f"""---
license: mit
tags: [latency, efficiency, calibration, {profile.kind}]
hardware: {profile.id}
metrics: [median_ape, mape]
---

# Efficiency model of {profile.name}

Predicts the latency of one operator from its kind, shape and dtype, as
`(t0 + roofline time) * exp(prediction)`. Fitted on {p["rows"]} measured configurations
({p["machine"].get("device")}, torch {p["software"].get("torch")}, measured {p["measured"]}).
Rebuild it with `{p["command"]}`.

Members are combined in log space with cross-validated weights:

{families}

It answers inside its applicability domain (`model.json`, `domains`): operator kinds, dtypes and discrete parameters
that were measured, and physical quantities within the measured range widened by a margin. Outside, the 20 % default
answers and says so. It describes the software named above; another library version may choose other kernels.

{render(summary, markdown=True).replace("# ", "## ", 1)}"""
