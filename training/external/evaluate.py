"""Scores of one set: our model and every baseline on each split, fitted on the rest of the same set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.external import prefill
from training.external.baselines import Lookup, affine, log_linear, neighbours
from training.external.features import PRODUCTS, features, raw_columns, rooflines, wave_terms
from training.external.machines import AIC_SYSTEMS, NEUSIGHT_SYSTEMS
from training.external.members import (
    BASES,
    BEYOND,
    BOOSTED_ALONE,
    PRODUCT_BASES,
    WEIGHTS,
    Choice,
    Rows,
    choose,
    fit_predict,
)
from training.external.splits import splits
from training.validate.metrics import metrics

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Kinds of NeuSight whose table is small: there more bases are tried.
_ROW_KINDS = frozenset(
    {"layernorm", "softmax", "add", "mul", "div", "add_scalar", "mul_scalar", "relu", "gelu", "tanh"}
)

#: Share of the training rows on which a base is chosen where rows are held out at random.
INNER = 0.2
#: Decoding beyond the longest: the trees as they are.
HELD = Choice("roofline", (1.0, 0.0, 0.0), beyond=True)
#: Prompts beyond the longest: a law instead of trees, see `prefill`.
LAW = Choice("law", (0.0, 0.0, 0.0), beyond=True)

#: Multiple of the cache from which nothing is reused, and the share of the datasheet's bandwidth that copies reach at
#: best on GPUs; neither is fitted.
STREAMS, SUSTAINED = 1.5, 0.9


def prepare(frame: pd.DataFrame) -> Rows:
    """Return features and rooflines of the rows of one set."""
    name = str(frame["gpu"].iloc[0] if "gpu" in frame else frame["system"].iloc[0])
    machine = (NEUSIGHT_SYSTEMS if "gpu" in frame else AIC_SYSTEMS)[name].machine
    flops, nbytes, latency = (frame[c].to_numpy(dtype=np.float64) for c in ("flops", "bytes", "latency_s"))
    x = features(frame)
    raw = np.zeros(x.shape[1], dtype=bool)
    raw[raw_columns(frame)] = True
    used = x.std(axis=0) > 0
    attainable = rooflines(frame).attainable_s
    waves, kernel = None, None
    if frame["op"].iloc[0] in PRODUCTS:
        waves = wave_terms(frame)
        kernel = pd.factorize(frame["kernel"], sort=True)[0] if "gpu" in frame else None
    return Rows(x[:, used], latency, attainable, flops, nbytes, machine.l2_bytes, raw[used], waves, kernel)


def evaluate(frame: pd.DataFrame, seed: int = 0, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return the scores of one set by split and method, with the median of efficiency and its share above 1.

    Parameters
    ----------
    frame : DataFrame
        Rows of one set, in the columns of an importer.
    seed : int
    only : tuple of str, optional
        Splits to score.
    """
    frame = frame.reset_index(drop=True)
    rows = prepare(frame)
    kind = str(frame["kind"].iloc[0]) if "gpu" in frame else ""
    efficiency = rows.roofline_s / rows.latency_s
    out: dict[str, Any] = {
        "rows": len(frame), "efficiency_median": float(np.median(efficiency)),
        "share_above_1": float((efficiency > 1).mean()), "splits": {},
    }  # fmt: skip
    for name, held in splits(frame).items():
        if (only is not None and name not in only) or not held.any() or held.all():
            continue
        train, query = rows.take(~held), rows.take(held)
        chosen = Choice()
        if name == "largest":
            chosen = BEYOND
            if "gpu" in frame:
                # the largest fifth of what may be fitted on stands in for what is asked
                bases = BASES if kind in _ROW_KINDS else PRODUCT_BASES if kind in PRODUCTS else ("roofline",)
                some = BOOSTED_ALONE if kind in PRODUCTS else WEIGHTS
                large = train.flops > np.quantile(train.flops, 0.8)
                chosen = choose(train, large, bases, seed, combinations=some)
            elif frame["op"].iloc[0] != "linear":
                chosen = HELD
        elif kind in PRODUCTS:
            inner = np.random.default_rng(seed).random(len(train.x)) < INNER
            chosen = choose(train, inner, PRODUCT_BASES, seed, extrapolate=False, combinations=BOOSTED_ALONE)
        if name == "largest" and frame["op"].iloc[0] == "sdpa":
            chosen = LAW
            model = prefill.fit_predict(frame[~held], frame[held])
        else:
            model = fit_predict(train, query, chosen, seed)
        if chosen.beyond and kind in _ROW_KINDS:
            model = np.maximum(model, streaming_floor(query))
        predicted = {"model": model, **baselines(frame, rows, held)}
        if kind == "conv2d":
            predicted["model_order"] = in_order(rows, held, chosen, seed)
        out["splits"][name] = {
            "choice": {"base": chosen.base, "weights": chosen.weights, "kernels": chosen.kernels},
            **{m: score(query.latency_s, p) for m, p in predicted.items()},
        }
    return out


