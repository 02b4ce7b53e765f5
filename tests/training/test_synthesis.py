"""Synthetic shapes are legal and near the measured ones; rows of a related machine are carried over."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import ops
from graphs.hardware.calibration import features
from graphs.hardware.profile import load_profile
from training.dataset.store import read_ops
from training.fit.prepare import Table, family_rows, machine_of, read_frame
from training.fit.synthesis import SLACK, _draw, _valid, synthesise
from training.fit.transfer import LEAST_SHARED, carry_over

MACHINE = machine_of(load_profile("h100-sxm"))


@pytest.fixture(scope="module")
def groups(root):
    frame = read_ops(root / "data" / "h100-sxm" / "ops.parquet").frame
    return {g.kind.name: g for g in ops.group_operators(frame["op"], frame["dtype"], frame["params"])}


def test_most_synthetic_calls_of_every_kind_are_legal(groups) -> None:
    rng = np.random.default_rng(0)
    for name, group in groups.items():
        assert len(_valid(group.kind, _draw(group, 60, rng))) > 40, name


@pytest.mark.parametrize(
    ("kinds", "column", "quantity"),
    [(("conv2d", "conv1d"), "lg_bytes", "bytes"), (("linear", "bmm"), "lg_bytes", "bytes"),
     (("linear", "bmm"), "lg_flops", "flops")],
)  # fmt: skip
def test_synthetic_rows_stay_near_the_measured_work_and_are_repeatable(groups, kinds, column, quantity) -> None:
    some = [groups[kind] for kind in kinds]
    x = synthesise(some, MACHINE, 800, seed=1)
    names, _ = features.build(some[0], MACHINE)
    assert x.shape[1] == len(names)
    assert np.isfinite(x).all()
    largest = max(getattr(g, quantity).max() for g in some)
    assert x[:, names.index(column)].max() <= np.log2(SLACK * largest)
    # new shapes, not copies of measured rows
    known = {row.tobytes() for g in some for row in features.build(g, MACHINE)[1]}
    assert np.mean([row.tobytes() in known for row in x]) < 0.2
    np.testing.assert_array_equal(x, synthesise(some, MACHINE, 800, seed=1))


def test_carried_latencies_follow_the_ratio_of_the_two_machines() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(300, 3)), rng.normal(size=(100, 3))
    there, new_there = np.exp(rng.normal(size=300)) * 1e-5, np.exp(rng.normal(size=100)) * 1e-5
    ratio = lambda z: np.exp(-0.2 + 0.1 * z[:, 0])  # noqa: E731
    virtual = carry_over(x, there, there * ratio(x), new, new_there, seed=0)
    assert np.median(np.abs(virtual / (new_there * ratio(new)) - 1.0)) < 0.02
    few = LEAST_SHARED - 1
    assert len(carry_over(x[:few], there[:few], there[:few], new, new_there, seed=0)) == 0


def test_no_held_out_configuration_comes_in_through_the_related_machine(root) -> None:
    here, there = (read_frame(load_profile(h), root / "data" / h)[0] for h in ("h200-sxm", "h100-sxm"))
    table, related = Table.of(here), Table.of(there)
    rows = family_rows(table, "sdpa_decode", machine_of(load_profile("h200-sxm")), related, seed=0, synthetic=False)
    carried = ~rows.own
    assert carried.sum() > 100
    # held-out rows of the related machine are marked as such, and so is every row of this machine's held-out set
    keys = set(table.frame.loc[table.frame["split"] != "train", "key"])
    train_there = related.frame[(related.frame["split"] == "train") & ~related.frame["key"].isin(table.frame["key"])]
    assert (carried & rows.train).sum() == train_there["op"].eq("sdpa_decode").sum()
    assert not keys & set(train_there["key"])
