"""Pools whose windows, strides or padding are not square move the bytes of their tensors."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from tracing_modules import meta  # noqa: E402
from work import tensor_bytes, traced_bytes  # noqa: E402

from graphs.tracing import trace  # noqa: E402

INDEX_BYTES = 8


@pytest.mark.parametrize("shape", [(2, 16, 40, 40), (2, 16, 21, 34), (1, 3, 8, 100)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((2, 1), None, 0), ((1, 4), None, 0), (2, (2, 1), 0), ((2, 2), (2, 1), (0, 1)), (3, (1, 2), 1), ((3, 2), 2, 1)],
)
def test_windows_and_strides_that_are_not_square(
    shape: tuple[int, ...], kernel: Any, stride: Any, padding: Any
) -> None:
    x = meta(*shape)
    largest, mean = nn.MaxPool2d(kernel, stride, padding), nn.AvgPool2d(kernel, stride, padding)
    t = trace(mean, x)
    assert {o.match for o in t.operators} == {"proxy"}
    # A copy moves whole elements, each twice.
    assert traced_bytes(t) == pytest.approx(tensor_bytes(mean, x), abs=8)
    # The framework's maximum also writes where it found each one.
    indices = INDEX_BYTES * largest(x).numel()
    assert traced_bytes(trace(largest, x)) == pytest.approx(tensor_bytes(largest, x) + indices, abs=8)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 2, (1, 0), 1), (3, 2, (0, 1), 1), (2, 1, (1, 0), 1), (3, 1, 1, 2), (3, 2, 0, (1, 2)), (2, 2, 1, 3)],
)
def test_uneven_padding_and_dilation_make_as_many_outputs(
    kernel: int, stride: int, padding: Any, dilation: Any
) -> None:
    x = meta(2, 16, 40, 31)
    pool = nn.MaxPool2d(kernel, stride, padding, dilation)
    (o,) = trace(pool, x).operators
    assert (o.op, o.match) == ("maxpool2d", "near")
    assert "rounded up" not in o.note
    p = o.params
    outputs = tuple((p[side] + 2 * p["pad"] - p["k"]) // p["stride"] + 1 for side in "hw")
    assert outputs == pool(x).shape[-2:]


def test_square_pools_are_exact() -> None:
    for pool in (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d((2, 2), (2, 2))):
        x = meta(2, 16, 40, 40)
        (o,) = trace(pool, x).operators
        assert o.match == "exact"
        assert traced_bytes(trace(pool, x)) == tensor_bytes(pool, x)
