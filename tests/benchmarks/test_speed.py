"""Speed, as ratios within one run: `make benchmark`.  Nothing here fails on a slow machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import graphs
from graphs import ops
from graphs.hardware.calibration import features
from graphs.hardware.calibration.regressors import TreeEnsemble
from graphs.hardware.mappers.registry import create_mapper

MODEL = "h100-sxm"


@pytest.fixture(scope="module")
def mapper():
    return create_mapper(MODEL)


@pytest.mark.parametrize("rows", [1, 100, 10_000])
def test_gemm_rows(benchmark, mapper, rows: int) -> None:
    """Microseconds a row fall with the number of rows asked at once."""
    params = [{"m": 64 + i, "n": 1024, "k": 512 + 8 * i} for i in range(rows)]
    columns = (["matmul"] * rows, ["bf16"] * rows, params)
    with threadpool_limits(limits=2):
        benchmark(lambda: mapper.map_operators(ops.group_operators(*columns)))
    benchmark.extra_info["us_per_row"] = 1e6 * benchmark.stats["median"] / rows


@pytest.mark.parametrize("rows", [1, 1000])
@pytest.mark.parametrize("way", ["masks", "steps"])
def test_trees_by_masks_against_steps(benchmark, mapper, way: str, rows: int) -> None:
    """The two ways of evaluating the same trees: the answers are equal, the times are not."""
    family = mapper.calibration.model.families["gemm"]
    trees = next(m for m in family.members if isinstance(m, TreeEnsemble))
    columns = (["matmul"] * rows, ["bf16"] * rows, [{"m": 64 + i, "n": 1024, "k": 512 + 8 * i} for i in range(rows)])
    (group,) = ops.group_operators(*columns)
    x = features.build(group, mapper.calibration.model.machine)[1]
    with threadpool_limits(limits=1):
        found = benchmark(trees.predict if way == "masks" else trees._descend, x)
    benchmark.extra_info["us_per_row"] = 1e6 * benchmark.stats["median"] / rows
    np.testing.assert_array_equal(found, trees._descend(x))


def test_mixed_table(benchmark, root: Path) -> None:
    """Operators of every kind, as measured: one core."""
    from training.dataset.store import read_ops

    frame = read_ops(root / "data" / MODEL / "ops.parquet").frame.sample(2000, random_state=0)
    frame = frame[["op", "dtype", "params"]].reset_index(drop=True)
    with threadpool_limits(limits=1):
        benchmark.pedantic(lambda: graphs.estimate_operators(frame, MODEL), rounds=3, warmup_rounds=1)
    benchmark.extra_info["us_per_row"] = 1e6 * benchmark.stats["median"] / len(frame)


def test_public_call(benchmark) -> None:
    benchmark(lambda: graphs.estimate_operator("matmul", {"m": 64, "n": 64, "k": 64}, "bf16", hardware=MODEL))


@pytest.mark.parametrize("code", ["pass", "import graphs", "import numpy"])
def test_import(benchmark, code: str) -> None:
    """`import graphs` against an interpreter that does nothing and against numpy."""
    benchmark.pedantic(lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=5)
