"""ONNX graphs against the same network in the framework, and what is said of what cannot be read."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphs.errors import DtypeError, MissingExtraError, TracingError

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
torch = pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from graphs.tracing import Trace, trace  # noqa: E402
from graphs.tracing.frontends import trace_model  # noqa: E402
from graphs.tracing.layout import View  # noqa: E402
from graphs.tracing.onnx_graph import trace_onnx  # noqa: E402
from graphs.tracing.onnx_nodes import NODES, Node  # noqa: E402


class Builder:
    """Writes a graph node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, *shape: int, dtype: Any = np.float32) -> str:
        return self.constant(np.zeros(shape, dtype))

    def constant(self, value: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"/net/{op}", domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def save(self, path: Path, shape: tuple[Any, ...], output: str, dtype: int = TensorProto.FLOAT) -> Path:
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info(output, dtype, None)], self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own.domain", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
        return path


def listed(t: Trace) -> list[tuple[str, dict[str, Any], str]]:
    return [(t.operators[i].op, dict(t.operators[i].params), t.operators[i].dtype) for i in t.sequence]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding=4, dilation=4, groups=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.bn(self.conv(x)))
        # One statement each: what is still named is still in memory.
        x = self.wide(x)
        x = nn.functional.max_pool2d(x, 4)
        x = nn.functional.hardtanh(x, 0.0, 6.0)
        x = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.fc(torch.flatten(x, 1))


def convolutions(path: Path, batch: Any = "N") -> Path:
    b = Builder()
    y = b.node("Conv", "x", b.weight(8, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    y = b.node("BatchNormalization", y, *(b.weight(8) for _ in range(4)))
    y = b.node("Relu", y)
    y = b.node("Conv", y, b.weight(8, 4, 3, 3), b.weight(8), pads=[4] * 4, dilations=[4, 4], group=2)
    y = b.node("MaxPool", y, kernel_shape=[4, 4], strides=[4, 4])
    y = b.node("Clip", y, b.constant(np.float32(0)), b.constant(np.float32(6)))
    y = b.node("GlobalAveragePool", y)
    y = b.node("Flatten", y)
    y = b.node("Gemm", y, b.weight(10, 8), b.weight(10), transB=1)
    return b.save(path, (batch, 3, 32, 32), y)


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "bf16"])
def test_convolutions_are_those_of_the_framework(tmp_path: Path, dtype: str) -> None:
    read = trace_onnx(convolutions(tmp_path / "net.onnx"), batch=4, dtype=dtype)
    module = Convolutions().eval()
    own = trace(module, torch.empty(4, 3, 32, 32), dtype=dtype)
    assert listed(read) == listed(own)
    assert [o.match for o in read.operators] == [o.match for o in own.operators]
    assert (read.batch, read.dtype, read.name) == (4, dtype, "net")
    # Running statistics are weights to a graph, buffers to the framework; the two limits are weights too.
    assert read.parameters == own.parameters + 2 * 8 + 2
    assert read.peak_activation_bytes == own.peak_activation_bytes
    assert not read.unmodelled
    assert Trace.from_json(read.to_json()) == read


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: Any) -> Any:
        b, s, _ = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(b, s, 64))


