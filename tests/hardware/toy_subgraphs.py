"""One matrix product of 2048 cubed, described in three ways."""

from __future__ import annotations

from typing import Any

from graphs.subgraph import FusedSubgraph, OperationType, TensorDescriptor

SIDE = 2048
CUBE = {"m": SIDE, "n": SIDE, "k": SIDE}
FLOPS, MATRIX = 2 * SIDE**3, 4 * SIDE**2
#: FLOP / (0.7297 x 1000 GFLOP/s), and the traffic at 51.6 GB/s.
CALIBRATED_S, MOVED_S = FLOPS / 729.7e9, 3 * MATRIX / 51.6e9


def tensor(*shape: int, **rest: Any) -> TensorDescriptor:
    return TensorDescriptor(shape, **rest)


def matmul_by_operators(**rest: Any) -> FusedSubgraph:
    return FusedSubgraph("ops", fusion_pattern="matmul", operators=[("matmul", CUBE)], **rest)


def matmul_by_tensors(**rest: Any) -> FusedSubgraph:
    return FusedSubgraph(
        "tensors", operation_types=[OperationType.MATMUL], total_flops=FLOPS, total_input_bytes=2 * MATRIX,
        total_output_bytes=MATRIX, input_tensors=[tensor(SIDE, SIDE), tensor(SIDE, SIDE)],
        output_tensors=[tensor(SIDE, SIDE)], **rest,
    )  # fmt: skip


def matmul_by_totals(**rest: Any) -> FusedSubgraph:
    return FusedSubgraph(
        "totals", operation_types=["matmul"], total_flops=FLOPS, total_input_bytes=2 * MATRIX,
        total_output_bytes=MATRIX, **rest,
    )  # fmt: skip


MATMULS = [matmul_by_operators, matmul_by_tensors, matmul_by_totals]
