"""The plan: balanced in every prefix, seeded, within limits, and exactly what was asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from graphs import ops
from training.measure import networks
from training.measure.plan import WEIGHTS, Entry, Limits, WholeModel, make_plan
from training.measure.session import Request, limits_of, planned

LIMITS = Limits({"fp32": 1e11, "bf16": 2e11}, 2e10, 32e6, 0.05, 2e8)


def of_ops(plan):
    return [e for e in plan if e.what == "op"]


@pytest.fixture(scope="module")
def plan():
    return make_plan(LIMITS, 1200, seed=3)


def test_same_seed_same_plan_and_other_seed_another(plan) -> None:
    assert make_plan(LIMITS, 1200, seed=3) == plan
    assert make_plan(LIMITS, 50, seed=4) != make_plan(LIMITS, 50, seed=3)


def test_no_configuration_stands_twice_and_every_kind_is_there(plan) -> None:
    keys = [e.key for e in of_ops(plan)]
    assert len(set(keys)) == len(keys) == 1200
    assert {e.op for e in plan} == set(ops.kinds())
    assert [e.index for e in plan] == list(range(len(plan)))


@pytest.mark.parametrize("length", [150, 300, 600])
def test_any_prefix_is_balanced_over_kinds_and_dtypes(plan, length) -> None:
    kinds, total = Counter(e.op for e in of_ops(plan)[:length]), sum(WEIGHTS.get(k, 1) for k in ops.kinds())
    for kind in ops.kinds():
        share = WEIGHTS.get(kind, 1) / total * length
        assert abs(kinds[kind] - share) <= 2 + 0.1 * share, kind
    dtypes = Counter(e.dtype for e in of_ops(plan)[:length])
    assert dtypes["bf16"] / dtypes["fp32"] == pytest.approx(0.5, rel=0.15)


def test_sizes_cover_overhead_cache_and_memory_regimes(plan) -> None:
    linear = [ops.evaluate(e.op, e.params, ops.itemsize(e.dtype)) for e in of_ops(plan) if e.op == "linear"]
    flops = sorted(c.flops for c in linear)
    assert flops[-1] / flops[0] > 1e4
    sizes = [c.bytes / LIMITS.cache_bytes for c in linear]
    assert min(sizes) < 0.05
    assert max(sizes) > 1


def test_the_limits_hold_for_every_row(plan) -> None:
    for e in plan:
        cost = ops.evaluate(e.op, e.params, ops.itemsize(e.dtype))
        assert e.expected_s <= LIMITS.max_call_s
        assert cost.bytes <= LIMITS.max_bytes
    tight = make_plan(Limits({"fp32": 1e11}, 2e10, 32e6, 0.001, 2e8), 200)
    assert max(e.expected_s for e in tight) <= 0.001
    assert len(of_ops(tight)) >= 195


def test_retests_come_later_and_repeat_their_first(plan) -> None:
    retests = [e for e in plan if e.what == "retest"]
    assert 0.04 < len(retests) / 1200 < 0.08
    for e in retests:
        first = plan[e.of]
        assert first.what == "op"
        assert first.key == e.key
        assert e.index - first.index >= 15


def test_asked_operators_come_first_and_all_of_them() -> None:
    asked = [("linear", "fp32", {"m": m, "n": 64, "k": 64, "bias": True}) for m in (1, 2, 3, 3)]
    plan = make_plan(LIMITS, 10, asked=asked)
    assert [e.params["m"] for e in plan if e.source == "asked" and e.what == "op"] == [1, 2, 3]
    assert [e.source for e in plan[:3]] == ["asked"] * 3


def test_layer_shapes_of_networks_make_half_of_a_stream_where_there_are_some() -> None:
    real = {("linear", "fp32"): [{"m": m, "n": 777, "k": 55, "bias": True} for m in range(1, 100)]}
    plan = of_ops(make_plan(LIMITS, 60, network_rows=real, kinds=["linear"]))
    fp32 = [e for e in plan if e.dtype == "fp32"]
    assert sum(e.source == "network" for e in fp32) == pytest.approx(len(fp32) / 2, abs=1)
    assert all(e.params["n"] == 777 for e in fp32 if e.source == "network")


def test_whole_models_are_spread_and_retests_still_point_at_their_first() -> None:
    plan = make_plan(
        LIMITS, 200, models=[WholeModel("resnet18", 1, "fp32", 0.1), WholeModel("resnet18", 8, "fp32", 0.8)]
    )
    at = [e.index for e in plan if e.what == "model"]
    assert len(at) == 2
    assert 20 < at[0] < at[1] < 180
    assert all(plan[e.of].key == e.key for e in plan if e.what == "retest")


def test_the_modes_of_a_network_follow_one_another() -> None:
    modes = ("graph", "kernels", "eager")
    models = [WholeModel("resnet18", 1, "fp32", 0.1, modes), WholeModel("gpt2-s128", 1, "fp32", 0.1, modes[1:])]
    plan = make_plan(LIMITS, 100, models=models, kernels=1.0)
    passes = [e for e in plan if e.what == "model"]
    assert [e.params["mode"] for e in passes] == [*modes, *modes[1:]]
    assert len({e.key for e in passes}) == 5
    for own in (passes[:3], passes[3:]):
        assert [e.index - own[0].index for e in own] == list(range(len(own)))
    assert passes[3].index > passes[2].index + 10


def test_kernels_are_named_right_after_their_operator_and_change_nothing_else() -> None:
    def timed(plan):
        return [(e.what, e.key, e.source, plan[e.of].key if e.what == "retest" else "")
                for e in plan if e.what != "kernels"]  # fmt: skip

    without = make_plan(LIMITS, 400, seed=3)
    for share in (0.25, 1.0):
        plan = make_plan(LIMITS, 400, seed=3, kernels=share)
        assert [e.index for e in plan] == list(range(len(plan)))
        assert timed(plan) == timed(without)
        named = [e for e in plan if e.what == "kernels"]
        assert len(named) == pytest.approx(share * len(of_ops(plan)), abs=30)
        assert len(named) < len(of_ops(plan)) or share == 1.0
        for e in named:
            assert e.of == e.index - 1
            assert (plan[e.of].what, plan[e.of].key) == ("op", e.key)


def test_an_entry_survives_its_file() -> None:
    plan = make_plan(LIMITS, 20, models=[WholeModel("resnet18", 1, "fp32", 0.1)])
    assert [Entry.from_json(e.to_json()) for e in plan] == plan


def test_models_adds_exactly_the_operators_of_a_network(tmp_path) -> None:
    request = Request("x", tmp_path, 60.0, models=("resnet18",), only_models=True, batches=(1,), dtypes=("fp32",))
    limits = Limits({"fp32": 1e11}, 2e10, 32e6, 10.0, 1e9)
    made = {(e.op, e.key) for e in of_ops(planned(request, limits, "cpu", lambda _: None))}
    traced = {(o.op, Entry(-1, "op", o.op, o.dtype, o.params).key)
              for o in networks.trace_of("resnet18", 1, "fp32").operators if o.op}  # fmt: skip
    assert made == traced
    told: list[str] = []
    some = planned(request, Limits({"fp32": 1e11}, 2e10, 32e6, 10.0, 1e6), "cpu", told.append)
    left = len(traced) - len({e.key for e in some})
    assert 0 < left < len(traced)
    assert [line for line in told if f"{left} of {len(traced)} operators" in line]


def test_small_budgets_and_machines_get_smaller_shapes() -> None:
    environment = {"kind": "cpu", "memory_bytes": 8e9, "cache_bytes": {"l2": 1e6, "l3": 3e7}}
    found = {"peak_flops_per_s": {"fp32": 1e11}, "bandwidth_bytes_per_s": 1e10}
    short, long = (limits_of(b, environment, found) for b in (60.0, 3600.0))
    assert short.max_call_s < long.max_call_s <= 0.4
    assert short.cache_bytes == 3e7
    assert short.max_bytes == 5e8