def test_attention_with_computed_shapes_makes_the_frameworks_copies(tmp_path: Path) -> None:
    b = Builder()
    y = b.node("Add", b.node("MatMul", "x", b.weight(64, 192)), b.weight(192))
    # The shape is worked out in the graph: batch and sequence of the input, then constants.
    lead = b.node("Slice", b.node("Shape", "x"), b.constant([0]), b.constant([2]))
    y = b.node("Reshape", y, b.node("Concat", lead, b.constant([3, 4, 16]), axis=0))
    y = b.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.node("Gather", y, b.constant(np.int64(i)), axis=0) for i in range(3))
    scores = b.node("Softmax", b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = b.node("Transpose", b.node("MatMul", scores, v), perm=[0, 2, 1, 3])
    y = b.node("Reshape", y, b.node("Concat", lead, b.constant([64]), axis=0))
    # Equal weights are stored once, and have another name here.
    y = b.node("Add", b.node("Identity", b.weight(64)), b.node("MatMul", y, b.weight(64, 64)))
    path = b.save(tmp_path / "attention.onnx", ("N", 32, 64), y)
    read = trace_onnx(path, batch=2)
    own = trace(Attention().eval(), torch.empty(2, 32, 64))
    kinds = ("linear", "bmm", "softmax")
    assert [c for c in listed(read) if c[0] in kinds] == [c for c in listed(own) if c[0] in kinds]
    assert read.flops == own.flops
    copies = [[c for c in listed(t) if c[0] not in kinds] for t in (read, own)]
    # k is read as it lies, transposed twice over, where the framework copies it and q.
    assert copies[0] == copies[1][-len(copies[0]) :] or all(c in copies[1] for c in copies[0])
    assert len(copies[0]) >= 3
    assert any("bias" in n for n in read.notes)
    assert {o.module for o in read.operators} == {"net"}


def test_windows_of_uneven_padding_are_padded_first(tmp_path: Path) -> None:
    b = Builder()
    y = b.node("Conv", "x", b.weight(8, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")
    t = trace_onnx(b.save(tmp_path / "same.onnx", (1, 3, 32, 32), y))
    (_, _, _), (op, params, _) = listed(t)
    assert op == "conv2d"
    # One row and column on the far sides only: the input is 33 wide, and 16 outputs come of it.
    assert (params["h"], params["w"], params["pad"]) == (33, 33, 0)
    assert t.flops >= 2 * 8 * 16 * 16 * 27


def test_nodes_that_nothing_prices_are_counted(tmp_path: Path) -> None:
    b = Builder()
    y = b.node("Relu", "x")
    y = b.node("Fancy", y, domain="own.domain")
    y = b.node("Fancy", y, domain="own.domain")
    y = b.node("Relu", y)
    t = trace_onnx(b.save(tmp_path / "own.onnx", (1, 64), y))
    assert [o.op for o in t.operators if o.op] == ["relu"]
    assert sum(o.count for o in t.unmodelled) == 3
    assert "3 nodes are not priced: 1 x Relu, 2 x own.domain.Fancy" in t.notes
    assert {o.note for o in t.unmodelled} == {"no rule for this node", "its shapes are not known"}


def test_attention_over_a_past_is_not_priced_as_if_it_had_none() -> None:
    x = View((2, 4, 8, 16), (512, 128, 16, 1), "bf16", 2)
    node = Node("Attention", (x, x, x), (None,) * 3, (x,), {"is_causal": 1})
    (call,) = NODES["Attention"](node).calls
    assert call.base == "scaled_dot_product_attention"
    with pytest.raises(NotImplementedError, match="past keys"):
        NODES["Attention"](replace(node, inputs=(x, x, x, None, x, x), data=(None,) * 6))


def test_tables_norms_and_reductions(tmp_path: Path) -> None:
    b = Builder()
    y = b.node("Gather", b.weight(1000, 64), "x", axis=0)
    y = b.node("LayerNormalization", y, b.weight(64), b.weight(64), axis=-1)
    y = b.node("Pow", y, b.constant(np.float32(2)))
    y = b.node("ReduceMean", y, axes=[1], keepdims=0)
    path = b.save(tmp_path / "norm.onnx", ("batch", "tokens"), y, TensorProto.INT64)
    t = trace_onnx(path, batch=2, dtype="fp16", sizes={"tokens": 16})
    assert listed(t) == [
        ("embedding", {"rows": 32, "vocab": 1000, "dim": 64}, "fp16"),
        ("layernorm", {"rows": 32, "cols": 64}, "fp16"),
        ("pow2", {"numel": 2048}, "fp16"),
        ("mean", {"rows": 128, "cols": 16}, "fp16"),
    ]
    with pytest.raises(TracingError, match=r"left open.*'tokens'"):
        trace_onnx(path, batch=2)


def test_the_front_end_reads_them(tmp_path: Path) -> None:
    path = convolutions(tmp_path / "net.onnx", batch=4)
    assert trace_model(str(path), 0).batch == 4
    assert trace_model(str(path), 4, "bf16").dtype == "bf16"
    with pytest.raises(TracingError, match=r"of one batch.*allowed: 4"):
        trace_model(str(path), 8)
    with pytest.raises(TracingError, match="forward pass only"):
        trace_model(str(path), 4, training=True)


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TracingError, match="no such file"):
        trace_onnx(tmp_path / "missing.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a graph")
    with pytest.raises(TracingError, match="no ONNX file"):
        trace_onnx(bad)
    with pytest.raises(DtypeError):
        trace_onnx(bad, dtype="int8")
    real = builtins.__import__
    import importlib

    def fails(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "onnx":
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(MissingExtraError, match=r"graphs\[onnx\]"):
        trace_onnx(bad)
