"""Features of processors by hand: fresh memory, blocked layouts, the framework's own convolution, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toy_features import on_processor


def fresh_bytes(call: dict[str, float]) -> float:
    """Return the bytes that a call's column of fresh memory stands for."""
    fault_s = (2.0 ** call["lg_fresh_over_roofline"] - 1.0) * (2.0 ** call["lg_roofline_us"] * 1e-6 + 1e-6)
    return fault_s / 1e-10


def test_results_above_the_allocators_largest_threshold_are_fresh_memory() -> None:
    of = on_processor
    # 2^25 bytes are 2^23 elements of 4 bytes
    below, above = of("relu", "fp32", numel=2**23 - 1000), of("relu", "fp32", numel=2**23)
    assert (below["fresh"], below["lg_fresh_over_roofline"]) == (0.0, 0.0)
    # 2^26 bytes moved at 2^40 B/s are 2^-14 s; 2^25 fresh bytes cost 1e-10 s each
    assert above["fresh"] == 1.0
    assert above["lg_fresh_over_roofline"] == pytest.approx(np.log2(1 + 2**25 * 1e-10 / (2.0**-14 + 1e-6)))
    assert of("relu", "bf16", numel=2**23)["fresh"] == 0.0
    # a sum allocates its result alone
    assert of("sum", "fp32", rows=4096, cols=4096)["fresh"] == 0.0
    assert of("softmax", "bf16", rows=4096, cols=2048)["fresh"] == 0.0
    # 3 x 32768 elements and one more: four of 16 threads
    four = of("relu", "fp32", numel=3 * 32768 + 1)
    assert four["lg_threads"] == 2.0
    assert four["lg_elements_per_thread"] == pytest.approx(np.log2((3 * 32768 + 1) / 4))
    assert of("relu", "fp32", numel=100)["lg_threads"] == 0.0
    assert of("softmax", "fp32", rows=2, cols=10**6)["lg_threads"] == 1.0


def test_every_buffer_of_a_call_that_is_large_enough_is_fresh_memory() -> None:
    n = 2.0**23  # elements: 2^25 bytes in single precision, half as many in half
    # the composite norm: a square, a product and its result; bf16 is widened first and the result stays small
    assert fresh_bytes(on_processor("rmsnorm", rows=4096, cols=2048)) == pytest.approx(3 * 4 * n)
    assert fresh_bytes(on_processor("rmsnorm", "bf16", rows=4096, cols=2048)) == pytest.approx(3 * 4 * n)
    # a maximum over windows comes with 8-byte indices, here of 2^22 results of 4 bytes each
    pool = {"n": 16, "c": 64, "h": 128, "w": 128, "k": 2, "stride": 2, "pad": 0, "fmt": "contiguous"}
    assert fresh_bytes(on_processor("maxpool2d", **pool)) == pytest.approx(8 * n / 2)
    assert fresh_bytes(on_processor("avgpool2d", **pool)) == 0.0
    # few queries on a long cache allocate next to nothing
    decode = {"b": 64, "h": 32, "hkv": 32, "s": 1, "skv": 4096, "d": 128, "causal": False}
    assert fresh_bytes(on_processor("sdpa_decode", **decode)) == 0.0


def test_planar_convolutions_are_blocked_by_the_library() -> None:
    conv = {"n": 8, "c": 32, "h": 128, "w": 128, "o": 64, "k": 1, "stride": 1, "pad": 0, "groups": 1, "bias": False}
    last = on_processor("conv2d", **conv, fmt="channels_last")
    planar = on_processor("conv2d", **conv, fmt="contiguous")
    # 8 x 64 x 128 x 128 results of 4 bytes are 2^25; the planar call allocates them blocked, too; the input is half
    assert fresh_bytes(last) == pytest.approx(2.0**25)
    assert fresh_bytes(planar) == pytest.approx(2 * 2.0**25)
    roofline_s = 2.0 ** planar["lg_roofline_us"] * 1e-6
    moved = 2 * (2**25 + 2**24 + 4 * 64 * 32) / 2**40
    assert planar["lg_reorder_over_roofline"] == pytest.approx(np.log2(1 + moved / (roofline_s + 1e-6)))
    assert last["lg_reorder_over_roofline"] < 0.01
    # channels are padded to whole blocks of 16: 40 become 48
    odd = on_processor("conv2d", **(conv | {"o": 40}), fmt="contiguous")
    moved = 2 * (2**25 * 48 / 64 + 2**24 + 4 * 40 * 32) / 2**40
    roofline_s = 2.0 ** odd["lg_roofline_us"] * 1e-6
    assert odd["lg_reorder_over_roofline"] == pytest.approx(np.log2(1 + moved / (roofline_s + 1e-6)))


@pytest.mark.parametrize(
    ("change", "own"),
    [
        ({}, 1.0),
        ({"h": 33}, 0.0),  # 20 x 33 x 32 = 21,120 input elements are above the limit
        ({"n": 2, "h": 8}, 0.0),
        ({"groups": 2}, 0.0),
        ({"k": 5, "pad": 2}, 0.0),
        ({"dtype": "bf16"}, 0.0),
    ],
)
def test_small_single_images_go_to_the_frameworks_own_convolution(change: dict[str, Any], own: float) -> None:
    conv = {"n": 1, "c": 20, "h": 32, "w": 32, "o": 16, "k": 3, "stride": 1, "pad": 1, "groups": 1, "bias": False}
    call = on_processor("conv2d", **({"fmt": "contiguous", "dtype": "fp32"} | conv | change))
    assert call["own_kernel"] == own


@pytest.mark.parametrize(
    ("op", "params", "threads"),
    [
        ("relu", {"numel": 32768}, 1),
        ("layernorm", {"rows": 8, "cols": 64}, 8),
        ("softmax", {"rows": 64, "cols": 64}, 2),  # 32 rows of 64 a thread
        ("softmax", {"rows": 4, "cols": 4096}, 4),
        ("cat", {"parts": 4, "rows": 64, "cols": 1024}, 2),  # 65,536 elements a part
        ("sdpa_decode", {"b": 1, "h": 8, "hkv": 8, "s": 1, "skv": 64, "d": 64, "causal": False}, 8),
        ("sdpa", {"b": 1, "h": 2, "hkv": 2, "s": 128, "skv": 128, "d": 64, "causal": False}, 8),
        ("sdpa", {"b": 1, "h": 2, "hkv": 2, "s": 768, "skv": 768, "d": 64, "causal": False}, 6),
    ],
)
def test_threads_by_the_frameworks_grain(op: str, params: dict[str, Any], threads: int) -> None:
    assert 2.0 ** on_processor(op, **params)["lg_threads"] == pytest.approx(threads)
