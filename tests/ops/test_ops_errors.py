"""What is refused, and whether the message says what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import ops
from graphs.errors import DtypeError, OperatorParameterError, UnknownOperatorError
from graphs.ops.spec import LARGEST

CONV = {"n": 1, "c": 8, "h": 8, "w": 8, "o": 8, "k": 3}
ATTENTION = {"b": 1, "h": 8, "s": 16, "d": 64}


@pytest.mark.parametrize(
    "value",
    [0, -1, 2.5, True, False, np.True_, "8", None, float("nan"), float("inf"), 2**53 + 1, 10**400, [8], 1j],
)
def test_a_dimension_must_be_a_positive_integer(value: Any) -> None:
    with pytest.raises(OperatorParameterError, match="parameter 'k' of operator 'matmul'") as caught:
        ops.evaluate("matmul", {"m": 8, "n": 8, "k": value}, itemsize=2)
    assert "an integer >= 1" in str(caught.value)
    assert "signature" in str(caught.value)


@pytest.mark.parametrize("value", [8, 8.0, np.int64(8), np.float32(8), np.uint8(8)])
def test_integral_numbers_of_any_type_are_one_dimension(value: Any) -> None:
    checked = ops.get("matmul").validate({"m": value, "n": 8, "k": 8})
    assert checked["m"] == 8
    assert type(checked["m"]) is int


def test_the_largest_dimension_is_exact() -> None:
    assert ops.evaluate("relu", {"numel": LARGEST}, itemsize=1).bytes == 2**54


def test_padding_may_be_zero_but_not_negative() -> None:
    assert ops.get("conv2d").validate({**CONV, "pad": 0})["padw"] == 0
    with pytest.raises(OperatorParameterError, match="an integer >= 0"):
        ops.get("conv2d").validate({**CONV, "pad": -1})


@pytest.mark.parametrize("value", [1, 0, "true", None, np.array([True, False])])
def test_a_flag_must_be_a_boolean(value: Any) -> None:
    with pytest.raises(OperatorParameterError, match=r"'bias'.*true or false"):
        ops.evaluate("linear", {"m": 8, "n": 8, "k": 8, "bias": value}, itemsize=2)


@pytest.mark.parametrize("value", ["NHWC", 1, None, np.array(["contiguous", "channels_last"]), ["contiguous"]])
def test_a_choice_must_be_one_of_those_listed(value: Any) -> None:
    with pytest.raises(OperatorParameterError, match="contiguous, channels_last"):
        ops.evaluate("conv2d", {**CONV, "fmt": value}, itemsize=2)


@pytest.mark.parametrize("value", [[], 8, "8", {8: 8}, {8, 9}, [8, 0], [8, 2.5], [[8]], np.array(8), None])
def test_a_list_must_hold_positive_integers(value: Any) -> None:
    with pytest.raises(OperatorParameterError, match=r"'c'.*integer"):
        ops.evaluate("cat_channels", {"n": 1, "c": value, "h": 8, "w": 8}, itemsize=2)


@pytest.mark.parametrize("value", [[8, 16], (8, 16), np.array([8, 16]), [8.0, 16.0]])
def test_lists_of_any_type_are_tuples_of_integers(value: Any) -> None:
    checked = ops.get("cat_channels").validate({"n": 1, "c": value, "h": 8, "w": 8})["c"]
    assert checked == (8, 16)
    assert all(type(c) is int for c in checked)


def test_missing_parameter() -> None:
    with pytest.raises(OperatorParameterError, match=r"'matmul' needs parameter 'k'.*m: int, n: int, k: int"):
        ops.evaluate("matmul", {"m": 8, "n": 8}, itemsize=2)


def test_unknown_parameter() -> None:
    with pytest.raises(OperatorParameterError, match=r"'conv2d' has no parameter 'dilation'.*kw: int = k"):
        ops.evaluate("conv2d", {**CONV, "dilation": 2}, itemsize=2)


@pytest.mark.parametrize(
    ("op", "params", "rule"),
    [
        ("conv2d", {**CONV, "groups": 3}, "groups divides c"),
        ("conv2d", {**CONV, "o": 9, "groups": 2}, "groups divides o"),
        ("conv2d", {**CONV, "h": 2}, "h + 2 pad >= k"),
        ("conv2d", {**CONV, "w": 2}, "w + 2 padw >= kw"),
        ("conv2d", {**CONV, "kw": 9}, "w + 2 padw >= kw"),
        ("dwconv2d", {"n": 1, "c": 8, "h": 8, "w": 8, "k": 3, "o": 16}, "o equals c"),
        ("dwconv2d", {"n": 1, "c": 8, "h": 8, "w": 8, "k": 3, "groups": 4}, "groups equals c"),
        ("dwconv2d", {"n": 1, "c": 8, "h": 2, "w": 8, "k": 3}, "h + 2 pad >= k"),
        ("dwconv2d", {"n": 1, "c": 8, "h": 8, "w": 2, "k": 3}, "w + 2 pad >= k"),
        ("conv1d", {"n": 1, "c": 8, "l": 4, "o": 8, "k": 7, "pad": 1}, "l + 2 pad >= k"),
        ("conv_transpose2d", {**CONV, "h": 1, "k": 2, "pad": 1}, "output height"),
        ("conv_transpose2d", {**CONV, "w": 1, "k": 2, "pad": 1}, "output width"),
        ("sdpa", {**ATTENTION, "hkv": 3}, "hkv divides h"),
        ("sdpa", {**ATTENTION, "hkv": 16}, "hkv divides h"),
        ("sdpa_mask", {**ATTENTION, "hkv": 3, "mask": "bool"}, "hkv divides h"),
        ("sdpa_decode", {**ATTENTION, "skv": 16}, "s is 1"),
        ("sdpa_decode", {**ATTENTION, "s": 1, "skv": 16, "causal": True}, "causal is false"),
        ("sdpa_decode", {**ATTENTION, "s": 1, "skv": 16, "hkv": 3}, "hkv divides h"),
        ("groupnorm", {"n": 1, "c": 40, "h": 8, "w": 8}, "groups divides c"),
        ("maxpool2d", {"n": 1, "c": 8, "h": 8, "w": 8, "k": 3, "pad": 2}, "at most half the window"),
        ("avgpool2d", {"n": 1, "c": 8, "h": 2, "w": 8, "k": 3}, "h + 2 pad >= k"),
        ("avgpool2d", {"n": 1, "c": 8, "h": 8, "w": 2, "k": 3}, "w + 2 pad >= k"),
        ("permute_copy", {"shape": [2, 3], "perm": [0, 0]}, "every axis of shape once"),
        ("permute_copy", {"shape": [2, 3], "perm": [1, 2]}, "every axis of shape once"),
        ("permute_copy", {"shape": [2, 3], "perm": [0]}, "every axis of shape once"),
    ],
)
def test_inconsistent_shapes(op: str, params: dict[str, Any], rule: str) -> None:
    with pytest.raises(OperatorParameterError) as caught:
        ops.evaluate(op, params, itemsize=2)
    assert f"operator '{op}' do not fit together" in str(caught.value)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("op", "params", "flops"),
    [
        ("conv2d", {"n": 1, "c": 2, "h": 5, "w": 5, "o": 3, "k": 7, "pad": 1}, 2 * 3 * 2 * 49),
        ("dwconv2d", {"n": 1, "c": 2, "h": 5, "w": 5, "k": 7, "pad": 1}, 2 * 2 * 49),
        ("conv1d", {"n": 1, "c": 2, "l": 5, "o": 3, "k": 7, "pad": 1}, 2 * 3 * 2 * 7),
        ("maxpool2d", {"n": 1, "c": 2, "h": 5, "w": 5, "k": 7, "pad": 1}, 2 * 49),
        ("avgpool2d", {"n": 1, "c": 2, "h": 7, "w": 7, "k": 7}, 2 * 49),
        ("maxpool2d", {"n": 1, "c": 2, "h": 2, "w": 2, "k": 4, "stride": 1, "pad": 2}, 2 * 9 * 16),
        ("conv_transpose2d", {"n": 1, "c": 2, "h": 1, "w": 1, "o": 3, "k": 3, "pad": 1}, 2 * 2 * 3 * 9),
    ],
)
def test_the_limits_of_the_rules_are_allowed(op: str, params: dict[str, Any], flops: int) -> None:
    assert ops.evaluate(op, params, itemsize=2).flops == flops


@pytest.mark.parametrize(("name", "near"), [("matmull", "matmul"), ("conv3d", "conv2d"), ("layer_norm", "layernorm")])
def test_unknown_operator_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownOperatorError) as caught:
        ops.get(name)
    assert near in caught.value.allowed
    assert "graphs.ops.kinds()" in str(caught.value)


@pytest.mark.parametrize("name", [None, 3, ["matmul"], ""])
def test_an_operator_name_of_another_type_is_unknown(name: Any) -> None:
    with pytest.raises(UnknownOperatorError):
        ops.get(name)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(OperatorParameterError, match=r"already registered.*'matmul'"):
        ops.operator("matmul", "numel", family="mine")(lambda numel, itemsize: ops.Cost(numel, numel))
    assert ops.get("matmul").family == "gemm"


def test_a_kind_of_ones_own() -> None:
    @ops.operator("outer_product", "m", ops.Param("n", like="m"), family="binary")
    def outer_product(m: int, n: int, itemsize: int) -> ops.Cost:
        """m x n products of two vectors."""
        return ops.Cost(m * n, (m + n + m * n) * itemsize)

    try:
        assert ops.evaluate("outer_product", {"m": 3}, itemsize=2) == (9, 30)  # 3*3; (3+3+9)*2
        (group,) = ops.group_operators(["outer_product"] * 2, ["fp16", "fp32"], ['{"m": 3}', '{"m": 3, "n": 2}'])
        assert group.flops.tolist() == [9, 6]
        assert ops.get("outer_product").signature == "m: int, n: int = m"
        assert ops.get("outer_product").doc == "m x n products of two vectors."
    finally:
        ops.unregister("outer_product")
    with pytest.raises(UnknownOperatorError):
        ops.get("outer_product")


@pytest.mark.parametrize("params", ["", "{", "[1]", "8", None, 8])
def test_unreadable_parameters(params: Any) -> None:
    with pytest.raises(OperatorParameterError, match="cannot be read"):
        ops.group_operators(["relu"], ["fp16"], [params])


def test_columns_of_different_length() -> None:
    with pytest.raises(OperatorParameterError, match="differ in length"):
        ops.group_operators(["relu", "relu"], ["fp16"], [{"numel": 8}, {"numel": 8}])


@pytest.mark.parametrize("dtype", ["bf17", "", None, "complex64"])
def test_unknown_dtype(dtype: Any) -> None:
    with pytest.raises(DtypeError, match="unknown dtype"):
        ops.group_operators(["relu"], [dtype], [{"numel": 8}])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (("matmull", "fp16", {"numel": 8}), UnknownOperatorError),
        (("relu", "bf17", {"numel": 8}), DtypeError),
        (("relu", "fp16", {"numel": -1}), OperatorParameterError),
        (("relu", "fp16", "{"), OperatorParameterError),
    ],
)
def test_an_error_of_a_table_names_the_row(row: tuple[Any, ...], error: type[Exception]) -> None:
    rows = [("relu", "fp16", {"numel": 8}), ("matmul", "fp16", {"m": 8, "n": 8, "k": 8}), row]
    with pytest.raises(error, match=r"^row 2 \(counted from 0\): "):
        ops.group_operators(*zip(*rows, strict=True))
    with pytest.raises(error) as alone:
        ops.group_operators(*zip(row, strict=True))
    assert not str(alone.value).startswith("row")
