"""Attention on GPUs: turns of the fused kernel, separate kernels and masks by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import ops
from graphs.hardware.calibration.features import Machine, build
from graphs.hardware.calibration.features.attention_paths import Calls, fused_turns

TOY = Machine(100, 2.0**25, {"fp32": 60e12, "tf32": 400e12, "fp16": 800e12, "bf16": 800e12}, 1e12)


def features_of(op: str, dtype: str, **params: Any) -> dict[str, float]:
    (group,) = ops.group_operators([op], [dtype], [params])
    names, x = build(group, TOY)
    return dict(zip(names, x[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("h", "s", "d", "causal", "turns", "together"),
    [
        (8, 640, 64, False, 10.0, 2),  # 80 blocks at once, 10 tiles of keys; a lone block waits for itself
        (8, 640, 128, False, 5.0, 1),  # tiles of twice as many keys
        (8, 2560, 128, False, 4 * 20.0, 1),  # 320 blocks, one a unit
        (8, 2560, 64, False, 2 * 40.0, 3),  # three a unit
        (8, 640, 64, True, 10.0, 2),  # the last block walks all keys
        (60, 640, 64, True, 2.0 * 11 / 2 + 9 / 2, 3),  # half of them on average
    ],
)
def test_turns_of_the_fused_kernel(h: int, s: int, d: int, causal: bool, turns: float, together: int) -> None:
    one, size = np.ones(1), np.array([float(s)])
    calls = Calls(one, h * one, h * one, size, size, d * one, 4 * one, np.array(["fp32"]))
    got, tile_s = fused_turns(calls, np.array([causal]), TOY)
    assert got[0] == pytest.approx(turns)
    keys = 64 if d <= 64 else 128
    assert tile_s[0] == pytest.approx(4 * 64 * keys * d * together / (0.6 * 0.6e12))


def test_half_precision_has_no_estimate_and_grouped_heads_pass_over_the_scores() -> None:
    sizes = {"b": 2, "h": 8, "s": 1024, "skv": 1024, "d": 64, "causal": False}
    assert features_of("sdpa", "bf16", hkv=2, **sizes)["lg_path_over_roofline"] == 0.0
    single, grouped = (features_of("sdpa", "tf32", hkv=hkv, **sizes)["lg_path_over_roofline"] for hkv in (8, 2))
    flops, scores_s = 4 * 16 * 1024**2 * 64, 16 * 1024**2 * 4 / 1e12
    base = 1.5e-6 + max(flops / 400e12, 4 * 2 * 64 * 1024 * 20 / 1e12)
    copied_s = 4 * 16 * 64 * 8 * 1024 / 1e12
    wanted = 1.5e-6 + 11 * 1.5e-6 + (copied_s + 7.5 * scores_s) / 0.75 + flops / 200e12
    assert grouped == pytest.approx(np.log2(wanted / base))
    assert 0 < single < grouped


def test_truth_values_are_converted_and_ragged_masks_padded() -> None:
    def mask_share(kind: str, skv: int, dtype: str = "fp32") -> float:
        sizes = {"b": 2, "h": 8, "hkv": 8, "s": 256, "skv": skv, "d": 64}
        return features_of("sdpa_mask", dtype, mask=kind, **sizes)["lg_mask_over_path"]

    assert mask_share("float", 256) == 0.0
    assert mask_share("float", 252, "fp16") == 0.0
    assert mask_share("float", 252) > 0.0
    assert mask_share("bool", 252) > mask_share("bool", 256) > 0.0


def test_a_long_cache_in_single_precision_is_walked_by_one_block_a_head() -> None:
    columns = features_of("sdpa_decode", "fp32", b=1, h=8, hkv=8, skv=6400, d=64)
    walk_s = 100 * 4 * 64 * 64 * 64 * 2 / (0.6 * 0.6e12)
    base = 1.5e-6 + 4 * 64 * 8 * (2 + 2 * 6400) / 1e12
    assert columns["lg_path_over_roofline"] == pytest.approx(np.log2((1.5e-6 + walk_s) / base))
    assert columns["lg_mask_over_path"] == 0.0
