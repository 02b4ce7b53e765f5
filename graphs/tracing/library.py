"""Traces of well-known models, kept in files, so that whole-model accuracy is checked without the libraries."""

from __future__ import annotations

import difflib
import functools
import os
from pathlib import Path
from typing import Any

from graphs.errors import DtypeError, TracingError, nearest
from graphs.tracing import family
from graphs.tracing.trace import Trace
from graphs.tracing.trace_file import DTYPES, model_argument, parse_json, read_bytes

#: Names a folder with traces, where it is not the repository's own.
ENVIRONMENT = "GRAPHS_TRACES"
#: What a list of stored models begins with where none is like the name asked for.
WELL_KNOWN = ("resnet50", "vit_b_16", "alexnet", "mobilenet_v2", "bert-base-s128", "gpt2-s128")


class UnknownTraceError(TracingError, LookupError):
    """No trace is stored of this model, batch or dtype."""


def default_folder() -> Path:
    """Return the folder named in the environment, else ``data/traces`` of the repository."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else Path(__file__).resolve().parents[2] / "data" / "traces"


def names(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the models with stored traces; empty where the folder is missing."""
    where = Path(folder) if folder is not None else default_folder()
    return sorted(p.name.removesuffix(".json.gz") for p in where.glob("*.json.gz"))


def some(kind: str, near: str, folder: str | os.PathLike[str] | None = None) -> str:
    """Return in a few words the models of a kind (``"torchvision"``, ``"hf"``) with stored traces, the nearest first.

    Parameters
    ----------
    kind : str
    near : str
        A name; those like it are named, or the first and how many others there are.
    folder : path, optional
        `default_folder` by default.
    """
    known = [n for n in names(folder) if model_argument(n).startswith(f"{kind}:")]
    if not known:
        return f"no model: {Path(folder) if folder is not None else default_folder()} holds no traces of such"
    like = difflib.get_close_matches(near, known, n=3, cutoff=0.6)
    shown = like + [n for n in (*(n for n in WELL_KNOWN if n in known), *known) if n not in like]
    shown = list(dict.fromkeys(shown))[:6]
    more = len(known) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def load_trace(name: str, batch: int, dtype: str, folder: str | os.PathLike[str] | None = None) -> Trace:
    """Return a stored trace.

    Parameters
    ----------
    name : str
        As in the tables of measured models: ``resnet50``, ``bert-base-s128``.
    batch : int
        Any, where the model's operators grow evenly with it; else one that was stored.
    dtype : {"fp32", "tf32", "fp16", "bf16"}
    folder : path, optional
        `default_folder` by default.

    Raises
    ------
    UnknownTraceError
        If there is none, with the nearest names.
    DtypeError
        For another dtype.
    TracingError, SchemaVersionError
        If the file is damaged or newer than this package.
    """
    if dtype not in DTYPES:
        raise DtypeError("no trace has this dtype", received=dtype, allowed=", ".join(DTYPES))
    where = Path(folder) if folder is not None else default_folder()
    path = where / f"{name}.json.gz"
    if not path.is_file():
        known = names(where)
        raise UnknownTraceError(
            "no trace of this model is stored", received=name,
            allowed=nearest(name, known) if known else f"nothing: {where} holds no traces",
            next_step=f"trace the model, or set {ENVIRONMENT} to the folder that holds it",
        )  # fmt: skip
    program_dtype = "fp32" if dtype in ("fp32", "tf32") else "bf16"
    data = _read(str(path), path.stat().st_mtime_ns)
    try:
        programs = data["programs"].get(program_dtype) or data["programs"][family.ANY]
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise UnknownTraceError("a batch is a positive integer", received=batch, allowed="1, 2, 3, ...")
        stored = programs.get(str(batch)) or programs.get("n")
        if stored is None:
            raise UnknownTraceError("no trace of this batch is stored", received=batch,
                                    allowed=", ".join(programs), next_step="trace the model at this batch")  # fmt: skip
        return family.instance(stored, data["name"], batch, program_dtype, data.get("torch", "")).with_dtype(dtype)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise TracingError(f"{path} is damaged", received=f"{type(error).__name__}: {error}",
                           next_step="rebuild it with 'python -m training.zoo_traces'") from error  # fmt: skip


@functools.lru_cache(maxsize=32)
def _read(path: str, changed: int) -> dict[str, Any]:
    return family.check_schema(parse_json(read_bytes(path), path), path)
