"""The columns of measured tables and the checks every row must pass.

A bad row is reported with its number and the reason and left out; the good rows are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from graphs import ops
from graphs.errors import DataError, GraphsError

#: Operator tables: column -> whether it must be present.  Times are in microseconds.
OPS_COLUMNS = {
    "device": False, "kind": False, "threads": False, "op": True, "dtype": True, "params": True, "flops": False,
    "bytes": False, "sets": False, "median_us": True, "mean_us": False, "min_us": False, "max_us": False,
    "std_us": False, "samples": False, "eager_us": False, "retest_us": False, "torch": False, "fingerprint": False,
}  # fmt: skip
MODELS_COLUMNS = {
    "device": False, "kind": False, "threads": False, "model": True, "batch": True, "dtype": True, "mode": True,
    "params_count": False, "median_us": True, "mean_us": False, "min_us": False, "max_us": False, "std_us": False,
    "samples": False, "torch": False, "kernels": False,
}  # fmt: skip
MODES = ("graph", "kernels", "eager")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was left out: its position in the file (0 is the first data row) and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Table:
    """Checked rows.

    Attributes
    ----------
    frame : DataFrame
        The good rows, with the file's columns; in operator tables `params` holds dicts, and `flops` and `bytes`
        are those of `graphs.ops`.
    rejected : list of Rejected
    """

    frame: pd.DataFrame
    rejected: list[Rejected] = field(default_factory=list)

    def summary(self, name: str) -> str:
        """Return one line a reader can act on, with the first reasons."""
        text = f"{name}: {len(self.frame)} rows kept, {len(self.rejected)} left out"
        for r in self.rejected[:5]:
            text += f"\n  row {r.row}: {r.reason}"
        return text + ("\n  ..." if len(self.rejected) > 5 else "")


def _require_columns(raw: pd.DataFrame, columns: dict[str, bool], name: str) -> None:
    missing = [c for c, needed in columns.items() if needed and c not in raw]
    if missing:
        raise DataError(
            f"table '{name}' lacks the columns {', '.join(missing)}",
            received=", ".join(map(str, raw.columns)),
            allowed=", ".join(c for c, needed in columns.items() if needed) + " (others optional)",
            next_step="add or rename them",
        )


def _require_one_machine(raw: pd.DataFrame, name: str) -> None:
    """Refuse rows of several machines or software stacks (see `training.measure.environment.fingerprint`)."""
    found = sorted(set(raw["fingerprint"].dropna())) if "fingerprint" in raw else []
    if len(found) > 1:
        raise DataError(
            f"table '{name}' pools rows that were measured on different machines or with different software",
            received="fingerprints " + ", ".join(map(str, found)),
            allowed="one fingerprint a table",
            next_step="keep them in folders of their own; the environments are in each folder's manifest.json",
        )


def _bad_time(value: object) -> str | None:
    if not isinstance(value, (int, float, np.number)) or not np.isfinite(value) or value <= 0:
        return f"median_us must be finite and positive, received {value!r}"
    return None


def _bad_count(value: Any, mode: str) -> str | None:
    """Return what is wrong with a number of kernels, which only rows of mode ``kernels`` have."""
    if pd.isna(value):
        return None
    if mode != "kernels":
        return f"kernels is a number of rows of mode kernels, received {value!r} in mode {mode!r}"
    if not isinstance(value, (int, float, np.number)) or value < 1 or not float(value).is_integer():
        return f"kernels must be a positive whole number, received {value!r}"
    return None


def check_ops(raw: pd.DataFrame, name: str = "ops") -> Table:
    """Check an operator table.

    Raises
    ------
    DataError
        If a needed column is missing or no row is usable.
    """
    _require_columns(raw, OPS_COLUMNS, name)
    _require_one_machine(raw, name)
    seen: dict[str, int] = {}
    params: list[dict[str, object]] = []

    def check(i: int, row: pd.Series) -> str | None:
        problem = _bad_time(row["median_us"])
        if problem:
            return problem
        try:
            kind, dtype = ops.get(row["op"]), ops.canonical(row["dtype"])
            given = dict(ops.parse_params(row["params"]))
            cost = kind.cost(**kind.validate(given), itemsize=ops.itemsize(dtype))
        except GraphsError as error:
            return str(error)
        for column, exact in (("flops", cost.flops), ("bytes", cost.bytes)):
            if column in raw and not pd.isna(row[column]) and int(row[column]) != exact:
                return f"{column} is {row[column]}, but {row['op']} with these params has {exact}"
        key = f"{row['op']}|{dtype}|{json.dumps(given, sort_keys=True)}"
        if key in seen:
            return f"the same configuration stands in row {seen[key]}"
        seen[key] = i
        params.append({"dtype": dtype, "params": given, "flops": cost.flops, "bytes": cost.bytes})
        return None

    table = _keep_good(raw, check, name)
    return Table(table.frame.assign(**pd.DataFrame(params, index=table.frame.index).to_dict("series")), table.rejected)


def check_models(raw: pd.DataFrame, name: str = "models") -> Table:
    """Check a table of whole-model latencies.

    Raises
    ------
    DataError
        If a needed column is missing or no row is usable.
    """
    _require_columns(raw, MODELS_COLUMNS, name)
    seen: dict[tuple[object, ...], int] = {}

    def check(i: int, row: pd.Series) -> str | None:
        problem = _bad_time(row["median_us"])
        if problem:
            return problem
        if row["mode"] not in MODES:
            return f"mode must be one of {', '.join(MODES)}, received {row['mode']!r}"
        if not float(row["batch"]).is_integer() or row["batch"] < 1:
            return f"batch must be a positive integer, received {row['batch']!r}"
        if problem := _bad_count(row.get("kernels"), row["mode"]):
            return problem
        try:
            key = (row["model"], int(row["batch"]), ops.canonical(row["dtype"]), row["mode"])
        except GraphsError as error:
            return str(error)
        if key in seen:
            return f"the same configuration stands in row {seen[key]}"
        seen[key] = i
        return None

    return _keep_good(raw, check, name)


def _keep_good(raw: pd.DataFrame, check: Callable[[int, pd.Series], str | None], name: str) -> Table:
    keep, rejected = [], []
    for i, (_, row) in enumerate(raw.iterrows()):
        reason = check(i, row)
        if reason is None:
            keep.append(i)
        else:
            rejected.append(Rejected(i, reason))
    if not keep:
        raise DataError(
            f"no row of table '{name}' is usable",
            received=f"{len(raw)} rows" + (f"; row {rejected[0].row}: {rejected[0].reason}" if rejected else ""),
            next_step="correct the table",
        )
    return Table(raw.iloc[keep].reset_index(drop=True), rejected)
