"""Properties that hold for every kind and shape: scalar and column paths agree, more work costs more."""

from __future__ import annotations

import inspect
import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import ops
from graphs.errors import OperatorParameterError
from graphs.ops.shapes import Rules
from graphs.ops.spec import REQUIRED

KINDS = sorted(ops.kinds())
DTYPES = ("fp32", "tf32", "fp16", "bf16")
#: Parameters that are no extents of a tensor: more of them does not mean more elements.
NO_EXTENTS = {"k", "kw", "stride", "pad", "padw", "groups", "shift"}
#: Extents of what is not touched: the table behind a look-up.
UNTOUCHED = {("embedding", "vocab"), ("index_select", "rows")}


@st.composite
def valid_params(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Draw parameters that fit together, optional ones left out now and then."""
    kind = ops.get(name)
    # Few dimensions may be large; together they stay below 2**53, where float64 is exact.
    top = 200 if len(kind.params) > 4 else 5000
    params: dict[str, Any] = {}
    for p in kind.params:
        if (p.like or p.default is not REQUIRED) and draw(st.booleans()):
            continue
        if p.type is bool:
            params[p.name] = draw(st.booleans())
        elif p.type is str:
            params[p.name] = draw(st.sampled_from(p.choices))
        elif p.type is tuple:
            params[p.name] = draw(st.lists(st.integers(p.low, 40), min_size=1, max_size=5))
        else:
            params[p.name] = draw(st.integers(p.low, 7 if p.name in NO_EXTENTS else top))
    _make_consistent(draw, name, params)
    return params


def _make_consistent(draw: st.DrawFn, name: str, params: dict[str, Any]) -> None:
    for size in {"h", "w", "l"} & set(params) if "k" in params else ():
        params[size] = max(params[size], 7)
    if "hkv" in params:
        params["h"] = params["hkv"] * draw(st.integers(1, 8))
    if name in ("conv2d", "groupnorm"):
        groups = params.get("groups", 1 if name == "conv2d" else 32)
        for channels in {"c", "o"} & set(params):
            params[channels] = groups * draw(st.integers(1, 20))
    if name == "dwconv2d":
        params.update({p: params["c"] for p in ("o", "groups") if p in params})
    if "pad" in params and name in ("maxpool2d", "avgpool2d"):
        params["pad"] = min(params["pad"], params["k"] // 2)
    if "pad" in params and name == "conv_transpose2d":
        params["pad"] = min(params["pad"], (params["k"] - 1) // 2)
    if name == "permute_copy":
        params["perm"] = draw(st.permutations(range(len(params["shape"]))))
    if name == "sdpa_decode":
        params.update({p: v for p, v in (("s", 1), ("causal", False)) if p in params})


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_scalar_and_column_paths_agree_exactly(name: str, data: st.DataObject) -> None:
    params = data.draw(st.lists(valid_params(name), min_size=1, max_size=5))
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=len(params), max_size=len(params)))
    texts = [json.dumps(p) for p in params]
    (group,) = ops.group_operators([name] * len(params), dtypes, texts)
    for i, (p, dtype) in enumerate(zip(params, dtypes, strict=True)):
        cost = ops.evaluate(name, p, ops.itemsize(dtype))
        assert type(cost.flops) is int
        assert type(cost.bytes) is int
        assert cost.flops >= 0
        assert cost.bytes > 0
        assert cost.bytes < 2**53
        assert (group.flops[i], group.bytes[i]) == cost
        assert ops.evaluate(name, ops.get(name).validate(p), ops.itemsize(dtype)) == cost  # defaults written out


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_larger_extent_costs_more(name: str, data: st.DataObject) -> None:
    params = data.draw(valid_params(name))
    # Left out, o and groups follow c, and s stays 1.
    for fixed in {"dwconv2d": ("o", "groups"), "sdpa_decode": ("s",)}.get(name, ()):
        params.pop(fixed, None)
    extents = [
        p.name
        for p in ops.get(name).params
        if p.type is int and p.name in params and p.name not in NO_EXTENTS and (name, p.name) not in UNTOUCHED
    ]
    small = ops.evaluate(name, params, itemsize=2)
    for extent in extents:
        # Twice as much keeps every divisibility; key-value heads may be as many as heads at most.
        larger = {**params, extent: 2 * params[extent]}
        if extent == "hkv":
            larger["h"] = 2 * params["h"]
        cost = ops.evaluate(name, larger, itemsize=2)
        assert cost.flops >= small.flops
        assert cost.bytes > small.bytes
        assert cost.flops > small.flops or small.flops == 0


@pytest.mark.parametrize("name", [k for k in KINDS if {"stride", "groups"} & {p.name for p in ops.get(k).params}])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_strides_and_groups_never_add_work(name: str, data: st.DataObject) -> None:
    params = {**ops.get(name).validate(data.draw(valid_params(name)))}
    for saver in {"stride", "groups"} & set(params):
        if params[saver] == 1 or (name, saver) == ("dwconv2d", "groups"):
            continue
        more = ops.evaluate(name, {**params, saver: 1}, itemsize=2)
        cost = ops.evaluate(name, params, itemsize=2)
        if name == "conv_transpose2d":  # there the stride enlarges the output
            assert cost.bytes >= more.bytes
        else:
            assert cost.flops <= more.flops
            assert cost.bytes <= more.bytes


@pytest.mark.parametrize("name", [k for k in KINDS if isinstance(ops.get(k).check, Rules) and ops.get(k).vectorised])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rules_hold_for_columns_as_for_single_calls(name: str, data: st.DataObject) -> None:
    kind = ops.get(name)
    assert isinstance(kind.check, Rules)
    integers = [p.name for p in kind.params if p.type is not str]
    # Any small numbers, most of which do not fit together.
    table = data.draw(
        st.lists(st.lists(st.integers(1, 6), min_size=len(integers), max_size=len(integers)), min_size=2, max_size=6)
    )
    columns = dict(zip(integers, np.array(table, dtype=float).T, strict=True))
    for text, holds in kind.check.rules.items():
        expected = [bool(holds(dict(zip(integers, row, strict=True)))) for row in table]
        assert holds(columns).tolist() == expected, text


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_documented_and_takes_its_parameters(name: str) -> None:
    kind = ops.get(name)
    assert kind.doc
    assert list(inspect.signature(kind.cost).parameters) == [*(p.name for p in kind.params), "itemsize"]


def test_families() -> None:
    members: dict[str, list[str]] = {}
    for kind in ops.kinds().values():
        members.setdefault(kind.family, []).append(kind.name)
    assert {family: len(names) for family, names in members.items()} == {
        "gemm": 4, "conv2d": 3, "dwconv2d": 1, "sdpa": 2, "sdpa_decode": 1, "unary": 20, "binary": 9, "rowwise": 6,
        "nchw": 6, "mem": 9,
    }  # fmt: skip
    # Where tf32 and fp32 are two measurements rather than one.
    assert {k.name for k in ops.kinds().values() if k.uses_matrix_units} == {
        "linear", "matmul", "addmm", "bmm", "conv2d", "conv1d", "conv_transpose2d", "sdpa",
    }  # fmt: skip


@pytest.mark.parametrize("op", ["conv2d", "dwconv2d", "conv1d", "conv_transpose2d", "maxpool2d", "avgpool2d"])
@pytest.mark.parametrize("axis", ["h", "w"])
def test_windows_by_counting_them(op: str, axis: str) -> None:
    # One image, one channel, one byte an element, and 9 elements along the other axis.
    for size, k, stride, pad in itertools.product(range(1, 7), range(1, 6), range(1, 4), range(3)):
        counts = {length: _positions(op, length, k, stride, pad) for length in (size, 9)}
        params = {"n": 1, "c": 1, "k": k, "stride": stride, "pad": pad}
        if op == "conv1d":
            params |= {"l": size, "o": 1}
            outputs, others, taps = counts[size], size, k
        else:
            params |= {"h": 9, "w": 9, axis: size} | ({"o": 1} if op in ("conv2d", "conv_transpose2d") else {})
            outputs, others, taps = counts[size] * counts[9], size * 9, k * k
        weights = 0 if "pool" in op else taps
        if outputs > 0 and not ("pool" in op and pad > k / 2):
            assert ops.evaluate(op, params, itemsize=1).bytes == others + weights + outputs
        else:
            with pytest.raises(OperatorParameterError, match="do not fit together"):
                ops.evaluate(op, params, itemsize=1)


def _positions(op: str, length: int, k: int, stride: int, pad: int) -> int:
    """Return how many elements come out along one axis."""
    if op == "conv_transpose2d":
        reached = {start + tap for start in range(0, length * stride, stride) for tap in range(k)}
        return max(0, max(reached) + 1 - 2 * pad)
    return len([start for start in range(-pad, length + pad, stride) if start + k <= length + pad])
