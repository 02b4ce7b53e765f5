"""Accuracy on public measurements, and models fitted on them.

``python -m training.external --data DIR --out docs/validation`` scores every set and writes the pages;
``python -m training.external --fit SKU --data DIR --out models`` fits the model of one SKU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from graphs.errors import DataError
from training.external import aiconfigurator, neusight, neusight_net, render
from training.external.evaluate import evaluate, score
from training.external.source import AICONFIGURATOR, NEUSIGHT, Source, data_folder
from training.external.splits import splits

#: Reader and file of a table.
Table = tuple[Callable[[Path], pd.DataFrame], str]

#: Tables of each source by name.
TABLES: dict[str, dict[str, Table]] = {
    "aiconfigurator": {
        "gemm": (aiconfigurator.read_gemm, aiconfigurator.GEMM_FILE),
        "context_attention": (aiconfigurator.read_context, aiconfigurator.CONTEXT_FILE),
        "generation_attention": (aiconfigurator.read_generation, aiconfigurator.GENERATION_FILE),
    },
    "neusight": {"operators": (neusight.read_ops, neusight.FILE)},
}
SOURCES: dict[str, Source] = {s.name: s for s in (AICONFIGURATOR, NEUSIGHT)}


def main(argv: Sequence[str] | None = None) -> None:
    """Score public measurements, or fit a SKU on them."""
    parser = argparse.ArgumentParser(prog="python -m training.external", description=main.__doc__)
    parser.add_argument("--data", type=Path, help="folder with one sub-folder a source; default: GRAPHS_EXTERNAL_DATA")
    parser.add_argument("--out", type=Path, default=Path("docs/validation"))
    parser.add_argument("--fit", metavar="SKU", nargs="+", help="fit and write the models of SKUs, such as t4+torch2.1")
    parser.add_argument("--only", nargs="*", help="sources or tables to score: neusight, gemm, ...")
    parser.add_argument("--sets", nargs="*", help="score only these sets, machines, operators or dtypes")
    parser.add_argument("--work", type=Path, help="keep each set's scores here, and go on where a run stopped")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with threadpool_limits(limits=1):
        if args.fit:
            from training.external.ship import ship

            for sku in args.fit:
                ship(sku, args.data, args.out, args.seed)
            return
        for name, source in SOURCES.items():
            tables = {
                t: v for t, v in TABLES[name].items() if not args.only or name in args.only or t in args.only
            }  # fmt: skip
            if tables:
                score_source(source, tables, args)


def score_source(source: Source, tables: Mapping[str, Table], args: argparse.Namespace) -> None:
    """Score every set of some tables of one source and write its page and JSON."""
    folder = data_folder(source, args.data)
    result: dict[str, dict[str, Any]] = {}
    available: dict[str, int] = {}
    for table, (reader, _) in tables.items():
        frame = reader(folder)
        result[table] = {}
        # the sets that the project's targets name come first, so that a stopped run has them
        names = sorted(frame["set"].unique(), key=lambda s: (not s.endswith(("bfloat16", "fp8")), s))
        available[table] = len(names)
        for name in names:
            if args.sets and not any(part == name or part in name.split() for part in args.sets):
                continue
            rows = frame[frame["set"] == name]
            stored = args.work / f"{table}.{name}.json".replace("/", "_") if args.work else None
            known = json.loads(stored.read_text(encoding="utf-8")) if stored is not None and stored.is_file() else None
            missing = tuple(s for s in splits(rows) if known is None or s not in known["splits"])
            if not missing:
                result[table][name] = known
                continue
            found = evaluate(rows, args.seed, missing)
            found["splits"] = (known["splits"] if known else {}) | found["splits"]
            result[table][name] = found
            shown = {s: f"{100 * v['model']['mape']:.2f}/{100 * v['model']['median_ape']:.2f}"
                     for s, v in found["splits"].items()}  # fmt: skip
            print(f"{table} {name}: {len(rows)} rows, mean/median APE {shown}", flush=True)
            if stored is not None:
                stored.parent.mkdir(parents=True, exist_ok=True)
                stored.write_text(json.dumps(found), encoding="utf-8")
        if table == "operators":
            add_networks(frame, result[table], args)
    if not any(result.values()):
        raise DataError("no set has such a name", received=args.sets, next_step="leave out --sets to see all names")
    summary = {
        "schema_version": render.SCHEMA_VERSION,
        "provenance": source.provenance([folder / file for _, file in tables.values()]),
        "seed": args.seed,
        "sets": available,
        "tables": result,
    }
    render.write(source.name, summary, args.out)


def add_networks(frame: pd.DataFrame, scores: dict[str, Any], args: argparse.Namespace) -> None:
    """Score NeuSight's own method on the sets of `scores`; one network answers for all machines."""
    for family, names in neusight_net.FAMILIES.items():
        wanted = [s for s in scores if s.split()[-1] in names]
        for split in ("random", "largest"):
            stored = args.work / f"network.{family}.{split}.json" if args.work else None
            if not wanted:
                continue
            if stored is not None and stored.is_file():
                found = json.loads(stored.read_text(encoding="utf-8"))
            else:
                found = neusight_scores(frame, split, family, args.seed)
                print(f"network of {family}, {split}: {len(found)} sets", flush=True)
                if stored is not None:
                    stored.parent.mkdir(parents=True, exist_ok=True)
                    stored.write_text(json.dumps(found), encoding="utf-8")
            for name in wanted:
                scores[name]["splits"][split]["network"] = found[name]


def neusight_scores(frame: pd.DataFrame, split: str, family: str, seed: int) -> dict[str, Any]:
    """Return the figures of the network of one family by set."""
    out = {}
    for name, predicted in neusight_net.predictions(frame, split, family, seed).items():
        rows = frame[frame["set"] == name]
        measured = rows["latency_s"].to_numpy()[splits(rows)[split]]
        out[name] = score(measured, predicted)
    return out


if __name__ == "__main__":
    main()
