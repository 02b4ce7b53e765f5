"""The accuracy page: figures of `training.ablation`, and the fitted models' held-out scores against their targets."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.hardware.profile import load_profile
from training import ablation_terms as ablation
from training.compare_forms import FORMS
from training.fit.family import ADAPTABLE, FOLDS, ROBUST, SLOW_OUTLIERS, SMALL_FAMILY
from training.fit.prepare import read_frame
from training.validate import holdout
from training.validate.baselines import baselines

#: What the accuracy work aims at: hardware, rows, where their scores lie, median and mean error, share within 10 %.
TARGETS: tuple[tuple[str, str, tuple[str, ...], float, float, float | None], ...] = (
    ("h100-sxm", "random", ("by_split", "random"), 0.03, 0.07, 0.83),
    ("h100-sxm", "new layer shapes", ("by_split", "new_layer_shape"), 0.03, 0.045, None),
    ("h100-sxm", "largest FLOP", ("by_split", "largest_flops"), 0.05, 0.10, None),
    ("h100-sxm", "conv2d, all", ("by_family", "conv2d"), 0.10, 0.16, None),
    ("h200-sxm", "random", ("by_split", "random"), 0.04, 0.09, 0.78),
    ("xeon-16c", "random", ("by_split", "random"), 0.11, 0.19, None),
)
_INGREDIENTS = (
    ablation.LATENCY, ablation.ROOFLINE, ablation.FULL, ablation.JOINT, ablation.TREES_JOINT, ablation.CLASSES,
    ablation.STACK, ablation.RECIPE,
)  # fmt: skip
_BASELINES = ("default_20pct", "roofline", "lookup", "lookup_latency", "log_linear")
#: Fewer held-out rows than this say little about which of two predictors is better.
_FEW = 10


def render(found: dict[str, Any], models: Path, data: Path = Path("data")) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    found : dict
        As `training.ablation.run` returns it.
    models : Path
        Folder of fitted models, ``<hardware>/model.json``.
    data : Path
        Folder of measured tables, ``<hardware>/``; hardware without one is left out of the comparison by family.
    """
    headers = {
        p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(Path(models).glob("*/model.json"))
    }
    headers = {name: h for name, h in headers.items() if h.get("scores")}
    scored = _scored(headers, Path(models), data)
    parts = [
        _head(found),
        _ingredients(found),
        _curve(found),
        _oracle(found),
        _floor(found),
        _distillation(headers),
        _forms(found.get("forms")),
        _targets(headers),
        _against_baselines(scored),
        _reasons(found),
        _concentration(scored),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _text(paragraph: str) -> str:
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def _cell(m: dict[str, float] | None) -> str:
    if not m:
        return "-"
    return f"{100 * m['median_ape']:.1f} / {100 * m['mape']:.1f} / {100 * m['within_10pct']:.0f}"


def _pair(m: dict[str, float]) -> str:
    return f"{100 * m['median_ape']:.1f} / {100 * m['mape']:.1f} %"


def _table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """Return a table; the first `words` columns hold words, the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def _families(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    everything = [("**pooled**", found["pooled"])] if len(found["families"]) > 1 else []
    return [*found["families"].items(), *everything]


def _head(found: dict[str, Any]) -> str:
    parts = [
        "# What the accuracy rests on",
        f"Written by `{found['command']} --out docs/accuracy.md` on {found['date']}; do not edit.\n"
        f"Data: `data/{found['hardware']}/ops.parquet`, SHA-256 `{found['data_sha256'][:16]}...`.",
        _text(
            "Cells are median / mean |predicted / measured - 1| in % / share of rows within 10 % in %. Unless said"
            f" otherwise they are cross-validated on training rows, in {FOLDS} folds by configuration; held-out rows"
            " take no part. `t0` and the length scales of the processes are fitted once on all training rows, as the"
            " recipe does; rows carried over from a related machine are not used."
        ),
    ]
    if found["quick"]:
        parts.append("**A quick trial on few rows: not for publication.**")
    return "\n\n".join(parts)


def _ingredients(found: dict[str, Any]) -> str:
    rows = []
    before = None
    for name in _INGREDIENTS:
        m = found["pooled"]["errors"][name]
        change = "-" if before is None else f"{100 * (m['mape'] - before['mape']):+.1f}"
        rows.append([name, f"{100 * m['median_ape']:.1f} %", f"{100 * m['mape']:.1f} %",
                     f"{100 * m['within_10pct']:.0f} %", change])  # fmt: skip
        before = m
    numbered = [[f"{i + 1}. {row[0]}", *row[1:]] for i, row in enumerate(rows)]
    pooled = _table(["all families", "median", "mean", "within 10 %", "mean against the row above, points"], numbered)
    head = ["family", "rows", *(str(i + 1) for i in range(len(_INGREDIENTS)))]
    by_family = [
        [n, str(p["errors"][ablation.STACK]["rows"]), *(_cell(p["errors"][i]) for i in _INGREDIENTS)]
        for n, p in _families(found)
    ]
    note = _text(
        "Weights of combinations are non-negative with the least absolute error, fitted for each fold on the"
        " out-of-fold predictions of the others. The last row is what `graphs train` fits: processes of"
        f" {', '.join(SLOW_OUTLIERS)} add noise to training rows that are far slower than the rest of the rows says,"
        f" and families of fewer than {SMALL_FAMILY} training rows get a forest of randomised trees, and length scales"
        f" of their own in each fold (so do {', '.join(ADAPTABLE)}): for these the last row is the honest one, without"
        f" that cross-validation flatters. Length scales of {', '.join(ROBUST)} are chosen by leave-one-out residuals"
        " under a distribution of heavy tails instead of the likelihood. The columns below are the rows above."
    )
    return f"## What each ingredient is worth\n\n{pooled}\n\n{note}\n\n{_table(head, by_family)}"


def _curve(found: dict[str, Any]) -> str:
    shares = [f"{s:g}" for s in ablation.CURVE_SHARES]
    rows = []
    for name, part in _families(found):
        c = part["curve"]
        half, full = c[shares[-2]], c[shares[-1]]
        gain = [f"{100 * (full[k] / half[k] - 1):+.0f} %" for k in ("median_ape", "mape")]
        rows.append([name, str(full["rows"]), *(_cell(c[s]) for s in shares), " / ".join(gain)])
    head = ["family", "rows scored", *(f"{100 * float(s):.0f} % of the rows" for s in shares), "50 -> 100 %"]
    note = _text(
        "The recipe, fitted on a part of the rows of the training folds; each part holds the smaller ones. All parts"
        f" are scored on the same rows, those of {len(ablation.CURVE_FOLDS)} of the {FOLDS} folds, to save time."
        " Weights and length scales are those of the whole training split in every column, which flatters the small"
        " parts a little. The last column is the change of median / mean error."
    )
    return f"## Learning curve\n\n{note}\n\n{_table(head, rows)}"


def _oracle(found: dict[str, Any]) -> str:
    if not found["oracle"]:
        return ""
    names = [n for n in next(iter(found["oracle"].values())) if n != "training_rows"]
    rows = [
        [f, f"{o[names[0]]['rows']} of {o['training_rows']}", *(_cell(o[n]) for n in names)]
        for f, o in sorted(found["oracle"].items())
    ]
    note = _text(
        "A joint GP on the training rows whose kernels the profiler recorded"
        f" (`data/{found['hardware']}/kernels.parquet`), without and with the kernels that really ran among its"
        " features: family of the longest kernel (one-hot;"
        f" families of fewer than {ablation.RARE} rows share a column) and number of kernels, then the longest one's"
        " tile too. No query can know them: this is a ceiling, of this plain model."
    )
    return f"## If the kernel were known\n\n{note}\n\n{_table(['family', 'rows', *names], rows)}"


def _floor(found: dict[str, Any]) -> str:
    rows = []
    for name, part in _families(found):
        retest = part["noise"].get("retest")
        rows.append([
            name, f"{_cell(retest)} ({retest['rows']})" if retest else "-", _cell(part["errors"][ablation.RECIPE]),
            *(_cell(part["errors"][b]) for b in _BASELINES),
        ])  # fmt: skip
    note = _text(
        "On the same training rows; tables are filled from the other folds. Retest is the difference of a second,"
        " independent timing of some rows (their number in brackets). It holds the noise of both timings: a model"
        " cannot be expected to come nearer to these rows than that."
    )
    return f"## Noise floor and baselines\n\n{note}\n\n{_table(['family', 'retest', 'recipe', *_BASELINES], rows)}"


def _distillation(headers: dict[str, Any]) -> str:
    rows = []
    for name, h in headers.items():
        d = h["scores"].get("distillation")
        if d and h["provenance"].get("form") == "student":
            change = " / ".join(f"{100 * (d['shipped'][k] - d['members'][k]):+.2f}" for k in ("median_ape", "mape"))
            rows.append([name, str(d["shipped"]["n"]), _cell(d["members"]), _cell(d["shipped"]), change])
    if not rows:
        return ""
    table = _table(["hardware", "rows", "members", "shipped", "median / mean, points"], rows)
    note = "On held-out rows: the fitted members, and the small networks that learnt from them and ship."
    return f"## What distillation costs\n\n{note}\n\n{table}"


def _forms(forms: dict[str, Any] | None) -> str:
    """Return what storing small networks instead of the members saves and costs."""
    if forms is None:
        return ""
    rows = []
    for name in FORMS:
        f = forms[name]
        scores = [_cell(f["scores"].get(k)) for k in ("all", "random", "new_layer_shape", "largest_flops")]
        speeds = [f"{f[k]:.0f} us" if f[k] >= 100 else f"{f[k]:.1f} us" for k in ("call_us", "mixed_us", "products_us")]
        rows.append([name, f"{f['bytes'] / 1e6:.2f} MB", *speeds, *scores])
    head = ["form", "file", "one call", "a row of all kinds", "a row of products", "held out", "random",
            "new layer shapes", "largest FLOP"]  # fmt: skip
    a, b = (forms[name] for name in FORMS)
    cost = [100 * (b["scores"]["all"][k] - a["scores"]["all"][k]) for k in ("median_ape", "mape")]
    held = [f["scores"]["all"]["interval_coverage"] for f in (a, b)]
    note = _text(
        f"One fit of {forms['hardware']} in two forms, the second made by `graphs train --distil`: a small network a"
        " family learns the members' answers at synthetic shapes. Held-out rows of the project's data, twins of both"
        " forms. Times are of one thread in one run, forms taking turns; compare them with each other, not with those"
        " of another machine."
    )
    verdict = _text(
        f"Networks answer tables {a['mixed_us'] / b['mixed_us']:.1f} times as fast, products of one kind"
        f" {a['products_us'] / b['products_us']:.0f} times, and cost {cost[0]:.1f} points of the median and"
        f" {cost[1]:.1f} of the mean error; their 90 % intervals hold on {100 * held[1]:.0f} % of the rows, the"
        f" members' on {100 * held[0]:.0f} %. The members ship, because accuracy is what a single answer is asked for;"
        " who asks for millions can fit the other form."
    )
    table = _table(head, rows)
    return f"## Members or networks\n\n{note}\n\n{table}\n\n{verdict}"


def _targets(headers: dict[str, Any]) -> str:
    rows = []
    for name, what, path, median, mean, within in TARGETS:
        if name not in headers:
            continue
        m: Any = headers[name]["scores"]["held_out"]
        for key in path:
            m = m.get(key, {})
        if not m:
            continue
        missed = [
            f"{label} {100 * gap:.1f}"
            for label, gap in (
                ("median", m["median_ape"] - median), ("mean", m["mape"] - mean),
                ("within 10 %", (within or 0.0) - m["within_10pct"]),
            )
            if gap > 0
        ]  # fmt: skip
        target = f"{100 * median:.1f} / {100 * mean:.1f}" + (f" / {100 * within:.0f}" if within else "")
        rows.append([name, what, str(m["n"]), target, _cell(m), ", ".join(missed) or "reached"])
    if not rows:
        return ""
    table = _table(["hardware", "rows", "number", "target", "reached", "missed by, points"], rows, 2)
    named = {name for name, *_ in TARGETS}
    fitted = ", ".join(
        f"{name} ({h['provenance'].get('form')}, fitted {h['provenance'].get('date')})"
        for name, h in headers.items()
        if name in named
    )
    note = _text(f"On held-out rows, from the scores in `models/*/model.json`: {fitted}.")
    return f"## Targets\n\n{note}\n\n{table}"


def _scored(headers: dict[str, Any], models: Path, data: Path) -> dict[str, pd.DataFrame]:
    """Return the held-out rows of each machine: family, split, and the errors of the model and of every baseline."""
    out = {}
    for name in headers:
        if not (data / name).is_dir():
            continue
        profile = load_profile(name)
        frame, _, _ = read_frame(profile, data / name)
        rows = holdout.read(models / name, frame)
        measured = rows["median_us"].to_numpy(dtype=np.float64) * 1e-6
        train = frame[frame["split"] == "train"].reset_index(drop=True)
        predicted = {"model": rows["predicted_s"].to_numpy(dtype=np.float64), **baselines(train, rows, profile)}
        out[name] = pd.DataFrame(
            {"family": [ops.get(o).family for o in rows["op"]], "split": rows["split"].to_numpy()}
            | {n: np.abs(p / measured - 1.0) for n, p in predicted.items()}
        )
    return out


def _against_baselines(scored: dict[str, pd.DataFrame]) -> str:
    total, lost, few = 0, [], 0
    for name, rows in scored.items():
        for (family, split), part in rows.groupby(["family", "split"]):
            if len(part) < _FEW:
                few += 1
                continue
            errors = part[["model", *_BASELINES]]
            for label, here in (("median", errors.median()), ("mean", errors.mean())):
                total += 1
                best = str(here[list(_BASELINES)].idxmin())
                if here["model"] >= here[best]:
                    lost.append([name, str(family), str(split), str(len(part)), label,
                                 f"{100 * here['model']:.1f} %", f"{best} {100 * here[best]:.1f} %"])  # fmt: skip
    if not scored:
        return ""
    verdict = f"in all {total}" if not lost else f"in {total - len(lost)} of {total}"
    text = _text(
        f"Median and mean error of each family on each held-out split of {', '.join(scored)}: the model is better"
        f" than the best baseline {verdict} comparisons ({few} groups of fewer than {_FEW} rows left out)."
    )
    if lost:
        head = ["hardware", "family", "split", "rows", "figure", "model", "best baseline"]
        text += "\n\n" + _table(head, lost, 3)
    return f"## Against the baselines on held-out rows\n\n{text}"


def _concentration(scored: dict[str, pd.DataFrame]) -> str:
    """Return where the held-out error sits: in one family, in a few rows."""
    lines = []
    for name, rows in scored.items():
        for split, part in rows.groupby("split"):
            ape = part["model"].to_numpy(dtype=np.float64)
            rest = ape[(part["family"] != "conv2d").to_numpy()]
            worst = np.sort(ape)[-math.ceil(0.05 * len(ape)) :]
            lines.append([name, str(split), str(len(ape)), _cell(ablation.figures(ape)),
                          _cell(ablation.figures(rest)) if len(rest) else "-",
                          f"{100 * worst.sum() / ape.sum():.0f} %"])  # fmt: skip
    if not lines:
        return ""
    head = ["hardware", "split", "rows", "all", "without the family conv2d", "of the mean: the worst 5 % of rows"]
    return "**Where the held-out error sits.**\n\n" + _table(head, lines, 2)


def _reasons(found: dict[str, Any]) -> str:
    texts = []
    conv = found["oracle"].get("conv2d")
    if conv:
        first, *_, last = (m for n, m in conv.items() if n != "training_rows")
        texts.append(
            "**Kernel selection.** cuDNN chooses among many kernels by rules that are not public, and latency jumps"
            " where the choice changes: neighbouring shapes tell little across such a cliff. On convolutions the true"
            f" kernel takes a plain GP from {_pair(first)} to {_pair(last)}; the rest of the error stays even with the"
            " kernel known. Kernel families predicted out of fold (seven in ten right) as further features took 0.2"
            " points off the mean when they were tried, within the scatter of such trials, and were not kept."
        )
    curve = found["pooled"]["curve"]
    half, full = (curve[f"{s:g}"] for s in ablation.CURVE_SHARES[-2:])
    falls = sum(p["curve"]["1"]["mape"] < 0.95 * p["curve"]["0.5"]["mape"] for p in found["families"].values())
    plateau = full["mape"] > 0.95 * half["mape"]
    texts.append(
        f"**Rows.** Twice the rows take the pooled error from {_pair(half)} to {_pair(full)}, and lower the mean by"
        f" more than 5 % in {falls} of {len(found['families'])} families: "
        + ("a plateau is near." if plateau else "no plateau yet, so more measured rows would help.")
    )
    retest = found["pooled"]["noise"].get("retest")
    if retest:
        recipe = _pair(found["pooled"]["errors"][ablation.RECIPE])
        texts.append(f"**Noise** is not the limit: {_pair(retest)} between two timings, {recipe} for the recipe.")
    nested = [
        f"{name} {100 * e[ablation.STACK]['mape']:.1f} -> {100 * e[ablation.RECIPE]['mape']:.1f} %"
        for name, e in ((n, found["families"][n]["errors"]) for n in ADAPTABLE if n in found["families"])
        if name not in ROBUST
    ]
    if nested:
        texts.append(
            "**Length scales** chosen with a fold's own rows at hand flatter cross-validation. Families with scales of"
            f" their own in each fold have a higher mean error in column 8 than in column 7 ({', '.join(nested)}),"
            " though column 8 distrusts outliers too. The intervals of the other families rest on flattered errors, of"
            " folds that on the other hand learn from a fifth fewer rows. Single trials against it, by scripts that"
            " were not kept: averages over random subsets, stronger priors, fewer steps, more or fewer features, the"
            " robust objective for products and element-wise kinds. None was better on all families by more than 3 %,"
            " and the last, refitted whole, did not lower the held-out errors."
        )
    texts.append(
        "**Fresh memory.** On xeon-16c a buffer of 32 MiB and more is mapped anew at every call and its pages fault:"
        " about 0.1 ms more for each MB. Of 178 training rows with such a buffer 8 escape, up to ten times faster than"
        " the rest. None of their buffers has more than 60 MiB, which fits an allocator that keeps up to 64 MiB free at"
        " the top of its heap: whether a call finds that much there depends on what ran before, not on its shape."
    )
    texts.append(
        "**Slow spells.** On xeon-16c calls below 15 us run at about half speed for stretches of the campaign: errors"
        " of such rows that follow each other in the table correlate by 0.27, those of longer calls by 0.11. A second"
        " timing right after the first does not show this, so the noise floor there is higher than the retest says."
    )
    return "\n\n".join(["## What is known of the reasons", *map(_text, texts)])
