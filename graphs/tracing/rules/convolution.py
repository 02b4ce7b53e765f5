"""Convolutions of one to three dimensions, plain and transposed."""

from __future__ import annotations

from typing import Any

from graphs.tracing.layout import View
from graphs.tracing.rules.core import Call, Priced, both, product_dtype, rule
from graphs.tracing.rules.memory import copied, reordered


@rule("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "conv_depthwise3d")
def convolution(call: Call) -> list[Priced]:
    x, weight, bias, stride, pad, dilation, transposed, output_pad, groups = call.args[:9]
    ndim = len(weight.shape) - 2
    if not call.result.numel:
        return []
    # One number stands for all dimensions.
    stride, pad, dilation, output_pad = (
        tuple(v) * (ndim if len(v) == 1 else 1) for v in (stride, pad, dilation, output_pad)
    )
    notes = [f"dilation {max(dilation)}"] if max(dilation) > 1 else []
    if len(x.shape) == ndim + 1:
        x = View((1, *x.shape), (0, *x.stride), x.dtype, x.itemsize)
    fmt, first = _layout(x, weight) if ndim == 2 else ("contiguous", [])
    if not transposed:
        x, pad = _undilated(x, weight.shape[2:], pad, dilation)
    dtype, stand_in = product_dtype(x)
    notes += [stand_in] if stand_in else []
    has_bias = bias is not None
    if transposed:
        return [*first, *_transposed(x, weight, stride, pad, output_pad, groups, dtype, notes, fmt)]
    if ndim == 1:
        return _one(x, weight, has_bias, stride[0], pad[0], groups, dtype, notes)
    if ndim == 3:
        return _three(call, x, weight, has_bias, stride, groups, dtype, notes)
    return [*first, _two(x.shape, weight.shape, has_bias, stride, pad, groups, dtype, fmt, notes)]


def _undilated(x: View, kernel: tuple[int, ...], pad: Any, dilation: Any) -> tuple[View, Any]:
    """Return the input and padding of the convolution without dilation that makes as many outputs of as many taps.

    A dilated kernel reaches (d - 1)(k - 1) further; that much less padding, then input, gives the same size.
    """
    if max(dilation) == 1:
        return x, pad
    shape, less = list(x.shape), []
    for i, (k, p, d) in enumerate(zip(kernel, pad, dilation, strict=True)):
        reach = (d - 1) * (k - 1)
        less.append(max(0, p - reach // 2))
        shape[2 + i] += 2 * (p - less[-1]) - reach
    return View(tuple(shape), x.stride, x.dtype, x.itemsize), tuple(less)


def _layout(x: View, weight: View) -> tuple[str, list[Priced]]:
    """Return the memory format a convolution runs in, and the copies that bring its operands there.

    Either operand in channels_last takes the other along, weights at every call.
    """
    last = x.channels_last or weight.channels_last
    first: list[Priced] = []
    if not (x.channels_last if last else x.contiguous) and not (last and _ambiguous(x)):
        first += reordered(x, last)
    if last and not weight.channels_last and not _ambiguous(weight):
        first += reordered(weight, last)
    return ("channels_last" if last else "contiguous"), first


def _ambiguous(x: View) -> bool:
    """Whether both formats are the same order of elements."""
    return x.contiguous and (x.shape[1] == 1 or x.shape[2] == x.shape[3] == 1)


def _two(
    x: tuple[int, ...], weight: tuple[int, ...], bias: bool, stride: Any, pad: Any, groups: int, dtype: str, fmt: str,
    notes: list[str],
) -> Priced:  # fmt: skip
    (n, c, h, w), (o, _, k, kw) = x, weight
    notes = list(notes)
    if stride[0] != stride[1]:
        notes.append(f"strides {tuple(stride)}")
        # The output of the larger stride along both axes, with the height it really has.
        w = max(kw, _inner(w, kw, stride[1], pad[1]) * stride[0])
    params: dict[str, Any] = {"n": n, "c": c, "h": h, "w": w, "o": o, "k": k, "stride": stride[0], "pad": pad[0],
                              "groups": groups, "bias": bias, "fmt": fmt}  # fmt: skip
    if groups == c == o and groups > 1 and k == kw and pad[0] == pad[1]:
        return Priced("dwconv2d", params, dtype, *both(notes))
    if kw != k or pad[0] != pad[1]:
        params |= {"kw": kw, "padw": pad[1]}
    return Priced("conv2d", params, dtype, *both(notes))


def _inner(size: int, k: int, stride: int, pad: int) -> int:
    return (size + 2 * pad - k) // stride + 1


def _one(
    x: View, weight: View, bias: bool, stride: int, pad: int, groups: int, dtype: str, notes: list[str]
) -> list[Priced]:
    n, c, length = x.shape
    o, _, k = weight.shape
    first = [] if x.contiguous else copied(x)
    if groups == 1:
        params = {"n": n, "c": c, "l": length, "o": o, "k": k, "stride": stride, "pad": pad}
        return [*first, Priced("conv1d", params, dtype, *both(notes))]
    # One row of height 1: the same taps.  A stride along the row has nothing to skip across it.
    image = _two((n, c, 1, length), (o, c // groups, 1, k), bias, (stride, stride), (0, pad), groups, dtype,
                 "contiguous", [*notes, "grouped 1-d convolution as one row of a 2-d one"])  # fmt: skip
    return [*first, image]


def _three(
    call: Call, x: View, weight: View, bias: bool, stride: Any, groups: int, dtype: str, notes: list[str]
) -> list[Priced]:
    """Price a 3-d convolution as a product if its windows do not overlap, else as a 2-d one of equal work."""
    n, o, *outputs = call.result.shape if len(call.result.shape) == 5 else (1, *call.result.shape)
    c, kernel = x.shape[1], weight.shape[2:]
    depth, height, width = outputs
    taps = c // groups * kernel[0]
    if groups == 1 and tuple(stride) == tuple(kernel):
        patches = {"m": n * depth * height * width, "n": o, "k": taps * kernel[1] * kernel[2], "bias": bias}
        return [Priced("linear", patches, dtype, "proxy", "3-d patches as a product")]
    params: dict[str, Any] = {
        "n": n * depth, "c": taps * groups, "h": height, "w": width, "o": o, "k": kernel[1], "stride": 1,
        "pad": kernel[1] // 2, "groups": groups, "bias": bias, "fmt": "contiguous", "kw": kernel[2],
        "padw": kernel[2] // 2,
    }  # fmt: skip
    return [Priced("conv2d", params, dtype, "proxy", "; ".join([*notes, "3-d convolution as a 2-d one of equal work"]))]


def _transposed(
    x: View, weight: View, stride: Any, pad: Any, output_pad: Any, groups: int, dtype: str, notes: list[str], fmt: str
) -> list[Priced]:
    if len(x.shape) != 4:
        # Each input position meets every tap once: a product of that many multiply-adds.
        taps = weight.numel // weight.shape[0]
        params = {"m": x.numel // x.shape[1], "n": taps, "k": x.shape[1]}
        return [Priced("matmul", params, dtype, "proxy", f"{len(x.shape) - 2}-d transposed convolution as a product")]
    n, c, h, w = x.shape
    _, o, k, kw = weight.shape
    notes = list(notes)
    for differs, what in (
        (k != kw or stride[0] != stride[1] or pad[0] != pad[1], "not square"),
        (groups > 1, f"{groups} groups"),
        (any(output_pad), "output padding"),
    ):
        if differs:
            notes.append(what)
    image: dict[str, Any] = {"n": n, "c": c, "h": h, "w": w, "o": o, "k": k, "stride": stride[0], "pad": pad[0]}
    image["fmt"] = fmt
    return [Priced("conv_transpose2d", image, dtype, *both(notes))]
