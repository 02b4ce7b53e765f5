"""Convolutions of one to three dimensions, plain and transposed."""

from __future__ import annotations

import math
from typing import Any

from graphs.tracing.layout import Ints, View
from graphs.tracing.rules.core import Call, Priced, both, product_dtype, proxies, rule
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
    dtype, stand_in = product_dtype(x)
    notes += [stand_in] if stand_in else []
    outputs = call.result.shape
    if len(x.shape) == ndim + 1:
        x = View((1, *x.shape), (0, *x.stride), x.dtype, x.itemsize)
        outputs = (1, *outputs)
    fmt, first = _layout(x, weight) if ndim == 2 else ("contiguous", [])
    if ndim == 1 and not x.contiguous:
        first = copied(x)
    if transposed:
        notes += ["bias"] if bias is not None else []
        square = ndim == 2 and all(len(set(v)) == 1 for v in (weight.shape[2:], stride, pad))
        if square and groups == max(dilation) == 1:
            notes += ["output padding"] if any(output_pad) else []
            return [*first, _transposed(x, weight, stride[0], pad[0], dtype, fmt, notes)]
        if groups == max(dilation) == 1 and tuple(stride) == weight.shape[2:] and not any((*pad, *output_pad)):
            return [*first, _spread(x, weight, dtype, notes)]
        # The convolution whose gradient this is: from the output to the input, its weight lies as here.  Equal work.
        shape, found, has_bias = outputs, x.shape, False
    else:
        shape, found, has_bias = x.shape, outputs, bias is not None
    shape, pad = _undilated(shape, weight.shape[2:], pad, dilation)
    if ndim == 1:
        priced = _one(shape, weight, has_bias, stride[0], pad[0], groups, dtype, notes)
    elif ndim == 3:
        priced = _three(shape, found, weight, has_bias, stride, groups, dtype, notes)
    elif transposed and stride[0] != stride[1]:
        priced = _uneven(shape, found, weight, stride, pad, groups, dtype, fmt, notes)
    else:
        priced = _two(shape, weight.shape, has_bias, stride, pad, groups, dtype, fmt, notes)
    if transposed:
        return [*first, *proxies([priced], "transposed, as the convolution it is the gradient of")]
    return [*first, priced]


