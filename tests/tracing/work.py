"""What a module really computes and moves, counted apart from the rules: by torch, and from its tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graphs import ops
from graphs.tracing import Trace


def torch_flops(module: nn.Module, *inputs: Tensor) -> int:
    """Return torch's count: products and convolutions only."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.to("meta")(*inputs)
    return int(counter.get_total_flops())


def tensor_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Return the bytes of inputs, parameters and output."""
    with torch.no_grad():
        out = module.to("meta")(*inputs)
    return sum(t.numel() * t.element_size() for t in (*inputs, *module.parameters(), out))


def traced_bytes(t: Trace) -> int:
    return sum(o.count * int(ops.evaluate(o.op, o.params, ops.itemsize(o.dtype)).bytes) for o in t.operators)


def product_flops(t: Trace) -> int:
    """Return the FLOP of the kinds that torch counts too."""
    found = 0
    for o in t.operators:
        if o.op in ("conv2d", "dwconv2d", "conv1d", "conv_transpose2d", "linear", "matmul", "addmm", "bmm"):
            found += o.count * int(ops.evaluate(o.op, o.params, ops.itemsize(o.dtype)).flops)
    return found
