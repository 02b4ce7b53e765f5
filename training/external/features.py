"""What the models of public measurements see: the features of `graphs` and a few more.

The additions are for grids that the package's own campaigns did not have: sizes just past a multiple of a tile, more
tile shapes, and which operands stay in the last-level cache between calls.  Operands of unequal element sizes are
taken at their own sizes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphs import ops
from graphs.hardware.calibration import features as package
from graphs.hardware.calibration.features import Machine, gemm
from graphs.hardware.roofline import Roofline
from graphs.ops.batch import OperatorGroup
from training.external import neusight
from training.external.machines import AIC_SYSTEMS, GEMM_BYTES, GEMM_UNIT, NEUSIGHT_SYSTEMS

Array = NDArray[np.float64]

#: Output tiles of kernels, rows (tokens) by columns.
_TILES = (
    (16, 128), (32, 128), (64, 64), (64, 128), (64, 256), (128, 32), (128, 64), (128, 128), (192, 128), (128, 256),
    (256, 128), (256, 256),
)  # fmt: skip
#: Those of fp32 kernels without tensor cores.
_WAVE_TILES = (
    (32, 32), (32, 64), (64, 32), (32, 128), (128, 32), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256),
    (256, 128),
)  # fmt: skip
#: Those of tensor-core kernels.
_TENSOR_TILES = (
    (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (128, 256), (256, 128), (192, 128), (256, 256),
)  # fmt: skip
#: Kinds of NeuSight that are matrix products.
PRODUCTS = frozenset({"bmm", "linear"})
#: Copies of the weight that AIConfigurator's collector rotates through.
_WEIGHT_COPIES = 5.0


def one_peak(frame: pd.DataFrame) -> tuple[Machine, float]:
    """Return the machine of rows of one AIConfigurator set, with the peak of their dtype as its only one."""
    machine = AIC_SYSTEMS[str(frame["system"].iloc[0])].machine
    peak = machine.peaks[GEMM_UNIT[str(frame["dtype"].iloc[0])]]
    return Machine(machine.units, machine.l2_bytes, {"bf16": peak}, machine.bandwidth_bytes_per_s), peak


def rooflines(frame: pd.DataFrame) -> Roofline:
    """Return compute and memory time of rows of one set of either source."""
    flops, nbytes = (frame[c].to_numpy(dtype=np.float64) for c in ("flops", "bytes"))
    if "gpu" in frame:
        machine = NEUSIGHT_SYSTEMS[str(frame["gpu"].iloc[0])].machine
        peak = machine.peaks["fp32"]
    else:
        machine, peak = one_peak(frame)
    return Roofline.of(flops, nbytes, peak, machine.bandwidth_bytes_per_s)


#: Columns of the package's GEMM features that say how large m is rather than what follows from it.
_RAW = frozenset({"lg_m", "lg_m_over_n", "lg_min_mn", "lg_max_mn", "m_align", "m_is_1"})


def raw_columns(frame: pd.DataFrame) -> list[int]:
    """Return the columns of `features` that a model asked beyond the largest m should not see.

    A tree that splits on m itself holds the efficiency of the largest m seen; without it it must find rows with the
    same waves, work and intensity among wider layers.
    """
    if "gpu" in frame or frame["op"].iloc[0] != "linear":
        return []
    names = gemm.build(_gemm_call(frame.iloc[:1]), one_peak(frame)[0])[0]
    return [i for i, name in enumerate(names) if name in _RAW]


def features(frame: pd.DataFrame) -> Array:
    """Return the features (n, f) of rows of one set (one machine, operator and dtype).

    Columns depend on the operator; constant ones are harmless.
    """
    if "gpu" in frame:
        return _neusight(frame)
    return _gemm(frame) if frame["op"].iloc[0] == "linear" else _attention(frame)


def _gemm_call(frame: pd.DataFrame) -> OperatorGroup:
    m, n, k = (frame[c].to_numpy(dtype=np.float64) for c in ("m", "n", "k"))
    rows, weight = len(frame), GEMM_BYTES[str(frame["dtype"].iloc[0])][1]
    return OperatorGroup(
        ops.get("linear"), np.arange(rows), np.full(rows, "bf16"), np.full(rows, weight),
        {"m": m, "n": n, "k": k, "bias": np.zeros(rows)},
        frame["flops"].to_numpy(dtype=np.float64), frame["bytes"].to_numpy(dtype=np.float64),
    )  # fmt: skip


def _gemm(frame: pd.DataFrame) -> Array:
    machine, _ = one_peak(frame)
    a, w, o = GEMM_BYTES[str(frame["dtype"].iloc[0])]
    m, n, k = (frame[c].to_numpy(dtype=np.float64) for c in ("m", "n", "k"))
    columns = [gemm.build(_gemm_call(frame), machine)[1], *_tiles(m, n, machine.units)]
    columns += [np.mod(m, q) / q for q in (8, 16, 32, 64, 128, 256)] + [np.mod(n, q) / q for q in (128, 256)]
    columns += [np.ceil(m / 64), np.ceil(m / 128)]
    left, weight, out, cache = m * k * a, n * k * w, m * n * o, machine.l2_bytes
    held = (left, weight, _WEIGHT_COPIES * weight, out, left + out, left + weight + out,
            left + _WEIGHT_COPIES * weight + out)  # fmt: skip
    columns += [np.log2(v / cache) for v in held] + [np.log2((left + weight) / out)]
    return _stack(columns)


def _tiles(m: Array, n: Array, units: int) -> list[Array]:
    out = []
    for rows, cols in _TILES:
        tiles = np.ceil(m / rows) * np.ceil(n / cols)
        waves = tiles / units
        # time of this tile shape over an ideal machine: the tail of the last wave, and padding
        out += [np.log2(waves), np.ceil(waves) / waves * (tiles * rows * cols / (m * n)),
                np.minimum(np.ceil(waves), 20.0)]  # fmt: skip
    return out


def _attention(frame: pd.DataFrame) -> Array:
    machine, peak = one_peak(frame)
    b, h, hkv, s, skv, d, window, flops, nbytes = (
        frame[c].to_numpy(dtype=np.float64) for c in ("b", "h", "hkv", "s", "skv", "d", "window", "flops", "bytes")
    )
    compute, memory = flops / peak, nbytes / machine.bandwidth_bytes_per_s
    keys = np.where(window > 0, np.minimum(skv, window), skv)
    logs = [b, h, hkv, s, skv, d, h / hkv, b * h, b * hkv, b * h * s, flops, nbytes, compute / memory, keys,
            nbytes / machine.l2_bytes, np.maximum(compute, memory), keys * d, b * hkv * keys]  # fmt: skip
    columns = [np.log2(v) for v in logs] + [window, (h == hkv) * 1.0, (hkv == 1) * 1.0]
    # blocks of queries (prefill), or of grouped heads and pieces of the cache (decode), over the machine's units
    for blocks in (b * h * np.ceil(s / 64), b * h * np.ceil(s / 128), b * hkv, b * h, b * hkv * np.ceil(h / hkv / 8),
                   b * hkv * np.ceil(keys / 256), b * hkv * np.ceil(keys / 1024)):  # fmt: skip
        waves = blocks / machine.units
        columns += [np.log2(waves), np.minimum(np.ceil(waves) / waves, 8.0)]
    kernel = pd.factorize(frame["kernel"], sort=True)[0].astype(np.float64)
    return _stack([*columns, kernel])


def _neusight(frame: pd.DataFrame) -> Array:
    machine = NEUSIGHT_SYSTEMS[str(frame["gpu"].iloc[0])].machine
    calls = neusight.group(frame)
    columns = [package.build(calls, machine)[1]]
    if frame["kind"].iloc[0] in PRODUCTS:
        b, m, n, k = (frame[c].to_numpy(dtype=np.float64) for c in ("b", "m", "n", "k"))
        for rows, cols in _TILES:
            waves = b * np.ceil(m / rows) * np.ceil(n / cols) / machine.units
            columns += [np.log2(waves), np.minimum(np.ceil(waves) / waves, 8.0)]
        # sizes here are rarely multiples of anything: what is left over of vector loads and of tiles
        columns += [np.mod(v, q) for v in (m, n, k) for q in (2, 4, 8, 16, 32, 64, 128)]
        for rows, cols in _WAVE_TILES:
            tiles = b * np.ceil(m / rows) * np.ceil(n / cols)
            columns.append(tiles * rows * cols / (b * m * n))
            for held in (1, 2, 3, 4, 8):
                waves = tiles / (machine.units * held)
                columns.append(np.minimum(np.ceil(waves) / waves, 8.0))
    if "numel" in calls.params:
        rows, cols = (frame[c].to_numpy(dtype=np.float64) for c in ("rows", "cols"))
        columns += [np.log2(rows), np.log2(cols), np.mod(cols, 4)]
    return _stack(columns)


def wave_terms(frame: pd.DataFrame) -> Array:
    """Return counts (n, t) that the time of products of one set adds up from, whichever tile their kernels have.

    For every tile and number of tiles that one unit holds at once: multiply-adds of whole waves with k in steps of 8,
    outputs of whole waves, operand reads of whole waves; multiply-adds and number of tiles; and the sizes themselves.
    A non-negative combination of few of them is the time of a library that has one kernel; the tail of the last wave
    and the edges of the tiles are then right at any size.
    """
    m, n, k = (frame[c].to_numpy(dtype=np.float64) for c in ("m", "n", "k"))
    shapes: tuple[tuple[int, int], ...]
    at_once: tuple[int, ...]
    if "gpu" in frame:
        b, machine = frame["b"].to_numpy(dtype=np.float64), NEUSIGHT_SYSTEMS[str(frame["gpu"].iloc[0])].machine
        shapes, at_once = _WAVE_TILES, (1, 2, 4)
    else:
        b, machine = np.ones(len(frame)), one_peak(frame)[0]
        shapes, at_once = _TENSOR_TILES, (1,)
    spilt = np.maximum(frame["bytes"].to_numpy(dtype=np.float64) - machine.l2_bytes, 0.0)
    columns = [np.ones(len(frame)), b * m * n * k, b * m * k, b * k * n, b * m * n, spilt]
    for rows, cols in shapes:
        tiles = b * np.ceil(m / rows) * np.ceil(n / cols)
        columns += [tiles * rows * cols * k, tiles]
        for held in at_once:
            wave = held * np.ceil(tiles / (machine.units * held))
            columns += [wave * rows * cols * 8 * np.ceil(k / 8), wave * rows * cols, wave * (rows + cols) * k]
    return _stack(columns)


def _stack(columns: list[Array]) -> Array:
    x = np.column_stack(columns)
    varied: Array = np.ascontiguousarray(x)
    return varied