def _undilated(x: Ints, kernel: Ints, pad: Any, dilation: Any) -> tuple[Ints, Any]:
    """Return input shape and padding of the convolution without dilation that makes as many outputs of as many taps.

    A dilated kernel reaches (d - 1)(k - 1) further; that much less padding, then input, gives the same size.
    """
    if max(dilation) == 1:
        return x, pad
    shape, less = list(x), []
    for i, (k, p, d) in enumerate(zip(kernel, pad, dilation, strict=True)):
        reach = (d - 1) * (k - 1)
        less.append(max(0, p - reach // 2))
        shape[2 + i] += 2 * (p - less[-1]) - reach
    return tuple(shape), tuple(less)


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
    x: Ints, weight: Ints, bias: bool, stride: Any, pad: Any, groups: int, dtype: str, fmt: str, notes: list[str]
) -> Priced:
    (n, c, h, w), (o, _, k, kw) = x, weight
    notes, padw = list(notes), pad[1]
    if stride[0] != stride[1]:
        notes.append(f"strides {tuple(stride)}")
        # As many outputs, by the stride of the height along both axes.  The width of the input follows: padding that
        # keeps the real one would be far from any that was measured.
        reach = (_windows(w, kw, stride[1], padw) - 1) * stride[0] + kw
        padw = min(padw, (reach - 1) // 2)
        w = reach - 2 * padw
    params: dict[str, Any] = {"n": n, "c": c, "h": h, "w": w, "o": o, "k": k, "stride": stride[0], "pad": pad[0],
                              "groups": groups, "bias": bias, "fmt": fmt}  # fmt: skip
    if groups == c == o and groups > 1 and k == kw and pad[0] == padw:
        return Priced("dwconv2d", params, dtype, *both(notes))
    if kw != k or pad[0] != padw:
        params |= {"kw": kw, "padw": padw}
    return Priced("conv2d", params, dtype, *both(notes))


def _windows(size: int, k: int, stride: int, pad: int) -> int:
    return (size + 2 * pad - k) // stride + 1


def _one(x: Ints, weight: View, bias: bool, stride: int, pad: int, groups: int, dtype: str, notes: list[str]) -> Priced:
    n, c, length = x
    o, _, k = weight.shape
    if groups == 1:
        params = {"n": n, "c": c, "l": length, "o": o, "k": k, "stride": stride, "pad": pad}
        return Priced("conv1d", params, dtype, *both([*notes, "bias" if bias else ""]))
    # One row of height 1: the same taps.  A stride along the row has nothing to skip across it.
    return _two((n, c, 1, length), (o, c // groups, 1, k), bias, (stride, stride), (0, pad), groups, dtype,
                "contiguous", [*notes, "grouped 1-d convolution as one row of a 2-d one"])  # fmt: skip


def _three(
    x: Ints, outputs: Ints, weight: View, bias: bool, stride: Any, groups: int, dtype: str, notes: list[str]
) -> Priced:
    """Price a 3-d convolution as a product if its windows do not overlap, else as a 2-d one of equal work."""
    (n, o, depth, height, width), kernel = outputs, weight.shape[2:]
    if groups == 1 and tuple(stride) == kernel:
        patches = {"m": n * depth * height * width, "n": o, "k": math.prod(weight.shape[1:]), "bias": bias}
        return Priced("linear", patches, dtype, "proxy", "3-d patches as a product")
    taps = x[1] // groups * kernel[0]
    # As many outputs by a stride of 1: half a kernel of padding, and one more row for an even kernel.
    pad, padw = (kernel[1] - 1) // 2, (kernel[2] - 1) // 2
    params: dict[str, Any] = {
        "n": n * depth, "c": taps * groups, "h": height + kernel[1] - 1 - 2 * pad,
        "w": width + kernel[2] - 1 - 2 * padw, "o": o, "k": kernel[1], "stride": 1, "pad": pad, "groups": groups,
        "bias": bias, "fmt": "contiguous", "kw": kernel[2], "padw": padw,
    }  # fmt: skip
    return Priced("conv2d", params, dtype, "proxy", "; ".join([*notes, "3-d convolution as a 2-d one of equal work"]))


def _transposed(x: View, weight: View, stride: int, pad: int, dtype: str, fmt: str, notes: list[str]) -> Priced:
    n, c, h, w = x.shape
    _, o, k, _ = weight.shape
    image: dict[str, Any] = {"n": n, "c": c, "h": h, "w": w, "o": o, "k": k, "stride": stride, "pad": pad, "fmt": fmt}
    return Priced("conv_transpose2d", image, dtype, *both(notes))


def _spread(x: View, weight: View, dtype: str, notes: list[str]) -> Priced:
    """Price a transposed convolution whose patches do not overlap as the product that makes them."""
    params = {"m": x.numel // x.shape[1], "n": math.prod(weight.shape[1:]), "k": x.shape[1]}
    what = f"{len(x.shape) - 2}-d transposed convolution as a product"
    return Priced("matmul", params, dtype, "proxy", "; ".join([*notes, what]))


def _uneven(
    x: Ints, outputs: Ints, weight: View, stride: Any, pad: Any, groups: int, dtype: str, fmt: str, notes: list[str]
) -> Priced:
    """Price the 2-d convolution that a transposed one of unequal strides is the gradient of.

    `x`, which that one writes, is most of the traffic and keeps its size: the larger stride along both axes makes as
    many outputs with more padding.
    """
    kernel, step = weight.shape[2:], max(stride)
    notes = [*notes, f"strides {tuple(stride)}"]
    more = [
        p if s == step else max(0, -(-((n - 1) * step + k - size) // 2))
        for size, n, k, s, p in zip(x[2:], outputs[2:], kernel, stride, pad, strict=True)
    ]
    return _two(x, weight.shape, False, (step, step), more, groups, dtype, fmt, notes)
