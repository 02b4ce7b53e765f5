"""Many operator calls as columns: what features and mappers work on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.errors import GraphsError, OperatorParameterError
from graphs.ops.dtypes import ITEMSIZE, canonical
from graphs.ops.spec import OperatorKind, get


@dataclass(frozen=True, slots=True)
class OperatorGroup:
    """Calls of one operator kind, as columns.

    Attributes
    ----------
    kind : OperatorKind
    rows : (n,) int64
        Position of each call in the table it came from.
    dtype : (n,) str
        Short dtype names.
    itemsize : (n,) float64
        Bytes an element.
    params : dict of (n,) arrays
        Integers and booleans as float64, strings as str, lists as object arrays of tuples.
    flops, bytes : (n,) float64
    """

    kind: OperatorKind
    rows: NDArray[np.int64]
    dtype: NDArray[np.str_]
    itemsize: NDArray[np.float64]
    params: dict[str, NDArray[Any]]
    flops: NDArray[np.float64]
    bytes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


def parse_params(value: Any) -> Mapping[str, Any]:
    """Return parameters given as a mapping or as JSON text."""
    if isinstance(value, Mapping):
        return value
    try:
        parsed = json.loads(value)
    except (TypeError, ValueError):
        parsed = None
    if not isinstance(parsed, dict):
        raise OperatorParameterError(
            "operator parameters cannot be read",
            received="None" if value is None else value,
            allowed='a dict or JSON text such as {"m": 8, "n": 8, "k": 8}',
            next_step="check the params column",
        )
    return parsed


def group_operators(
    op: Sequence[str], dtype: Sequence[str], params: Sequence[Mapping[str, Any] | str]
) -> list[OperatorGroup]:
    """Validate calls and group them by operator kind.

    Parameters
    ----------
    op, dtype : sequence of str, length n
    params : sequence of dict or JSON text, length n

    Returns
    -------
    list of OperatorGroup
        In order of first appearance; `rows` of all groups together are 0 .. n-1.

    Raises
    ------
    UnknownOperatorError, DtypeError, OperatorParameterError
        Where there are several calls, with the row, counted from 0.
    """
    if not len(op) == len(dtype) == len(params):
        raise OperatorParameterError(
            "columns op, dtype and params differ in length",
            received=(len(op), len(dtype), len(params)),
            allowed="equal lengths",
            next_step="give one entry a row in each column",
        )
    # Columns of a data frame are indexed by label: positions need lists.
    op, dtype, params = list(op), list(dtype), list(params)
    members: dict[str, list[int]] = {}
    for i, name in enumerate(op):
        members.setdefault(str(name), []).append(i)
    groups = []
    for name, indices in members.items():
        checked, dtypes, i = [], [], indices[0]
        try:
            kind = get(name)
            for i in indices:
                checked.append(kind.validate(parse_params(params[i])))
                dtypes.append(canonical(dtype[i]))
        except GraphsError as error:
            raise (error if len(op) == 1 else error.at(f"row {i} (counted from 0)")) from None
        groups.append(_group(kind, indices, dtypes, checked))
    return groups


def _group(kind: OperatorKind, indices: list[int], dtypes: list[str], checked: list[dict[str, Any]]) -> OperatorGroup:
    size = np.array([ITEMSIZE[d] for d in dtypes], dtype=np.float64)
    columns: dict[str, NDArray[Any]] = {}
    for p in kind.params:
        values = [c[p.name] for c in checked]
        if p.type is tuple:
            column = np.empty(len(values), dtype=object)
            column[:] = values
        elif p.type is str:
            column = np.array(values, dtype=np.str_)
        else:
            column = np.array(values, dtype=np.float64)
        columns[p.name] = column
    if kind.vectorised:
        cost = kind.cost(**columns, itemsize=size)
        flops, nbytes = (np.broadcast_to(np.asarray(x, dtype=np.float64), size.shape) for x in cost)
    else:
        costs = [kind.cost(**c, itemsize=ITEMSIZE[d]) for c, d in zip(checked, dtypes, strict=True)]
        flops = np.array([c.flops for c in costs], dtype=np.float64)
        nbytes = np.array([c.bytes for c in costs], dtype=np.float64)
    return OperatorGroup(
        kind=kind,
        rows=np.array(indices, dtype=np.int64),
        dtype=np.array(dtypes, dtype=np.str_),
        itemsize=size,
        params=columns,
        flops=np.array(flops),
        bytes=np.array(nbytes),
    )
