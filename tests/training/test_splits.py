"""No held-out configuration may be learnt from another device's rows."""

from __future__ import annotations

import pandas as pd
import pytest

from training.dataset.splits import (
    HELD_OUT_LAYERS,
    LARGEST_FLOPS,
    RANDOM_SHARE,
    assign_splits,
    config_key,
    fold_of,
    identities,
    identity,
    split_of,
    unit_hash,
)  # fmt: skip
from training.dataset.store import read_ops

MAX_POOLING = {"n": 8, "c": 128, "h": 14, "w": 14, "k": 3, "stride": 2, "pad": 1}


@pytest.fixture(scope="module")
def tables(root) -> dict[str, pd.DataFrame]:
    out = {}
    for name in ("h100-sxm", "h200-sxm", "xeon-16c"):
        frame = read_ops(root / "data" / name / "ops.parquet").frame
        frame["split"] = assign_splits(frame, "cpu" if name.startswith("xeon") else "gpu")
        frame["key"] = [config_key(*r) for r in zip(frame["op"], frame["dtype"], frame["params"], strict=True)]
        out[name] = frame
    return out


def test_a_configuration_is_in_one_split_on_all_gpus(tables) -> None:
    both = pd.concat([tables["h100-sxm"], tables["h200-sxm"]])
    assert (both.groupby("key")["split"].nunique() == 1).all()


def test_one_call_written_twice_is_not_held_out_and_trained_on(tables) -> None:
    """Splits are drawn by the key as written; a call in two spellings could fall on both sides."""
    both = pd.concat([tables["h100-sxm"], tables["h200-sxm"]])
    both["held_out"] = both["split"] != "train"
    sides = both.assign(identity=identities(both)).groupby("identity")["held_out"].nunique()
    # one call of 18,000: docs/accuracy-protocol.md names it
    assert sides[sides > 1].index.tolist() == [identity("maxpool2d", "fp16", MAX_POOLING)]


def test_identity_fills_in_defaults() -> None:
    assert identity("maxpool2d", "fp16", MAX_POOLING) == identity(
        "maxpool2d", "fp16", {**MAX_POOLING, "fmt": "contiguous"}
    )
    assert config_key("maxpool2d", "fp16", MAX_POOLING) != identity("maxpool2d", "fp16", MAX_POOLING)


def test_shares_are_as_drawn(tables) -> None:
    h100 = tables["h100-sxm"]
    drawn = h100[h100["split"].isin(["train", "random"])]
    share = (drawn["split"] == "random").mean()
    # 5 standard deviations of a binomial share
    assert abs(share - RANDOM_SHARE) < 5 * (RANDOM_SHARE * (1 - RANDOM_SHARE) / len(drawn)) ** 0.5
    assert set(h100["split"]) == {"train", "random", "new_layer_shape", "largest_flops"}


def test_no_held_out_layer_shape_is_trained_on(tables) -> None:
    for frame in tables.values():
        train = frame[(frame["split"] == "train") & frame["op"].isin(["linear", "matmul", "addmm"])]
        assert not {(p["n"], p["k"]) for p in train["params"]} & HELD_OUT_LAYERS


def test_no_large_gemm_is_trained_on(tables) -> None:
    train = tables["h100-sxm"].query("split == 'train' and op == 'linear'")
    assert train["flops"].max() <= LARGEST_FLOPS["gpu"]["gemm"]


def test_kinds_without_matrix_units_share_the_key_of_fp32_and_tf32() -> None:
    assert config_key("relu", "tf32", {"numel": 8}) == config_key("relu", "fp32", {"numel": 8})
    shape = {"m": 1, "n": 2, "k": 3}
    assert config_key("matmul", "tf32", shape) != config_key("matmul", "fp32", shape)


def test_order_of_parameters_and_json_text_do_not_matter() -> None:
    a = config_key("matmul", "fp32", {"m": 1, "n": 2, "k": 3})
    assert a == config_key("matmul", "fp32", {"k": 3, "n": 2, "m": 1})
    assert a == config_key("matmul", "fp32", '{"k":3,"m":1,"n":2}')
    assert 0.0 <= unit_hash(a) < 1.0
    assert fold_of("matmul", "fp32", {"m": 1, "n": 2, "k": 3}, 5) in range(5)


def test_golden_values_keep_published_splits_comparable() -> None:
    # changing salt or hash would silently change every published figure
    assert unit_hash("x") == pytest.approx(0.9196513073639652, abs=1e-15)
    assert split_of("linear", "bf16", {"m": 8, "n": 1024, "k": 4096, "bias": False}, 1.0, "gpu") == "new_layer_shape"
    assert split_of("linear", "bf16", {"m": 8, "n": 7, "k": 9, "bias": False}, 5e11, "gpu") == "largest_flops"
    assert split_of("linear", "bf16", {"m": 8, "n": 7, "k": 9, "bias": False}, 5e10, "cpu") == "largest_flops"
