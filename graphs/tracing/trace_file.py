"""Files of traces: bytes and JSON read within limits, and the checks of what they say."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphs.ops as ops
from graphs.errors import TracingError

if TYPE_CHECKING:
    from graphs.tracing.trace import Trace, TracedOperator

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
    try:
        with Path(path).open("rb") as file:
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
