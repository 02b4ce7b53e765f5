"""Operators on images (n, c, h, w) that are no convolutions: norms, pools, up-sampling."""

from __future__ import annotations

from graphs.ops.shapes import FMT, NCHW, Dim, Rules, window_outputs
from graphs.ops.spec import Cost, Param, operator


@operator("batchnorm", *NCHW, FMT, family="nchw")
def batchnorm(n: Dim, c: Dim, h: Dim, w: Dim, fmt: Dim, itemsize: Dim) -> Cost:
    """Inference: x times a factor plus a term a channel; mean, variance, weight and bias are read."""
    return Cost(2 * n * c * h * w, (2 * n * c * h * w + 4 * c) * itemsize)


@operator(
    "groupnorm",
    *NCHW,
    FMT,
    Param("groups", default=32),
    family="nchw",
    check=Rules({"groups divides c": lambda p: p["c"] % p["groups"] == 0}),
)
def groupnorm(n: Dim, c: Dim, h: Dim, w: Dim, fmt: Dim, groups: Dim, itemsize: Dim) -> Cost:
    """Mean and variance over c / groups channels of one image, then weight and bias a channel."""
    return Cost(8 * n * c * h * w, (2 * n * c * h * w + 2 * c) * itemsize)


def _pool(n: Dim, c: Dim, h: Dim, w: Dim, k: Dim, stride: Dim, pad: Dim, fmt: Dim, itemsize: Dim) -> Cost:
    """Maximum or mean of windows k x k: 1 FLOP an element of a window."""
    outputs = n * c * window_outputs(h, k, stride, pad) * window_outputs(w, k, stride, pad)
    return Cost(outputs * k * k, (n * c * h * w + outputs) * itemsize)


for _name in ("maxpool2d", "avgpool2d"):
    operator(
        _name,
        *NCHW,
        "k",
        Param("stride", like="k"),
        Param("pad", default=0, low=0),
        FMT,
        family="nchw",
        check=Rules(
            {
                "the padding is at most half the window": lambda p: 2 * p["pad"] <= p["k"],
                "the window fits the padded height (h + 2 pad >= k)": lambda p: p["h"] + 2 * p["pad"] >= p["k"],
                "the window fits the padded width (w + 2 pad >= k)": lambda p: p["w"] + 2 * p["pad"] >= p["k"],
            }
        ),
    )(_pool)


@operator("adaptive_avgpool2d", *NCHW, FMT, family="nchw")
def adaptive_avgpool2d(n: Dim, c: Dim, h: Dim, w: Dim, fmt: Dim, itemsize: Dim) -> Cost:
    """Mean of each channel of each image: (n, c, 1, 1)."""
    return Cost(n * c * h * w, (n * c * h * w + n * c) * itemsize)


@operator(
    "upsample2d",
    *NCHW,
    "scale",
    Param("mode", str, choices=("nearest", "bilinear")),
    FMT,
    family="nchw",
)
def upsample2d(n: Dim, c: Dim, h: Dim, w: Dim, scale: Dim, mode: Dim, fmt: Dim, itemsize: Dim) -> Cost:
    """Enlarged `scale` times in height and width: 1 FLOP an output in either mode."""
    inputs, outputs = n * c * h * w, n * c * h * w * scale * scale
    return Cost(outputs, (inputs + outputs) * itemsize)
