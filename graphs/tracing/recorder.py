"""Watches the framework's operator calls while a module runs on tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode

import graphs.ops as ops
from graphs.errors import DtypeError, TracingError
from graphs.tracing.layout import View
from graphs.tracing.rules import WHOLE, Call, price
from graphs.tracing.rules.core import base_name
from graphs.tracing.trace import TracedOperator

#: Composites that a fused kernel runs on a device though the tracing device would take them apart.
_ATTENTION = "scaled_dot_product_attention"
_NONFINITE = frozenset({"isnan", "isinf"})
#: What the values of a tensor depend on: "data" (weights, buffers, floating inputs), "nonfinite" (a test of data for
#: infinities or NaN), or nothing but shapes and integer inputs (masks, ids).  Decides how a check is answered.
ORIGIN = "_graphs_origin"
_NAMES: dict[torch.dtype, tuple[str, int]] = {}
_DISPATCH_KEY = torch._C.DispatchKey.CompositeImplicitAutograd


class _OpInfo:
    """What is the same at every call of one framework operator."""

    __slots__ = ("aten", "base", "schema", "takes_apart", "view")

    def __init__(self, func: Any) -> None:
        self.aten = func.name().replace("::", ".")
        if "." not in self.aten.split(".", 1)[1]:
            self.aten += ".default"
        self.base = base_name(self.aten)
        self.schema = tuple(a.name for a in func._schema.arguments)
        self.view = bool(getattr(func, "is_view", False))
        self.takes_apart = (
            self.base not in WHOLE
            and self.base not in ("set_", "record_stream")
            and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _DISPATCH_KEY)
        )


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operator call that would run on the device.

    Attributes
    ----------
    calls : list of TracedOperator
        In program order, each with the path of the module that made it.
    dispatched, views : int
        Framework calls, and those of them that move no data.
    peak_bytes : int
        Largest sum of tensors alive at once, of those made while recording.
    notes : list of str
    """

    def __init__(self, *, tf32: bool = False, held: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tf32 = tf32
        self.calls: list[TracedOperator] = []
        self.notes: list[str] = []
        self.path: list[str] = [""]
        self.dispatched = self.views = self.live_bytes = self.peak_bytes = 0
        self._info: dict[Any, _OpInfo] = {}
        self._priced: dict[Any, list[TracedOperator]] = {}
        self._stores = {t.untyped_storage()._cdata for t in held}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and saying so to the compiler would import it.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        info = self._info.get(func)
        if info is None:
            if func.namespace == "prim":
                return func(*args, **kwargs)
            if not isinstance(func, torch._ops.OpOverload):
                return self._higher_order(func, args, kwargs)
            info = self._info[func] = _OpInfo(func)
        if info.takes_apart:
            # The framework's own kernel, not a decomposition registered for compilers: those differ (dropout copies).
            with self:
                return func._op_dk(_DISPATCH_KEY, *args, **kwargs)
        if info.base == "_local_scalar_dense":
            return self._scalar(func, info, args)
        if info.base == "_nested_tensor_from_mask_left_aligned":
            # Asked by encoders with a padding mask: no, so that nothing is packed.
            return self._noted(self.path[-1] or "(the model)", "the padding", False)
        if info.base == "equal":
            return self._answer(info, args, False)
        args, kwargs = _onto_cpu(args, kwargs)
        out = self._run(func, info, args, kwargs)
        self.dispatched += 1
        self._follow(info, args, out)
        if info.view:
            self.views += 1
            return out
        self._count_memory(out)
        self._record(info, args, kwargs, out)
        return out

    def _run(self, func: Any, info: _OpInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if info.base in _FUSED:
            schema_bound = {**dict(zip(info.schema, args, strict=False)), **kwargs}
            if (out := _FUSED[info.base](schema_bound)) is not None:
                return out
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise TracingError(
                f"the shape of what {info.aten} returns depends on data, which a trace does not have",
                received=f"a call in module '{self.path[-1] or '(the model)'}'",
                allowed="operators whose output shape follows from input shapes",
                next_step="replace it by a form of fixed shape (where, topk, a mask), or trace the parts around it",
            ) from error
        except UnsupportedOperatorException as error:
            raise TracingError(
                f"{info.aten} cannot run without data: it has no shape function",
                received=f"a call in module '{self.path[-1] or '(the model)'}'",
                allowed="operators with a meta or fake implementation",
                next_step="register one with torch.library.register_fake",
            ) from error

    def _assume(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _record(self, info: _OpInfo, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        call = Call(info.aten, _views(args), {k: _views(v) for k, v in kwargs.items()}, _views(out), info.schema)
        # Blocks repeat: the same call is priced once.
        key = (info.aten, repr(call.args), repr(call.kwargs), repr(call.out))
        priced = self._priced.get(key)
        if priced is None:
            priced = self._priced[key] = [self._operator(p, info) for p in price(call)]
        if not priced:
            # Free: no kernel, but the host spends the time of a view.
            self.views += 1
        if info.base == "_grouped_mm":
            self._assume("which expert a token goes to depends on data: an even spread over the experts is assumed")
        self.calls += [_at(p, self.path[-1]) for p in priced]

    def _operator(self, p: Any, info: _OpInfo) -> TracedOperator:
        dtype = p.dtype
        if self.tf32 and dtype == "fp32" and p.op and ops.get(p.op).uses_matrix_units:
            dtype = "tf32"
        return TracedOperator(p.op, dict(p.params), dtype, 1, "", info.aten, p.match, p.note)

    def _higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = str(getattr(func, "_name", func))
        if name.startswith("flex_attention"):
            raise TracingError(
                "flex_attention cannot be traced without compiling",
                received=name,
                allowed="scaled_dot_product_attention",
                next_step="choose another attention implementation (transformers: attn_implementation='sdpa')",
            )
        self.calls.append(TracedOperator("", {}, "fp32", 1, self.path[-1], name, "unmodelled", "higher-order operator"))
        return func(*args, **kwargs)

    # Values -----------------------------------------------------------------------------------------------------

    def _follow(self, info: _OpInfo, args: tuple[Any, ...], out: Any) -> None:
        """Pass on to outputs whether they depend on activations or weights."""
        if info.base.endswith("_like") or info.base.startswith("new_"):
            # Only the shape is read.
            return
        origins = sorted({str(getattr(t, ORIGIN, "")) for t in _tensors(args)} - {""})
        origin = "nonfinite" if info.base in _NONFINITE else next(iter(origins), None)
        if origin:
            for t in _tensors(out):
                setattr(t, ORIGIN, origin)

    def _scalar(self, func: Any, info: _OpInfo, args: tuple[Any, ...]) -> Any:
        tensor = args[0]
        if isinstance(tensor, FakeTensor):
            if tensor.constant is not None:
                return tensor.constant.item()
        elif tensor.device.type != "meta":
            return func(*args)
        return self._answer(info, args, True)

    def _answer(self, info: _OpInfo, args: tuple[Any, ...], guess: bool) -> bool:
        """Answer a check of a value that is not there, or raise `TracingError`.

        A check of a mask or of positions asks whether a shortcut may be taken (nothing is masked): yes.  A check for
        infinities and NaN asks whether something went wrong: no.  Any other branch on values is the model's own.
        """
        tensors = _tensors(args)
        where = self.path[-1] or "(the model)"
        origins = {getattr(t, ORIGIN, None) for t in tensors}
        if "data" not in origins and (info.base != "_local_scalar_dense" or tensors[0].dtype == torch.bool):
            finite = "nonfinite" not in origins
            return self._noted(where, "a mask" if finite else "non-finite values", guess and finite)
        raise TracingError(
            "the module asks for the value of a tensor, which a trace does not have",
            received=f"{info.aten} of {tensors[0].dtype}, shape {tuple(tensors[0].shape)}, in module '{where}'",
            allowed="control flow that depends on shapes and Python values only",
            next_step="pass the value as a Python number, use torch.where, or trace each branch as a module of its own",
        )

    def _noted(self, where: str, what: str, answer: bool) -> bool:
        self._assume(f"a check of {what} in '{where}' was answered {answer}")
        return answer

    # Memory -----------------------------------------------------------------------------------------------------

    def _count_memory(self, out: Any) -> None:
        for t in _tensors(out):
            storage = t.untyped_storage()
            key = storage._cdata
            if key in self._stores:
                continue
            self._stores.add(key)
            nbytes = storage.nbytes()
            self.live_bytes += nbytes
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._freed, key, nbytes)

    def _freed(self, key: int, nbytes: int) -> None:
        self._stores.discard(key)
        self.live_bytes -= nbytes


def _at(o: TracedOperator, path: str) -> TracedOperator:
    return TracedOperator(o.op, o.params, o.dtype, 1, path, o.aten, o.match, o.note)


def _views(value: Any) -> Any:
    """Replace tensors by `View`s."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise TracingError("sparse and nested tensors cannot be traced", received=str(value.layout),
                               allowed="strided tensors", next_step="convert it to a dense tensor")  # fmt: skip
        name = _NAMES.get(value.dtype)
        if name is None:
            try:
                name = (ops.canonical(value.dtype), value.element_size())
            except DtypeError:
                name = (str(value.dtype).removeprefix("torch."), value.element_size())
            _NAMES[value.dtype] = name
        return View(tuple(value.shape), tuple(value.stride()), *name)
    if isinstance(value, (list, tuple)):
        return tuple(_views(v) for v in value)
    return value


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in _tensors(v)]
    return []


def _onto_cpu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Bring meta tensors that hide in attributes, and requests for devices, to the one device of the trace."""
    if any(t.device.type != "cpu" for t in _tensors((args, tuple(kwargs.values())))):
        args, kwargs = _moved(args), {k: _moved(v) for k, v in kwargs.items()}
    if (device := kwargs.get("device")) is not None and torch.device(device).type != "cpu":
        kwargs["device"] = torch.device("cpu")
    return args, kwargs


def _moved(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type != "cpu":
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(v) for v in value)
    return value


# Outputs of operators that a device runs as one: where the strides matter, as its kernels leave them.


def _attention_out(bound: Mapping[str, Any]) -> Any:
    q, k, v = bound["query"], bound["key"], bound["value"]
    shape = (*q.shape[:-1], v.shape[-1])
    if q.dim() != 4:
        return q.new_empty(shape)
    if q.dtype == torch.float32:
        if q.shape[1] != k.shape[1]:
            # Grouped queries in fp32 run as plain products.
            return q.new_empty(shape)
        b, h, s, d = shape
        return q.new_empty((b, s, h, d)).transpose(1, 2)
    # Half precision: as the query lies.
    order = sorted(range(3), key=lambda i: -q.stride(i))
    return torch.empty_permuted(shape, (*order, 3), dtype=q.dtype, device=q.device)


def _multi_head_out(bound: Mapping[str, Any]) -> Any:
    q, weights = bound["query"], bound.get("need_weights", True)
    out = torch.empty_like(q)
    if not weights:
        return out, q.new_empty((0,))
    b, s, _ = q.shape
    average = bound.get("average_attn_weights", True)
    return out, q.new_empty((b, s, s) if average else (b, bound["num_head"], s, s))


def _batch_norm_out(bound: Mapping[str, Any]) -> Any:
    # As the framework's own shape function, which takes a hundred times as long.
    x = bound["input"]
    saved = (x.shape[1] if bound.get("training", False) else 0,)
    return torch.empty_like(x), x.new_empty(saved), x.new_empty(saved)


def _adaptive_pool_out(bound: Mapping[str, Any]) -> Any:
    # As for batch norm; None keeps a size.
    x = bound["self"]
    sides = [n if n is not None else x.shape[i - 2] for i, n in enumerate(bound["output_size"])]
    out = x.new_empty((*x.shape[:-2], *(sides if len(sides) == 2 else sides * 2)))
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        out = out.contiguous(memory_format=torch.channels_last)
    return out


def _linear_out(bound: Mapping[str, Any]) -> Any:
    x, weight = bound["input"], bound["weight"]
    if x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype:
        # A case of its own, or an error, which the framework words.
        return None
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


_FUSED: dict[str, Any] = {
    "linear": _linear_out,
    "adaptive_avg_pool2d": _adaptive_pool_out,
    "_adaptive_avg_pool2d": _adaptive_pool_out,
    "_native_batch_norm_legit_no_training": _batch_norm_out,
    "native_batch_norm": _batch_norm_out,
    _ATTENTION: _attention_out,
    "_native_multi_head_attention": _multi_head_out,
    "_transformer_encoder_layer_fwd": lambda bound: torch.empty_like(bound["src"]),
}
