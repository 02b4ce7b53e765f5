"""Speed, as ratios within one run: `make benchmark`.  Nothing here fails on a slow machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
from threadpoolctl import threadpool_limits

import graphs
from graphs import ops
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


def test_public_call(benchmark) -> None:
    benchmark(lambda: graphs.estimate_operator("matmul", {"m": 64, "n": 64, "k": 64}, "bf16", hardware=MODEL))


@pytest.mark.parametrize("code", ["pass", "import graphs", "import numpy"])
def test_import(benchmark, code: str) -> None:
    """`import graphs` against an interpreter that does nothing and against numpy."""
    benchmark.pedantic(lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=5)
