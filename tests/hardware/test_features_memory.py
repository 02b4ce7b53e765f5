"""Runs and lines of memory that a move reads and writes, by hand and against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_features import one

from graphs.hardware.calibration.features.memory import lines_read, permuted_runs


@pytest.mark.parametrize(
    ("shape", "perm", "expected"),
    [
        # (total, run in source order, run in the target, innermost extent kept)
        ((2, 3, 5, 7), (0, 1, 2, 3), (210, 210, 210, 210)),
        ((2, 3, 5, 7), (0, 2, 1, 3), (210, 7, 7, 7)),
        ((2, 3, 5, 7), (0, 2, 3, 1), (210, 35, 3, 1)),
        ((2, 3, 5, 7), (0, 3, 1, 2), (210, 7, 15, 1)),
        ((2, 3, 5, 7), (2, 3, 0, 1), (210, 35, 6, 1)),
        # an extent of 1 is no dimension: its neighbours merge, and moving it moves nothing
        ((2, 1, 5, 7), (0, 2, 1, 3), (70, 70, 70, 70)),
        ((4, 1, 6), (2, 1, 0), (24, 6, 4, 1)),
    ],
)
def test_contiguous_runs_of_a_permutation_by_hand(shape: Any, perm: Any, expected: Any) -> None:
    assert permuted_runs(shape, perm) == expected


@pytest.mark.parametrize(
    ("shape", "perm", "outputs", "expected"),
    [
        ((4, 1024), (0, 1), 32, 1.0),  # a copy: 32 floats are a line
        ((64, 64), (1, 0), 32, 32.0),  # a line for each of a column's elements
        ((64, 8), (1, 0), 32, 8.0),  # rows of 32 bytes: four to a line
        ((2, 4, 4), (0, 2, 1), 512, 1.0),  # all of a small tensor
        ((2, 64, 1024), (1, 0, 2), 512, 16.0),
    ],
)
def test_lines_that_a_permutation_reads_by_hand(shape: Any, perm: Any, outputs: int, expected: float) -> None:
    # whatever the rank of its neighbours in the batch
    lines = lines_read([shape, (1, 1, 1, 64)], [perm, (0, 1, 2, 3)], np.array([4.0, 4.0]), outputs)
    assert lines[0] == expected


def test_gathers_of_many_short_rows_wait_for_their_blocks() -> None:
    def share(cols: int, take: int = 200_000) -> float:
        return one("index_select", rows=100, cols=cols, take=take)["lg_blocks_over_bytes"]

    assert share(4) > 3.0  # 200,000 blocks of one lane: 160 us
    assert share(5) == 0.0  # no whole vectors
    assert share(1024) == 0.0  # the bytes take longer


def test_runs_reach_the_features_in_bytes() -> None:
    f = one("permute_copy", "fp16", shape=[2, 3, 5, 8], perm=[0, 3, 1, 2])
    assert 2 ** f["lg_source_run_bytes"] == pytest.approx(8 * 2)
    assert 2 ** f["lg_target_run_bytes"] == pytest.approx(15 * 2)
    assert f["runs_kept"] == 0
    assert f["source_align"] == 4
    assert f["target_align"] == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5).flatmap(lambda s: st.tuples(
    st.just(s), st.permutations(range(len(s))))))  # fmt: skip
def test_runs_of_any_permutation_are_those_of_numpy(case: tuple[list[int], list[int]]) -> None:
    """Count the run in the target, and the run read in source order, on the array itself."""
    shape, perm = case
    total, source, target, _ = permuted_runs(shape, perm)
    order = np.arange(int(np.prod(shape))).reshape(shape).transpose(perm).ravel()
    assert total == order.size

    def shortest_run(x: np.ndarray) -> int:
        """Length of the first run of neighbours: all are equally long unless the whole is one run."""
        jumps = np.flatnonzero(np.diff(x) != 1)
        return int(jumps[0]) + 1 if len(jumps) else len(x)

    inverse = np.argsort(order)
    # what is contiguous on both sides is the run that a copy moves whole
    kept = shortest_run(order)
    assert shortest_run(inverse) == kept
    assert min(source, target) >= kept or total == kept
    if kept > 1:
        assert source == target == kept or total == kept
