"""Features: finite on every measured row, one set a family, and right by hand where tiles and runs can be counted."""

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

from graphs import ops
from graphs.hardware.calibration import features
from graphs.hardware.calibration.features import FAMILIES, FEATURES_VERSION, Machine, build, partitions
from graphs.hardware.calibration.features.convolution import REPLACED_ON_GPUS
from graphs.hardware.calibration.features.memory import lines_read, permuted_runs
from graphs.hardware.profile import load_profile
from graphs.ops.batch import OperatorGroup
from training.dataset.store import read_ops
from training.fit.prepare import machine_of

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("h100-sxm", "h200-sxm", "xeon-16c")
#: A made-up machine with round numbers: 100 units, 2^25 bytes of cache, 2^40 B/s.
TOY = Machine(100, 2.0**25, {"fp32": 2.0**45, "tf32": 2.0**47, "fp16": 2.0**48, "bf16": 2.0**48}, 2.0**40)

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


def one(op: str, dtype: str = "fp32", **params: Any) -> dict[str, float]:
    """Return the features of one call on the made-up machine, by name."""
    (group,) = ops.group_operators([op], [dtype], [params])
    names, x = build(group, TOY)
    return dict(zip(names, x[0].tolist(), strict=True))


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


def on_processor(op: str, dtype: str = "fp32", **params: Any) -> dict[str, float]:
    """Return the features of one call on the made-up machine as a CPU of 16 cores."""
    (group,) = ops.group_operators([op], [dtype], [params])
    names, x = build(group, replace(TOY, kind="cpu", units=16))
    return dict(zip(names, x[0].tolist(), strict=True))


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


@pytest.mark.parametrize(
    ("shape", "perm", "expected"),
    [
        # (total, run in source order, run in the target, innermost extent kept)
        ((2, 3, 5, 7), (0, 1, 2, 3), (210, 210, 210, 210)),
        ((2, 3, 5, 7), (0, 2, 1, 3), (210, 7, 7, 7)),
        ((2, 3, 5, 7), (0, 2, 3, 1), (210, 35, 3, 1)),
        ((2, 3, 5, 7), (0, 3, 1, 2), (210, 7, 15, 1)),
        ((2, 3, 5, 7), (2, 3, 0, 1), (210, 35, 6, 1)),
        # an extent of 1 is no dimension: its neighbours merge, and moving it moves nothing
        ((2, 1, 5, 7), (0, 2, 1, 3), (70, 70, 70, 70)),
        ((4, 1, 6), (2, 1, 0), (24, 6, 4, 1)),
    ],
)
def test_contiguous_runs_of_a_permutation_by_hand(shape: Any, perm: Any, expected: Any) -> None:
    assert permuted_runs(shape, perm) == expected


@pytest.mark.parametrize(
    ("shape", "perm", "outputs", "expected"),
    [
        ((4, 1024), (0, 1), 32, 1.0),  # a copy: 32 floats are a line
        ((64, 64), (1, 0), 32, 32.0),  # a line for each of a column's elements
        ((64, 8), (1, 0), 32, 8.0),  # rows of 32 bytes: four to a line
        ((2, 4, 4), (0, 2, 1), 512, 1.0),  # all of a small tensor
        ((2, 64, 1024), (1, 0, 2), 512, 16.0),
    ],
)
def test_lines_that_a_permutation_reads_by_hand(shape: Any, perm: Any, outputs: int, expected: float) -> None:
    # whatever the rank of its neighbours in the batch
    lines = lines_read([shape, (1, 1, 1, 64)], [perm, (0, 1, 2, 3)], np.array([4.0, 4.0]), outputs)
    assert lines[0] == expected


def test_gathers_of_many_short_rows_wait_for_their_blocks() -> None:
    def share(cols: int, take: int = 200_000) -> float:
        return one("index_select", rows=100, cols=cols, take=take)["lg_blocks_over_bytes"]

    assert share(4) > 3.0  # 200,000 blocks of one lane: 160 us
    assert share(5) == 0.0  # no whole vectors
    assert share(1024) == 0.0  # the bytes take longer


def test_runs_reach_the_features_in_bytes() -> None:
    f = one("permute_copy", "fp16", shape=[2, 3, 5, 8], perm=[0, 3, 1, 2])
    assert 2 ** f["lg_source_run_bytes"] == pytest.approx(8 * 2)
    assert 2 ** f["lg_target_run_bytes"] == pytest.approx(15 * 2)
    assert f["runs_kept"] == 0
    assert f["source_align"] == 4
    assert f["target_align"] == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5).flatmap(lambda s: st.tuples(
    st.just(s), st.permutations(range(len(s))))))  # fmt: skip
def test_runs_of_any_permutation_are_those_of_numpy(case: tuple[list[int], list[int]]) -> None:
    """Count the run in the target, and the run read in source order, on the array itself."""
    shape, perm = case
    total, source, target, _ = permuted_runs(shape, perm)
    order = np.arange(int(np.prod(shape))).reshape(shape).transpose(perm).ravel()
    assert total == order.size

    def shortest_run(x: np.ndarray) -> int:
        """Length of the first run of neighbours: all are equally long unless the whole is one run."""
        jumps = np.flatnonzero(np.diff(x) != 1)
        return int(jumps[0]) + 1 if len(jumps) else len(x)

    inverse = np.argsort(order)
    # what is contiguous on both sides is the run that a copy moves whole
    kept = shortest_run(order)
    assert shortest_run(inverse) == kept
    assert min(source, target) >= kept or total == kept
    if kept > 1:
        assert source == target == kept or total == kept


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
