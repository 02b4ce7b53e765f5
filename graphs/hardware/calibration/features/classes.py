"""Classes of calls within a family that run different kernels, told from the features alone.

A smooth model with one set of length scales and one noise level serves all rows of a family poorly: aligned
half-precision products repeat within a few percent, unaligned and fp32 ones change kernel all the time.  Each
partition here gives every row a class; a model of its own may be fitted to each class with enough rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Classes = NDArray[np.int64]
Named = Mapping[str, Array]


def partitions(family: str, names: list[str], x: Array) -> dict[str, Classes]:
    """Return the partitions of a family's rows.

    Parameters
    ----------
    family : str
    names : list of str, length f
    x : (n, f) float64
        Features as `build` gives them.

    Returns
    -------
    dict of str to (n,) int64
        By name of partition; empty for a family without one.
    """
    columns = {name: x[:, i] for i, name in enumerate(names)}
    rules = _RULES.get(family, {})
    if "lg_threads" not in columns:
        rules = rules | _GPU_RULES.get(family, {})
    return {label: rule(columns).astype(np.int64) for label, rule in rules.items()}


def _operator(c: Named) -> Array:
    ops = [c[name] for name in c if name.startswith("op_")]
    index: Array = np.argmax(np.stack(ops), axis=0).astype(np.float64)
    return index


def _half(c: Named) -> NDArray[np.bool_]:
    return (c["dtype_bf16"] + c["dtype_fp16"]) > 0


def _dtype_class(c: Named) -> Array:
    """0: half precision, 1: tf32, 2: fp32."""
    return np.where(_half(c), 0, np.where(c["dtype_tf32"] > 0, 1, 2))


def _gemm(c: Named) -> Array:
    # 16 bytes: what bulk copies and wide loads ask of every row of the operands.
    aligned = (c["k_bytes_align"] >= 4) & (c["n_bytes_align"] >= 4) & (c["weight_row_align"] >= 4)
    return np.where(_half(c) & ~aligned, 3, _dtype_class(c))


def _gemm_loads(c: Named) -> Array:
    """Log2 of the bytes that every row of operands and result is a multiple of: the widest loads and stores."""
    return np.minimum(c["operand_align"], c["output_align"])


def _gemm_size(c: Named) -> Array:
    """fp32 by tiles, from half a wave of 128 x 128 on without a split; tf32 by depth; unaligned rows by their loads."""
    kind = _gemm(c)
    by = np.select([kind == 1, kind == 2, kind == 3], [c["lg_k"] > 7, _half_wave(c), _gemm_loads(c) >= 2], 0)
    return kind * 2 + by


def _gemm_narrow(c: Named) -> Array:
    """At most 16 rows, for which there are kernels without tiles; unaligned rows by loads and batched or not."""
    kind = _gemm(c)
    unaligned = 2 * (_gemm_loads(c) >= 2) + c["op_bmm"]
    return kind * 4 + np.select([kind == 1, kind == 3], [np.zeros_like(kind), unaligned], c["lg_m"] <= 4)


def _gemm_operands(c: Named) -> Array:
    """Aligned half precision by split k, fp32 by transposed weight and size, tf32 by the width of loads."""
    kind = _gemm(c)
    split = c.get("lg_split", c["lg_split_k"]) > 0  # the modelled one on machines that have it
    single = c["op_linear"] + 2 * _half_wave(c)
    return kind * 4 + np.select([kind == 0, kind == 1, kind == 2], [split, _gemm_loads(c) >= 4, single], 0)


def _half_wave(c: Named) -> NDArray[np.bool_]:
    return c["lg_waves_128x128"] > -1


def _matrix_units(c: Named) -> Array:
    # two large classes: a process that differs from the joint one and still sees most rows
    return 1 - c["dtype_fp32"]


def _convolution(c: Named) -> Array:
    return np.where(c["grouped"] > 0, 3, _operator(c))


def _all(c: Named) -> Array:
    """One class: a second joint process, whose length scales come from another random subset of the rows."""
    return np.zeros(len(next(iter(c.values()))))


def _kernel_size(c: Named) -> Array:
    return np.where(c["grouped"] > 0, 1, np.where(c["lg_taps"] == 0, 0, 2))


def _convolution_dtype_kernel(c: Named) -> Array:
    return _dtype_class(c) * 3 + _kernel_size(c)


def _depthwise_kernel(c: Named) -> Array:
    """On GPUs the kernels are columns, and the classes few enough to learn from: the framework's own or a library's."""
    return c["library"] if "kernel_pixels" in c else _depthwise(c)


def _depthwise(c: Named) -> Array:
    planar = np.where(c["library_planar"] > 0, 0, np.where(c["kernel"] > 5, 1, 2))
    return np.where(c["channels_last"] > 0, 3 + _half(c), planar)


def _depthwise_stride(c: Named) -> Array:
    return _depthwise(c) * 2 + (c["lg_stride"] > 0)


def _depthwise_size(c: Named) -> Array:
    return _depthwise(c) * 2 + (c["lg_bytes_over_l2"] > -2)


def _rowwise_size(c: Named) -> Array:
    return _operator(c) * 2 + (c["lg_blocks_per_unit"] > 2)


def _attention(c: Named) -> Array:
    return np.where(_half(c), 0, 1 + c["unfused"])


def _operator_layout(c: Named) -> Array:
    return _operator(c) * 2 + c["channels_last"]


def _image(c: Named) -> Array:
    # Norms of channels-last images in single precision are another library's.
    other = (c["op_batchnorm"] * c["channels_last"] > 0) & (c["itemsize"] > 2)
    return np.where(other, 12, _operator_layout(c))


_RULES: dict[str, dict[str, Callable[[Named], Array]]] = {
    "gemm": {"size": _gemm_size, "narrow": _gemm_narrow, "operands": _gemm_operands},
    "conv2d": {
        "operator": _convolution,
        "dtype_kernel": _convolution_dtype_kernel,
        "matrix_units": _matrix_units,
    },
    "dwconv2d": {"kernel": _depthwise_kernel, "stride": _depthwise_stride, "size": _depthwise_size},
    "sdpa": {"fused": _attention},
    "sdpa_decode": {"fused": _attention},
    "rowwise": {"operator": _operator, "size": _rowwise_size},
    "nchw": {"operator_layout": _image},
    "mem": {"operator_layout": _operator_layout},
    "binary": {"operator": _operator},
    "unary": {"dtype": _dtype_class},
}
#: Further ones where rows are many enough to draw different subsets from them.
_GPU_RULES: dict[str, dict[str, Callable[[Named], Array]]] = {"conv2d": {"again": _all, "once_more": _all}}
