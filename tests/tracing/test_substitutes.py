"""Calls of kinds that were never measured are priced as their like, and only in whole models."""

from __future__ import annotations

import numpy as np
import pytest

import graphs
from graphs import ops
from graphs.estimation import estimate_trace
from graphs.hardware.mappers.registry import create_mapper
from graphs.tracing.substitutes import _RULES, substitute
from graphs.tracing.trace import Trace, TracedOperator

NCHW = {"n": 2, "c": 64, "h": 14, "w": 14}
CALLS = {
    "relu_nd": NCHW, "add_nd": NCHW, "mul_channel": NCHW, "groupnorm": NCHW | {"groups": 32},
    "pad2d": NCHW | {"pad": 2},
    "upsample2d": NCHW | {"scale": 2, "mode": "nearest"}, "cat_channels": NCHW | {"c": [8, 16]},
    "addmm": {"m": 8, "n": 16, "k": 32}, "mul_row": {"rows": 64, "cols": 128}, "add_strided": {"rows": 64, "cols": 128},
    "mean": {"rows": 64, "cols": 128}, "sub": {"numel": 4096, "bcast": True}, "where": {"numel": 4096},
    "index_select": {"rows": 100, "take": 30, "cols": 64}, "cast": {"numel": 4096, "to": "bf16"},
    "sdpa_mask": {"b": 1, "h": 8, "s": 64, "skv": 64, "d": 64, "mask": "bool"},
    "permute_copy": {"shape": [4, 8, 16], "perm": [0, 2, 1]}, "roll": {"n": 1, "h": 14, "w": 14, "c": 96, "shift": 3},
    "transpose": {"b": 1, "s": 8, "h": 4, "d": 32}, "cat": {"parts": 2, "rows": 8, "cols": 16},
}  # fmt: skip


@pytest.mark.parametrize("op", sorted(_RULES))
def test_a_substitute_is_a_legal_call_of_about_the_same_traffic(op: str) -> None:
    params = CALLS.get(op, {"numel": 4096})
    found = substitute(op, params, "fp32", {"relu", "exp", "add", "mul", "linear", "sum", "embedding", "sdpa",
                                            "layernorm", "copy"})  # fmt: skip
    assert found is not None
    own, other = ops.evaluate(op, params, 4).bytes, ops.evaluate(*found, 4).bytes
    assert 0.6 < other / own < 1.7


def test_measured_kinds_are_left_alone_and_unknown_ones_are_not_forced() -> None:
    assert substitute("relu_nd", NCHW, "fp32", {"relu_nd", "relu"}) is None
    assert substitute("relu_nd", NCHW, "fp32", {"matmul"}) is None
    assert substitute("conv_transpose2d", {}, "fp32", {"conv2d"}) is None


@pytest.mark.parametrize("heads", [1, 4, 32])
def test_masked_attention_keeps_its_groups(heads: int) -> None:
    call = {"b": 1, "h": 32, "hkv": heads, "s": 512, "skv": 4096, "d": 128}
    assert substitute("sdpa_mask", call | {"mask": "bool"}, "fp32", {"sdpa"}) == ("sdpa", call)
    shipped = create_mapper("h200-sxm")
    assert "sdpa_mask" not in shipped.measured_kinds
    masked, plain = (
        estimate_trace(Trace((TracedOperator(op, params, "fp32"),), name="x"), shipped).operators[0].latency_s
        for op, params in (("sdpa_mask", call | {"mask": "bool"}), ("sdpa", call))
    )
    np.testing.assert_allclose(masked, plain)


def test_one_masked_query_on_a_cache_is_priced_as_a_decoding_step() -> None:
    call = {"b": 8, "h": 32, "hkv": 8, "s": 1, "skv": 2048, "d": 128}
    assert substitute("sdpa_mask", call | {"mask": "bool"}, "bf16", {"sdpa", "sdpa_decode"}) == ("sdpa_decode", call)
    masked = TracedOperator("sdpa_mask", call | {"mask": "bool"}, "bf16")
    (row,) = estimate_trace(Trace((masked,), name="x"), create_mapper("h200-sxm")).operators
    assert row.source == "proxy"
    assert "priced as sdpa_decode" in row.reason


def test_whole_models_say_what_stands_for_what_and_single_queries_stay_outside() -> None:
    trace = Trace((TracedOperator("relu_nd", NCHW, "bf16"), TracedOperator("relu", {"numel": 25088}, "bf16")), name="x")
    shipped = create_mapper("h200-sxm")
    assert "relu_nd" not in shipped.measured_kinds
    nd, plain = estimate_trace(trace, shipped).operators
    assert (nd.op, nd.source) == ("relu_nd", "proxy")
    assert "no relu_nd was measured on this hardware; priced as relu" in nd.reason
    np.testing.assert_allclose(nd.latency_s, plain.latency_s)
    assert (nd.flops, nd.bytes) == (plain.flops, plain.bytes)
    assert graphs.estimate_operator("relu_nd", NCHW, "bf16", hardware="h200-sxm").source == "default"
