"""Files of traces: bytes and JSON read within limits, and the checks of what they say."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphs.ops as ops
from graphs.errors import TracingError

if TYPE_CHECKING:
    from graphs.tracing.trace import Trace, TracedOperator

#: Schema of files that hold the traces of one model at every batch and dtype (see `graphs.tracing.family`).
COLLECTION = "graphs.traces"
#: exact: the kind was measured as this call; near: the same class of kernel; proxy: the same memory traffic as
#: another kind; unmodelled: not priced.
MATCHES = ("exact", "near", "proxy", "unmodelled")
#: Dtypes that a trace can be asked in.
DTYPES = ("fp32", "tf32", "fp16", "bf16")
#: What a file may hold unpacked, and how many calls a trace: a hundred times more than the largest network known here
#: needs, and far less than fills the memory.
MOST_BYTES, MOST_CALLS = 1 << 28, 1_000_000

_COUNTS = ("batch", "parameters", "parameter_bytes", "peak_activation_bytes", "dispatched", "views", "optimizer_bytes")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return what a ``.json`` or ``.json.gz`` file holds, or raise `TracingError`."""
    path = as_path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            raw = (gzip.GzipFile(fileobj=file) if packed else file).read(MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged(str(path), "intact gzip data", str(error)) from error
    except OSError as error:
        raise TracingError(
            "a trace file cannot be read", received=str(path), allowed="a readable file", next_step=str(error)
        ) from error
    if len(raw) > MOST_BYTES:
        raise damaged(str(path), f"at most {MOST_BYTES} bytes, unpacked", "more")
    return bytes(raw)


def as_path(path: object) -> Path:
    """Return a path, or raise `TracingError` for what names no file."""
    if isinstance(path, (str, os.PathLike)) and isinstance(os.fspath(path), str):
        return Path(path)
    raise TracingError("a trace file is named by its path", received=path, allowed="a str or a pathlib.Path",
                       next_step="give the path of a .json or .json.gz file")  # fmt: skip


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file and return its path, or raise `TracingError`."""
    path = as_path(path)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise TracingError(
            f"a trace cannot be written ({error.strerror or error})", received=str(path),
            allowed="a file that can be written, in a folder that exists", next_step="name another file",
        ) from error  # fmt: skip
    return path


def model_argument(name: str) -> str:
    """Return the argument that means a model with stored traces.

    >>> model_argument("bert-base-s128"), model_argument("resnet50")
    ('hf:bert-base-s128', 'torchvision:resnet50')
    """
    return f"hf:{name}" if re.search(r"-s\d+$", name) else f"torchvision:{name}"


def check_schema(data: Any, source: str, schema: str) -> None:
    """Raise `TracingError` for data of another schema than that of one trace."""
    if isinstance(data, dict) and data.get("schema") == schema:
        return
    if isinstance(data, dict) and data.get("schema") == COLLECTION:
        name = str(data.get("name") or Path(source).name.split(".json")[0])
        raise TracingError(
            f"{source} is a collection of traces: those of one model at several batches and dtypes",
            received=f"schema {COLLECTION}", allowed=f"one trace (schema {schema}), or the name of a model",
            next_step=f"name the model instead, {model_argument(name)}, which reads the stored trace",
        )  # fmt: skip
    found = f"an object with schema {data.get('schema')!r}" if isinstance(data, dict) else type(data).__name__
    raise damaged(source, f"a JSON object with schema '{schema}'", found)


def parse_json(text: str | bytes, source: str) -> Any:
    """Return JSON `text` as plain data, or raise `TracingError`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(source, "JSON text", str(error)) from error


def check(trace: Trace) -> None:
    """Raise `ValueError` for what no tracer writes: it would give wrong estimates later, and in silence."""
    for o in trace.operators:
        _check_operator(o)
    if trace.dtype not in ops.ITEMSIZE:
        raise ValueError(f"dtype {trace.dtype!r}")
    for name in _COUNTS:
        if not _whole(getattr(trace, name)):
            raise ValueError(f"{name} {getattr(trace, name)!r}")
    if trace.buffer_bytes is not None and not _whole(trace.buffer_bytes):
        raise ValueError(f"buffer_bytes {trace.buffer_bytes!r}")
    if not isinstance(trace.training, bool):
        raise ValueError(f"training {trace.training!r}")
    if not all(isinstance(v, str) for v in (trace.name, trace.torch)):
        raise ValueError(f"name {trace.name!r}, torch {trace.torch!r}")
    if not isinstance(trace.notes, tuple) or not all(isinstance(n, str) for n in trace.notes):
        raise ValueError(f"notes {trace.notes!r}")
    if sum(o.count for o in trace.operators) > MOST_CALLS:
        raise ValueError(f"more than {MOST_CALLS} calls")
    _check_sequence(trace)


def _check_operator(o: TracedOperator) -> None:
    if o.match not in MATCHES or not _whole(o.count) or o.count < 1:
        raise ValueError(f"operator {o.op!r}: match {o.match!r}, count {o.count!r}")
    if not all(isinstance(v, str) for v in (o.op, o.module, o.aten, o.note, *(m for m, _ in o.modules))):
        raise ValueError(f"operator {o.op!r}: module {o.module!r}, aten {o.aten!r}, note {o.note!r}")
    if any(n < 1 for _, n in o.modules) or (o.modules and sum(n for _, n in o.modules) != o.count):
        raise ValueError(f"operator {o.op!r}: the calls of its modules are not its {o.count} calls")
    if o.op:
        ops.get(o.op).validate(o.params)
        ops.canonical(o.dtype)
    elif o.match != "unmodelled":
        raise ValueError(f"{o.aten!r} has no operator kind but match {o.match!r}")


def _check_sequence(trace: Trace) -> None:
    if not trace.sequence:
        return
    if any(not _whole(i) or i >= len(trace.operators) for i in trace.sequence):
        raise ValueError("sequence points outside the operators")
    times = Counter(trace.sequence)
    for i, o in enumerate(trace.operators):
        if times[i] != o.count:
            raise ValueError(f"operator {i} ({o.op!r}) stands {times[i]} times in sequence, its count is {o.count}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def damaged(source: str, allowed: str, received: Any) -> TracingError:
    """Return the error of a file that is no usable trace."""
    return TracingError(
        f"{source} is not a usable trace", received=received, allowed=allowed, next_step="trace the model again"
    )
