"""Forward passes of whole networks, launched eagerly."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from graphs.errors import GraphsError, MissingExtraError
from training.measure.kernels import TORCH_DTYPE
from training.measure.plan import Entry
from training.measure.stopping import StoppingRule, collect
from training.measure.timers import failure_of
from training.measure.timing import Timing

#: Steadier than a single operator, and slower: fewer samples do.
RULE = StoppingRule(half_width=0.02, min_samples=6, max_samples=20, max_time_s=4.0, hard_time_s=15.0)


def can_build(name: str) -> bool:
    """Whether this environment has what it takes to build the network of that name."""
    try:
        specified(name)
    except GraphsError:
        return False
    return True


def specified(name: str) -> Any:
    """Return the front end's model of a stored trace's name.

    Raises
    ------
    MissingExtraError, TracingError
    """
    from graphs.tracing import language
    from graphs.tracing.frontends import load_model

    if language.split_name(name)[0] not in language.MODELS:
        return load_model(f"torchvision:{name}")
    if find_spec("transformers") is None:
        raise MissingExtraError(
            "transformers is not installed", received=name, next_step="pip install 'graphs[models]'"
        )
    return load_model(f"hf:{name}")


def build(name: str, dtype: str, batch: int, device: str) -> tuple[torch.nn.Module, Any]:
    """Return a network with random weights on a device, and inputs to call it with.

    Raises
    ------
    GraphsError, RuntimeError
        If it cannot be built, or does not fit.
    """
    model = specified(name)
    module: torch.nn.Module = model.factory()
    if any(p.device.type == "meta" for p in module.parameters()):
        module = _materialised(module)
    module = module.to(device, TORCH_DTYPE[dtype]).eval()
    return module, _moved(model.make_inputs(batch), device, TORCH_DTYPE[dtype])


def _materialised(module: torch.nn.Module) -> torch.nn.Module:
    """Give a module on the meta device random weights; buffers that are not in the state dict must be positions."""
    buffers = {n: b for n, b in module.named_buffers() if b.device.type == "meta"}
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape[-1:] or (1,)).mul_(0.02).expand(p.shape))
        for name, _ in buffers.items():
            target = module.get_buffer(name)
            if target.is_floating_point():
                target.fill_(0.1)
            elif target.dim() == 2 and target.shape[0] == 1:
                target.copy_(torch.arange(target.shape[1]).expand(target.shape) if "position" in name else target * 0)
            else:
                target.zero_()
    return module


def _moved(value: Any, device: str, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta":
            value = (torch.randn(value.shape) if value.is_floating_point()
                     else torch.zeros(value.shape, dtype=value.dtype) + _ids(value))  # fmt: skip
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, dict):
        return {k: _moved(v, device, dtype) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_moved(v, device, dtype) for v in value)
    return value


def _ids(value: torch.Tensor) -> torch.Tensor:
    """Return token ids that differ: equal ones would be read from the cache."""
    if value.dtype == torch.bool:
        return torch.ones(value.shape, dtype=value.dtype)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 1000, value.shape, generator=generator).to(value.dtype)


class ModelTimer:
    """Times forward passes.

    Parameters
    ----------
    device : str
    rule : StoppingRule
    clock : callable
    """

    def __init__(
        self, device: str = "cpu", rule: StoppingRule = RULE, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.device, self.rule, self.clock = device, rule, clock

    def time(self, entry: Entry) -> Timing:
        from graphs.tracing.compat import library_shims

        if self.device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = entry.dtype == "tf32"
        try:
            with torch.no_grad(), library_shims():
                module, inputs = build(entry.op, entry.dtype, int(entry.params["batch"]), self.device)
                call = _caller(module, inputs)
                for _ in range(2):
                    self._once(call)
                samples = collect(lambda: self._once(call), self.rule, self.clock)
        except (RuntimeError, MemoryError, NotImplementedError, GraphsError) as error:
            raise failure_of(error, self.device) from error
        count = sum(p.numel() for p in module.parameters())
        return Timing(samples, 1, extra={"params_count": count})

    def _once(self, call: Callable[[], Any]) -> float:
        started = self.clock()
        call()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.clock() - started


def _caller(module: torch.nn.Module, inputs: Any) -> Callable[[], Any]:
    if isinstance(inputs, dict):
        return lambda: module(**inputs)
    if isinstance(inputs, tuple):
        return lambda: module(*inputs)
    return lambda: module(inputs)
