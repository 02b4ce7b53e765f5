"""Every committed measurement: the table's flops and bytes are those of the formulas, to the last unit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphs import ops

TABLES = sorted((Path(__file__).parents[2] / "data").glob("*/ops.parquet"))


@pytest.mark.skipif(not TABLES, reason="no operator tables in data/")
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_flops_and_bytes_of_every_row(path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(path, columns=["op", "dtype", "params", "flops", "bytes"]).to_pydict()
    rows = list(zip(*columns.values(), strict=True))
    assert rows

    wrong = []
    for op, dtype, params, flops, nbytes in rows:
        cost = ops.evaluate(op, json.loads(params), ops.itemsize(dtype))
        if cost != (flops, nbytes):
            wrong.append((op, dtype, params, cost, (flops, nbytes)))
    assert not wrong, f"{len(wrong)} of {len(rows)} rows differ, the first: {wrong[:5]}"

    groups = ops.group_operators(columns["op"], columns["dtype"], columns["params"])
    for group in groups:
        np.testing.assert_array_equal(group.flops, np.array(columns["flops"], dtype=float)[group.rows])
        np.testing.assert_array_equal(group.bytes, np.array(columns["bytes"], dtype=float)[group.rows])
    assert sorted(np.concatenate([group.rows for group in groups])) == list(range(len(rows)))
