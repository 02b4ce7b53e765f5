"""Convolutions: 2 FLOP a multiply-add, counted at every output as if no tap fell on the padding."""

from __future__ import annotations

from graphs.ops.shapes import FMT, NCHW, Dim, Rules, window_outputs
from graphs.ops.spec import Cost, Param, operator

_BIAS = Param("bias", bool, False)
_STRIDE = Param("stride", default=1)
_PAD = Param("pad", default=0, low=0)

_FITS = "the padded input is at least as large as the kernel"


@operator(
    "conv2d",
    *NCHW,
    "o",
    "k",
    _STRIDE,
    _PAD,
    Param("groups", default=1),
    _BIAS,
    FMT,
    Param("kw", like="k"),
    Param("padw", low=0, like="pad"),
    family="conv2d",
    uses_matrix_units=True,
    check=Rules(
        {
            "groups divides c": lambda p: p["c"] % p["groups"] == 0,
            "groups divides o": lambda p: p["o"] % p["groups"] == 0,
            _FITS + " (h + 2 pad >= k)": lambda p: p["h"] + 2 * p["pad"] >= p["k"],
            _FITS + " (w + 2 padw >= kw)": lambda p: p["w"] + 2 * p["padw"] >= p["kw"],
        }
    ),
)
def conv2d(
    n: Dim,
    c: Dim,
    h: Dim,
    w: Dim,
    o: Dim,
    k: Dim,
    stride: Dim,
    pad: Dim,
    groups: Dim,
    bias: Dim,
    fmt: Dim,
    kw: Dim,
    padw: Dim,
    itemsize: Dim,
) -> Cost:
    """out(n, o, oh, ow) of a kernel k x kw over in(n, c, h, w)."""
    outputs = n * o * window_outputs(h, k, stride, pad) * window_outputs(w, kw, stride, padw)
    taps = c // groups * k * kw
    return Cost(2 * outputs * taps, (n * c * h * w + o * taps + outputs + o * bias) * itemsize)


# Depthwise kernels run on no matrix unit: of the H100's profiled calls, 107 in fp32 and 67 in tf32 ran the same few
# kernels, and a model of the fp32 rows predicts the tf32 rows without bias (0.1 % median, as within fp32).
@operator(
    "dwconv2d",
    *NCHW,
    Param("o", like="c"),
    "k",
    _STRIDE,
    _PAD,
    Param("groups", like="c"),
    _BIAS,
    FMT,
    family="dwconv2d",
    check=Rules(
        {
            "o equals c": lambda p: p["o"] == p["c"],
            "groups equals c (use conv2d for other groups)": lambda p: p["groups"] == p["c"],
            _FITS + " (h + 2 pad >= k)": lambda p: p["h"] + 2 * p["pad"] >= p["k"],
            _FITS + " (w + 2 pad >= k)": lambda p: p["w"] + 2 * p["pad"] >= p["k"],
        }
    ),
)
def dwconv2d(
    n: Dim,
    c: Dim,
    h: Dim,
    w: Dim,
    o: Dim,
    k: Dim,
    stride: Dim,
    pad: Dim,
    groups: Dim,
    bias: Dim,
    fmt: Dim,
    itemsize: Dim,
) -> Cost:
    """Depthwise convolution: every channel has one kernel k x k of its own."""
    outputs = n * o * window_outputs(h, k, stride, pad) * window_outputs(w, k, stride, pad)
    return Cost(2 * outputs * k * k, (n * c * h * w + o * k * k + outputs + o * bias) * itemsize)


@operator(
    "conv1d",
    "n",
    "c",
    "l",
    "o",
    "k",
    _STRIDE,
    _PAD,
    family="conv2d",
    uses_matrix_units=True,
    check=Rules({_FITS + " (l + 2 pad >= k)": lambda p: p["l"] + 2 * p["pad"] >= p["k"]}),
)
def conv1d(n: Dim, c: Dim, l: Dim, o: Dim, k: Dim, stride: Dim, pad: Dim, itemsize: Dim) -> Cost:  # noqa: E741
    """out(n, o, ol) of a kernel of length k over in(n, c, l), without groups."""
    outputs = n * o * window_outputs(l, k, stride, pad)
    return Cost(2 * outputs * c * k, (n * c * l + o * c * k + outputs) * itemsize)


@operator(
    "conv_transpose2d",
    *NCHW,
    "o",
    "k",
    _STRIDE,
    _PAD,
    FMT,
    family="conv2d",
    uses_matrix_units=True,
    check=Rules(
        {
            "the output height (h - 1) stride - 2 pad + k is at least 1": lambda p: (
                (p["h"] - 1) * p["stride"] + p["k"] > 2 * p["pad"]
            ),
            "the output width (w - 1) stride - 2 pad + k is at least 1": lambda p: (
                (p["w"] - 1) * p["stride"] + p["k"] > 2 * p["pad"]
            ),
        }
    ),
)
def conv_transpose2d(
    n: Dim, c: Dim, h: Dim, w: Dim, o: Dim, k: Dim, stride: Dim, pad: Dim, fmt: Dim, itemsize: Dim
) -> Cost:
    """Every input element is spread over o x k x k outputs, without groups or output padding."""
    outputs = n * o * ((h - 1) * stride - 2 * pad + k) * ((w - 1) * stride - 2 * pad + k)
    return Cost(2 * n * c * h * w * o * k * k, (n * c * h * w + c * o * k * k + outputs) * itemsize)
