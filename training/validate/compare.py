"""Two summaries side by side, and a gate: did what was good get worse by more than the noise?

Both summaries must hold the same rows for the gate; across hardware the figures are only compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from graphs.errors import DataError
from training.validate.summary import SCHEMA_VERSION

#: A group was good if its median error was at most this, or below that of every baseline.
GOOD = 0.10
#: Chance that noise alone fails the gate, over all groups together.
ALPHA = 0.05
#: Rows a group needs to be tested on its own.
FEW = 12
RESAMPLES = 4000
#: |log error| beyond which a row counts no more: one wild row must not decide.
CLIP = 1.0
#: Noise floor where no row was timed twice.
NOISE = 0.005
LISTED = 20
FIGURES = ("n", "median_ape", "mape", "p90_ape", "within_10pct", "bias", "interval_coverage")
_GROUPS = ("by_split", "by_family", "by_dtype", "by_op", "by_size", "by_intensity")

Array = NDArray[np.float64]


def compare(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str], seed: int = 0) -> dict[str, Any]:
    """Return the comparison of two summaries, A before and B after.

    Parameters
    ----------
    a, b : dict
        Summaries (`training.validate.summary`).
    names : (str, str)
        What to call them.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``names``, ``hardware``; ``groups`` [{group, a, b}] of the figures of each; ``shared`` number of rows in
        both; ``gate``: {applied, reason, passed, noise, tested, not_tested, regressions}.

    Raises
    ------
    DataError
        For summaries of another schema version.
    """
    for s, name in zip((a, b), names, strict=True):
        if s.get("schema_version") != SCHEMA_VERSION:
            raise DataError(f"the summary '{name}' has another schema version", received=s.get("schema_version"),
                            allowed=SCHEMA_VERSION, next_step="write it again with graphs validate --json")  # fmt: skip
    rows = _pairs(a.get("points"), b.get("points"))
    models = _model_pairs(a.get("models") or {}, b.get("models") or {})
    out = {
        "schema_version": SCHEMA_VERSION, "names": list(names), "hardware": [a["hardware"], b["hardware"]],
        "groups": _figures(a, b), "shared": len(rows["key"]), "shared_models": len(models["key"]),
        "device_ratio": _device_ratio(rows) if a["hardware"] != b["hardware"] else {},
    }  # fmt: skip
    if a["hardware"] != b["hardware"]:
        gate = {"applied": False, "reason": "the hardware differs: nothing is before or after", "passed": True}
    elif not len(rows["key"]) and not len(models["key"]):
        gate = {"applied": False, "reason": "the summaries share no rows", "passed": True}
    elif not _same_measurements(rows) or not _same_measurements(models):
        gate = {"applied": False, "passed": True,
                "reason": "the shared configurations were measured anew, so errors do not compare"}  # fmt: skip
    else:
        gate = _gate(a, rows, models, np.random.default_rng(seed))
    return {**out, "gate": gate}


def _figures(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[tuple[str, Any, Any]] = [("all", a["all"], b["all"])]
    for key in _GROUPS[:-2]:
        shared = [v for v in a[key] if v in b[key]]
        found += [(f"{key.removeprefix('by_')} {v}", a[key][v], b[key][v]) for v in shared]
    ma, mb = a.get("models") or {}, b.get("models") or {}
    if ma.get("n") and mb.get("n"):
        found += [(f"models {v}", ma["by_mode"][v], mb["by_mode"][v]) for v in ma["by_mode"] if v in mb["by_mode"]]
    # Figures by mode hold models that terms were fitted to; these are of each such model left out of the fit.
    la, lb = (m.get("left_out") or {} for m in (ma, mb))
    found += [(f"models {v}, each left out of the fit", la[v], lb[v]) for v in la if v in lb]
    return [
        {"group": g, "a": {k: x.get(k) for k in FIGURES}, "b": {k: y.get(k) for k in FIGURES}}
        for g, x, y in found
        if x["n"] or y["n"]
    ]


def _pairs(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, Any]:
    """Return the rows of both, in A's order."""
    if not a or not b:
        return {"key": []}
    place = {k: i for i, k in enumerate(zip(b["key"], b["dtype"], strict=True))}
    here = [(i, place[k]) for i, k in enumerate(zip(a["key"], a["dtype"], strict=True)) if k in place]
    i, j = [x for x, _ in here], [y for _, y in here]

    def take(p: dict[str, Any], name: str, at: list[int]) -> Array:
        return np.array([np.nan if p[name][x] is None else p[name][x] for x in at], dtype=np.float64)

    out: dict[str, Any] = {c: [a[c][x] for x in i] for c in ("key", "op", "family", "dtype", "split")}
    for side, p, at in (("a", a, i), ("b", b, j)):
        out[f"measured_{side}"] = take(p, "measured_s", at)
        out[f"predicted_{side}"] = take(p, "predicted_s", at)
    return out


