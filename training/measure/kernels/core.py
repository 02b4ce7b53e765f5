"""From an operator kind and its parameters to a call that can be timed: the inverse of the tracing rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from graphs import ops
from graphs.errors import UnknownOperatorError, nearest

TORCH_DTYPE = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: Tensors start at multiples of so many bytes.
_ALIGNED = 256
#: Elements that are drawn at random; larger pools repeat them.
_CHUNK = 1 << 20

#: A function and the tensors it is called with.
Bound = tuple[Callable[..., Any], tuple[Tensor, ...]]


def room(nbytes: int) -> int:
    """Return the bytes that a tensor takes of a pool.

    >>> room(1), room(256), room(257)
    (256, 256, 512)
    """
    return -(-nbytes // _ALIGNED) * _ALIGNED


class Pool:
    """One block of random numbers a dtype, of which inputs are cut as views: no allocation, no fill, no page faults.

    Consecutive tensors lie one after another, so that buffer sets rotate through the whole block.  At its end it begins
    anew: `reserve` keeps that from happening between the tensors of one call, which would then share memory.
    """

    def __init__(self, device: str, nbytes: int) -> None:
        self.device, self.nbytes = device, nbytes
        self._blocks: dict[torch.dtype, Tensor] = {}
        self._next: dict[torch.dtype, int] = {}

    def reserve(self, nbytes: int, dtype: torch.dtype) -> None:
        """Make sure that tensors of `nbytes` together (see `room`) lie one after another."""
        numel = nbytes // dtype.itemsize
        block = self._blocks.get(dtype)
        if block is None or numel > block.numel():
            self._blocks[dtype] = self._filled(max(numel, self.nbytes // dtype.itemsize), dtype)
            self._next[dtype] = 0
        elif self._next[dtype] + numel > block.numel():
            self._next[dtype] = 0

    def take(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Return `numel` random elements as a flat view."""
        nbytes = room(numel * dtype.itemsize)
        self.reserve(nbytes, dtype)
        start = self._next[dtype]
        self._next[dtype] = start + nbytes // dtype.itemsize
        return self._blocks[dtype][start : start + numel]

    def release(self) -> None:
        """Give the memory back."""
        self._blocks.clear()
        self._next.clear()

    def _filled(self, numel: int, dtype: torch.dtype) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        chunk = torch.randn(min(_CHUNK, numel), generator=generator).to(self.device, dtype)
        block = torch.empty(numel, dtype=dtype, device=self.device)
        for start in range(0, numel, len(chunk)):
            part = block[start : start + len(chunk)]
            part.copy_(chunk[: len(part)])
        return block


class Maker:
    """Makes the tensors of one operator call.

    Parameters
    ----------
    dtype : str
        Short name of the row's dtype.
    device : str
        ``"meta"`` makes tensors without data, for tracing.
    pool : Pool, optional
        Where inputs are cut from; None allocates each.
    """

    def __init__(self, dtype: str, device: str = "cpu", pool: Pool | None = None) -> None:
        self.name, self.dtype, self.device, self.pool = dtype, TORCH_DTYPE[dtype], device, pool
        self._indices = 0

    def new(self, *shape: int) -> Tensor:
        """Return a contiguous tensor of random numbers."""
        numel = 1
        for n in shape:
            numel *= n
        if self.pool is not None:
            return self.pool.take(numel, self.dtype).view(shape)
        if self.device == "meta":
            return torch.empty(shape, dtype=self.dtype, device="meta")
        return torch.randn(shape, device=self.device).to(self.dtype)

    def image(self, n: int, c: int, h: int, w: int, fmt: str) -> Tensor:
        """Return a tensor (n, c, h, w) in a memory format."""
        if fmt == "contiguous":
            return self.new(n, c, h, w)
        return self.new(n, h, w, c).permute(0, 3, 1, 2)

    def positive(self, n: int) -> Tensor:
        """Return n numbers that can be variances."""
        return torch.full((n,), 0.75, dtype=self.dtype, device=self.device)

    def index(self, count: int, high: int) -> Tensor:
        """Return random int64 indices below `high`; other ones at each call, so that each set reads other rows."""
        if self.device == "meta":
            return torch.empty(count, dtype=torch.int64, device="meta")
        self._indices += 1
        generator = torch.Generator().manual_seed(count + 1_000_003 * self._indices)
        return torch.randint(high, (count,), generator=generator).to(self.device)

    def mask(self, *shape: int) -> Tensor:
        """Return a bool tensor, nine of ten elements true."""
        if self.device == "meta":
            return torch.empty(shape, dtype=torch.bool, device="meta")
        numel = 1
        for n in shape:
            numel *= n
        chunk = torch.rand(min(numel, _CHUNK), generator=torch.Generator().manual_seed(1)) < 0.9
        mask = chunk.repeat(-(-numel // len(chunk)))[:numel].view(shape)
        # A row without any true element makes attention give NaN.
        mask[..., 0] = True
        return mask.to(self.device)


Builder = Callable[[Mapping[str, Any], Maker], Bound]
BUILDERS: dict[str, Builder] = {}


def kernel(*names: str) -> Callable[[Builder], Builder]:
    """Register the builder of operator kinds."""

    def register(builder: Builder) -> Builder:
        for name in names:
            assert name not in BUILDERS, name
            BUILDERS[name] = builder
        return builder

    return register


def bind(op: str, params: Mapping[str, Any], maker: Maker) -> Bound:
    """Return the framework function that `op` stands for, and tensors to call it with.

    Raises
    ------
    UnknownOperatorError
        For a kind that is registered but has no call here.
    OperatorParameterError
        For unusable parameters.
    """
    checked = ops.get(op).validate(params)
    builder = BUILDERS.get(op)
    if builder is None:
        raise UnknownOperatorError(
            "this operator kind has no call to measure", received=op, allowed=nearest(op, BUILDERS),
            next_step="register one with training.measure.kernels.kernel",
        )  # fmt: skip
    return builder(checked, maker)


def reserve(op: str, params: Mapping[str, Any], maker: Maker) -> None:
    """Make room in the pool of `maker` for all tensors of one call, so that the next `bind` gives disjoint ones."""
    if maker.pool is None:
        return
    _, args = bind(op, params, Maker(maker.name, "meta"))
    storages = [a.untyped_storage().nbytes() for a in args if a.dtype == maker.dtype]
    maker.pool.reserve(sum(map(room, storages)), maker.dtype)
