"""Terms of whole models, fitted on measured forward passes: device corrections, the host's queue, and intervals.

``python -m training.fit.host --hardware h100-sxm --models models/h100-sxm`` computes them anew for a fitted model that
exists and writes its header; the regressors stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from graphs.errors import GraphsError
from graphs.hardware.calibration.artifact import load_model, save_model
from graphs.hardware.calibration.calibration import build_calibration, load_calibration
from graphs.hardware.mappers.base import HardwareMapper
from graphs.hardware.mappers.registry import create_mapper
from graphs.hardware.profile import load_profile
from graphs.host import call_key
from graphs.whole_model import HEADER_KEY, WholeModelTerms
from training.dataset.store import read_ops
from training.fit.device_terms import choose_device_terms, error_figures, left_out_errors, terms_without
from training.fit.model_interval import fit_interval
from training.fit.priced import PricedModel, family_of, price_models
from training.fit.queue_fit import QueueFit
from training.validate.sources import data_folder, models_frame

#: A call waits for its launch, not the device, where eager time is so many times the device's.
LAUNCH_BOUND = 2.0


def fit_host(models: pd.DataFrame, mapper: HardwareMapper, ops: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return what measured whole models say beyond the sum of operators; empty where none was measured.

    Parameters
    ----------
    models : DataFrame
        model, batch, dtype, mode (``graph``, ``kernels``, ``eager``), median_us.
    mapper : HardwareMapper
        Prices the operators.
    ops : DataFrame, optional
        Operator rows with ``eager_us``: how long each class of calls takes to launch.

    Returns
    -------
    dict
        ``device``, ``host``, ``eager``, ``intervals``, ``related``; `docs/whole-models.md` names every key.  All
        error figures are of models left out of the fit.
    """
    base, carried = related_terms(mapper)
    rows = price_models(models, mapper, base)
    if not rows:
        return {}
    out: dict[str, Any] = {"related": carried} if carried else {}
    intervals = {}
    device, eager = [r for r in rows if r.mode != "eager"], [r for r in rows if r.mode == "eager"]
    terms, conv = base, False
    if device:
        terms, conv = choose_device_terms(device, base)
        out["device"], intervals["device"] = _device_entry(device, base, terms, conv)
    if eager:
        # Device terms that have not seen the model, where that was measured on the device as well.
        unseen = terms_without(device, base, conv) if device else {}
        fit = QueueFit(mapper.host_and_device_overlap, launch_table(ops), terms, unseen)
        if not device:
            fit = fit.with_convolutions_if_worth(eager)
        host, terms = fit.fit(eager)
        out["host"] = host.to_dict()
        out["eager"], intervals["eager"] = _eager_entry(eager, fit)
        if fit.conv:
            out["device"] = {"conv_fp32": round(terms.conv_fp32, 4), "conv_from_k": terms.conv_from_k}
    out["intervals"] = {k: v for k, v in intervals.items() if v is not None}
    return out


def related_terms(mapper: HardwareMapper) -> tuple[WholeModelTerms, dict[str, Any]]:
    """Return the domains of the related machine whose rows took part in the fit, and their stored form."""
    # On a GPU wider kernels choose among algorithms; on a CPU a network's tensors are warmer than rotating buffers.
    from_k = 2 if mapper.host_and_device_overlap else 1
    model = None if mapper.calibration is None else mapper.calibration.model
    other = None if model is None else model.header.get("provenance", {}).get("related")
    if not other or model is None:
        return WholeModelTerms(conv_from_k=from_k), {}
    there = load_calibration(other).model
    if there is None:
        return WholeModelTerms(conv_from_k=from_k), {}
    own = {kind for f in model.families.values() for kind in f.domains}
    domains = {kind: d for f in there.families.values() for kind, d in f.domains.items() if kind in own}
    stored = {"hardware": other, "domains": {kind: d.to_dict() for kind, d in sorted(domains.items())}}
    return WholeModelTerms(conv_from_k=from_k, related=other, domains=domains), stored


