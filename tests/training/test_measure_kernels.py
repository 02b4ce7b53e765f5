"""Round trip: tracing the call that is timed gives back the operator and its parameters, for every kind."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from graphs import ops
from graphs.errors import UnknownOperatorError
from graphs.tracing import trace
from training.measure.errors import UnmeasurableError
from training.measure.kernels import BUILDERS, Maker, Pool, bind
from training.measure.plan import Entry
from training.measure.shapes import DRAWS, draw
from training.measure.stopping import StoppingRule
from training.measure.timers import CpuTimer, bound_sets, buffer_sets


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def test_every_kind_can_be_called_and_drawn() -> None:
    assert set(BUILDERS) == set(DRAWS) == set(ops.kinds())


@pytest.mark.parametrize("op", sorted(BUILDERS))
def test_tracing_the_call_gives_back_what_it_was_built_of(op) -> None:
    rng = np.random.default_rng(sum(map(ord, op)))
    for dtype in ("fp32", "bf16"):
        for _ in range(2):
            params = ops.get(op).validate(draw(op, rng))
            if params.get("to") == dtype:
                continue
            function, args = bind(op, params, Maker(dtype, "meta"))
            traced = trace(Called(function), args).operators
            assert [(o.op, ops.get(o.op).validate(o.params), o.dtype) for o in traced] == [(op, params, dtype)]
            # Up-sampling by other factors than 2 is priced as near; everything else is the very call.
            assert traced[0].match == "exact" or (op == "upsample2d" and params["scale"] != 2)


@pytest.mark.parametrize("op", sorted(BUILDERS))
def test_the_bytes_of_the_tensors_are_those_of_the_formula(op) -> None:
    """Inputs and output counted from the tensors themselves, where the convention is to count each once."""
    rng = np.random.default_rng(1 + sum(map(ord, op)))
    params = ops.get(op).validate(draw(op, rng))
    function, args = bind(op, params, Maker("fp32", "meta"))
    out = function(*args)
    touched = sum(t.numel() * t.element_size() for t in (*args, out))
    if op in ("layernorm", "rmsnorm"):  # weights are not counted
        touched -= sum(t.numel() * 4 for t in args[1:])
    if op in ("embedding", "index_select"):  # of the table only the rows taken
        touched = 2 * out.numel() * 4 + sum(t.numel() for t in args if t.dtype == torch.int64) * 8
    assert touched == ops.evaluate(op, params, 4).bytes


def test_a_kind_without_a_call_is_an_error_with_the_next_step() -> None:
    ops.operator("toy_kind", "numel", family="unary")(lambda numel, itemsize: ops.Cost(numel, numel * itemsize))
    try:
        with pytest.raises(UnknownOperatorError, match="kernels"):
            bind("toy_kind", {"numel": 4}, Maker("fp32"))
    finally:
        ops.unregister("toy_kind")


def test_the_pool_hands_out_disjoint_views_until_it_wraps() -> None:
    pool = Pool("cpu", 1 << 20)
    views = [pool.take(1000, torch.float32) for _ in range(100)]
    addresses = sorted(v.data_ptr() for v in views)
    assert all(b - a >= 4000 for a, b in itertools.pairwise(addresses))
    assert all(a % 64 == addresses[0] % 64 for a in addresses)
    assert pool.take(10**6, torch.float32).numel() == 10**6  # larger than the pool: it grows
    assert float(views[0].std()) == pytest.approx(1.0, abs=0.15)


def test_buffer_sets_exceed_the_cache_twice() -> None:
    assert buffer_sets(8e6, 32e6) * 8e6 >= 2 * 32e6
    assert buffer_sets(1.0, 32e6) == 32
    assert buffer_sets(1e9, 32e6) == 2


def entry(op, params, dtype="fp32"):
    return Entry(0, "op", op, dtype, params)


class FakeMachine:
    """A clock that only calls move on: a byte takes 1 ns from memory, 0.1 ns while the cache still holds it."""

    CACHE = 1_000_000

    def __init__(self) -> None:
        self.now, self.held = 0.0, []

    def clock(self) -> float:
        return self.now

    def builder(self, params, maker):
        return self.touch, (maker.new(params["numel"]),)

    def touch(self, data) -> None:
        nbytes, address = 2 * data.numel() * 4, data.data_ptr()  # read and written
        hit = any(a == address for a, _ in self.held)
        self.now += nbytes * (1e-10 if hit else 1e-9)
        self.held = [h for h in self.held if h[0] != address] + [(address, nbytes)]
        while sum(n for _, n in self.held) > self.CACHE:  # the least recently used goes first
            self.held.pop(0)


def test_the_cpu_timer_rotates_beyond_the_cache_and_warm_stays_in_it(monkeypatch) -> None:
    machine = FakeMachine()
    monkeypatch.setitem(BUILDERS, "relu", machine.builder)
    timer = CpuTimer(machine.CACHE, StoppingRule(), machine.clock)
    # The last call's operands alone exceed the cache: it is never warm.
    for numel, sets, warm in ((25_000, 10, 8e-10), (50_000, 5, 8e-10), (200_000, 2, 8e-9)):
        timing = timer.time(entry("relu", {"numel": numel}))
        assert timing.sets == sets
        assert timing.cold.median_s == pytest.approx(8e-9 * numel)
        assert timing.warm_s == pytest.approx(warm * numel)
        assert timing.cold.stopped == "narrow"


def test_the_cpu_timer_times_real_calls() -> None:
    timer = CpuTimer(1e6, StoppingRule(max_time_s=0.02, min_time_s=0.005, max_samples=20))
    timing = timer.time(entry("matmul", {"m": 32, "n": 32, "k": 32}))
    assert timing.sets == 32
    assert timing.cold.median_s > 0
    assert timing.warm_s is not None
    assert timing.warm_s > 0


def test_a_call_that_the_framework_refuses_is_unmeasurable_with_its_reason() -> None:
    def refuse(*_):
        raise RuntimeError("\"erf\" not implemented for 'Half'")

    def exhausted(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    for call, reason in ((refuse, "unsupported dtype"), (exhausted, "out of memory")):
        original, BUILDERS["erf"] = BUILDERS["erf"], lambda p, t, call=call: (call, ())
        try:
            with pytest.raises(UnmeasurableError, match=reason):
                bound_sets(entry("erf", {"numel": 8}), Maker("fp32"), 2)
        finally:
            BUILDERS["erf"] = original


@pytest.mark.parametrize("op", ["add", "cat", "linear", "add_strided"])
def test_the_tensors_of_one_call_never_share_memory(op, monkeypatch) -> None:
    """They would be read once instead of twice, and the call would look faster than it is."""
    seen, original = [], BUILDERS[op]

    def spy(p, t):
        function, args = original(p, t)
        if t.device == "cpu":
            seen.append(args)
        return function, args

    monkeypatch.setitem(BUILDERS, op, spy)
    pool = Pool("cpu", 1 << 20)
    for rows in (100, 300, 500, 900, 2000):  # sets of 0.1 to 6 MB, from a pool of 1 MB
        params = {
            "add": {"numel": 256 * rows, "bcast": False}, "cat": {"parts": 3, "rows": rows, "cols": 256},
            "linear": {"m": rows, "n": rows, "k": 100, "bias": True}, "add_strided": {"rows": rows, "cols": 256},
        }[op]  # fmt: skip
        bound_sets(entry(op, params), Maker("fp32", "cpu", pool), 3)
    assert len(seen) == 15
    for args in seen:
        spans = sorted((a.data_ptr(), a.data_ptr() + 4 * (1 + sum((n - 1) * s for n, s in zip(a.shape, a.stride(),
                        strict=True)))) for a in args)  # fmt: skip
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
