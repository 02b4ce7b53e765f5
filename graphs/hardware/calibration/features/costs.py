"""What a call on a CPU is made of: amounts of work whose times add up, and the circumstances that set their rates.

A smooth model has to learn from rows that the time of fresh pages, of a layout change or of waking threads comes on
top of the arithmetic; with some hundred rows a family it does not.  Here each amount is a column in microseconds of an
ordinary rate, and a fitted model only corrects the rates.  Everything is read from the features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphs.hardware.calibration.features.columns import Array
from graphs.hardware.calibration.features.processor import FAULT_S_PER_BYTE, MAPPED_BYTES, fresh_bytes

#: Ordinary rates, of which only the order of magnitude matters: waking the threads, microseconds; one element or one
#: row on one thread, microseconds; multiply-adds below which a product stays on one thread; how many times slower than
#: the memory's bandwidth tensors are brought into another layout.
WAKE_US, ELEMENT_US, ROW_US, SERIAL_PRODUCT, SLOW_LAYOUT = 5.0, 1e-3, 1e-2, 2e5, 5.0
#: Freed memory that the allocator keeps at the top of its heap (mallopt(3): M_TRIM_THRESHOLD follows twice the
#: largest M_MMAP_THRESHOLD); buffers that exceed it together are given back and fault at the next call.
KEPT_BYTES = 2.0 * MAPPED_BYTES
#: Bytes of a weight's row at whose multiples all rows fall into the same few lines of a cache.
ALIAS_BYTES = 2048.0
#: Elements of a vector register and of the library's channel blocks.
BLOCK = 16.0
#: Amounts below this, in microseconds, are as good as none.
LEAST_US = 1e-6

Named = Mapping[str, Array]
Parts = dict[str, Array]


def costs(family: str, names: list[str], x: Array) -> tuple[Array, Array]:
    """Return the amounts and circumstances of calls on a CPU.

    Parameters
    ----------
    family : str
    names : list of str, length f
    x : (n, f) float64
        Features as `build` gives them for a CPU.

    Returns
    -------
    log_us : (n, i) float64
        Natural logarithm of each amount in microseconds.
    circumstances : (n, g) float64
        0/1; the first column is 1 for all.
    """
    c = {name: x[:, i] for i, name in enumerate(names)}
    amounts, circumstances = _FAMILIES[family](c)
    one = np.ones(len(x))
    memory = _memory_us(c)
    common = {"call": one, "compute": _compute_us(c), "memory": memory} | amounts
    flags = [one, *(c[name] for name in names if name.startswith(("dtype_", "op_"))), *circumstances]
    log_us = np.log(np.maximum(np.column_stack(list(common.values())), LEAST_US))
    return log_us, np.column_stack(flags).astype(np.float64)


def _compute_us(c: Named) -> Array:
    return np.asarray(2.0 ** (c["lg_roofline_us"] + np.minimum(c["lg_ai_over_ridge"], 0.0)))


def _memory_us(c: Named) -> Array:
    return np.asarray(2.0 ** (c["lg_roofline_us"] - np.maximum(c["lg_ai_over_ridge"], 0.0)))


def _us_per_byte(c: Named) -> Array:
    return np.asarray(_memory_us(c) * 2.0 ** -c["lg_bytes"])


def _size(c: Named) -> Array:
    """Return bytes an element."""
    return np.where(c["dtype_bf16"] + c["dtype_fp16"] > 0, 2.0, 4.0)


def _fault_us(size: Array) -> Array:
    return 1e6 * FAULT_S_PER_BYTE * fresh_bytes(size)


def _trimmed_us(together: Array, fresh_us: Array) -> Array:
    """Return the faults of buffers that are small one by one and too many for what the allocator keeps."""
    return 1e6 * FAULT_S_PER_BYTE * np.where((together > KEPT_BYTES) & (fresh_us == 0), together, 0.0)


def _threaded(c: Named) -> Parts:
    """Return what loops over elements have in common."""
    threads = 2.0 ** c["lg_threads"]
    return {
        "wake": np.where(threads > 1, WAKE_US, 0.0),
        "elements": ELEMENT_US * 2.0 ** c["lg_elements_per_thread"],
        "thread_memory": _memory_us(c) / threads,
    }


def _bins(value: Array, edges: tuple[float, ...]) -> list[Array]:
    """Return 0/1 columns of the intervals between `edges`."""
    place = np.digitize(value, edges)
    return [(place == i).astype(np.float64) for i in range(len(edges) + 1)]


def _gemm(c: Named) -> tuple[Parts, list[Array]]:
    b, m, n, k = (2.0 ** c[f"lg_{name}"] for name in "bmnk")
    size, rate = _size(c), _us_per_byte(c)
    compute = _compute_us(c)
    weight = b * k * n * size * rate
    row = np.where(c["op_linear"] > 0, k, n) * size
    padded = np.ceil(m / BLOCK) * np.ceil(n / BLOCK) * BLOCK**2 / (m * n)
    return {
        "fault": _fault_us(b * m * n * size),
        "wake": np.where(b * m * n * k > SERIAL_PRODUCT, WAKE_US, 0.0),
        "serial": BLOCK * compute * np.clip(1.0 - b * m * n * k / SERIAL_PRODUCT, 0.0, 1.0),
        "weight": weight,
        "padded": compute * padded,
        "output": b * m * n * size * rate,
        "aliased_weight": np.where(np.mod(row, ALIAS_BYTES) == 0, weight, 0.0),
        "ragged_weight": np.where(np.mod(row, 64.0) != 0, weight, 0.0),
    }, _bins(m, (1.5, 5.0, 12.0, 40.0, 150.0))


def _convolution(c: Named) -> tuple[Parts, list[Array]]:
    n, h, w, ho, wo, taps, channels = (2.0 ** c["lg_" + x] for x in ("batch", "h", "w", "ho", "wo", "taps", "c"))
    out_channels = 2.0 ** c["lg_o"] if "lg_o" in c else channels * c["multiplier"]
    # depthwise: one channel a group, blocks of channels
    per_group, out_per_group = (2.0 ** c["lg_" + x] if "lg_" + x in c else None for x in _PER_GROUP)
    size, rate, planar = _size(c), _us_per_byte(c), 1.0 - c["channels_last"]
    source, target = n * channels * h * w * size, n * out_channels * ho * wo * size
    if per_group is None or out_per_group is None:
        padded, weights = _blocks(channels), out_channels * taps * size
        grouped: list[Array] = []
    else:
        padded = _blocks(per_group) * _blocks(out_per_group)
        weights = out_channels * per_group * taps * size
        grouped = [1.0 - c["grouped"], c["grouped"]]
    return {
        "planar_call": 10.0 * WAKE_US * planar,
        "source_layout": SLOW_LAYOUT * source * planar * rate,
        "target_layout": SLOW_LAYOUT * target * planar * rate,
        "source": source * rate,
        "target": target * rate,
        "source_fault": _fault_us(source) * planar,
        "target_fault": _fault_us(target),
        "target_layout_fault": _fault_us(target) * planar,
        "trimmed": _trimmed_us(source * planar + target * (1.0 + planar), _fault_us(target)),
        "padded": _compute_us(c) * padded,
        "weights": SLOW_LAYOUT * weights * rate,
    }, [planar, c["channels_last"], *grouped, *_bins(c["kernel"], (1.5, 3.5))]


_PER_GROUP = ("c_per_group", "o_per_group")


def _blocks(channels: Array) -> Array:
    """Return how much larger channels are in blocks."""
    return np.asarray(np.ceil(channels / BLOCK) * BLOCK / channels)


def _elementwise(c: Named) -> tuple[Parts, list[Array]]:
    return _threaded(c) | {"fault": _fault_us(2.0 ** c["lg_numel"] * _size(c))}, []


def _rowwise(c: Named) -> tuple[Parts, list[Array]]:
    rows, cols, size = 2.0 ** c["lg_rows"], 2.0 ** c["lg_cols"], _size(c)
    reduces = c["op_sum"] + c["op_mean"] > 0
    composite = np.where(c["op_rmsnorm"] > 0, rows * cols * 4.0, 0.0)
    scratch = 3.0 * _fault_us(composite)
    return _threaded(c) | {
        "fault": np.where(reduces, 0.0, _fault_us(rows * cols * size)),
        "scratch_fault": scratch,
        "trimmed": np.where(composite > 0, _trimmed_us(3.0 * composite + rows * cols * size, scratch), 0.0),
        "rows": ROW_US * rows / 2.0 ** c["lg_threads"],
    }, []


def _spatial(c: Named) -> tuple[Parts, list[Array]]:
    outputs = 2.0 ** c["lg_outputs"]
    return _threaded(c) | {
        "fault": _fault_us(outputs * _size(c)),
        "index_fault": np.where(c["op_maxpool2d"] > 0, _fault_us(8.0 * outputs), 0.0),
        "windows": ELEMENT_US * outputs * 4.0 ** c["lg_k"] / 2.0 ** c["lg_threads"],
    }, [1.0 - c["channels_last"], c["channels_last"]]


def _memory(c: Named) -> tuple[Parts, list[Array]]:
    moved, threads = 2.0 ** c["lg_numel"] * _size(c), 2.0 ** c["lg_threads"]
    run = 2.0 ** np.minimum(c["lg_source_run_bytes"], c["lg_target_run_bytes"])
    return _threaded(c) | {
        "fault": _fault_us(moved),
        "outer": ROW_US * 2.0 ** c["lg_outer"] / threads,
        "runs": ROW_US * moved / run / threads,
        "parts": c["parts"],
    }, []


def _attention(c: Named) -> tuple[Parts, list[Array]]:
    b, h, s, skv, d = (2.0 ** c[f"lg_{x}"] for x in ("b", "h", "s", "skv", "d"))
    size, rate, threads = _size(c), _us_per_byte(c), 2.0 ** c["lg_threads"]
    whole_us = _compute_us(c) * 4.0 * b * h * s * skv * d * 2.0 ** -c["lg_flops"]  # of causal calls without skipping
    scores, copied = (np.where(c["unfused"] > 0, amount, 0.0) for amount in (b * h * s * skv, 2.0 * b * h * skv * d))
    common = _threaded(c)
    return {
        "wake": common["wake"],
        "thread_memory": common["thread_memory"],
        "fault": _fault_us(b * h * s * d * size),
        "thread_compute": _compute_us(c) / threads,
        "whole_compute": whole_us / threads,
        "softmax": ELEMENT_US * b * h * s * skv / threads,
        "copied": SLOW_LAYOUT * copied * size * rate,
        "scores": SLOW_LAYOUT * scores * size * rate,
        "copied_fault": _fault_us(copied / 2.0 * size),
        "scores_fault": _fault_us(scores * size),
    }, [f for name in ("unfused", "grouped", "causal") if name in c for f in (1.0 - c[name], c[name])]


_FAMILIES: dict[str, Callable[[Named], tuple[Parts, list[Array]]]] = {
    "gemm": _gemm,
    "conv2d": _convolution,
    "dwconv2d": _convolution,
    "sdpa": _attention,
    "sdpa_decode": _attention,
    "unary": _elementwise,
    "binary": _elementwise,
    "rowwise": _rowwise,
    "nchw": _spatial,
    "mem": _memory,
}
