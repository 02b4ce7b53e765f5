"""From a run's named kernels to the tables of `training.dataset.kernels`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from training.dataset.kernels import convert, write_kernels


def write_named(folder: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, int] | None:
    """Write ``kernels.parquet`` and ``kernel_names.json`` of a run; return how many calls and names they hold.

    Parameters
    ----------
    folder : Path
    rows : iterable of dict
        All rows of the run, in the order of the plan; those of kernels that were named count.

    Returns
    -------
    dict or None
        ``calls`` and ``names``; None, and no file is written, where no kernels were named.
    """
    named = [r for r in rows if r["what"] == "kernels" and r["status"] == "ok"]
    if not named:
        return None
    ids: dict[str, int] = {}
    table = []
    for row in named:
        calls = [[ids.setdefault(name, len(ids)), us] for name, us in row["extra"]["kernels"]]
        table.append((row["op"], row["dtype"], json.dumps(row["params"]), json.dumps(calls)))
    frame, names = convert(
        pd.DataFrame(table, columns=["op", "dtype", "params", "kernels"]), {str(i): name for name, i in ids.items()}
    )
    write_kernels(folder, frame, names)
    return {"calls": len(frame), "names": len(names)}
