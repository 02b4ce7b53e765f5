"""What a GPU library does to the tensors of a convolution before and after the product, as estimated times.

Matrix-unit kernels read channels-last tensors of whole vectors of channels, the fp32 ones planar tensors.  What comes
otherwise is turned, padded or cut out by kernels of their own, whose times add to that of the product.  The rules below
say which of them run, and hold for nine in ten of the profiled calls; their costs were read off the same profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.columns import Array, ceil_div
from graphs.hardware.calibration.features.machine import Machine

#: A kernel that does next to nothing, seconds.
LAUNCH_S = 1.7e-6
#: Turning a tensor works on tiles of channels by pixels; each unit moves so many elements a second, padding included.
TURN_TILE, TURN_ELEMENTS_PER_S = 32.0, 4.4e9
#: Elements a second to which each unit adds a bias.
ADDED_ELEMENTS_PER_S = 2.6e9
#: Shares of the bandwidth that turning, padding, and a transform of a general kind reach; the last one's least time.
TURN_SHARE, PAD_SHARE, GENERAL_SHARE, GENERAL_S = 0.75, 0.5, 0.15, 9e-6
#: The same share where fp32 channels of planar tensors are cut out for one group.
PLANAR_SLICE_SHARE = 0.025
#: Channels below which kernels without matrix units, which take tensors as they are, often win.
FEW_CHANNELS = 12.0
#: Terms of an output element up to which fp32 channels-last tensors are convolved as they are.
DIRECT_TERMS = 181.0
#: Weights, and terms of an output, up to which planar tf32 convolutions run the fp32 kernels.
TF32_WEIGHTS, TF32_TERMS = 8704.0, 104.0
#: FLOP from which matrix units win even with few channels.
MANY_FLOPS = 1.5e9
#: Channels of a group that kernels for groups take, and groups from which unequal ones are filled up to one product.
WIDEST_GROUP, FILLED_GROUPS = 32.0, 8.0


@dataclass(frozen=True, slots=True)
class Tensors:
    """Sizes of a convolution's tensors, as columns (n,): those of one call, or of one of its groups."""

    n: Array
    c: Array
    o: Array
    taps: Array
    plane_in: Array
    plane_out: Array
    groups: Array
    itemsize: Array

    @property
    def in_bytes(self) -> Array:
        return self.itemsize * self.n * self.c * self.plane_in

    @property
    def out_bytes(self) -> Array:
        return self.itemsize * self.n * self.o * self.plane_out

    @property
    def weight_bytes(self) -> Array:
        return self.itemsize * self.o * self.c / self.groups * self.taps

    @property
    def nbytes(self) -> Array:
        return self.in_bytes + self.out_bytes + self.weight_bytes


class Costs:
    """Times of transforms on a machine, seconds."""

    def __init__(self, machine: Machine) -> None:
        self.rate = machine.bandwidth_bytes_per_s
        self.elements_per_s = TURN_ELEMENTS_PER_S * machine.units
        self.added_per_s = ADDED_ELEMENTS_PER_S * machine.units

    def copy_s(self, nbytes: Any) -> Array:
        """Read and write once."""
        return np.asarray(LAUNCH_S + 2.0 * np.asarray(nbytes) / self.rate)

    def bias_s(self, elements: Array, itemsize: Array) -> Array:
        """Add one number a channel to all elements in place: narrow loads, which bind before the memory does."""
        return LAUNCH_S + np.maximum(elements / self.added_per_s, 2.0 * elements * itemsize / self.rate)

    def turn_s(self, items: Array, channels: Array, pixels: Array, itemsize: Array) -> Array:
        """Turn planar to channels-last or back: small planes and few channels leave most of a tile idle."""
        tiles = ceil_div(channels, TURN_TILE) * ceil_div(pixels, TURN_TILE)
        work = items * tiles * TURN_TILE**2 / self.elements_per_s
        moved = 2.0 * items * channels * pixels * itemsize / (TURN_SHARE * self.rate)
        return np.asarray(LAUNCH_S + np.maximum(work, moved))

    def pad_s(self, nbytes: Array, channels: Array, vector: Array) -> Array:
        """Fill channels up to whole vectors."""
        wider = ceil_div(channels, vector) * vector / channels
        return np.asarray(LAUNCH_S + (1.0 + wider) * nbytes / (PAD_SHARE * self.rate))

    def general_s(self, nbytes: Any, share: float = GENERAL_SHARE) -> Array:
        return np.asarray(GENERAL_S + 2.0 * np.asarray(nbytes) / (share * self.rate))


