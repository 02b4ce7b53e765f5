"""The training step of a module: its forward pass, then the backward pass, then the update of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

import graphs.ops as ops
from graphs.errors import TracingError
from graphs.tracing.recorder import Recorder
from graphs.tracing.rules.core import storage
from graphs.tracing.trace import TracedOperator

#: Stands for the path of a module in what the backward pass calls.
BACKWARD = "(backward)"
UPDATE = "(optimizer)"
UNVALIDATED = (
    "training step: the backward pass is priced from measurements of forward operators, and was not validated against "
    "any measured training step; the loss, where the module has none, is not in it"
)
#: Tensors of a parameter's size that an update reads and writes, and how many of them it keeps between steps.
OPTIMIZERS = {"sgd": (3, 0), "adamw": (7, 2)}


class Step:
    """Runs a module forward, and backward from its loss, or else from all floating outputs."""

    def __init__(self, module: torch.nn.Module, recorder: Recorder) -> None:
        self.module, self.recorder = module, recorder

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        outputs = _ends(self.module(*args, **kwargs))
        if not outputs:
            raise TracingError("nothing in this module takes a gradient", received=type(self.module).__name__,
                               allowed="a module with parameters that require gradients and reach its outputs",
                               next_step="trace its forward pass only")  # fmt: skip
        self.recorder.path.append(BACKWARD)
        try:
            torch.autograd.backward(outputs, [torch.empty_like(o) for o in outputs])
        finally:
            self.recorder.path.pop()


def _ends(value: Any) -> list[torch.Tensor]:
    """Return the tensors that the backward pass starts at."""
    if isinstance(value, Mapping) and isinstance(value.get("loss"), torch.Tensor):
        return _ends(value["loss"])
    if isinstance(value, torch.Tensor):
        return [value] if value.requires_grad else []
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [t for v in value for t in _ends(v)] if isinstance(value, (list, tuple)) else []


class Update(NamedTuple):
    """Calls of an optimizer, and the bytes of its state."""

    calls: list[TracedOperator]
    state_bytes: int


def check_optimizer(name: str | None, training: bool) -> None:
    """Raise `TracingError` for an unknown optimizer, or one without a training step."""
    if name is not None and (name not in OPTIMIZERS or not training):
        raise TracingError("unknown optimizer" if training else "an optimizer needs a training step", received=name,
                           allowed=", ".join(OPTIMIZERS),
                           next_step="ask for training=True with one of these")  # fmt: skip


def update_of(module: torch.nn.Module, optimizer: str | None) -> Update:
    """Return the update of the parameters that take gradients, fused over all of one dtype, as its traffic."""
    if optimizer is None:
        return Update([], 0)
    touched, kept = OPTIMIZERS[optimizer]
    sizes: dict[str, int] = {}
    parameters = {id(p): p for p in module.parameters() if p.requires_grad}
    for p in parameters.values():
        dtype = storage(ops.canonical(p.dtype), p.element_size())[0]
        sizes[dtype] = sizes.get(dtype, 0) + p.numel() * p.element_size()
    aten, note = f"torch.optim.{optimizer}", f"fused {optimizer} as its traffic"
    calls = []
    for dtype, nbytes in sizes.items():
        moved = {"numel": max(1, round(touched * nbytes / 2 / ops.itemsize(dtype)))}
        calls.append(TracedOperator("copy", moved, dtype, 1, UPDATE, aten, "proxy", note))
    return Update(calls, kept * sum(sizes.values()))
