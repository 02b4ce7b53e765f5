"""Pools and up-sampling of images."""

from __future__ import annotations

from typing import Any

from graphs.tracing.rules.core import Call, Priced, both, nchw, rule, traffic
from graphs.tracing.rules.memory import copied


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return (values * 2)[:2] if len(values) < 2 else (values[0], values[1])


@rule("max_pool2d_with_indices", "avg_pool2d", "max_pool2d", "cudnn_max_pool2d", "mkldnn_max_pool2d")
def pool(call: Call) -> list[Priced]:
    x, out = call.args[0], call.result
    if not out.numel:
        return []
    k = _pair(call.args[1])
    stride = _pair(call.arg(2, "stride") or k)
    pad = _pair(call.arg(3, "padding", 0))
    dilation = _pair(call.arg(4, "dilation", 1)) if call.base != "avg_pool2d" else (1, 1)
    unequal = [f"{what} {pair}" for pair, what in ((k, "window"), (stride, "stride")) if pair[0] != pair[1]]
    if unequal:
        # No square window reads as much and writes as much.
        return traffic(call, f"{call.base} with {', '.join(unequal)} as its traffic")
    kind = "avgpool2d" if call.base == "avg_pool2d" else "maxpool2d"
    notes = [f"padding {pad}"] if pad[0] != pad[1] else []
    notes += ["dilated"] if dilation != (1, 1) else []
    # The input of as many windows: what one side has of padding beyond the other becomes input, and what a dilated
    # window reaches further is cut off.
    size = tuple(
        n + 2 * (p - min(pad)) - (d - 1) * (k[0] - 1) for n, p, d in zip(x.shape[-2:], pad, dilation, strict=True)
    )
    params = {**nchw(x), "h": size[0], "w": size[1], "k": k[0], "stride": stride[0], "pad": min(pad)}
    expected = tuple((n + 2 * min(pad) - k[0]) // stride[0] + 1 for n in size)
    if expected != out.shape[-2:]:
        notes.append(f"rounded up to {out.shape[-2]} x {out.shape[-1]}")
    first = [] if x.contiguous or x.channels_last else copied(x)
    return [*first, Priced(kind, params, x.dtype, *both(notes))]


@rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", whole=True)
def adaptive(call: Call) -> list[Priced]:
    x, (oh, ow) = call.args[0], call.result.shape[-2:]
    if not x.numel:
        return []
    h, w = x.shape[-2:]
    largest = call.base == "adaptive_max_pool2d"
    if (oh, ow) == (1, 1):
        match = both(["a maximum"] if largest else [] if x.contiguous or x.channels_last else ["a strided input"])
        return [Priced("adaptive_avgpool2d", nchw(x), x.dtype, *match)]
    kind = "maxpool2d" if largest else "avgpool2d"
    if h % oh == 0 and w % ow == 0 and h // oh == w // ow:
        params = {**nchw(x), "k": h // oh, "stride": h // oh, "pad": 0}
        return [Priced(kind, params, x.dtype, "near", f"adaptive pool to {oh} x {ow}")]
    return traffic(call, f"adaptive pool to {oh} x {ow}")


@rule("max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool1d",
      "avg_pool1d", "max_pool1d", "max_pool1d_with_indices", "fractional_max_pool2d", "upsample_nearest1d",
      "upsample_linear1d", "upsample_trilinear3d", "upsample_nearest3d", "upsample_bicubic2d",
      "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_upsample_nearest_exact2d")  # fmt: skip
def others(call: Call) -> list[Priced]:
    return traffic(call, f"{call.base} as its traffic")


@rule("upsample_nearest2d", "upsample_bilinear2d")
def upsample(call: Call) -> list[Priced]:
    x, out = call.args[0], call.result
    if not x.numel:
        return []
    scale = (out.shape[2] / x.shape[2], out.shape[3] / x.shape[3])
    if scale[0] != scale[1] or scale[0] != int(scale[0]):
        return traffic(call, f"{call.base} by {scale[0]:.3g} x {scale[1]:.3g}")
    mode = "nearest" if "nearest" in call.base else "bilinear"
    notes = ["" if x.contiguous or x.channels_last else "a strided input"]
    notes.append("" if scale[0] == 2 else f"{int(scale[0])} times")
    return [Priced("upsample2d", {**nchw(x), "scale": int(scale[0]), "mode": mode}, x.dtype, *both(notes))]