def in_order(rows: Rows, held: Mask, choice: Choice, seed: int) -> Array:
    """Return what the model says to held-out rows when it also knows when a row was measured: its place in the file.

    No user of a model knows that; it shows how much of the error is drift of the measurement.
    """
    place = np.linspace(0.0, 1.0, len(rows.x))[:, None]
    known = replace(rows, x=np.hstack([rows.x, place]), raw=np.append(rows.raw, False))
    return fit_predict(known.take(~held), known.take(held), choice, seed)


def streaming_floor(query: Rows) -> Array:
    """Return the least time of rows that memory bounds: what exceeds the cache streams at `SUSTAINED` of the bandwidth.

    Rows small enough for the cache say nothing of larger ones: on a cache of 40 MB they run at twice the bandwidth.
    """
    return np.where(query.bytes > STREAMS * query.cache_bytes, query.roofline_s / SUSTAINED, 0.0)


def score(measured: Array, predicted: Array) -> dict[str, Any]:
    """Return the figures of predicted against measured seconds (n,); NaN is a miss, counted apart."""
    known = np.isfinite(predicted)
    full = metrics(measured[known], predicted[known])
    keep = ("n", "mape", "median_ape", "p90_ape", "within_10pct", "bias")
    return {k: full[k] for k in keep} | {"missed": int((~known).sum())}


def baselines(frame: pd.DataFrame, rows: Rows, held: Mask) -> dict[str, Array]:
    """Return the seconds that each baseline predicts for the held-out rows of a set; NaN where it has no answer."""
    train, query = rows.take(~held), rows.take(held)
    out = {"roofline": query.roofline_s, "default_20pct": rooflines(frame).default_s()[held]}
    out["affine"] = affine(train.flops, train.bytes, train.latency_s, query.flops, query.bytes)
    x = dimensions(frame)
    log_efficiency = np.log(train.roofline_s / train.latency_s)
    for name, method in (("neighbours", neighbours), ("log_linear", log_linear)):
        out[name] = query.roofline_s / np.exp(method(x[~held], log_efficiency, x[held]))
    if "gpu" not in frame and frame["op"].iloc[0] == "linear":
        m, n, k = (frame[c].to_numpy(dtype=np.float64) for c in ("m", "n", "k"))
        table = Lookup.fit(m[~held], n[~held], k[~held], train.latency_s, train.roofline_s)
        out["lookup"] = table.predict(m[held], n[held], k[held], query.roofline_s)
    return out


def dimensions(frame: pd.DataFrame) -> Array:
    """Return log2 of the dimensions of the rows of one set, (n, d)."""
    names = ("b", "m", "n", "k", "rows", "cols", "c_in", "c_out", "ksize", "in_size", "h", "hkv", "seq", "d", "window")
    # a count of 0 is a window that is off
    columns = [np.log2(frame[c].to_numpy(dtype=np.float64) + (c == "window")) for c in names if c in frame]
    x = np.column_stack([c for c in columns if np.isfinite(c).all()])
    return x
