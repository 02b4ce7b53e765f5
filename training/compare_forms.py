"""The two forms of one fit side by side: the fitted members, and the small networks that learnt from them.

What `graphs train --distil` saves and what it costs; `training.ablation --distilled` puts both on its page.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from graphs import ops
from graphs.errors import DataError
from graphs.hardware.calibration.artifact import ARRAYS
from graphs.hardware.calibration.calibration import load_calibration
from graphs.hardware.mappers.base import HardwareMapper
from graphs.hardware.mappers.registry import create_mapper
from graphs.ops.batch import OperatorGroup
from training.dataset.store import read_ops

#: Rounds in which the forms take turns, rows of the mixed table, and rows of products of one kind.
ROUNDS, MIXED, PRODUCTS = 7, 2000, 10_000
FORMS = ("members", "distilled")


def compare(hardware: str, members: Path, distilled: Path, data: Path) -> dict[str, Any]:
    """Return sizes, speeds and held-out figures of both forms, as plain JSON data.

    Parameters
    ----------
    hardware : str
    members, distilled : Path
        Folders that `graphs train` wrote, without and with ``--distil``.
    data : Path
        Folder of the measured tables: rows for timing are drawn from it.

    Returns
    -------
    dict
        ``hardware``; ``members`` and ``distilled`` with ``bytes``, ``call_us``, ``mixed_us`` and ``products_us`` (one
        call; a row of a table of all kinds; a row of products of one kind; one thread), and ``scores`` of the held-out
        rows (``all`` and by split).

    Raises
    ------
    DataError
        If `distilled` does not hold networks, or is of other data than `members`.
    ModelFileError, SchemaVersionError
    """
    calibrations = {name: load_calibration(folder) for name, folder in zip(FORMS, (members, distilled), strict=True)}
    headers = {name: c.model.header for name, c in calibrations.items() if c.model is not None}
    form = headers["distilled"]["provenance"].get("form")
    if form != "student":
        raise DataError(
            f"the model in '{distilled}' was not distilled", received=form, allowed="student",
            next_step=f"graphs train --hardware {hardware} --distil --out {distilled}",
        )  # fmt: skip
    hashes = {name: h["provenance"]["data_sha256"] for name, h in headers.items()}
    if hashes["members"] != hashes["distilled"]:
        raise DataError(
            f"the model in '{distilled}' was fitted to other data", received=hashes["distilled"],
            allowed=hashes["members"], next_step="fit both to the same tables",
        )  # fmt: skip
    mappers = {name: create_mapper(hardware, calibration=c) for name, c in calibrations.items()}
    speeds = _speeds(mappers, data)
    out: dict[str, Any] = {"hardware": hardware}
    for name, folder in zip(FORMS, (members, distilled), strict=True):
        held_out = headers[name]["scores"]["held_out"]
        out[name] = {
            "bytes": (folder / ARRAYS).stat().st_size, **speeds[name],
            "scores": {"all": held_out["all"], **held_out["by_split"]},
        }  # fmt: skip
    return out


def _speeds(mappers: dict[str, HardwareMapper], data: Path) -> dict[str, dict[str, float]]:
    """Return microseconds a row by form and workload, medians of rounds in which the forms take turns."""
    frame = read_ops(data / "ops.parquet").frame
    mixed = frame.sample(min(MIXED, len(frame)), random_state=0)
    products = [{"m": 64 + i, "n": 1024, "k": 512 + 8 * i} for i in range(PRODUCTS)]
    workloads: dict[str, tuple[Sequence[OperatorGroup], int]] = {
        "call_us": (ops.group_operators(["matmul"], ["bf16"], products[:1]), 1),
        "mixed_us": (ops.group_operators(mixed["op"], mixed["dtype"], mixed["params"]), len(mixed)),
        "products_us": (ops.group_operators(["matmul"] * PRODUCTS, ["bf16"] * PRODUCTS, products), PRODUCTS),
    }
    taken: dict[str, dict[str, list[float]]] = {name: {w: [] for w in workloads} for name in mappers}
    with threadpool_limits(limits=1):
        for _ in range(ROUNDS):
            for workload, (groups, rows) in workloads.items():
                for name, mapper in mappers.items():
                    seconds = _timed(lambda m=mapper, g=groups: m.map_operators(g))  # type: ignore[misc]
                    taken[name][workload].append(1e6 * seconds / rows)
    # the first round loads what later ones find in place
    return {name: {w: statistics.median(t[1:]) for w, t in by.items()} for name, by in taken.items()}


def _timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
