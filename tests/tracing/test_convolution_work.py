"""The work of convolutions that are not square: FLOP as torch counts them, bytes of the tensors."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from tracing_modules import meta, names  # noqa: E402
from work import product_flops, tensor_bytes, torch_flops, traced_bytes  # noqa: E402

from graphs.tracing import trace  # noqa: E402

IMAGE, ROW, VOLUME = (2, 16, 21, 40), (2, 16, 50), (2, 16, 8, 9, 10)


def name(value: Any) -> str:
    return str(value).replace(" ", "")


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": (1, 8), "stride": (1, 4)}, {"kernel_size": (8, 1), "stride": (4, 1)},
        {"kernel_size": (2, 4), "stride": (2, 4)}, {"kernel_size": (3, 5), "stride": 2, "padding": (1, 2)},
        {"kernel_size": 4, "stride": (1, 3), "padding": 1}, {"kernel_size": 4, "stride": (3, 2), "padding": (0, 1)},
        {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 4}, {"kernel_size": 3, "stride": 2, "groups": 8},
        {"kernel_size": (3, 2), "stride": (2, 3), "groups": 2, "output_padding": (1, 0)},
        {"kernel_size": (3, 4), "stride": (3, 1), "padding": (0, 1), "groups": 2, "output_padding": (2, 0)},
        {"kernel_size": (1, 9), "stride": (5, 1), "padding": (0, 4)}, {"kernel_size": 2, "stride": 2},
        {"kernel_size": 4, "stride": 2, "padding": 1},
    ],
    ids=name,
)  # fmt: skip
def test_transposed_convolutions_have_their_flops_and_bytes(settings: dict[str, Any]) -> None:
    module, x = nn.ConvTranspose2d(16, 8, bias=False, **settings), meta(*IMAGE)
    t = trace(module, x)
    assert product_flops(t) == torch_flops(module, x)
    assert traced_bytes(t) == tensor_bytes(module, x)


def test_only_what_the_kind_describes_is_exact() -> None:
    def match(**settings: Any) -> tuple[str, str]:
        (o,) = trace(nn.ConvTranspose2d(16, 16, **settings), meta(*IMAGE)).operators
        return o.op, o.match

    assert match(kernel_size=4, stride=2, padding=1, bias=False) == ("conv_transpose2d", "exact")
    assert match(kernel_size=4, stride=2, padding=1) == ("conv_transpose2d", "near")
    assert match(kernel_size=3, stride=2, output_padding=1, bias=False) == ("conv_transpose2d", "near")
    assert match(kernel_size=4, stride=(2, 1), bias=False) == ("conv2d", "proxy")
    assert match(kernel_size=4, stride=2, groups=2, bias=False) == ("conv2d", "proxy")
    assert match(kernel_size=4, stride=2, groups=16, bias=False) == ("dwconv2d", "proxy")
    assert match(kernel_size=(2, 4), stride=(2, 4), bias=False) == ("matmul", "proxy")


@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_transposed_rows_and_volumes_have_their_flops(groups: int, dilation: int, unbatched: bool) -> None:
    for kind, shape in ((nn.ConvTranspose1d, ROW), (nn.ConvTranspose2d, IMAGE), (nn.ConvTranspose3d, VOLUME)):
        for kernel, stride, pad in ((2, 2, 0), (4, 2, 1), (3, 1, 1), (5, 3, 0)):
            module = kind(16, 8, kernel, stride, pad, groups=groups, bias=False, dilation=dilation)
            x = meta(*shape[1:]) if unbatched else meta(*shape)
            t = trace(module, x)
            assert product_flops(t) == torch_flops(module, x), (module, unbatched)
            if len(shape) == 3 and dilation == 1:
                assert traced_bytes(t) == tensor_bytes(module, x)


def test_gradients_of_transposed_convolutions_are_twice_the_forward_pass() -> None:
    for settings in ({"kernel_size": (1, 8), "stride": (1, 4)}, {"kernel_size": 4, "stride": 2, "groups": 2}):
        module = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ConvTranspose2d(16, 8, **settings))
        x = meta(*IMAGE)
        forward, step = (product_flops(trace(module, x, training=training)) for training in (False, True))
        # The first layer needs no gradient of its input.
        assert step == 3 * forward - 2 * 2 * 21 * 40 * 16 * 16


@pytest.mark.parametrize("stride", [(1, 3), (3, 1), (2, 5), (1, 4), (4, 3)], ids=name)
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_unequal_strides_make_as_many_outputs(stride: tuple[int, int], groups: int) -> None:
    for kernel, padding in ((5, 0), (5, 2), ((5, 3), (2, 1)), ((1, 2), 0), ((1, 7), (0, 3)), (1, 3)):
        module = nn.Conv2d(16, 16, kernel, stride, padding, groups=groups, bias=False)
        for x in (meta(*IMAGE), meta(2, 16, 7, 7), meta(2, 16, 40, 8)):
            t = trace(module, x)
            assert names(t) in (["conv2d"], ["dwconv2d"])
            assert product_flops(t) == torch_flops(module, x), (module, x.shape)


@pytest.mark.parametrize("kernel", [2, 3, 4, (3, 4, 2), (2, 1, 6), (1, 2, 2)], ids=name)
@pytest.mark.parametrize("groups", [1, 2])
def test_volumes_have_their_flops_for_even_kernels_too(kernel: Any, groups: int) -> None:
    for stride, padding in ((1, 0), (2, 0), (1, 1), (2, (1, 0, 1)), ((1, 2, 3), 0)):
        module = nn.Conv3d(16, 8, kernel, stride, padding, groups=groups, bias=False)
        t = trace(module, meta(*VOLUME))
        found = sum(o.op in ("conv2d", "linear") for o in t.operators)
        assert found == 1
        assert product_flops(t) == torch_flops(module, meta(*VOLUME)), module


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_dilated_rows_are_one_convolution_without_a_copy(padding: int, groups: int) -> None:
    for kernel, dilation, stride in ((3, 2, 1), (3, 4, 2), (2, 3, 1), (5, 2, 1)):
        module = nn.Conv1d(16, 8, kernel, stride, padding, dilation, groups, bias=False)
        t = trace(module, meta(*ROW))
        assert names(t) == ["conv1d" if groups == 1 else "conv2d"]
        assert product_flops(t) == torch_flops(module, meta(*ROW))
    strided = meta(2, 50, 16).transpose(1, 2)
    copied, _ = trace(nn.Conv1d(16, 8, 3, dilation=2), strided).operators
    # The real input is copied, not the smaller one of the convolution without dilation.
    assert (copied.op, copied.params["shape"]) == ("permute_copy", (2, 50, 16))


@pytest.mark.parametrize("bias", [True, False])
def test_kinds_without_a_bias_say_so(bias: bool) -> None:
    for module, shape in ((nn.Conv1d(16, 8, 3, bias=bias), ROW), (nn.ConvTranspose2d(16, 8, 2, 2, bias=bias), IMAGE)):
        (o,) = trace(module, meta(*shape)).operators
        assert (o.match, o.note) == (("near", "bias") if bias else ("exact", ""))
