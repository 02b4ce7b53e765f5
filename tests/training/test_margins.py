"""Margins of the domain: chosen right on made-up errors, and sensible where they are committed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphs import ops
from graphs.errors import DataError
from graphs.hardware.calibration.domain import physical
from graphs.hardware.profile import load_profile
from training.dataset.store import file_hash
from training.fit import chosen_margins
from training.fit.chosen_margins import margins_for, stored
from training.fit.domain_report import reasons
from training.fit.extremes import Extreme, Table, beyond, inner
from training.fit.margins import (
    LARGER,
    LEAST,
    LEAST_WORK,
    MOST,
    SMALLER_WORK,
    UNBROKEN,
    UNKNOWN,
    choose,
    widened,
)  # fmt: skip
from training.fit.prepare import read_frame

DEVICES = ("h100-sxm", "h200-sxm", "xeon-16c")


def table(values: list[float], kinds: list[str] | None = None) -> Table:
    n = len(values)
    names = np.array(kinds or ["matmul"] * n)
    v = np.array(values, dtype=np.float64)
    return Table("gemm", np.zeros((n, 1)), np.zeros(n), names, np.zeros(n, int), {"k": v}, np.arange(n))


def held_out(distance: np.ndarray, error: np.ndarray, seen: float = 0.1) -> Extreme:
    return Extreme("gemm", "k", "high", 0.1, distance, error, np.full(len(distance), seen))


def test_distance_is_counted_from_the_largest_row_left_in_factors_of_two() -> None:
    t = table([float(i) for i in range(100)])
    high, low = beyond(t, "k", "high", 0.1), beyond(t, "k", "low", 0.1)
    assert high[90:].tolist() == [float(d) for d in range(1, 11)]
    assert low[:10].tolist() == [float(10 - d) for d in range(10)]
    assert not high[:90].any()
    assert not low[10:].any()
    assert inner(t).sum() == 90  # 5 % at each end


def test_ties_are_held_out_together_and_two_values_stay() -> None:
    # ten at 3, which are more than the share asked for, go as one
    distance = beyond(table([0.0] * 50 + [1.0] * 40 + [3.0] * 10), "k", "high", 0.05)
    assert (distance > 0).sum() == 10
    assert set(distance) == {0.0, 2.0}
    # with two values there would be no range to go beyond
    assert not beyond(table([0.0] * 90 + [1.0] * 10), "k", "high", 0.05).any()


def test_each_kind_is_cut_on_its_own() -> None:
    distance = beyond(table([float(i) for i in range(20)] + [100.0 + i for i in range(20)],
                            ["matmul"] * 20 + ["bmm"] * 20), "k", "high", 0.1)  # fmt: skip
    assert np.flatnonzero(distance).tolist() == [18, 19, 38, 39]
    assert distance.max() == 2.0


def test_margin_ends_where_the_error_has_doubled() -> None:
    distance = np.linspace(0.01, 4.0, 400)
    # the error of the rows up to d is 0.1 d on average (and at the median): twice 0.1 at d = 2
    error = 0.2 * distance
    assert choose([held_out(distance, error)], False, 0.1, 0.1).margin == pytest.approx(2.0, abs=0.26)
    assert choose([held_out(distance, 0 * error + 0.15)], False, 0.1, 0.1).margin == MOST
    # a few rows that are far off count through the mean
    tail = np.where(np.arange(400) % 10 == 0, 5.0, 0.05)
    assert choose([held_out(distance, tail)], False, 0.1, 0.1).margin == LEAST


def test_margin_goes_no_further_than_the_data() -> None:
    distance = np.linspace(0.01, 1.2, 100)
    e = choose([held_out(distance, np.full(100, 0.1))], False, 0.1, 0.1)
    assert e.margin == 1.25  # 1.2 on a grid of quarters
    assert e.reach == pytest.approx(1.2)


def test_every_depth_of_holding_out_must_pass() -> None:
    distance = np.linspace(0.01, 3.0, 60)
    good, bad = held_out(distance, np.full(60, 0.1)), held_out(distance, np.full(60, 0.5))
    assert choose([good], False, 0.1, 0.1).margin == 3.0
    assert choose([good, bad], False, 0.1, 0.1).margin == LEAST


def test_rows_that_are_hard_anyway_are_judged_by_themselves() -> None:
    distance = np.linspace(0.01, 3.0, 60)
    hard = held_out(distance, np.full(60, 0.5), seen=0.3)
    assert choose([hard], False, 0.1, 0.1).margin == 3.0


def test_least_margins() -> None:
    bad = held_out(np.linspace(0.01, 3.0, 60), np.full(60, 9.0))
    assert choose([bad], False, 0.1, 0.1).margin == LEAST
    assert choose([bad], True, 0.1, 0.1).margin == LEAST_WORK
    assert choose([], False, 0.1, 0.1).margin == UNKNOWN


def test_committed_margins_are_of_the_committed_data_and_cover_every_quantity(root: Path) -> None:
    import json

    raw = json.loads(chosen_margins.FILE.read_text(encoding="utf-8"))
    where = raw["provenance"]
    assert where["data_sha256"] == file_hash(root / "data" / where["hardware"] / "ops.parquet")
    frame = read_frame(load_profile(where["hardware"]), root / "data" / where["hardware"])[0]
    for group in ops.group_operators(frame["op"], frame["dtype"], frame["params"]):
        known = margins_for(group.kind.family)
        assert set(physical(group)) <= set(known), group.kind.name
        assert all(LEAST <= low <= SMALLER_WORK and LEAST <= high <= MOST for low, high in known.values())
    assert sum(f["rows"] for f in stored().values()) == where["rows"] == (frame["split"] == "train").sum()


def test_a_family_that_was_not_looked_at_has_no_margins() -> None:
    assert margins_for("no such family") == {}


def test_unreadable_margins_are_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_margins, "FILE", tmp_path / "margins.json")
    stored.cache_clear()
    try:
        with pytest.raises(DataError, match=r"training\.fit\.margins"):
            margins_for("gemm")
    finally:
        stored.cache_clear()


@pytest.mark.parametrize("device", DEVICES)
def test_held_out_rows_are_inside(root: Path, device: str) -> None:
    """A narrow domain is as wrong as none: the largest FLOP, new layer shapes and random rows all have answers."""
    frame = read_frame(load_profile(device), root / "data" / device)[0]
    frame["family"] = [ops.get(op).family for op in frame["op"]]
    outside: dict[str, list[int]] = {}
    for family, own in frame.groupby("family"):
        train = own["split"] == "train"
        rest, test = own[train], own[~train].reset_index(drop=True)
        if len(test):
            out = reasons(rest, test, str(family)) != ""
            for split, mine in test.groupby("split").groups.items():
                outside.setdefault(str(split), [0, 0])
                outside[str(split)][0] += int(out[mine].sum())
                outside[str(split)][1] += len(mine)
    assert outside["largest_flops"][0] == 0
    assert outside["random"][0] <= 0.02 * outside["random"][1]
    assert outside["new_layer_shape"][0] <= 0.02 * outside["new_layer_shape"][1]


@pytest.mark.parametrize(
    ("margin", "passed", "reach", "quantity", "side", "expected"),
    [
        (0.5, 0.0, 2.0, "k", "low", 0.5),  # broke at once
        (0.75, 0.75, 0.8, "k", "low", UNBROKEN),  # held up as far as the data go
        (4.0, 4.0, 13.0, "k", "low", 4.0),  # evidence beyond what is granted without it
        (1.0, None, None, "k", "low", 1.0),  # nothing could be held out
        (2.0, 0.0, 5.0, "bytes", "low", SMALLER_WORK),  # the fixed cost is all that is left
        (0.5, 0.0, 2.0, "rows", "high", LARGER),  # a few times larger is inside
        (0.5, 0.0, 2.0, "arithmetic intensity", "high", 0.5),  # a ratio has no larger or smaller problem
    ],
)
def test_margins_are_widened_only_where_a_reason_is_named(margin, passed, reach, quantity, side, expected) -> None:
    assert widened(margin, passed, reach, quantity, side) == expected