def launch_table(ops: pd.DataFrame | None) -> dict[str, float]:
    """Return the median seconds to launch each class of calls (`graphs.host.call_key`), from launch-bound rows."""
    if ops is None or "eager_us" not in ops or not ops["eager_us"].notna().any():
        return {}
    bound = ops[ops["eager_us"] > LAUNCH_BOUND * ops["median_us"]]
    params = [json.loads(p) if isinstance(p, str) else p for p in bound["params"]]
    keys = [call_key(o, p, d) for o, p, d in zip(bound["op"], params, bound["dtype"], strict=True)]
    seconds = bound["eager_us"].groupby(np.array(keys, dtype=object)).median() * 1e-6
    return {str(k): float(v) for k, v in seconds.items()}


def _device_entry(
    rows: list[PricedModel], base: WholeModelTerms, terms: WholeModelTerms, conv: bool
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    names = [r.model for r in rows]
    errors = left_out_errors(rows, base, conv)
    widths = [r.widths(terms, r.device_s(terms)) for r in rows]
    plain = np.array([np.log(r.device_s(base) / r.measured_s) for r in rows])
    entry = {
        "kernel_gap_s": terms.kernel_gap_s, "conv_fp32": terms.conv_fp32,
        "conv_from_k": terms.conv_from_k, "rows": len(rows),
        "models": len(set(names)), "names": sorted(set(names)), "lomo": error_figures(errors),
        "left_out_family": error_figures(left_out_errors(rows, base, conv, by_family=True)),
        "plain_sum": error_figures(plain),
        "lomo_by_area": {
            area: error_figures(errors[[r.area == area for r in rows]]) for area in sorted({r.area for r in rows})
        },
    }  # fmt: skip
    return entry, fit_interval(names, errors, widths, np.zeros(len(rows)))


def _eager_entry(rows: list[PricedModel], fit: QueueFit) -> tuple[dict[str, Any], dict[str, Any] | None]:
    names = [r.model for r in rows]
    left = fit.left_out(rows)
    entry: dict[str, Any] = {
        "rows": len(rows), "models": len(set(names)), "names": sorted(set(names)),
    }  # fmt: skip
    if len(set(names)) < 2:  # nothing is left to fit to: no figure of unseen models
        return entry, None
    entry["lomo"] = error_figures(left.log_errors)
    # with terms of the device the relatives have been seen
    if not fit.unseen and len({family_of(n) for n in names}) > 1:
        entry["left_out_family"] = error_figures(fit.left_out(rows, by_family=True).log_errors)
    return entry, fit_interval(names, left.log_errors, left.widths, left.waiting)


@click.command()
@click.option("--hardware", required=True, help="hardware id")
@click.option("--models", "folder", type=click.Path(exists=True, path_type=Path), required=True, help="fitted model")
@click.option("--data", type=click.Path(path_type=Path), help="folder of measured tables  [default: data/HARDWARE]")
def main(hardware: str, folder: Path, data: Path | None) -> None:
    """Compute the whole-model terms of a fitted model anew, and write them into its header."""
    profile = load_profile(hardware)
    model = load_model(folder)
    models = models_frame(profile, None, None, data)
    if models is None:
        raise GraphsError(
            f"no whole model was measured on '{hardware}'", received=str(data_folder(profile, data)),
            next_step="put models.parquet there",
        )  # fmt: skip
    for stale in (HEADER_KEY, "eager"):
        model.header.pop(stale, None)
    calibration = build_calibration(profile, model)
    terms = fit_host(
        models, create_mapper(hardware, calibration=calibration),
        read_ops(data_folder(profile, data) / "ops.parquet").frame,
    )  # fmt: skip
    model.header[HEADER_KEY] = terms
    save_model(model, folder)
    shown = {k: terms[k] for k in ("device", "eager", "intervals") if k in terms}
    click.echo(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
