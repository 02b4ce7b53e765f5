"""Rebuild ``data/traces``: ``python -m training.zoo_traces`` (needs torchvision and transformers)."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graphs.errors import TracingError
from graphs.tracing import Trace, family
from graphs.tracing.compat import ready_torchvision
from graphs.tracing.decoding import SUFFIX
from graphs.tracing.frontends import load_model
from graphs.tracing.library import default_folder

#: Two batches to learn how dimensions grow, and those that check it.
FIT = (8, 24)
CHECK = (2, 3, 64)
#: Stored one by one where they do not grow evenly.
SINGLES = (1, 2, 4, 8, 16, 32, 64, 128)

LANGUAGE = {
    "bert-base": (128, 384, 512), "bert-large": (128, 384, 512), "distilbert": (128, 384), "roberta-base": (128, 384),
    "gpt2": (128, 512, 1024), "gpt2-medium": (128, 512, 1024), "gpt2-large": (128, 512, 1024),
    "opt-125m": (128, 512, 2048), "opt-350m": (128, 512, 2048), "opt-1.3b": (128, 512, 1024, 2048),
    "tinyllama-1.1b": (128, 512, 1024, 2048), "llama-7b-8layers": (128, 512, 1024, 2048), "llama-7b": (128, 512, 2048),
}  # fmt: skip
#: Decoding steps, by the length of the sequence with the new token.
DECODING = {"gpt2": (1024,), "llama-7b": (2048,)}


def specs(only: Iterable[str] = ()) -> Iterator[str]:
    """Yield what to trace: torchvision's classification models, the language models, and decoding steps of these."""
    ready_torchvision()
    from torchvision import models

    wanted = set(only)
    for name in models.list_models(module=models):
        if not wanted or name in wanted:
            yield f"torchvision:{name}"
    steps = {f"{name}{SUFFIX}": lengths for name, lengths in DECODING.items()}
    for name, lengths in (LANGUAGE | steps).items():
        for length in lengths:
            if not wanted or f"{name}-s{length}" in wanted or name in wanted:
                yield f"hf:{name}-s{length}"


def programs(module: Any, make_inputs: Any, name: str, dtype: str, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the stored programs of a model in one dtype: at batch 1, and at any other."""
    from graphs.tracing import trace

    def at(batch: int) -> Trace:
        found = trace(module, make_inputs(batch), dtype=dtype, name=name)
        return replace(found, notes=(*found.notes, *notes))

    first = at(1)
    try:
        general = family.program(at(FIT[0]), at(FIT[1]))
        for batch in CHECK:
            if not family.same_calls(family.instance(general, name, batch, dtype, ""), at(batch)):
                raise TracingError("the program of another batch differs", received=batch)
    except TracingError as error:
        print(f"  {name} {dtype}: one trace a batch ({error})", file=sys.stderr)
        return {str(b): family.single(at(b)) for b in SINGLES}
    if family.same_calls(family.instance(general, name, 1, dtype, ""), first):
        return {"n": general}
    return {"1": family.single(first), "n": general}


def build(spec: str) -> dict[str, Any]:
    """Return the content of one file."""
    import torch

    model = load_model(spec)
    module = model.factory()
    single, half = (programs(module, model.make_inputs, model.name, d, model.notes) for d in ("fp32", "bf16"))
    stored: dict[str, Any] = {"fp32": single, "bf16": half}
    if single.keys() == half.keys():
        both = {k: family.shared(single[k], half[k]) for k in single}
        if all(both.values()):
            stored = {family.ANY: both}
    library = "torchvision" if spec.startswith("torchvision:") else "transformers"
    built = {"torch": torch.__version__.split("+")[0], library: _version(library)}
    return {"schema": family.SCHEMA, "version": family.VERSION, "name": model.name, **built, "programs": stored}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main(argv: list[str] | None = None) -> int:
    """Trace every model and write one file each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=default_folder(), help="folder to write to")
    parser.add_argument("names", nargs="*", help="models to rebuild; all by default")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for spec in specs(options.names):
        try:
            data = build(spec)
        except TracingError as error:
            print(f"{spec}: {error}", file=sys.stderr)
            failed += 1
            continue
        path = options.out / f"{data['name']}.json.gz"
        # mtime=0: the same traces give the same bytes.
        path.write_bytes(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 9, mtime=0))
        print(f"{data['name']}: {path.stat().st_size} bytes", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
