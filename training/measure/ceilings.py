"""Sustained peaks and bandwidth: large products per dtype and a large copy, measured in the run they belong to."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from training.measure.kernels import TORCH_DTYPE

#: Sides of the square products tried; the best sustained one counts.
SIDES = {"cpu": (1024, 2048, 3072), "cuda": (4096, 8192)}
_PROBE_SIDE = 256
_COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
#: Calls of a sample: on a GPU, one alone would be timed with its launch.
_CALLS = {"cpu": 1, "cuda": 8}
#: A dtype whose products are this much slower than fp32 is emulated: not worth measuring.
SLOWER_THAN_FP32 = 4.0


def measure_ceilings(device: str, dtypes: tuple[str, ...], seconds: float = 2.0) -> dict[str, Any]:
    """Return sustained FLOP/s per dtype and B/s of a copy, with how they were found.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    dtypes : tuple of str
        Dtypes to try.
    seconds : float
        Time for each dtype, about.

    Returns
    -------
    dict
        ``peak_flops_per_s`` and ``how`` per dtype, ``left_out`` (dtype to reason), ``bandwidth_bytes_per_s``.
    """
    peaks: dict[str, float] = {}
    how: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for dtype in dtypes:
        if dtype == "tf32" and not _has_tf32(device):
            left_out[dtype] = "no TF32 units: it is fp32"
            continue
        try:
            # A small product first: an emulated dtype would take minutes for the large ones.
            small = _rate(device, dtype, _PROBE_SIDE, 0.1)
            slower = _rate(device, "fp32", _PROBE_SIDE, 0.1) / small
            if dtype != "fp32" and slower > SLOWER_THAN_FP32:
                left_out[dtype] = f"products of side {_PROBE_SIDE} are {slower:.0f} times slower than in fp32: emulated"
                continue
            peaks[dtype], side = _best_product(device, dtype, seconds)
        except (RuntimeError, NotImplementedError) as error:
            left_out[dtype] = str(error).splitlines()[0][:200]
            continue
        how[dtype] = f"median of repeated {side} x {side} x {side} products"
    return {
        "peak_flops_per_s": peaks,
        "how": how,
        "left_out": left_out,
        "bandwidth_bytes_per_s": _copy_rate(device, seconds),
    }


def _has_tf32(device: str) -> bool:
    """Whether the device multiplies in TF32, which NVIDIA's do from compute capability 8.0 on."""
    return device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


def _best_product(device: str, dtype: str, seconds: float) -> tuple[float, int]:
    return max((_rate(device, dtype, side, seconds / len(SIDES[device])), side) for side in SIDES[device])


def _rate(device: str, dtype: str, side: int, seconds: float) -> float:
    """Return the FLOP/s of a square product."""
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    a, b = (torch.randn(side, side, device=device).to(TORCH_DTYPE[dtype]) for _ in range(2))
    return 2.0 * side**3 / _repeated(lambda: a @ b, device, seconds)


def _copy_rate(device: str, seconds: float) -> float:
    """Return bytes read and written per second of a large copy."""
    nbytes = _COPY_BYTES[device]
    if device == "cuda":
        nbytes = min(nbytes, torch.cuda.get_device_properties(0).total_memory // 8)
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.numel() / _repeated(lambda: target.copy_(source), device, seconds)


def _repeated(call: Callable[[], Any], device: str, seconds: float) -> float:
    """Return the median seconds of a call, over at least three where they fit into twice the time."""

    def once() -> float:
        started = time.perf_counter()
        for _ in range(_CALLS[device]):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / _CALLS[device]

    started = time.perf_counter()
    samples = [once()]
    if samples[0] < seconds:
        samples = []  # the first call builds the primitive: it counts only where it is all there is
    while len(samples) < 200:
        elapsed = time.perf_counter() - started
        if elapsed >= (seconds if len(samples) >= 3 else 2 * seconds) and samples:
            break
        samples.append(once())
    return median(samples)
