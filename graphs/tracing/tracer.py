"""Runs a module, or a training step of it, on tensors without data and returns the trace of its operator calls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch

import graphs.ops as ops
from graphs.errors import DtypeError, GraphsError, TracingError
from graphs.tracing.compat import fake_mode, library_shims
from graphs.tracing.recorder import ORIGIN, Recorder
from graphs.tracing.trace import Trace, merge
from graphs.tracing.trace_file import DTYPES
from graphs.tracing.training_step import UNVALIDATED, Step, check_optimizer, update_of

Inputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]

_TORCH = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_MEASURED = frozenset(_TORCH.values())
#: Hooks on modules and the stand-ins for libraries hold for the whole process: one trace at a time.
_ONE_AT_A_TIME = threading.RLock()


def trace(
    module: torch.nn.Module, inputs: Inputs, *, dtype: str | None = None, name: str | None = None,
    training: bool = False, optimizer: str | None = None,
) -> Trace:  # fmt: skip
    """Trace the forward pass of `module`, or a training step, without running it.

    No weight is allocated and nothing is computed: parameters, buffers and inputs are replaced by tensors that have
    a shape only, for the time of the call.  The module runs under no_grad in its own train or eval state; in a training
    step it runs in train state, with gradients.  Several threads may trace, one after the other; while one does, no
    other may run the same module.

    Parameters
    ----------
    module : torch.nn.Module
        On any device, meta included.
    inputs : tensor, tuple of positional arguments, or dict of keyword arguments
        Of any device; only shapes, strides and dtypes are read.
    dtype : {"fp32", "tf32", "fp16", "bf16"}, optional
        Trace the module as if it and its floating inputs were converted.  tf32 is the fp32 program with the products
        tagged tf32.  None: as given.
    name : str, optional
        Name of the model; the class of the module by default.
    training : bool
        Trace forward and backward.  The backward pass starts at the module's loss if its output has one, else at all
        floating outputs.  No backward operator was measured: such a trace is priced from forward measurements.
    optimizer : {"sgd", "adamw"}, optional
        Add a fused update of the parameters that take gradients, to a training step.

    Returns
    -------
    Trace

    Raises
    ------
    TracingError
        If the module needs values, not only shapes, or fails on these inputs; for an unknown optimizer, or one
        without a training step; if nothing takes a gradient.
    DtypeError
        For another dtype.

    Examples
    --------
    >>> t = trace(torch.nn.Linear(8, 4), torch.empty(2, 8, device="meta"))
    >>> t.operators[0].op, dict(t.operators[0].params)
    ('linear', {'m': 2, 'n': 4, 'k': 8, 'bias': True})
    """
    if dtype is not None and dtype not in DTYPES:
        raise DtypeError("this dtype cannot be traced", received=dtype, allowed=", ".join(DTYPES),
                         next_step="leave it out to trace the module as it is")  # fmt: skip
    if not isinstance(module, torch.nn.Module):
        raise TracingError("only a torch.nn.Module can be traced", received=type(module).__name__,
                           allowed="torch.nn.Module", next_step="wrap the function in a module's forward")  # fmt: skip
    # A compiled module runs the same operators, fused; what is traced is the module it wraps.
    module = getattr(module, "_orig_mod", module)
    _refuse(module)
    check_optimizer(optimizer, training)
    target = _TORCH[dtype] if dtype else None
    parameters = list({id(p): p for p in module.parameters()}.values())
    gradients = torch.enable_grad() if training else torch.no_grad()
    with _ONE_AT_A_TIME, gradients, fake_mode(), library_shims(), _without_data(module, target, training) as held:
        args, kwargs = _arguments(_as_fakes(inputs, target, training))
        tensors = _leaves((args, kwargs))
        given = sum(t.untyped_storage().nbytes() for t in tensors)
        # An in-place operator returns memory that is counted already.
        recorder = Recorder(tf32=dtype == "tf32", held=(*tensors, *module.parameters(), *module.buffers()))
        update = None
        if training:
            _run(Step(module, recorder), args, kwargs, recorder, module)
            recorder.notes.append(UNVALIDATED)
            update = update_of(module, optimizer)
            recorder.calls += update.calls
        else:
            _run(module, args, kwargs, recorder, module)
    operators, sequence = merge(recorder.calls)
    return Trace(
        operators=operators,
        name=name or type(module).__name__,
        batch=next((t.shape[0] for t in _leaves((args, kwargs)) if t.dim()), 0),
        dtype=dtype or _dtype_of(parameters, _leaves((args, kwargs))),
        torch=torch.__version__.split("+")[0],
        parameters=sum(p.numel() for p in parameters),
        parameter_bytes=held["_parameters"],
        buffer_bytes=held["_buffers"],
        peak_activation_bytes=given + recorder.peak_bytes,
        dispatched=recorder.dispatched,
        views=recorder.views,
        sequence=sequence,
        notes=tuple(recorder.notes),
        optimizer_bytes=update.state_bytes if update is not None else 0,
        training=training,
    )


def _refuse(module: torch.nn.Module) -> None:
    """Raise for modules whose parameters cannot be replaced."""
    if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
        raise TracingError(
            "a scripted module cannot be traced", received=type(module).__name__, allowed="an eager torch.nn.Module",
            next_step="trace the module that it was scripted from",
        )  # fmt: skip
    if any(torch.nn.parameter.is_lazy(p) for p in (*module.parameters(), *module.buffers())):
        raise TracingError(
            "a lazy module has no shapes yet", received=type(module).__name__, allowed="initialised parameters",
            next_step="run the module once, or give its layers their sizes",
        )  # fmt: skip


def _run(
    program: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], recorder: Recorder, module: torch.nn.Module
) -> None:
    # Below autograd, operators arrive as the module called them (linear, attention), not taken apart.
    below = contextlib.nullcontext() if torch.is_grad_enabled() else torch._C._AutoDispatchBelowAutograd()
    try:
        with _module_paths(module, recorder.path), recorder, below:
            program(*args, **kwargs)
    except GraphsError:
        raise
    except Exception as error:
        # Python errors of the module are its own; the chained traceback shows where.
        where = recorder.path[-1]
        raise TracingError(
            f"{type(module).__name__} failed on these inputs" + (f", in its module '{where}'" if where else ""),
            received=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            allowed="inputs that the module accepts",
            next_step="run the module once on real tensors of these shapes and dtypes",
        ) from error


@contextlib.contextmanager
def _without_data(
    module: torch.nn.Module, target: torch.dtype | None, training: bool = False
) -> Iterator[dict[str, int]]:
    """Replace parameters and buffers by tensors without data; yield the bytes of the distinct ones.

    All attributes are put back as they were: a module that keeps tensors between calls must not keep these.
    """
    known: dict[int, Any] = {}
    saved: list[tuple[torch.nn.Module, dict[str, Any]]] = []
    nbytes = {"_parameters": 0, "_buffers": 0}
    try:
        for m in module.modules():
            saved.append((m, dict(m.__dict__)))
            for store in ("_parameters", "_buffers"):
                own = m.__dict__[store]
                new = type(own)()
                for key, tensor in own.items():
                    if tensor is not None and id(tensor) not in known:
                        known[id(tensor)] = replaced = _as_fake(
                            tensor, target, store == "_parameters", training and tensor.requires_grad
                        )
                        nbytes[store] += replaced.numel() * replaced.element_size()
                    new[key] = None if tensor is None else known[id(tensor)]
                m.__dict__[store] = new
            if training:
                m.__dict__["training"] = True
        yield nbytes
    finally:
        for m, attributes in saved:
            m.__dict__.clear()
            m.__dict__.update(attributes)


def _as_fake(
    tensor: torch.Tensor, target: torch.dtype | None, parameter: bool = False, gradient: bool = False
) -> torch.Tensor:
    dtype = target if target is not None and tensor.is_floating_point() else tensor.dtype
    out = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=dtype, device="cpu")
    out = torch.nn.Parameter(out, requires_grad=gradient) if parameter else out
    if out.is_floating_point():
        setattr(out, ORIGIN, "data")
    return out


def _as_fakes(value: Any, target: torch.dtype | None, training: bool = False) -> Any:
    if isinstance(value, torch.Tensor):
        return _as_fake(value, target).requires_grad_(training and value.requires_grad)
    if isinstance(value, Mapping):
        return {k: _as_fakes(v, target, training) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_as_fakes(v, target, training) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [t for v in value for t in _leaves(v)] if isinstance(value, (list, tuple)) else []


def _dtype_of(parameters: list[torch.nn.Parameter], inputs: list[torch.Tensor]) -> str:
    """Return the dtype that a model is in: a measured one among its parameters, else any floating one."""
    floating = [t.dtype for t in (*parameters, *inputs) if t.is_floating_point()]
    for dtype in sorted(floating, key=lambda d: d not in _MEASURED):
        with contextlib.suppress(DtypeError):  # a storage format without a short name says nothing of the model
            return ops.canonical(dtype)
    return "fp32"


@contextlib.contextmanager
def _module_paths(module: torch.nn.Module, path: list[str]) -> Iterator[None]:
    """Keep in `path` the names of the modules being run, the innermost last."""
    names = {id(m): name for name, m in module.named_modules()}
    hooks, thread = torch.nn.modules.module, threading.get_ident()

    def enter(m: torch.nn.Module, args: Any) -> None:
        # Other threads may run modules of their own.  A module made on the way counts to the one around it.
        if threading.get_ident() == thread:
            path.append(names.get(id(m), path[-1]))

    def leave(m: torch.nn.Module, args: Any, out: Any) -> None:
        if threading.get_ident() == thread:
            path.pop()

    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
