"""Features of attention: heads, tiles of queries and keys, waves, and whether one fused kernel serves the call."""

from __future__ import annotations

import numpy as np

from graphs.hardware.calibration.features.attention_paths import Calls, add_paths
from graphs.hardware.calibration.features.columns import (
    Array,
    Columns,
    add_common,
    alignment,
    ceil_div,
    device_dtype,
    fill,
    log2,
    param,
)  # fmt: skip
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import add_processor
from graphs.ops.batch import OperatorGroup

OPS = ("sdpa", "sdpa_mask")
DECODE_OPS = ("sdpa_decode",)


def build(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of sdpa and sdpa_mask calls."""
    c = Columns(len(group))
    add_common(c, group, machine, OPS)
    b, h, hkv, s, skv, d = _dims(group)
    causal = param(group, "causal", 0.0)
    _add_dims(c, group, b, h, hkv, s, skv, d)
    c.add("causal", causal)
    mask = param(group, "mask", "none")
    c.add("mask_bool", mask == "bool")
    c.add("mask_float", mask == "float")
    c.add("transposed_views", param(group, "layout", "bhsd") == "bshd")
    c.log("s_over_skv", s / skv)
    c.add("square", s == skv)
    for tile in (64, 128):
        tasks = b * h * ceil_div(s, tile)
        waves, busy = fill(tasks, machine.units)
        c.add(f"lg_waves_{tile}", waves)
        c.add(f"busy_{tile}", np.where(waves > 6, 1.0, busy))
        c.add(f"pad_{tile}", s / (ceil_div(s, tile) * tile))
        c.add(f"key_pad_{tile}", skv / (ceil_div(skv, tile) * tile))
        c.add(f"lg_key_tiles_{tile}", log2(ceil_div(skv, tile)))
    # Without a fused kernel the scores are written and read several times.
    unfused = _unfused(group, h, hkv)
    scores = b * h * s * skv * group.itemsize
    c.add("unfused", unfused)
    c.add("lg_scores_over_l2", np.where(unfused, log2(scores / machine.cache_bytes), 0.0))
    c.log("scores_us", 0.1 + np.where(unfused, 1e6 * scores / machine.bandwidth_bytes_per_s, 0.0))
    c.add("unfused_causal", unfused & (causal > 0))
    c.log("scores", b * h * s * skv)
    # Blocks of 64 queries walk all keys one after another: whole waves of that walk.  The fused fp32 kernel is the
    # same with tf32 allowed, so its arithmetic is priced at the fp32 peak.
    fused_dtype = np.where((group.dtype == "tf32") & ~unfused, "fp32", group.dtype)
    peak = machine.peak_flops_per_s(fused_dtype) / machine.units
    walk = 4.0 * 64.0 * ceil_div(skv, 64) * 64.0 * d / peak
    waves = np.ceil(b * h * ceil_div(s, 64) / machine.units)
    c.log("walk_us", 1e6 * walk * waves)
    c.log("one_walk_us", 1e6 * walk)
    c.add(
        "lg_fused_over_roofline",
        log2(group.flops / machine.peak_flops_per_s(fused_dtype))
        - log2(machine.attainable_s(group.flops, group.bytes, group.dtype)),
    )
    add_paths(
        c,
        Calls(b, h, hkv, s, skv, d, group.itemsize, group.dtype),
        (causal > 0, np.asarray(mask == "bool"), np.asarray(mask == "float")),
        unfused,
        machine,
    )
    # a thread takes blocks of queries, the larger the more of them there are
    block = np.where(s >= 768, 256.0, np.where(s >= 192, 64.0, 32.0))
    add_processor(c, group, machine, b * h * s * d * group.itemsize, b * h * s * d, b * h * ceil_div(s, block), 1.0)
    return c.result()


def build_decode(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of sdpa_decode calls: few queries, a long cache."""
    c = Columns(len(group))
    add_common(c, group, machine, DECODE_OPS)
    b, h, hkv, s, skv, d = _dims(group)
    _add_dims(c, group, b, h, hkv, s, skv, d)
    for name, tasks in (("heads", b * h), ("kv_heads", b * hkv), ("split", b * h * ceil_div(skv, 256))):
        waves, busy = fill(tasks, machine.units)
        c.add(f"lg_waves_{name}", waves)
        c.add(f"busy_{name}", np.where(waves > 6, 1.0, busy))
    cache = 2 * b * hkv * skv * d * group.itemsize
    c.log("cache_bytes", cache)
    c.log("cache_per_unit", cache / np.minimum(machine.units, b * h))
    for tile in (64, 128):
        c.add(f"lg_key_tiles_{tile}", log2(ceil_div(skv, tile)))
        c.add(f"key_pad_{tile}", skv / (ceil_div(skv, tile) * tile))
    unfused = _unfused(group, h, hkv)
    c.add("unfused", unfused)
    # Grouped heads without a fused kernel: keys and values are copied out to every query head first.
    copied = np.where(unfused, 2 * b * h * skv * d * group.itemsize, 0.0)
    c.log("copied_us", 0.1 + 1e6 * copied / machine.bandwidth_bytes_per_s)
    c.add("lg_copied_over_l2", np.where(unfused, log2(copied / machine.cache_bytes), 0.0))
    never = np.zeros(len(group), dtype=bool)
    add_paths(
        c, Calls(b, h, hkv, s, skv, d, group.itemsize, group.dtype), (never, never, never), np.asarray(unfused), machine
    )
    add_processor(c, group, machine, b * h * s * d * group.itemsize, b * hkv * skv * d, b * h, 1.0)
    return c.result()


def _dims(group: OperatorGroup) -> tuple[Array, ...]:
    h = group.params["h"]
    s = param(group, "s", 1.0)
    return group.params["b"], h, param(group, "hkv", h), s, param(group, "skv", s), group.params["d"]


def _unfused(group: OperatorGroup, h: Array, hkv: Array) -> np.ndarray:
    """Return where the framework falls back to separate products and a softmax: fp32 with grouped heads."""
    wide = np.isin(device_dtype(group), ("fp32", "tf32"))
    return np.asarray(wide & (h != hkv))


def _add_dims(c: Columns, group: OperatorGroup, b: Array, h: Array, hkv: Array, s: Array, skv: Array, d: Array) -> None:
    """Add sizes and their alignment."""
    for name, dim in (("b", b), ("h", h), ("hkv", hkv), ("s", s), ("skv", skv), ("d", d), ("heads", b * h)):
        c.log(name, dim)
    c.log("group", h / hkv)
    c.add("grouped", h != hkv)
    c.add("s_align", alignment(s, 128))
    c.add("skv_align", alignment(skv, 128))
    c.add("d_is_80", d == 80)
    c.log("row_bytes", d * group.itemsize)
