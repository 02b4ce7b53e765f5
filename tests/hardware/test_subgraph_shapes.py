"""The dominant operation of a subgraph, and its exact shape from tensors or totals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_subgraphs import (
    FLOPS,
    MATRIX,
    matmul_by_totals,
    tensor,
)

import graphs
from graphs import ops
from graphs.hardware.calibration.subgraph_features import NAMES, describe
from graphs.hardware.mappers.cpu import CPUMapper
from graphs.hardware.mappers.dominant import CLASSES, dominant
from graphs.subgraph import (
    FusedSubgraph,
    OperationType,
)


def test_order_of_dominance() -> None:
    assert list(CLASSES) == ["matmul", "conv", "depthwise", "elementwise", "pooling", "unknown"]
    listed = [t for types in CLASSES.values() for t in types]
    assert sorted(listed) == sorted(OperationType)
    order = ["unknown", "maxpool", "relu", "conv2d_depthwise", "conv2d", "linear"]
    for n in range(1, len(order) + 1):
        assert dominant(FusedSubgraph(0, operation_types=order[:n]), "fp32").operation == order[n - 1]
    assert dominant(FusedSubgraph(0), "fp32").op_class == "unknown"


X, IMAGE = tensor(8, 64, 56, 56), {"n": 8, "c": 64, "h": 56, "w": 56}


@pytest.mark.parametrize(
    ("operation", "inputs", "weights", "outputs", "call"),
    [
        ("linear", [(4, 10, 32)], [(64, 32), (64,)], [(4, 10, 64)],
         ("linear", {"m": 40, "n": 64, "k": 32, "bias": True})),
        ("linear", [(4, 32)], [(64, 32)], [(4, 64)], ("linear", {"m": 4, "n": 64, "k": 32, "bias": False})),
        ("matmul", [(4, 10, 32), (32, 8)], [], [], ("matmul", {"m": 40, "n": 8, "k": 32})),
        ("matmul", [(2, 3, 5, 7), (2, 3, 7, 11)], [], [], ("bmm", {"b": 6, "m": 5, "n": 11, "k": 7})),
        ("addmm", [(8,), (4, 32)], [(32, 8)], [], ("addmm", {"m": 4, "n": 8, "k": 32})),
        ("matmul", [(4, 32), (31, 8)], [], [], None),
        ("linear", [(4, 32)], [(64, 31)], [], None),
        ("matmul", [(2, 4, 32), (3, 32, 8)], [], [], None),
        ("multihead_attention", [(2, 8, 128, 64), (2, 4, 256, 64), (2, 4, 256, 64)], [], [],
         ("sdpa", {"b": 2, "h": 8, "hkv": 4, "s": 128, "skv": 256, "d": 64})),
        ("multihead_attention", [(2, 128, 512)], [], [], None),
        ("softmax", [(4, 8, 100)], [], [], ("softmax", {"rows": 32, "cols": 100})),
        ("layernorm", [(4, 8, 100)], [(100,), (100,)], [], ("layernorm", {"rows": 32, "cols": 100})),
        ("add", [(4, 8), (4, 8)], [], [], ("add", {"numel": 32, "bcast": False})),
        ("mul", [(4, 1024), (1024,)], [], [], ("mul", {"numel": 4096, "bcast": True})),
        ("elementwise", [(4, 8), (4, 8)], [], [], ("add", {"numel": 32})),
        ("elementwise", [(4, 8)], [], [], None),
        ("swish", [(4, 8)], [], [], ("silu", {"numel": 32})),
        ("batchnorm", [(8, 64, 56, 56)], [(64,)], [], ("batchnorm", IMAGE)),
        ("adaptiveavgpool", [(8, 64, 56, 56)], [], [(8, 64, 1, 1)], ("adaptive_avgpool2d", IMAGE)),
        ("adaptiveavgpool", [(8, 64, 56, 56)], [], [(8, 64, 7, 7)], None),
        ("maxpool", [(8, 64, 56, 56)], [], [(8, 64, 28, 28)], None),
        ("dropout", [(8, 64)], [], [(8, 64)], None),
    ],
)  # fmt: skip
def test_shape_from_tensors(operation: str, inputs: Any, weights: Any, outputs: Any, call: Any) -> None:
    s = FusedSubgraph(
        0, operation_types=[operation], input_tensors=[tensor(*x) for x in inputs],
        weight_tensors=[tensor(*x) for x in weights], output_tensors=[tensor(*x) for x in outputs],
    )  # fmt: skip
    found = dominant(s, "fp32").call
    if call is None:
        assert found is None
    else:
        assert found is not None
        assert found == (call[0], ops.get(call[0]).validate(call[1]))


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 4), size=st.integers(7, 60), other=st.integers(7, 60), k=st.integers(1, 7), kw=st.integers(1, 7),
    stride=st.integers(1, 4), groups=st.sampled_from([1, 2, 4, 16]), bias=st.booleans(), data=st.data(),
)  # fmt: skip
def test_any_convolution_is_recovered_with_its_exact_work(
    n: int, size: int, other: int, k: int, kw: int, stride: int, groups: int, bias: bool, data: st.DataObject
) -> None:
    pad, padw = data.draw(st.integers(0, k // 2)), data.draw(st.integers(0, kw // 2))
    c, o = 16, 32
    oh, ow = (size + 2 * pad - k) // stride + 1, (other + 2 * padw - kw) // stride + 1
    true = {
        "n": n, "c": c, "h": size, "w": other, "o": o, "k": k, "kw": kw, "stride": stride, "pad": pad, "padw": padw,
        "groups": groups, "bias": bias,
    }  # fmt: skip
    s = FusedSubgraph(
        0, operation_types=["conv2d", "relu"], input_tensors=[tensor(n, c, size, other)],
        weight_tensors=[tensor(o, c // groups, k, kw), *([tensor(o)] if bias else [])],
        output_tensors=[tensor(n, o, oh, ow)],
    )  # fmt: skip
    found = dominant(s, "fp32").call
    assert found is not None
    # several strides and paddings may give these outputs; FLOP and bytes are those of the true one all the same
    assert ops.evaluate(*found, 4) == ops.evaluate("conv2d", true, 4)
    if stride == 1 and (pad, padw) == (k // 2, kw // 2) and min(oh, ow) > 1:
        assert {p: found[1][p] for p in ("stride", "pad", "padw")} == {"stride": 1, "pad": pad, "padw": padw}


@pytest.mark.parametrize(
    ("h", "k", "stride", "pad"),
    [(224, 7, 2, 3), (56, 3, 1, 1), (56, 3, 2, 1), (56, 1, 2, 0), (224, 11, 4, 2), (224, 7, 4, 3), (7, 7, 1, 0),
     (224, 16, 16, 0)],
)  # fmt: skip
def test_windows_of_well_known_layers(h: int, k: int, stride: int, pad: int) -> None:
    out = (h + 2 * pad - k) // stride + 1
    s = FusedSubgraph(
        0, operation_types=["conv2d"], input_tensors=[tensor(1, 8, h, h, layout="NHWC")],
        weight_tensors=[tensor(16, 8, k, k)], output_tensors=[tensor(1, 16, out, out)],
    )  # fmt: skip
    found = dominant(s, "fp32").call
    assert found is not None
    assert (found[1]["stride"], found[1]["pad"], found[1]["fmt"]) == (stride, pad, "channels_last")


def test_depthwise_is_its_own_kind() -> None:
    s = FusedSubgraph(
        0, operation_types=["conv2d_depthwise"], input_tensors=[X], weight_tensors=[tensor(64, 1, 3, 3)],
        output_tensors=[X],
    )  # fmt: skip
    found = dominant(s, "fp32")
    assert found.op_class == "depthwise"
    assert found.call is not None
    assert found.call[0] == "dwconv2d"
    assert found.call[1]["pad"] == 1


dims = st.integers(1, 5000)


@settings(max_examples=200, deadline=None)
@given(m=dims, n=dims, k=dims, weights=st.booleans(), linear=st.booleans(), bias=st.booleans(), half=st.booleans())
def test_totals_of_a_lone_product_give_its_exact_shape(
    m: int, n: int, k: int, weights: bool, linear: bool, bias: bool, half: bool
) -> None:
    size = 2 if half else 4
    bias = bias and linear and weights
    right = size * (k * n + bias * n)
    s = FusedSubgraph(
        0, operation_types=["linear" if linear else "matmul"], total_flops=2 * m * n * k,
        total_output_bytes=size * m * n, total_input_bytes=size * m * k + (0 if weights else right),
        total_weight_bytes=right if weights else 0,
    )  # fmt: skip
    found = dominant(s, "fp16" if half else "fp32").call
    assert found is not None
    op, p = found
    assert op == ("linear" if linear else "matmul")
    assert p["k"] == k
    assert sorted((p["m"], p["n"])) == sorted((m, n))
    if weights:
        assert (p["m"], p["n"], p.get("bias", False)) == (m, n, bias)


def test_totals_that_fit_no_whole_numbers_give_no_shape(i7: CPUMapper) -> None:
    # not a square estimated from bytes: nothing is better than a wrong shape
    s = FusedSubgraph(0, operation_types=["matmul"], total_flops=1e9, total_input_bytes=1e6, total_output_bytes=1e5)
    assert dominant(s, "fp32").call is None
    a = i7.map_subgraph(s)
    assert (a.source, a.efficiency) == ("default", pytest.approx(0.20))
    assert "no exact shape of its matmul" in a.reason
    # one total that contradicts the others is enough
    size = {"total_flops": 2 * 8 * 16 * 32, "total_weight_bytes": 4 * 32 * 16, "total_output_bytes": 4 * 8 * 16}
    right = FusedSubgraph(0, operation_types=["matmul"], total_input_bytes=4 * 8 * 32, **size)
    wrong = FusedSubgraph(0, operation_types=["matmul"], total_input_bytes=4 * 8 * 33, **size)
    assert dominant(right, "fp32").call == ("matmul", {"m": 8, "n": 16, "k": 32})
    assert dominant(wrong, "fp32").call is None
    # two operations share the totals: no shape can be read off them
    assert dominant(matmul_by_totals(), "fp32").call is not None
    fused = FusedSubgraph(0, operation_types=["matmul", "relu"], total_flops=FLOPS, total_input_bytes=2 * MATRIX,
                          total_output_bytes=MATRIX)  # fmt: skip
    assert dominant(fused, "fp32").call is None


@pytest.mark.parametrize("size", [3, 56])
def test_a_transposed_convolution_is_no_subgraph_that_was_measured(size: int) -> None:
    params = {"n": 1, "c": 64, "h": size, "w": size, "o": 64, "k": 4, "stride": 2}
    e = graphs.estimate_operator("conv_transpose2d", params, "fp32", hardware="i7-12700k")
    assert e.source == "default"
    assert "no subgraph with a conv_transpose2d was ever measured" in e.reason
    # as part of a subgraph it has a row of its product for each pixel that it reads, and so many weights
    features = dict(zip(NAMES, describe([("conv_transpose2d", params | {"pad": 0})], 1, 4).row, strict=True))
    assert features["first rows"] == pytest.approx(np.log2(size * size))
    assert 2 ** features["weights"] == pytest.approx(64 * 64 * 16 * 4, rel=1e-3)
