"""A trace: the operator calls of one forward pass, in the words of the operator specifications.  Needs no torch."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import graphs.ops as ops
from graphs.errors import DtypeError, OperatorParameterError, SchemaVersionError, UnknownOperatorError
from graphs.tracing.trace_file import check, check_schema, damaged, parse_json, read_bytes, write_bytes

SCHEMA = "graphs.trace"
#: 2: buffers, and training steps.
VERSION = 2


@dataclass(frozen=True, slots=True)
class TracedOperator:
    """Identical calls of one operator.

    Attributes
    ----------
    op : str
        Operator kind, or "" where nothing can price the call.
    params : dict
        Parameters of the kind, as `graphs.ops` takes them.
    dtype : str
        Short name.
    count : int
        How many identical calls.
    module : str
        Path of the module that made the first of them.
    aten : str
        The framework's name of the first of them.
    match : str
        One of `graphs.tracing.trace_file.MATCHES`.
    note : str
        What a match that is not exact stands for.
    modules : tuple of (str, int)
        Calls of each module path; empty in compact traces.
    """

    op: str
    params: Mapping[str, Any]
    dtype: str
    count: int = 1
    module: str = ""
    aten: str = ""
    match: str = "exact"
    note: str = ""
    modules: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> str:
        """What makes two calls identical."""
        return json.dumps([self.op, self.params, self.dtype, self.match, "" if self.op else self.aten], sort_keys=True)


@dataclass(frozen=True)
class Trace:
    """Operator calls of one forward pass, and what is known of the model.

    Attributes
    ----------
    operators : tuple of TracedOperator
        In order of first call.
    name : str
        Name of the model, or the class of the module.
    batch : int
        First dimension of the first input tensor.
    dtype : str
        One of `graphs.tracing.trace_file.DTYPES`, or that of the parameters where it was not asked for (``fp64``).
    torch : str
        Version that traced it.
    parameters, parameter_bytes : int
        Of distinct parameters, in the traced dtype; buffers are not parameters.
    buffer_bytes : int or None
        Of distinct buffers; None in traces of older versions.
    peak_activation_bytes : int
        Largest sum of live tensors that the forward pass made, inputs included; 0 where unknown.  In a training step
        also what its backward pass makes, gradients included.
    optimizer_bytes : int
        State of the optimizer, in a training step with one.
    training : bool
        Whether this is a training step: forward, backward, and the optimizer where there is one.
    dispatched, views : int
        Framework calls that ran, and those of them that move no data: both cost host time.
    sequence : tuple of int
        Index into `operators` of each call, in program order.
    notes : tuple of str
        What was assumed, such as the answer to a check of a mask.
    """

    operators: tuple[TracedOperator, ...]
    name: str = ""
    batch: int = 0
    dtype: str = "fp32"
    torch: str = ""
    parameters: int = 0
    parameter_bytes: int = 0
    peak_activation_bytes: int = 0
    dispatched: int = 0
    views: int = 0
    sequence: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())
    buffer_bytes: int | None = None
    optimizer_bytes: int = 0
    training: bool = False

    def __len__(self) -> int:
        """Return the number of calls."""
        return sum(o.count for o in self.operators)

    @property
    def flops(self) -> int:
        """Algorithmic FLOP of all calls that are priced."""
        return sum(
            o.count * int(ops.evaluate(o.op, o.params, ops.itemsize(o.dtype)).flops) for o in self.operators if o.op
        )

    @property
    def unmodelled(self) -> tuple[TracedOperator, ...]:
        """Calls that nothing prices."""
        return tuple(o for o in self.operators if o.match == "unmodelled")

    def with_dtype(self, dtype: str) -> Trace:
        """Return the same program under another tag: fp32 <-> tf32, fp16 <-> bf16.

        Raises
        ------
        DtypeError
            For a pair that runs different programs; trace the module again for those.
        """
        pairs = {("fp32", "tf32"), ("tf32", "fp32"), ("fp16", "bf16"), ("bf16", "fp16")}
        if dtype == self.dtype:
            return self
        if (self.dtype, dtype) not in pairs:
            raise DtypeError(
                "this trace cannot be read as another dtype",
                received=f"{self.dtype} as {dtype}",
                allowed="fp32 and tf32 of one another, fp16 and bf16 of one another",
                next_step="trace the module with dtype= instead",
            )
        return replace(self, dtype=dtype, operators=tuple(_retag(o, self.dtype, dtype) for o in self.operators))

    def compact(self) -> Trace:
        """Return the trace without the module paths of all but the first call of each kind."""
        return replace(self, operators=tuple(replace(o, modules=()) for o in self.operators))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; fields at their defaults are left out."""
        out: dict[str, Any] = {"schema": SCHEMA, "version": VERSION}
        for name in _META:
            value = getattr(self, name)
            # No buffers is a fact, an unknown number of them is not.
            if value or (name == "buffer_bytes" and value is not None):
                out[name] = list(value) if isinstance(value, tuple) else value
        out["operators"] = [_operator_to_dict(o) for o in self.operators]
        return out

    @classmethod
    def from_dict(cls, data: Any, source: str = "trace") -> Trace:
        """Return the trace in plain `data`.

        Raises
        ------
        TracingError
            If it is no trace or is damaged.
        SchemaVersionError
            If a newer version of this package wrote it.
        """
        check_schema(data, source, SCHEMA)
        version = data.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise damaged(source, "a positive integer as version", "none" if version is None else version)
        if version > VERSION:
            raise SchemaVersionError(
                f"{source} was written by a newer version of this package",
                received=version,
                allowed=f"up to {VERSION}",
                next_step="upgrade the package, or trace the model again",
            )
        try:
            operators = tuple(_operator_from_dict(o) for o in data["operators"])
            meta: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in _META}
            trace = cls(operators=operators, **meta)
            check(trace)
        except (KeyError, TypeError, ValueError, AttributeError, UnknownOperatorError, OperatorParameterError) as error:
            raise damaged(source, "the fields of a trace", str(error)) from error
        return trace

    def to_json(self) -> str:
        """Return the trace as JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "trace") -> Trace:
        """Return the trace in JSON `text`; raises as `from_dict`."""
        return cls.from_dict(parse_json(text, source), source)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the trace to a ``.json`` or ``.json.gz`` file; raises `TracingError` where that is not possible."""
        data = self.to_json().encode()
        # mtime=0: the same trace gives the same bytes.
        return write_bytes(path, gzip.compress(data, 9, mtime=0) if str(path).endswith(".gz") else data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a trace; raises `TracingError` for a missing or damaged file, else as `from_dict`."""
        return cls.from_json(read_bytes(path), str(path))


def merge(calls: list[TracedOperator]) -> tuple[tuple[TracedOperator, ...], tuple[int, ...]]:
    """Merge identical calls.

    Returns
    -------
    operators : tuple of TracedOperator
        One for each distinct call, in order of first appearance.
    sequence : tuple of int
        For each call its index into `operators`.
    """
    index: dict[str, int] = {}
    members: list[list[TracedOperator]] = []
    sequence = []
    for call in calls:
        i = index.setdefault(call.key, len(members))
        if i == len(members):
            members.append([])
        members[i].append(call)
        sequence.append(i)
    merged = []
    for group in members:
        paths: dict[str, int] = {}
        for call in group:
            paths[call.module] = paths.get(call.module, 0) + call.count
        merged.append(replace(group[0], count=sum(c.count for c in group), modules=tuple(paths.items())))
    return tuple(merged), tuple(sequence)


_META = tuple(f for f in Trace.__dataclass_fields__ if f != "operators")


def _retag(operator: TracedOperator, old: str, new: str) -> TracedOperator:
    if "tf32" in (old, new):
        if operator.dtype not in ("fp32", "tf32") or not operator.op or not ops.get(operator.op).uses_matrix_units:
            return operator
        return replace(operator, dtype=new)
    params = dict(operator.params)
    if params.get("to") == old:
        params["to"] = new
    return replace(operator, dtype=new if operator.dtype == old else operator.dtype, params=params)


def _operator_to_dict(operator: TracedOperator) -> dict[str, Any]:
    out: dict[str, Any] = {"op": operator.op, "params": dict(operator.params), "dtype": operator.dtype}
    if operator.count != 1:
        out["count"] = operator.count
    for name in ("module", "aten", "note"):
        if value := getattr(operator, name):
            out[name] = value
    if operator.match != "exact":
        out["match"] = operator.match
    if operator.modules:
        out["modules"] = [list(m) for m in operator.modules]
    return out


def _operator_from_dict(data: dict[str, Any]) -> TracedOperator:
    data = dict(data)
    data["modules"] = tuple((str(path), int(count)) for path, count in data.get("modules", ()))
    return TracedOperator(**data)
