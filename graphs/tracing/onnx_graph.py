"""Traces of ONNX files: the nodes of a graph, with the shapes they have at one batch, as the framework's calls.

Nodes are priced one by one, as the framework would run them; a runtime that fuses them takes less.  Weights are
not read.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import graphs.ops as ops
from graphs.errors import DtypeError, MissingExtraError, TracingError
from graphs.tracing import onnx_products  # noqa: F401  (registers its nodes)
from graphs.tracing.layout import FLOATS, View
from graphs.tracing.onnx_nodes import NODES, Node
from graphs.tracing.rules import price
from graphs.tracing.rules.memory import contiguous_like
from graphs.tracing.trace import Trace, TracedOperator, merge
from graphs.tracing.trace_file import DTYPES

#: Values up to this many elements are followed through the graph: shapes, axes, scalars.
SMALL = 4096
#: Size of an element where numpy has no such type.
_HALF = {"BFLOAT16": ("bf16", 2), "FLOAT8E4M3FN": ("fp8", 1), "FLOAT8E5M2": ("fp8", 1)}
FUSED = "the bias that is added to a product is counted as part of it"
ONE_BY_ONE = "nodes of the ONNX graph are priced one by one, as the framework would run them"


def trace_onnx(
    path: str | os.PathLike[str], *, batch: int | None = None, dtype: str | None = None,
    sizes: dict[str, int] | None = None, name: str | None = None,
) -> Trace:  # fmt: skip
    """Return the trace of an ONNX file.

    Parameters
    ----------
    path : path
        A ``.onnx`` file; files with its weights need not be there.
    batch : int, optional
        Size of the first dimension of each input, where the file leaves it open; 1 by default.
    dtype : {"fp32", "tf32", "fp16", "bf16"}, optional
        Trace the graph as if its floating tensors were converted; None: as they are.
    sizes : dict, optional
        Sizes of other open dimensions, by their name in the file.
    name : str, optional
        The file's name by default.

    Raises
    ------
    MissingExtraError
        Without onnx.
    TracingError
        If the file is missing, is no ONNX graph, is of another batch, or leaves a size open.
    DtypeError
        For another dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise DtypeError("this dtype cannot be traced", received=dtype, allowed=", ".join(DTYPES))
    model = _read(Path(path))
    _close(model.graph, batch, sizes or {})
    walk = Walk(model, dtype)
    return walk.run(name or Path(path).stem)


