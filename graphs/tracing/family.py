"""The traces of one model at every batch and dtype, in one small file.

A dimension of an operator is a constant or grows with the batch, ``a b + c``.  Two traces give a and c, further ones
check them.  At batch 1 another program may run (a dimension of 1 makes copies into views), so it is kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphs.errors import SchemaVersionError, TracingError
from graphs.tracing.trace import Trace, TracedOperator, merge
from graphs.tracing.trace_file import COLLECTION

SCHEMA = COLLECTION
VERSION = 1

#: Stands for the dtype of the trace where fp32 and bf16 run the same program.
ANY = "*"
_META = ("parameters", "parameter_bytes", "peak_activation_bytes", "dispatched", "views")


def affine(x: Any, y: Any, at: tuple[int, int], rounded: bool = False) -> Any:
    """Return what is `x` at the first batch of `at` and `y` at the second: a constant, or a dict of slope and offset.

    `rounded` allows a fractional slope: the elements of a proxy are bytes divided by an element's size.

    Raises
    ------
    TracingError
        If no whole numbers do it, or structures differ.

    Examples
    --------
    >>> affine(24, 40, (3, 5)), affine((8, 3), (8, 5), (3, 5))
    ({'a': 8, 'c': 0}, [8, {'a': 1, 'c': 0}])
    """
    if isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)) and len(x) == len(y):
        return [affine(v, w, at, rounded) for v, w in zip(x, y, strict=True)]
    if x == y and type(x) is type(y):
        return x
    if type(x) is int and type(y) is int:
        slope, rest = divmod(y - x, at[1] - at[0])
        if rest == 0:
            return {"a": slope, "c": x - slope * at[0]}
        if rounded:
            exact = (y - x) / (at[1] - at[0])
            return {"a": exact, "c": x - exact * at[0]}
    raise TracingError("a value does not grow evenly with the batch", received=(x, y), allowed="a b + c",
                       next_step="store a trace for each batch")  # fmt: skip


def at_batch(value: Any, batch: int) -> Any:
    """Return a value made by `affine` at one batch."""
    if isinstance(value, dict):
        exact = value["a"] * batch + value["c"]
        return exact if isinstance(exact, int) else max(1, round(exact))
    if isinstance(value, list):
        return tuple(at_batch(v, batch) for v in value)
    return value


def expand(trace: Trace) -> list[TracedOperator]:
    """Return the calls of a trace in program order, one each."""
    return [replace(trace.operators[i], count=1, modules=()) for i in trace.sequence]


def program(low: Trace, high: Trace) -> dict[str, Any]:
    """Return the program of which two traces of other batches are instances.

    Raises
    ------
    TracingError
        If they are not instances of one program.
    """
    at = (low.batch, high.batch)
    one, two = expand(low), expand(high)
    if len(one) != len(two):
        raise TracingError("two batches run different programs", received=(len(one), len(two)),
                           allowed="the same calls", next_step="store a trace for each batch")  # fmt: skip
    calls = []
    for x, y in zip(one, two, strict=True):
        # Not module and name: a trace keeps those of the first identical call, and which are identical varies.
        affine([x.op, x.dtype, x.match], [y.op, y.dtype, y.match], at)
        calls.append(replace(x, params=affine_params(x.params, y.params, at, x.match == "proxy")))
    operators, sequence = merge(calls)
    meta = {k: affine(getattr(low, k), getattr(high, k), at) for k in _META}
    return _pack(operators, sequence, meta, low.notes)


def single(trace: Trace) -> dict[str, Any]:
    """Return the program of one trace, for its batch only."""
    calls = [replace(c, params=affine_params(c.params, c.params, (1, 2))) for c in expand(trace)]
    operators, sequence = merge(calls)
    return _pack(operators, sequence, {k: getattr(trace, k) for k in _META}, trace.notes)


def affine_params(
    x: Mapping[str, Any], y: Mapping[str, Any], at: tuple[int, int], rounded: bool = False
) -> dict[str, Any]:
    """Return parameters of which `x` and `y` are instances."""
    if list(x) != list(y):
        raise TracingError("two batches run different programs", received=(dict(x), dict(y)),
                           allowed="the same parameters", next_step="store a trace for each batch")  # fmt: skip
    return {k: affine(x[k], y[k], at, rounded) for k in x}


def _pack(
    operators: Sequence[TracedOperator], sequence: Sequence[int], meta: dict[str, Any], notes: tuple[str, ...]
) -> dict[str, Any]:
    rows = []
    for o in operators:
        row: dict[str, Any] = {"op": o.op, "params": dict(o.params), "dtype": o.dtype}
        row |= {"module": o.module, "aten": o.aten}
        rows.append(row | ({"match": o.match, "note": o.note} if o.match != "exact" else {}))
    return {"operators": rows, "sequence": list(sequence), "meta": meta, "notes": list(notes)}


def shared(fp32: Mapping[str, Any], bf16: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return one program for both dtypes, or None where they run different ones (fp32 islands, other layouts)."""
    one, two = fp32["operators"], bf16["operators"]
    if len(one) != len(two) or fp32["sequence"] != bf16["sequence"] or fp32["notes"] != bf16["notes"]:
        return None
    rows = []
    for x, y in zip(one, two, strict=True):
        if {**x, "dtype": ""} != {**y, "dtype": ""}:
            return None
        if (x["dtype"], y["dtype"]) == ("fp32", "bf16"):
            rows.append({**x, "dtype": ANY})
        elif x["dtype"] == y["dtype"]:
            rows.append(x)
        else:
            return None
    return {**fp32, "operators": rows, "meta": {ANY: fp32["meta"], "bf16": bf16["meta"]}}


