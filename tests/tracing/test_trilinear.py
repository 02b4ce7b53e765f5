"""Bilinear layers have the work of their products, forward and backward."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from tracing_modules import Function, meta  # noqa: E402
from work import product_flops, torch_flops  # noqa: E402

from graphs.tracing import trace  # noqa: E402

SIZES = [(20, 30, 40), (7, 3, 5), (64, 64, 1), (1, 9, 4)]


def slices(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the layer's output slice by slice, in products that torch counts."""
    x, y = x.flatten(0, -2), y.flatten(0, -2)
    return torch.stack([torch.bmm((x @ w)[:, None], y[:, :, None]).flatten() for w in weight], -1)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("lead", [(8,), (2, 5)])
def test_bilinear_layers_count_both_products_of_every_slice(sizes: tuple[int, int, int], lead: tuple[int, ...]) -> None:
    one, two, out = sizes
    x, y = meta(*lead, one), meta(*lead, two)
    t = trace(nn.Bilinear(*sizes), (x, y))
    assert product_flops(t) == torch_flops(Function(slices), x, y, meta(out, one, two))
    assert sum(o.count for o in t.operators if o.op == "bmm") == 2 * out
    assert "exact" not in {o.match for o in t.operators if "trilinear" in o.aten}


@pytest.mark.parametrize("sizes", SIZES)
def test_the_gradient_of_their_weight_is_a_product_a_slice(sizes: tuple[int, int, int]) -> None:
    (one, two, out), b = sizes, 8
    module, inputs = nn.Bilinear(*sizes, bias=False), (meta(b, one), meta(b, two))
    forward, step = (product_flops(trace(module, inputs, training=training)) for training in (False, True))
    # Rows of the input, each scaled by a number, times the other input.
    assert step - forward == 2 * b * one * two * out