@dataclass(frozen=True, slots=True)
class Path:
    """How a convolution is run, as masks (n,).

    Attributes
    ----------
    units : bool
        On matrix units.
    turned : bool
        Tensors are turned on the way in and out.
    padded : bool
        Channels-last tensors whose channels are filled up.
    """

    units: NDArray[np.bool_]
    turned: NDArray[np.bool_]
    padded: NDArray[np.bool_]


def path_of(
    dtype: NDArray[np.str_],
    last: NDArray[np.bool_],
    product: NDArray[np.bool_],
    flops: Array,
    t: Tensors,
    transposed: bool = False,
) -> Path:
    """Return how calls are run.

    Parameters
    ----------
    dtype : (n,) str
    last : (n,) bool
        Channels-last tensors.
    product : (n,) bool
        One tap, stride 1, one group: a matrix product, which takes tensors as they are.
    flops : (n,) float64
    t : Tensors
    transposed : bool
        Transposed convolutions, for which there are no kernels that take tensors as they are.
    """
    half = (dtype == "fp16") | (dtype == "bf16")
    tf32 = dtype == "tf32"
    cg = t.c / t.groups
    terms, weights = cg * t.taps, t.o * cg * t.taps
    few = (cg <= FEW_CHANNELS) & (t.groups == 1)
    simple = few & ((half & ~last & (flops < MANY_FLOPS)) | (last & (dtype == "fp16")) | (tf32 & ~last))
    simple |= tf32 & ~last & ((weights <= TF32_WEIGHTS) | (terms <= TF32_TERMS))
    units = (half | tf32) & (transposed | ~simple)
    direct = (dtype == "fp32") & last & (terms <= DIRECT_TERMS) & (not transposed)
    turned = (units & ~last & ~product) | ((dtype == "fp32") & last & ~direct)
    return Path(units=units, turned=turned, padded=units & last & ~product)


def around_s(path: Path, last: NDArray[np.bool_], t: Tensors, costs: Costs) -> Array:
    """Return the time of the transforms around one product, (n,) seconds."""
    vector = 16.0 / t.itemsize
    cg, og = t.c / t.groups, t.o / t.groups
    unit = t.taps == 1
    ragged_c, ragged_o = np.mod(cg, vector) != 0, np.mod(og, vector) != 0
    inwards = costs.turn_s(t.n, t.c, t.plane_in, t.itemsize)
    outwards = costs.turn_s(t.n, t.o, t.plane_out, t.itemsize)
    turn_weights = costs.turn_s(t.o, cg, t.taps, t.itemsize)
    general = costs.general_s(t.weight_bytes)
    # weights of one tap are channels-last as they are, unless channels must be filled up
    ragged = path.units & (ragged_c | ragged_o)
    weights = np.where(path.units & ragged_o, general, np.where(unit & ~ragged, 0.0, turn_weights))
    turned = inwards + outwards + weights
    pad_weights = costs.pad_s(t.weight_bytes, cg, vector)
    pad_weights = np.where(unit, np.where(ragged_c, turn_weights, general), pad_weights)
    padded = (
        np.where(ragged_c, costs.pad_s(t.in_bytes, t.c, vector), 0.0)
        + np.where(ragged_o, costs.pad_s(t.out_bytes, t.o, vector), 0.0)
        + np.where(ragged_c | ragged_o, pad_weights, 0.0)
    )
    return np.where(path.turned, turned, np.where(path.padded, padded, 0.0))


def gradient_s(path: Path, last: NDArray[np.bool_], t: Tensors, costs: Costs) -> Array:
    """Return the time of what transposed convolutions run besides, (n,) seconds.

    They are gradients of ordinary ones: weights are brought into the layout of channels-last tensors, and kernels
    without matrix units add to an output of zeros.
    """
    weights = np.where(last, costs.copy_s(t.weight_bytes), 0.0)
    return weights + np.where(path.units, 0.0, LAUNCH_S + t.out_bytes / costs.rate)