def _model_pairs(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    def keyed(m: dict[str, Any]) -> dict[str, Any]:
        return {f"{r['model']} b{r['batch']} {r['dtype']} {r['mode']}": r for r in m.get("rows", [])}

    x, y = keyed(a), keyed(b)
    keys = [k for k in x if k in y]
    out: dict[str, Any] = {"key": keys, "mode": ["eager" if x[k]["mode"] == "eager" else "device" for k in keys]}
    for side, p in (("a", x), ("b", y)):
        for c in ("measured", "predicted"):
            out[f"{c}_{side}"] = np.array([p[k][f"{c}_s"] for k in keys], dtype=np.float64)
    return out


def _same_measurements(rows: dict[str, Any]) -> bool:
    if not len(rows["key"]):
        return True
    return bool(np.allclose(rows["measured_a"], rows["measured_b"], rtol=1e-4, atol=0.0))


def _device_ratio(rows: dict[str, Any]) -> dict[str, Any]:
    """Return measured and predicted B / A of the shared configurations: which device is faster, and do we say so?"""
    if not len(rows["key"]):
        return {}
    measured = rows["measured_b"] / rows["measured_a"]
    predicted = rows["predicted_b"] / rows["predicted_a"]
    apart = np.abs(np.log(measured)) > np.log(1.05)
    right = np.sign(np.log(predicted)) == np.sign(np.log(measured))
    return {
        "rows": len(measured), "measured_median": float(np.median(measured)),
        "predicted_median": float(np.median(predicted)), "more_than_5pct_apart": int(apart.sum()),
        "faster_device_named": float(right[apart].mean()) if apart.any() else None,
    }  # fmt: skip


def _gate(a: dict[str, Any], rows: dict[str, Any], models: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Test each group that was good: did its mean |log error| rise by more than the noise floor?

    Paired over the rows both hold, by bootstrap and by Student; the one-sided bound is at `ALPHA` over the number
    of groups (Bonferroni), so that noise alone fails the gate in at most `ALPHA` of comparisons.
    """
    noise = a["noise"].get("median_ape") or NOISE
    groups = [("all", "rows", np.arange(len(rows["key"])))] if len(rows["key"]) else []
    for column in ("split", "family", "dtype", "op"):
        values = np.array(rows.get(column, []))
        groups += [(f"{column} {v}", "rows", np.flatnonzero(values == v)) for v in sorted(set(values))]
    modes = np.array(models.get("mode", []))
    groups += [(f"models {v}", "models", np.flatnonzero(modes == v)) for v in sorted(set(modes))]
    tested, skipped = [], []
    for name, table, places in groups:
        was = _median_ape(rows if table == "rows" else models, places)
        if len(places) < FEW:
            skipped.append({"group": name, "why": f"{len(places)} shared rows are too few"})
        elif not _was_good(a, name, was):
            skipped.append({"group": name, "why": f"it was not good before ({100 * was:.1f} % median)"})
        else:
            tested.append((name, rows if table == "rows" else models, places))
    regressions = []
    for name, table_, places in tested:
        rise = _rise(table_, places)
        low = _lower_bound(rise, ALPHA / len(tested), rng)
        if low > noise:
            regressions.append({
                "group": name, "n": len(places), "mean_rise": float(rise.mean()), "low": low,
                "rows": _rows(table_, places, rise, noise),
            })  # fmt: skip
    return {
        "applied": True, "reason": "", "passed": not regressions, "noise": noise, "tested": [n for n, _, _ in tested],
        "not_tested": skipped, "regressions": regressions,
    }  # fmt: skip


def _was_good(a: dict[str, Any], name: str, median_ape: float) -> bool:
    if median_ape <= GOOD:
        return True
    kind, _, value = name.partition(" ")
    if kind == "models":
        return False
    of = [b["all"] if kind == "all" else b[f"by_{kind}"].get(value, {}) for b in a["baselines"].values()]
    others = [m["median_ape"] for m in of if m.get("median_ape") is not None]
    return bool(others) and median_ape < min(others)


def _median_ape(rows: dict[str, Any], places: NDArray[np.intp]) -> float:
    if not len(places):
        return float("nan")
    return float(np.median(np.abs(rows["predicted_a"][places] / rows["measured_a"][places] - 1.0)))


def _rise(rows: dict[str, Any], places: NDArray[np.intp]) -> Array:
    """Return by how much |log error| rose, clipped, (n,)."""
    before, after = (
        np.minimum(np.abs(np.log(rows[f"predicted_{s}"][places] / rows[f"measured_{s}"][places])), CLIP) for s in "ab"
    )
    return np.asarray(after - before)


def _lower_bound(rise: Array, alpha: float, rng: np.random.Generator) -> float:
    """Return a one-sided bound of the mean: the lower of the bootstrap's and of Student's.

    The percentile bootstrap of a dozen rows is too sure of itself, Student's bound of skewed rows is too; together
    they are cautious.
    """
    n = len(rise)
    student = rise.mean() - stats.t.ppf(1.0 - alpha, n - 1) * rise.std(ddof=1) / np.sqrt(n)
    return float(min(np.quantile(_bootstrap(rise, rng), alpha), student))


def _bootstrap(values: Array, rng: np.random.Generator) -> Array:
    """Return means of resamples, (RESAMPLES,)."""
    n, step = len(values), max(1, 2_000_000 // len(values))
    parts = [
        values[rng.integers(0, n, size=(min(step, RESAMPLES - i), n))].mean(axis=1) for i in range(0, RESAMPLES, step)
    ]
    return np.concatenate(parts)


def _rows(rows: dict[str, Any], places: NDArray[np.intp], rise: Array, noise: float) -> list[dict[str, Any]]:
    worst = [int(i) for i in np.argsort(-rise, kind="stable")[:LISTED] if rise[i] > noise]
    return [
        {
            "key": rows["key"][places[i]], "measured_s": float(rows["measured_a"][places[i]]),
            "before_s": float(rows["predicted_a"][places[i]]), "after_s": float(rows["predicted_b"][places[i]]),
            "rise": float(rise[i]),
        }
        for i in worst
    ]  # fmt: skip
