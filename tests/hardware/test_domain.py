"""The applicability domain: what was measured is inside, what was not is outside by a named feature and factor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_hardware import group

from graphs import ops
from graphs.hardware.calibration.domain import DEFAULT_MARGIN, Domain, effective_dtype, physical

ROOT = Path(__file__).resolve().parents[2]
SMALL, LARGE = {"m": 64, "n": 64, "k": 64}, {"m": 1024, "n": 1024, "k": 1024}


def domain_of(op: str, *params: dict[str, Any], dtype: str = "fp32", margin: dict[str, float] | None = None) -> Domain:
    (rows,) = ops.group_operators([op] * len(params), [dtype] * len(params), params)
    return Domain.of(rows, margin)


def reason(domain: Domain, op: str, dtype: str = "fp32", **params: Any) -> str:
    return str(domain.reasons(group(op, dtype, **params))[0])


dims = st.integers(1, 10**5)


@given(st.lists(st.fixed_dictionaries({"m": dims, "n": dims, "k": dims}), min_size=1, max_size=8))
def test_measured_rows_are_inside_without_any_margin(rows: list[dict[str, int]]) -> None:
    (measured,) = ops.group_operators(["matmul"] * len(rows), ["fp32"] * len(rows), rows)
    domain = Domain.of(measured, dict.fromkeys(physical(measured), 0.0))
    assert (domain.reasons(measured) == "").all()


def test_between_the_measured_sizes_is_inside() -> None:
    assert reason(domain_of("matmul", SMALL, LARGE), "matmul", m=300, n=300, k=300) == ""


def test_margin_is_three_factors_of_two_on_each_side() -> None:
    assert DEFAULT_MARGIN == 3.0
    domain = domain_of("relu", {"numel": 2**10}, {"numel": 2**20})
    assert reason(domain, "relu", numel=2**23) == ""
    assert reason(domain, "relu", numel=2**7) == ""
    assert "above the largest measured" in reason(domain, "relu", numel=2**23 + 2**14)
    assert "below the smallest measured" in reason(domain, "relu", numel=2**7 - 1)


def test_reason_names_feature_value_factor_and_margin() -> None:
    text = reason(domain_of("relu", {"numel": 2**10}, {"numel": 2**20}), "relu", numel=2**30)
    assert text == "bytes 8.59e+09 is 1.02e+03x above the largest measured, 8.39e+06 (margin 8x)"
    text = reason(domain_of("matmul", SMALL, LARGE), "matmul", m=4, n=2**13, k=256)
    assert text == "m 4 is 16x below the smallest measured, 64 (margin 8x)"


def test_margin_can_differ_by_feature() -> None:
    domain = domain_of("matmul", SMALL, LARGE, margin={"k": 0.0})
    assert reason(domain, "matmul", m=1024, n=1024, k=1100).startswith("k 1.1e+03 is 1.07x above")
    assert reason(domain, "matmul", m=1025, n=1024, k=1024) == ""


def test_margins_below_and_above_can_differ() -> None:
    domain = domain_of("matmul", SMALL, LARGE, margin={"k": (2.0, 0.0)})
    assert reason(domain, "matmul", m=1024, n=1024, k=16) == ""
    assert "(margin 4x)" in reason(domain, "matmul", m=1024, n=1024, k=15)
    assert "(margin 1x)" in reason(domain, "matmul", m=1024, n=1024, k=1025)


def test_one_margin_of_an_older_header_holds_on_both_sides() -> None:
    raw = domain_of("matmul", SMALL, LARGE).to_dict()
    raw["margin"] = dict.fromkeys(raw["margin"], 1.0)
    domain = Domain.from_dict(raw)
    assert reason(domain, "matmul", m=1024, n=1024, k=2048) == ""
    assert "(margin 2x)" in reason(domain, "matmul", m=1024, n=1024, k=2049)


def test_what_was_never_varied_has_no_margin() -> None:
    rows = [{"b": 1, "h": h, "skv": 1024, "d": 64} for h in (8, 32)]
    domain = domain_of("sdpa_decode", *rows)
    assert reason(domain, "sdpa_decode", b=1, h=16, skv=1024, d=64) == ""
    assert "keys skv" in reason(domain, "sdpa_decode", b=1, h=16, skv=1100, d=64)
    assert "heads a group" in reason(domain, "sdpa_decode", b=1, h=16, hkv=4, skv=1024, d=64)


@pytest.mark.parametrize("dtype", ["bf16", "fp64", "int8", "tf32"])
def test_unseen_dtype_is_outside(dtype: str) -> None:
    text = reason(domain_of("matmul", SMALL, LARGE), "matmul", dtype, **SMALL)
    assert text == f"dtype {dtype} of matmul was never measured here (measured: fp32)"


def test_tf32_is_fp32_where_no_matrix_unit_takes_part() -> None:
    assert effective_dtype(group("relu", "tf32", numel=8)).tolist() == ["fp32"]
    assert effective_dtype(group("matmul", "tf32", **SMALL)).tolist() == ["tf32"]
    domain = domain_of("relu", {"numel": 2**10})
    assert reason(domain, "relu", "tf32", numel=2**10) == ""


CONV = {"n": 8, "c": 64, "h": 56, "w": 56, "o": 64, "k": 3, "pad": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"k": 5, "kw": 3, "pad": 2, "padw": 1}, "k=5"), ({"stride": 2}, "stride=2"), ({"pad": 0}, "pad=0"),
     ({"bias": True}, "bias=1"), ({"fmt": "channels_last"}, "fmt=channels_last")],
)  # fmt: skip
def test_unseen_parameter_that_selects_another_algorithm_is_outside(change: dict[str, Any], named: str) -> None:
    text = reason(domain_of("conv2d", CONV), "conv2d", **(CONV | change))
    assert text.startswith(f"{named} of conv2d was never measured here")


@pytest.mark.parametrize(
    ("op", "measured", "change", "named"),
    [("sdpa", {"b": 1, "h": 8, "s": 128, "d": 64}, {"d": 80}, "d=80"),
     ("sdpa", {"b": 1, "h": 8, "s": 128, "d": 64}, {"layout": "bshd"}, "layout=bshd"),
     ("sdpa_mask", {"b": 1, "h": 8, "s": 128, "d": 64, "mask": "float"}, {"mask": "bool"}, "mask=bool"),
     ("groupnorm", {"n": 1, "c": 64, "h": 8, "w": 8}, {"groups": 16}, "groups=16"),
     ("upsample2d", {"n": 1, "c": 8, "h": 8, "w": 8, "scale": 2, "mode": "nearest"}, {"scale": 4}, "scale=4"),
     ("cast", {"numel": 64, "to": "fp16"}, {"to": "bf16"}, "to=bf16")],
)  # fmt: skip
def test_unseen_parameter_of_other_families_is_outside(
    op: str, measured: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    domain = domain_of(op, measured)
    assert reason(domain, op, **measured) == ""
    assert reason(domain, op, **(measured | change)).startswith(f"{named} of {op} was never measured here")


@pytest.mark.parametrize(
    ("op", "measured", "change"),
    [("roll", {"n": 2, "h": 14, "w": 14, "c": 96, "shift": 3}, {"shift": 4}),
     ("pad2d", {"n": 2, "c": 8, "h": 14, "w": 14, "pad": 1}, {"pad": 2}),
     ("cat", {"parts": 2, "rows": 64, "cols": 64}, {"parts": 3}),
     ("conv2d", {"n": 8, "c": 64, "h": 56, "w": 56, "o": 64, "k": 3, "pad": 1}, {"o": 72, "h": 58})],
)  # fmt: skip
def test_parameters_that_are_sizes_need_not_have_been_measured(
    op: str, measured: dict[str, Any], change: dict[str, Any]
) -> None:
    assert reason(domain_of(op, measured), op, **(measured | change)) == ""


@pytest.mark.parametrize("device", ["h100-sxm", "h200-sxm", "xeon-16c"])
def test_every_measured_row_is_inside_its_own_domain_and_ten_thousand_times_the_work_is_not(device: str) -> None:
    from training.dataset.store import read_ops

    frame = read_ops(ROOT / "data" / device / "ops.parquet").frame
    for measured in ops.group_operators(frame["op"], frame["dtype"], frame["params"]):
        domain = Domain.from_dict(json.loads(json.dumps(Domain.of(measured).to_dict())))
        assert (domain.reasons(measured) == "").all(), measured.kind.name
        name = "numel" if "numel" in measured.params else next(
            n for n in ("n", "b", "rows", "shape") if n in measured.params
        )  # fmt: skip
        if name == "shape":
            continue
        largest = int(np.argmax(measured.bytes))
        row = dict(frame["params"].iloc[measured.rows[largest]])
        row[name] *= 10_000
        assert reason(domain, measured.kind.name, str(measured.dtype[largest]), **row), measured.kind.name


def test_grouped_convolutions_are_far_from_dense_ones() -> None:
    # as much work as the measured one, in 32 groups
    margin = {"arithmetic intensity": 9.0, "bytes": 9.0, "elements read and written": 9.0}
    domain = domain_of("conv2d", CONV, margin=margin)
    text = reason(domain, "conv2d", **(CONV | {"groups": 32, "n": 8 * 32}))
    assert text.startswith("groups 32 is 32x above the largest measured, 1")


def test_every_row_has_its_own_reason() -> None:
    rows = [SMALL, {"m": 64, "n": 64, "k": 10**6}, LARGE, {"m": 10**6, "n": 10**6, "k": 10**6}]
    (queries,) = ops.group_operators(["matmul"] * 4, ["fp32"] * 4, rows)
    reasons = domain_of("matmul", SMALL, LARGE).reasons(queries)
    assert [bool(r) for r in reasons] == [False, True, False, True]
    assert reasons[1] != reasons[3]


@pytest.mark.parametrize(
    ("op", "params"),
    [("conv2d", CONV), ("permute_copy", {"shape": [4, 8, 16], "perm": [0, 2, 1]}),
     ("cast", {"numel": 64, "to": "fp16"}), ("sdpa", {"b": 1, "h": 8, "s": 128, "d": 64}),
     ("add", {"numel": 64, "bcast": True}),
     ("softmax", {"rows": 8, "cols": 8}), ("maxpool2d", {"n": 1, "c": 8, "h": 8, "w": 8, "k": 2})],
)  # fmt: skip
def test_json_round_trip_answers_the_same(op: str, params: dict[str, Any]) -> None:
    domain = domain_of(op, params)
    again = Domain.from_dict(json.loads(json.dumps(domain.to_dict())))
    assert again == domain
    assert reason(again, op, **params) == ""
    assert reason(again, op, "fp64", **params) != ""


def test_physical_quantities_by_hand() -> None:
    q = physical(group("bmm", b=4, m=8, n=16, k=32))
    assert {n: round(float(2 ** v[0]), 6) for n, v in q.items()} == {
        "flops": 2 * 4 * 8 * 16 * 32, "bytes": 4 * 4 * (8 * 32 + 32 * 16 + 8 * 16),
        "arithmetic intensity": round(32768 / 14336, 6), "output elements": 512, "k": 32, "m": 8, "n": 16,
    }  # fmt: skip
    assert "flops" not in physical(group("copy", numel=8))
    assert np.isfinite(list(physical(group("copy", numel=8)).values())).all()
    q = physical(group("permute_copy", shape=[2, 3, 5, 8], perm=[0, 3, 1, 2]))
    assert 2 ** q["contiguous run"][0] == pytest.approx(8)
    q = physical(group("cat_channels", n=1, c=[8, 16, 24], h=4, w=5))
    assert 2 ** q["parts"][0] == pytest.approx(3)
    assert 2 ** q["pixels h*w"][0] == pytest.approx(20)
    q = physical(group("embedding", rows=8, vocab=1000, dim=64))
    assert (2 ** q["table rows"][0], 2 ** q["columns"][0]) == pytest.approx((1000, 64))


def test_attention_of_few_queries_on_many_keys_is_outside_where_it_was_never_measured() -> None:
    square = {"b": 1, "h": 8, "d": 64}
    (rows,) = ops.group_operators(["sdpa"] * 2, ["bf16"] * 2, [{**square, "s": s} for s in (64, 4096)])
    domain = Domain.of(rows)
    assert reason(domain, "sdpa", "bf16", **square, s=512) == ""
    assert "keys a query skv/s 8 is" in reason(domain, "sdpa", "bf16", **square, s=512, skv=4096)
