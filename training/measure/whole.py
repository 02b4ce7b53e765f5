"""Forward passes of whole networks: building them, and timing them in the mode that an entry asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch

from graphs.errors import GraphsError, MissingExtraError
from training.measure.cuda import allow_tf32
from training.measure.errors import DeviceLostError, UnmeasurableError
from training.measure.kernels import TORCH_DTYPE
from training.measure.networks import is_language
from training.measure.plan import Entry
from training.measure.stopping import Samples, StoppingRule, collect
from training.measure.timers import failure_of
from training.measure.timing import Timing

EAGER = "eager"
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
    from graphs.tracing.frontends import load_model

    if not is_language(name):
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


#: Times forward passes in one mode: samples of one pass, and what else is to be told of them.
Way = Callable[[Callable[[], Any]], tuple[Samples, dict[str, Any]]]


class ModelTimer:
    """Times forward passes in the mode that an entry's ``mode`` names: eager passes, and those of `ways`.

    A network that was built is kept for the other modes of the same entry's network, which follow it in a plan, until
    its eager passes, the last of them, are timed.

    Parameters
    ----------
    device : str
    rule : StoppingRule
        Of eager passes.
    clock : callable
        Seconds, monotonic; of eager passes.
    ways : dict of str to callable, optional
        How other modes are timed on this device (see `training.measure.whole_cuda`).
    """

    def __init__(
        self, device: str = "cpu", rule: StoppingRule = RULE, clock: Callable[[], float] = time.perf_counter,
        ways: Mapping[str, Way] | None = None,
    ) -> None:  # fmt: skip
        self.device, self.rule, self.clock = device, rule, clock
        self.ways: dict[str, Way] = {**(ways or {}), EAGER: self._eager}
        self._kept: tuple[tuple[str, str, int], torch.nn.Module, Any] | None = None

    def time(self, entry: Entry) -> Timing:
        from graphs.tracing.compat import library_shims

        mode = str(entry.params.get("mode", EAGER))
        if mode not in self.ways:
            raise UnmeasurableError(f"no way to time mode '{mode}' here; known: {', '.join(sorted(self.ways))}")
        if self.device == "cuda":
            allow_tf32(entry.dtype == "tf32")
        try:
            with torch.no_grad(), library_shims():
                module, inputs = self._built(entry)
                samples, told = self.ways[mode](_caller(module, inputs))
        except (RuntimeError, MemoryError, NotImplementedError, TimeoutError, GraphsError) as error:
            self._kept = None  # it may be what there was no memory for
            if isinstance(error, DeviceLostError):
                raise
            raise failure_of(error, self.device) from error
        if mode == EAGER:
            self._kept = None
        count = sum(p.numel() for p in module.parameters())
        return Timing(samples, 1, extra={"params_count": count, **told})

    def _built(self, entry: Entry) -> tuple[torch.nn.Module, Any]:
        key = (entry.op, entry.dtype, int(entry.params["batch"]))
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # its memory first
            self._kept = (key, *build(*key, self.device))
        return self._kept[1:]

    def _eager(self, call: Callable[[], Any]) -> tuple[Samples, dict[str, Any]]:
        for _ in range(2):
            self._once(call)
        return collect(lambda: self._once(call), self.rule, self.clock), {}

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
