"""What subgraphs, tensors and precisions accept, and what they refuse."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from toy_subgraphs import (
    CUBE,
    FLOPS,
    matmul_by_operators,
    matmul_by_totals,
    tensor,
)

from graphs.errors import DtypeError, GraphsError, OperatorParameterError, UnknownOperatorError
from graphs.hardware.mappers.cpu import CPUMapper
from graphs.hardware.mappers.gpu import create_h100_sxm_mapper
from graphs.subgraph import (
    FusedSubgraph,
    ParallelismDescriptor,
    Precision,
    SubgraphDescriptor,
    TensorDescriptor,
    as_precision,
)


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "1", None, True])
@pytest.mark.parametrize(
    "name", ["total_flops", "total_macs", "total_input_bytes", "total_output_bytes", "total_weight_bytes",
             "internal_bytes", "arithmetic_intensity"],
)  # fmt: skip
def test_unusable_totals_are_named(name: str, bad: Any) -> None:
    with pytest.raises(OperatorParameterError, match=f"{name} of subgraph 7"):
        FusedSubgraph(7, **{name: bad})


@pytest.mark.parametrize("bad", [(0,), (-1, 2), (1.5,), ("a",), 5, (None,)])
def test_unusable_shapes(bad: Any) -> None:
    with pytest.raises(OperatorParameterError, match="shape"):
        TensorDescriptor(bad)


def test_tensors_know_their_size() -> None:
    assert tensor(2, 3, 4, dtype="float16").size_bytes == 48
    assert tensor(2, 3, 4, size_bytes=10).size_bytes == 10
    assert tensor().numel == 1
    with pytest.raises(OperatorParameterError, match="size_bytes"):
        tensor(2, size_bytes=-1)
    with pytest.raises(DtypeError):
        tensor(2, dtype="fp7")


@pytest.mark.parametrize("bad", [{"batch": 0}, {"channels": -1}, {"spatial": 1.5}, {"total_threads": 0}])
def test_unusable_parallelism(bad: dict[str, Any]) -> None:
    with pytest.raises(OperatorParameterError, match=next(iter(bad))):
        ParallelismDescriptor(**bad)


def test_parallelism_is_a_product_unless_given() -> None:
    assert ParallelismDescriptor(2, 3, 4).total_threads == 24
    assert ParallelismDescriptor(2, 3, 4, 7).total_threads == 7


def test_unknown_operations_and_operators_name_what_is_allowed() -> None:
    with pytest.raises(OperatorParameterError, match=r"operation type.*allowed: conv2d"):
        FusedSubgraph(0, operation_types=["conv3d"])
    with pytest.raises(UnknownOperatorError, match="matmul"):
        FusedSubgraph(0, operators=[("matmull", CUBE)])
    with pytest.raises(OperatorParameterError, match="'n'"):
        FusedSubgraph(0, operators=[("matmul", CUBE | {"n": -1})])
    with pytest.raises(OperatorParameterError, match=r"\(op, params\)"):
        FusedSubgraph(0, operators=["matmul"])


def test_precisions() -> None:
    assert [p.value for p in Precision] == [
        "fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp4", "int64", "int32", "int16", "int8",
        "int4",
    ]  # fmt: skip
    assert Precision("bf16") is Precision.BF16 is as_precision("torch.bfloat16")
    assert Precision.FP8_E4M3.dtype == "fp8"
    for bad in ("fp7", "bool", 3):
        with pytest.raises(DtypeError, match="allowed"):
            as_precision(bad)


def test_precision_without_a_peak_or_a_size_is_a_typed_error(bare: CPUMapper) -> None:
    with pytest.raises(DtypeError, match="no bf16 peak"):
        bare.map_subgraph(matmul_by_totals(), precision=Precision.BF16)
    for precision in (Precision.FP4, Precision.INT4):
        with pytest.raises(GraphsError):
            bare.map_subgraph(matmul_by_operators(), precision=precision)


def test_fp8_on_the_h100_uses_its_own_peak() -> None:
    a = create_h100_sxm_mapper().map_subgraph(matmul_by_operators(), precision=Precision.FP8_E4M3)
    assert a.efficiency == pytest.approx(0.20)
    assert a.estimated_latency == pytest.approx(FLOPS / (0.2 * 1979e12))
    assert a.precision is Precision.FP8_E4M3


def test_descriptor_is_the_same_class() -> None:
    assert SubgraphDescriptor is FusedSubgraph


def test_mapping_needs_numpy_only() -> None:
    code = (
        "from graphs.hardware.calibration import load_calibration; from graphs.subgraph import FusedSubgraph;"
        "from graphs.hardware.mappers.cpu import create_i7_12700k_mapper; m = create_i7_12700k_mapper();"
        "m.calibration = load_calibration('profiles/i7-12700k.json');"
        "m.map_subgraph(FusedSubgraph(0, operators=[('relu', {'numel': 8})])); import sys; print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {m.split(".")[0] for m in out} & {"torch", "sklearn", "pandas", "pyarrow", "scipy", "training"}
