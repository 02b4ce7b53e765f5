"""Features: finite on every measured row, one set a family, and right by hand where tiles can be counted."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_features import TOY, on_processor, one

from graphs import ops
from graphs.hardware.calibration import features
from graphs.hardware.calibration.features import FAMILIES, FEATURES_VERSION, Machine, build, partitions
from graphs.hardware.calibration.features.convolution import REPLACED_ON_GPUS
from graphs.hardware.profile import load_profile
from graphs.ops.batch import OperatorGroup
from training.dataset.store import read_ops
from training.fit.prepare import machine_of

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("h100-sxm", "h200-sxm", "xeon-16c")

#: Columns that are shares of a whole start with one of these.
SHARES = ("busy_", "pad_", "row_pad_", "plane_pad_", "key_pad_", "share_")
#: SHA-256 (first 12 digits) of the column names of each family, at FEATURES_VERSION.  If this test fails because
#: columns were added, dropped, renamed or reordered, raise FEATURES_VERSION and write the new digests here.
GOLDEN_VERSION = 4
GOLDEN: dict[str, str] = {
    "binary": "54ae37defe75",
    "conv2d": "0a02c3b9862e",
    "dwconv2d": "5ec1073d158c",
    "gemm": "c799c20c2955",
    "mem": "4d726e12c2a4",
    "nchw": "2fec8dce38b4",
    "rowwise": "c493c18128d8",
    "sdpa": "3d65e9f7deaf",
    "sdpa_decode": "1c8a68e3749e",
    "unary": "3945213aa9a7",
}


@cache
def measured(device: str) -> tuple[pd.DataFrame, tuple[OperatorGroup, ...], Machine]:
    frame = read_ops(ROOT / "data" / device / "ops.parquet").frame
    groups = tuple(ops.group_operators(frame["op"], frame["dtype"], frame["params"]))
    return frame, groups, machine_of(load_profile(device))


@pytest.mark.parametrize("device", DEVICES)
def test_every_measured_row_has_finite_features_and_bounded_ones_keep_their_bounds(device: str) -> None:
    _, groups, machine = measured(device)
    for group in groups:
        names, x = build(group, machine)
        assert x.shape == (len(group), len(names))
        assert len(set(names)) == len(names)
        bad = [n for n, ok in zip(names, np.isfinite(x).all(axis=0), strict=True) if not ok]
        assert not bad, f"{group.kind.name}: {bad}"
        for name, column in zip(names, x.T, strict=True):
            if name != "pad_over_kernel" and name.startswith(SHARES):
                assert (column > 0).all(), f"{group.kind.name}: {name}"
                assert (column <= 1 + 1e-12).all(), f"{group.kind.name}: {name}"
            if name.startswith(("dtype_", "op_")):
                assert set(np.unique(column)) <= {0.0, 1.0}, f"{group.kind.name}: {name}"


@pytest.mark.parametrize("device", DEVICES)
def test_kinds_of_a_family_have_the_same_columns_and_tell_themselves_apart(device: str) -> None:
    _, groups, machine = measured(device)
    columns: dict[str, list[str]] = {}
    for group in groups:
        names, x = build(group, machine)
        assert columns.setdefault(group.kind.family, names) == names, group.kind.name
        kinds = [n for n in names if n.startswith("op_")]
        if kinds:
            assert (x[:, names.index(f"op_{group.kind.name}")] == 1).all()
            assert (x[:, [names.index(n) for n in kinds]].sum(axis=1) == 1).all()
        assert (x[:, [names.index(f"dtype_{d}") for d in features.FITTED_DTYPES]].sum(axis=1) == 1).all()


def test_the_family_of_a_kind_is_the_one_it_is_registered_under() -> None:
    for family, (kinds, _) in FAMILIES.items():
        for kind in kinds:
            assert ops.get(kind).family == family
            assert features.family_of(kind) == family


def test_column_names_change_only_with_the_version() -> None:
    _, groups, machine = measured("h100-sxm")
    digests = {g.kind.family: hashlib.sha256(",".join(build(g, machine)[0]).encode()).hexdigest()[:12] for g in groups}
    assert (FEATURES_VERSION, digests) == (GOLDEN_VERSION, GOLDEN)


#: Columns of GPUs besides those of launches, which several families share.
GPU_COLUMNS = {
    "mem": ("lg_warp_lines", "lg_block_lines", "lg_blocks_over_bytes"),
    "nchw": ("lg_steps_over_bytes",),
    "sdpa": ("lg_path_over_roofline", "lg_mask_over_path"),
    "sdpa_decode": ("lg_path_over_roofline", "lg_mask_over_path"),
}
#: Columns of processors, the first two of convolutions alone.
OWN = (
    "own_kernel", "lg_reorder_over_roofline",
    "fresh", "lg_fresh_over_roofline", "lg_threads", "lg_elements_per_thread", "lg_thread_bytes_over_cache",
)  # fmt: skip

#: Columns of matrix products on GPUs.
KERNELS = (
    "lg_best_over_roofline", "lg_unsplit_over_roofline", "lg_split", "few_rows", "lg_serial_over_roofline",
    "n_far_align", "k_far_align",
)  # fmt: skip


def test_processors_and_gpus_get_columns_of_their_own_after_those_of_all_machines() -> None:
    _, groups, machine = measured("xeon-16c")
    gpu = replace(machine, kind="gpu")
    with_parts = {"conv2d": "lg_around_over_roofline", "dwconv2d": "patch"}
    for group in groups:
        names, x = build(group, machine)
        theirs, same = build(group, gpu)
        convolves = (family := group.kind.family) in with_parts
        own = list(OWN if convolves else OWN[2:])
        assert names[-len(own) :] == own
        replaced = REPLACED_ON_GPUS if family == "conv2d" else ()
        shared = [name for name in names if name not in OWN and name not in replaced]
        assert len(shared) == len(names) - len(own) - len(replaced)
        assert theirs[: len(shared)] == shared
        both = [names.index(name) for name in shared]
        np.testing.assert_array_equal(x[:, both], same[:, : len(shared)])
        if convolves:
            assert theirs[len(shared)] == with_parts[family]
        elif family == "gemm":
            assert theirs[len(shared) :] == list(KERNELS)
        else:
            own = GPU_COLUMNS.get(family, ())
            assert all("launch_" in name or name in own for name in theirs[len(shared) :])


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_row_has_the_same_features_and_classes_alone_in_any_order_and_in_any_batch(device: str, seed: int) -> None:
    """Bit for bit: a query must not depend on the company it comes in."""
    frame, groups, machine = measured(device)
    rng = np.random.default_rng(seed)
    group = groups[int(rng.integers(len(groups)))]
    rows = rng.permutation(group.rows)[:40]
    some = frame.iloc[rows]
    (batch,) = ops.group_operators(some["op"], some["dtype"], some["params"])
    names, shuffled = build(batch, machine)
    _, whole = build(group, machine)
    position = {int(r): i for i, r in enumerate(group.rows)}
    expected = whole[[position[int(r)] for r in rows]]
    np.testing.assert_array_equal(shuffled, expected)
    row = frame.iloc[[rows[0]]]
    (alone,) = ops.group_operators(row["op"], row["dtype"], row["params"])
    np.testing.assert_array_equal(build(alone, machine)[1], expected[:1])

    family = group.kind.family
    together, all_of_them = partitions(family, names, shuffled), partitions(family, names, whole)
    single = partitions(family, names, expected[:1])
    for name, label in together.items():
        np.testing.assert_array_equal(label, all_of_them[name][[position[int(r)] for r in rows]])
        assert single[name][0] == label[0]


@pytest.mark.parametrize("device", DEVICES)
def test_every_row_has_one_class_in_every_partition_of_its_family(device: str) -> None:
    _, groups, machine = measured(device)
    for group in groups:
        names, x = build(group, machine)
        for name, label in partitions(group.kind.family, names, x).items():
            assert label.shape == (len(group),), (group.kind.name, name)
            assert label.dtype == np.int64
            assert label.min() >= 0
            assert label.max() < 64  # few enough that each may have rows of its own; fits the stored int16


def test_gemm_classes_by_hand() -> None:
    shapes = [
        {"m": 4096, "n": 4096, "k": 4096}, {"m": 4096, "n": 4096, "k": 4095}, {"m": 8, "n": 64, "k": 4096},
        {"m": 8, "n": 64, "k": 4094},
    ]  # fmt: skip
    # kinds of _gemm: aligned half precision 0, tf32 1, fp32 2, unaligned half precision 3
    (half,) = ops.group_operators(["matmul"] * 4, ["bf16"] * 4, shapes)
    classes = partitions("gemm", *build(half, TOY))
    # rows of 4094 elements of 2 bytes allow loads of 4
    assert classes["size"].tolist() == [0, 3 * 2, 0, 3 * 2 + 1]
    # 8 rows are few; unaligned ones by loads and batched or not
    assert classes["narrow"].tolist() == [0, 3 * 4, 1, 3 * 4 + 2]
    # one tile leaves 99 units idle: k is split
    assert classes["operands"].tolist() == [0, 3 * 4, 1, 3 * 4]
    (single,) = ops.group_operators(["linear"] * 4, ["fp32", "tf32"] * 2, shapes)
    classes = partitions("gemm", *build(single, TOY))
    # 1024 tiles of 128 x 128 are over half a wave of 100 units, one is not; k of all of them is above 128
    assert classes["size"].tolist() == [2 * 2 + 1, 1 * 2 + 1, 2 * 2, 1 * 2 + 1]
    assert classes["narrow"].tolist() == [2 * 4, 1 * 4, 2 * 4 + 1, 1 * 4]
    # rows of 4095 and 4094 elements of 4 bytes are no multiple of 16
    assert classes["operands"].tolist() == [2 * 4 + 3, 1 * 4, 2 * 4 + 1, 1 * 4]


def test_norms_of_channels_last_images_in_single_precision_are_a_class_of_their_own() -> None:
    shape = {"n": 8, "c": 64, "h": 14, "w": 14, "fmt": "channels_last"}
    (wide,) = ops.group_operators(["batchnorm"] * 2, ["fp32", "fp16"], [shape] * 2)
    (pool,) = ops.group_operators(["maxpool2d"], ["fp32"], [shape | {"k": 2, "stride": 2, "pad": 0}])
    classes = [partitions("nchw", *build(g, TOY))["operator_layout"].tolist() for g in (wide, pool)]
    assert classes == [[12, 1], [2 * 2 + 1]]


def test_tiles_and_waves_of_one_gemm_by_hand() -> None:
    f = one("matmul", "bf16", m=1000, n=520, k=96)
    # 128 x 128: 8 x 5 = 40 tiles on 100 units, 0.4 waves; 40 x 16384 elements for 520000
    assert 2 ** f["lg_waves_128x128"] == pytest.approx(0.40)
    assert f["busy_128x128"] == pytest.approx(0.40)
    assert f["pad_128x128"] == pytest.approx(520000 / 655360)
    # 256 x 128: 4 x 5 = 20 tiles
    assert 2 ** f["lg_waves_256x128"] == pytest.approx(0.20)
    # 64 x 64: 16 x 9 = 144 tiles, 1.44 waves of which the second is 44 % full
    assert 2 ** f["lg_waves_64x64"] == pytest.approx(1.44)
    assert f["busy_64x64"] == pytest.approx(0.72)
    assert f["pad_64x64"] == pytest.approx(520000 / (144 * 4096))
    # 32 x 32: 32 x 17 = 544 tiles, 5.44 waves; beyond 2^6 waves the tail is left out, here at 125 x 130 tiles
    assert f["busy_32x32"] == pytest.approx(5.44 / 6)
    assert one("matmul", "bf16", m=4000, n=4160, k=96)["busy_32x32"] == 1.0
    assert one("matmul", "bf16", m=4000, n=32, k=96)["busy_32x32"] == pytest.approx(1.25 / 2)
    # 64 x 64 leave no unit idle; 96 elements of 2 bytes are two steps of 128 bytes, and divide by 64 bytes
    assert f["lg_split_k"] == 0.0
    assert 2 ** f["lg_k_steps"] == 2
    assert f["k_bytes_align"] == 6
    assert (f["m_align"], f["n_align"], f["k_align"]) == (3, 3, 5)
    # operands of 96000, 49920 and 520000 elements
    assert f["share_left"] == pytest.approx(96000 / 665920)
    assert f["share_right"] == pytest.approx(49920 / 665920)
    assert 2 ** f["lg_ai_over_ridge"] == pytest.approx((2 * 1000 * 520 * 96 / 2**48) / (2 * 665920 / 2**40))


def test_split_k_of_a_narrow_gemm_by_hand() -> None:
    # one tile of 64 x 64 leaves 100 units to share 1024 / 64 = 16 pieces of k; with 8192, to share 100
    assert 2 ** one("matmul", "bf16", m=64, n=64, k=1024)["lg_split_k"] == pytest.approx(16)
    assert 2 ** one("matmul", "bf16", m=64, n=64, k=8192)["lg_split_k"] == pytest.approx(100)


def test_convolution_without_height_is_one_dimensional() -> None:
    f = on_processor("conv1d", n=4, c=16, l=100, o=32, k=5, stride=2, pad=2)
    assert 2 ** f["lg_ho"] == 1
    assert 2 ** f["lg_wo"] == pytest.approx(50)
    # the implicit GEMM: 4 x 50 pixels, 32 filters, 16 x 5 taps
    assert (2 ** f["lg_m"], 2 ** f["lg_n"], 2 ** f["lg_k"]) == pytest.approx((200, 32, 80))


def test_tf32_is_fp32_where_no_matrix_unit_takes_part() -> None:
    a, b = one("softmax", "fp32", rows=64, cols=512), one("softmax", "tf32", rows=64, cols=512)
    assert a == b
    c, d = one("matmul", "fp32", m=64, n=64, k=64), one("matmul", "tf32", m=64, n=64, k=64)
    assert c["lg_roofline_us"] >= d["lg_roofline_us"]
    assert (c["dtype_fp32"], d["dtype_tf32"]) == (1, 1)


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_an_unknown_cache_leaves_features_finite(kind: Any) -> None:
    """Profiles of measured machines have none where the system hides it."""
    machine = Machine(8, 0.0, {"fp32": 1e12, "bf16": 2e12}, 1e11, kind)
    for op, params in (
        ("sdpa", {"b": 1, "h": 8, "s": 2048, "d": 64}),
        ("embedding", {"rows": 8, "vocab": 10**6, "dim": 64}),
        ("add", {"numel": 2**20}),
        ("conv2d", {"n": 1, "c": 64, "h": 56, "w": 56, "o": 64, "k": 3, "pad": 1}),
    ):
        (group,) = ops.group_operators([op], ["fp32"], [params])
        assert np.isfinite(features.build(group, machine)[1]).all(), op