def instance(stored: Mapping[str, Any], name: str, batch: int, dtype: str, torch: str) -> Trace:
    """Return the trace of a stored program at one batch; dtype is fp32 or bf16."""
    operators = [
        TracedOperator(
            row["op"], {k: at_batch(v, batch) for k, v in row["params"].items()},
            dtype if row["dtype"] == ANY else row["dtype"], 1, row["module"], row["aten"],
            row.get("match", "exact"), row.get("note", ""),
        )
        for row in stored["operators"]
    ]  # fmt: skip
    merged, sequence = merge([operators[i] for i in stored["sequence"]])
    meta = stored["meta"]
    if ANY in meta:
        meta = meta["bf16"] if dtype == "bf16" else meta[ANY]
    return Trace(merged, name, batch, dtype, torch, sequence=sequence, notes=tuple(stored["notes"]),
                 **{k: at_batch(meta[k], batch) for k in _META})  # fmt: skip


def same_calls(x: Trace, y: Trace) -> bool:
    """Whether two traces hold the same calls with the same parameters, in the same order.

    Proxies may differ by an element: theirs is a number of bytes, rounded.
    """
    if len(x.sequence) != len(y.sequence) or any(getattr(x, k) != getattr(y, k) for k in _META):
        return False
    alike: dict[tuple[int, int], bool] = {}
    for pair in zip(x.sequence, y.sequence, strict=True):
        if pair not in alike:
            alike[pair] = _same_call(x.operators[pair[0]], y.operators[pair[1]])
        if not alike[pair]:
            return False
    return True


def _same_call(x: TracedOperator, y: TracedOperator) -> bool:
    if (x.op, x.dtype, x.match, list(x.params)) != (y.op, y.dtype, y.match, list(y.params)):
        return False
    if x.match == "proxy" and list(x.params) == ["numel"]:
        return bool(abs(x.params["numel"] - y.params["numel"]) <= 1)
    return all(_plain(x.params[k]) == _plain(y.params[k]) for k in x.params)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_schema(data: Any, source: str) -> dict[str, Any]:
    """Return `data` if it is a file of traces of this version.

    Raises
    ------
    TracingError, SchemaVersionError
    """
    version = data.get("version") if isinstance(data, dict) else None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(version, int):
        raise TracingError(f"{source} holds no traces", allowed=f"a JSON object with schema '{SCHEMA}'",
                           next_step="rebuild it with 'python -m training.zoo_traces'")  # fmt: skip
    if version > VERSION:
        raise SchemaVersionError(f"{source} was written by a newer version of this package", received=version,
                                 allowed=f"up to {VERSION}", next_step="upgrade the package")  # fmt: skip
    return data
