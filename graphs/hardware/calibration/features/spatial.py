"""Features of operators on images that are no convolutions: norms, pooling and up-sampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features import launches
from graphs.hardware.calibration.features.columns import (
    Array,
    Columns,
    add_common,
    alignment,
    ceil_div,
    channels_last,
    fill,
    log2,
    param,
)  # fmt: skip
from graphs.hardware.calibration.features.machine import Machine
from graphs.hardware.calibration.features.processor import GRAIN, add_processor
from graphs.ops.batch import OperatorGroup

OPS = ("batchnorm", "groupnorm", "maxpool2d", "avgpool2d", "adaptive_avgpool2d", "upsample2d")

#: Steps of an output of a pooling window (index arithmetic and stores) and of each of its taps, and of one of the
#: loads that a reduction keeps in flight.
WINDOW_STEPS, TAP_STEPS, LOAD_STEPS = 8.0, 0.4, 0.5


def build(group: OperatorGroup, machine: Machine) -> tuple[list[str], Array]:
    """Return feature names and the (n, f) matrix of norms, pools and up-sampling over (n, c, h, w)."""
    c = Columns(len(group))
    add_common(c, group, machine, OPS)
    name = group.kind.name
    n, ch, h, w = (group.params[x] for x in ("n", "c", "h", "w"))
    one = np.ones(len(group))
    k, stride, pad = param(group, "k", one), param(group, "stride", one), param(group, "pad", 0 * one)
    scale = param(group, "scale", one)
    groups = param(group, "groups", one)
    if name == "adaptive_avgpool2d":
        ho, wo = one, one
    else:
        ho = np.maximum(np.floor((h + 2 * pad - k) / stride) + 1, 1) * scale
        wo = np.maximum(np.floor((w + 2 * pad - k) / stride) + 1, 1) * scale
    last = channels_last(group)
    plane, planes = h * w, n * ch
    outputs = planes * ho * wo
    for label, value in (
        ("n", n), ("c", ch), ("h", h), ("w", w), ("plane", plane), ("planes", planes), ("outputs", outputs),
        ("wo", wo), ("k", k), ("stride", stride),
    ):  # fmt: skip
        c.log(label, value)
    c.add("channels_last", last)
    c.add("nearest", param(group, "mode", "none") == "nearest")
    c.add("bilinear", param(group, "mode", "none") == "bilinear")
    c.add("itemsize", group.itemsize)
    c.add("c_align", alignment(ch, 64))
    c.add("last_c_align", np.where(last, alignment(ch, 64), 0.0))
    c.add("plane_align", alignment(plane, 64))
    c.add("lg_in_over_out", log2(planes * plane) - log2(outputs))
    # What one group of a normalisation or one window of a global pool reduces, and how many there are.
    reduced = np.where(groups > 1, plane * ch / groups, np.where(wo * ho == 1, plane, k * k))
    pieces = np.where(groups > 1, n * groups, outputs)
    c.log("reduced", reduced)
    c.log("pieces", pieces)
    waves, busy = fill(pieces, machine.units)
    c.add("pieces_busy", np.where(waves > 6, 1.0, busy))
    for threads in (256, 1024):
        waves, busy = fill(ceil_div(outputs, threads), 8.0 * machine.units)
        c.add(f"lg_waves_{threads}", waves)
        c.add(f"busy_{threads}", np.where(waves > 5, 1.0, busy))
    c.log("contiguous_bytes", np.where(last, ch, plane) * group.itemsize)
    waves, busy = fill(planes, 4.0 * machine.units)
    c.add("planes_busy", np.where(waves > 5, 1.0, busy))
    c.add("plane_pad_512", plane / (ceil_div(plane, 512) * 512))
    # Norms and pools share out planes (channels-last: pixels) however small they are; the maximum comes with indices.
    shared = np.where(groups > 1, n * groups, np.where(last, n * np.where(wo * ho == 1, 1.0, ho * wo), planes))
    if name == "avgpool2d":
        shared = outputs
    grain = GRAIN if name == "upsample2d" else 1.0
    indices = (8.0 * outputs,) if name == "maxpool2d" else ()
    elements = np.maximum(outputs, planes * plane)
    launch = _launch(group, n, ch, plane, ho, wo, k, last, float(machine.units))
    launches.add_launch(c, launch, machine)
    launches.add_steps(c, _paced(launch, name, ch, k * k, last), group.bytes, machine)
    add_processor(c, group, machine, outputs * group.itemsize, elements, shared, grain, indices)
    return c.result()


def _paced(launch: launches.Launch, name: str, ch: Array, taps: Array, last: NDArray[np.bool_]) -> launches.Launch:
    """Return the launch with its work in steps of equal time: each output of a window costs, whatever its taps."""
    if name in ("maxpool2d", "avgpool2d"):
        return launch._replace(work=launch.work / taps * (WINDOW_STEPS + TAP_STEPS * taps))
    if name == "adaptive_avgpool2d":  # vectors of channels are one load, and several are in flight
        vector = np.where(last, 2.0 ** np.minimum(alignment(ch, 4), 2.0), 1.0)
        return launch._replace(work=launch.work / vector * LOAD_STEPS)
    return launch


def _launch(
    group: OperatorGroup,
    n: Array,
    ch: Array,
    plane: Array,
    ho: Array,
    wo: Array,
    k: Array,
    last: NDArray[np.bool_],
    units: float,
) -> launches.Launch:
    """Return the launch of the kernel that takes longest."""
    name = group.kind.name
    outputs = n * ch * ho * wo
    if name == "adaptive_avgpool2d":
        return launches.reduction(n * ch, plane, last, ch, units)
    if name == "groupnorm":
        reduced = plane * ch / param(group, "groups", np.ones(len(group)))
        pieces = n * ch * plane / reduced
        threads = np.where(reduced < 256, 32.0, 512.0)
        return launches.Launch(pieces, threads, ceil_div(reduced, threads), np.ones_like(pieces))
    if name == "maxpool2d":
        planar = launches.simple(outputs, 256.0, k * k)
        striped = launches.max_pool_channels_last(n, ch, ho, wo, k * k)
    elif name == "avgpool2d":
        planar = striped = launches.simple(outputs, 1024.0, k * k)
    elif name == "batchnorm":
        planar = launches.norm_planar(n, ch, plane)
        own, library = launches.norm_channels_last(n * plane, ch), launches.norm_library(n, ch * plane)
        striped = launches.Launch(*(np.where(group.itemsize > 2, a, b) for a, b in zip(library, own, strict=True)))
    else:
        # planar bilinear kernels walk all planes in every thread; images of few channels are left to them
        bilinear = np.asarray(param(group, "mode", "none") == "bilinear")
        last = last & ~(bilinear & (ch < 16))
        walk, nearest = launches.simple(ho * wo, 1024.0, n * ch), launches.nearest_planar(n * ch, ho, wo)
        planar = launches.Launch(*(np.where(bilinear, a, b) for a, b in zip(walk, nearest, strict=True)))
        striped = launches.simple(outputs, 1024.0, np.ones(len(group)))
    return launches.Launch(*(np.where(last, a, b) for a, b in zip(striped, planar, strict=True)))