def _read(path: Path) -> Any:
    try:
        onnx = importlib.import_module("onnx")
        inliner = importlib.import_module("onnx.inliner")
        importlib.import_module("onnx.shape_inference")
    except ImportError as error:
        raise MissingExtraError("ONNX files are read by onnx, which is not installed", received=str(path),
                                allowed="saved traces", next_step="pip install 'graphs[onnx]'") from error  # fmt: skip
    if not path.is_file():
        raise TracingError("there is no such file", received=str(path), allowed="the path of an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        model = inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:
        # The parser's errors are of its own C++ types.
        raise TracingError("this is no ONNX file", received=f"{path} ({str(error).splitlines()[0]})",
                           allowed="a serialised ONNX model",
                           next_step="export the model again") from error  # fmt: skip
    if not model.graph.node:
        raise TracingError("this ONNX file holds no nodes", received=str(path), allowed="a model with a graph")
    return model


def _close(graph: Any, batch: int | None, sizes: dict[str, int]) -> None:
    """Give every input dimension a size, in place."""
    weights = {i.name for i in graph.initializer}
    for value in graph.input:
        if value.name in weights:
            continue
        for i, d in enumerate(value.type.tensor_type.shape.dim):
            if d.HasField("dim_value") and d.dim_value > 0:
                if i == 0 and batch is not None and batch != d.dim_value:
                    raise TracingError("this ONNX file is of one batch", received=batch, allowed=d.dim_value,
                                       next_step="ask for that batch, or export it with an open one")  # fmt: skip
            elif d.dim_param in sizes:
                d.dim_value = sizes[d.dim_param]
            elif i == 0:
                d.dim_value = batch or 1
            else:
                raise TracingError(
                    "an input's size is left open", received=f"dimension {i} ('{d.dim_param}') of '{value.name}'",
                    allowed="a fixed size, or one that is given",
                    next_step=f"give sizes={{'{d.dim_param}': N}} to trace_onnx, or export the model with that size",
                )  # fmt: skip


class Walk:
    """Goes through a graph in order, with the type of every tensor and the values of small ones."""

    def __init__(self, model: Any, dtype: str | None) -> None:
        self.onnx = importlib.import_module("onnx")
        self.graph = model.graph
        self.opsets = {o.domain: o.version for o in model.opset_import}
        self.dtype = dtype
        self.target = "fp32" if dtype == "tf32" else dtype
        self.types: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.views: dict[str, View] = {}
        self.weights = {i.name for i in self.graph.initializer}
        self.calls: list[TracedOperator] = []
        self.notes = [ONE_BY_ONE]
        self.unpriced: Counter[str] = Counter()
        self.uses = Counter(i for n in self.graph.node for i in n.input)
        self.dispatched = self.free = 0
        #: Tensor whose memory each tensor is, and the last node that reads that memory.
        self.base: dict[str, str] = {}

    def run(self, name: str) -> Trace:
        """Return the trace."""
        helper = self.onnx.helper
        for w in self.graph.initializer:
            self.types[w.name] = helper.make_tensor_type_proto(w.data_type, list(w.dims))
            self._see(w.name)
            if np.prod(w.dims, dtype=np.int64) <= SMALL and w.data_location != self.onnx.TensorProto.EXTERNAL:
                self.data[w.name] = self.onnx.numpy_helper.to_array(w)
        inputs = [v for v in self.graph.input if v.name not in self.weights]
        for v in inputs:
            self.types[v.name] = v.type
            self._see(v.name)
        held = [self.views[w] for w in self.weights if w in self.views]
        self._share()
        biases = self._biases()
        for n in self.graph.node:
            self._visit(n, biases)
        if self.unpriced:
            listed = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.unpriced.items()))
            self.notes.append(f"{sum(self.unpriced.values())} nodes are not priced: {listed}")
        operators, sequence = merge(self.calls)
        first = next((self.views[v.name] for v in inputs if v.name in self.views), None)
        floats = [v for v in held if v.floating]
        return Trace(
            operators, name, first.shape[0] if first is not None and first.shape else 0, self._tag(floats), "",
            sum(v.numel for v in floats), sum(v.bytes for v in floats), self._peak([v.name for v in inputs]),
            self.dispatched, self.free, sequence, tuple(self.notes), 0,
        )  # fmt: skip

    def _tag(self, weights: list[View]) -> str:
        if self.dtype:
            return self.dtype
        return max((*FLOATS, "fp64"), key=lambda d: sum(v.numel for v in weights if v.dtype == d))

    # Types and values -------------------------------------------------------------------------------------------

    def _see(self, name: str) -> None:
        """Note the view of a tensor whose type is known, as a fresh one."""
        kind = self.types[name].tensor_type
        if not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim):
            return
        shape = tuple(d.dim_value for d in kind.shape.dim)
        short, size = self._short(kind.elem_type)
        self.views[name] = contiguous_like(View(shape, (0,) * len(shape), short, size))

    def _short(self, elem_type: int) -> tuple[str, int]:
        label = self.onnx.TensorProto.DataType.Name(elem_type)
        if label in _HALF:
            short, size = _HALF[label]
        else:
            kind = self.onnx.helper.tensor_dtype_to_np_dtype(elem_type)
            try:
                short, size = ops.canonical(str(kind)), kind.itemsize
            except DtypeError:
                short, size = str(kind), max(1, kind.itemsize)
        if self.target and short in (*FLOATS, "fp64"):
            return self.target, ops.itemsize(self.target)
        return short, size

    def _infer(self, n: Any) -> None:
        """Work out types, and values of what is small, of a node's outputs."""
        onnx = self.onnx
        domain = "" if n.domain == "ai.onnx" else n.domain
        known = {i: self.data[i] for i in n.input if i in self.data}
        try:
            schema = onnx.defs.get_schema(n.op_type, self.opsets.get(domain, 1), domain)
            self.types |= onnx.shape_inference.infer_node_outputs(
                schema, n, {i: self.types[i] for i in n.input if i},
                {i: onnx.numpy_helper.from_array(v) for i, v in known.items()},
                opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()],
                ir_version=onnx.IR_VERSION,
            )  # fmt: skip
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, KeyError, ValueError, RuntimeError):
            # What follows from this node is reported as of unknown shape.
            pass
        for o in filter(None, n.output):
            if o in self.types:
                self._see(o)
        self._evaluate(n, known)

    def _evaluate(self, n: Any, known: dict[str, Any]) -> None:
        if n.op_type in ("Shape", "Size"):
            x = self.views.get(n.input[0])
            if x is not None:
                attributes = self._attributes(n)
                whole = np.array(x.shape[attributes.get("start", 0) : attributes.get("end")], dtype=np.int64)
                self.data[n.output[0]] = whole if n.op_type == "Shape" else np.array(x.numel, dtype=np.int64)
            return
        sizes = [self.views[o].numel if o in self.views else 0 for o in n.output if o]
        given = [i for i in n.input if i]
        if len(known) != len(set(given)) or any(s > SMALL for s in sizes) or n.op_type.startswith("Random"):
            return
        if n.op_type in ("If", "Loop", "Scan"):
            return
        evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator
        try:
            results = evaluator(n, opsets=self.opsets).run(None, known)
        except Exception:
            # A value that cannot be worked out is as one that was not given: the shapes that hang on it stay unknown.
            return
        for o, value in zip(n.output, results, strict=False):
            self.data[o] = np.asarray(value)
            self.types[o] = self.onnx.helper.make_tensor_type_proto(
                self.onnx.helper.np_dtype_to_tensor_dtype(self.data[o].dtype), list(self.data[o].shape)
            )
            self._see(o)

    def _attributes(self, n: Any) -> dict[str, Any]:
        values = {a.name: self.onnx.helper.get_attribute_value(a) for a in n.attribute}
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}

    # Nodes ------------------------------------------------------------------------------------------------------

    def _share(self) -> None:
        """Know weights under their other names too: equal ones are stored once and named anew by Identity nodes."""
        for n in self.graph.node:
            if n.op_type == "Identity" and n.input[0] in self.weights:
                self.weights.add(n.output[0])
                for known in (self.types, self.views, self.data):
                    if n.input[0] in known:
                        known[n.output[0]] = known[n.input[0]]

    def _biases(self) -> dict[str, tuple[str, str]]:
        """Return, by the output of a product, the vector that the next node adds to it, and that node's output."""
        products = {
            n.output[0] for n in self.graph.node
            if n.op_type == "MatMul" and len(self.views.get(n.input[1], View((), (), "", 1)).shape) == 2
        }  # fmt: skip
        found: dict[str, tuple[str, str]] = {}
        for n in self.graph.node:
            if n.op_type == "Add":
                for x, bias in (n.input[:2], n.input[1::-1]):
                    vector = bias in self.weights and len(self.views[bias].shape) == 1 and self.views[bias].numel > 1
                    if x in products and vector and self.uses[x] == 1:
                        found[x] = (bias, n.output[0])
        return found

    def _visit(self, n: Any, biases: dict[str, tuple[str, str]]) -> None:
        self._infer(n)
        path = n.name.strip("/").replace("/", ".").rpartition(".")[0]
        outputs = [o for o in n.output if o]
        if all(o in self.data for o in outputs):
            # Worked out before anything runs.
            self.free += 1
            return
        self.dispatched += 1
        if any(o == b[1] for b in biases.values() for o in outputs):
            if FUSED not in self.notes:
                self.notes.append(FUSED)
            self._alias(outputs[0], next(x for x, b in biases.items() if b[1] == outputs[0]))
            return
        missing = [i for i in (*n.input, *outputs) if i and i not in self.views]
        rule = NODES.get(n.op_type) if n.domain in ("", "ai.onnx") else None
        if rule is None or missing:
            self._unpriced(n, path, "its shapes are not known" if rule else "no rule for this node")
            return
        attributes = self._attributes(n)
        if n.output[0] in biases:
            attributes["bias"] = self.views[biases[n.output[0]][0]]
        inputs = tuple(self.views[i] if i else None for i in n.input)
        data = tuple(self.data.get(i) for i in n.input)
        built = Node(n.op_type, inputs, data, tuple(self.views[o] for o in outputs), attributes,
                     tuple(i in self.weights for i in n.input))  # fmt: skip
        try:
            done = rule(built)
        except NotImplementedError as error:
            self._unpriced(n, path, str(error))
            return
        for o, view in zip(outputs, done.outputs, strict=False):
            self.views[o] = view
            if done.views:
                self._alias(o, n.input[0])
        priced = [p for c in done.calls for p in price(c)]
        self.free += not priced
        for p in priced:
            product = p.op and ops.get(p.op).uses_matrix_units
            tag = "tf32" if self.dtype == "tf32" and p.dtype == "fp32" and product else p.dtype
            self.calls.append(
                TracedOperator(p.op, dict(p.params), tag, 1, path, f"onnx.{n.op_type}", p.match, p.note)
            )  # fmt: skip

    def _unpriced(self, n: Any, path: str, why: str) -> None:
        kind = f"{n.domain}.{n.op_type}" if n.domain else n.op_type
        self.unpriced[kind] += 1
        self.calls.append(TracedOperator("", {}, self.target or "fp32", 1, path, f"onnx.{kind}", "unmodelled", why))

    # Memory -----------------------------------------------------------------------------------------------------

    def _alias(self, name: str, of: str) -> None:
        self.base[name] = self.base.get(of, of)

    def _peak(self, inputs: list[str]) -> int:
        """Return the largest sum of tensors alive at once, each from its node to the last that reads its memory."""
        last: dict[str, int] = {}
        nodes = list(self.graph.node)
        for i, n in enumerate(nodes):
            for name in (*n.input, *n.output):
                last[self.base.get(name, name)] = i
        for v in self.graph.output:
            last[self.base.get(v.name, v.name)] = len(nodes)
        constant = self.weights | set(self.data)
        given = sum(self.views[i].bytes for i in inputs if i in self.views)
        live = peak = 0
        ends: dict[int, int] = {}
        for i, n in enumerate(nodes):
            for o in n.output:
                if o in self.views and o not in self.base and o not in constant:
                    nbytes = self.views[o].bytes
                    live += nbytes
                    ends[last[o]] = ends.get(last[o], 0) + nbytes
            peak = max(peak, live)
            live -= ends.pop(i, 0)
        return given + peak
