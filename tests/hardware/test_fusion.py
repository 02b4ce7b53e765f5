"""Programs into subgraphs as the public tables have them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs.hardware.mappers.fusion import fuse

KINDS = ["conv2d", "dwconv2d", "batchnorm", "relu_nd", "silu", "sigmoid", "mul_channel", "add_nd", "adaptive_avgpool2d",
         "layernorm", "linear", "gelu", "sdpa", "transpose", "maxpool2d", ""]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "subgraphs"),
    [
        ("conv2d batchnorm relu_nd", ["conv2d batchnorm relu_nd"]),
        ("conv2d batchnorm add_nd relu_nd", ["conv2d batchnorm", "add_nd relu_nd"]),
        ("conv2d relu conv2d relu", ["conv2d relu", "conv2d relu"]),
        ("conv2d batchnorm silu dwconv2d batchnorm silu", ["conv2d batchnorm silu dwconv2d batchnorm silu"]),
        (
            "adaptive_avgpool2d conv2d silu conv2d sigmoid mul_channel conv2d batchnorm",
            ["adaptive_avgpool2d conv2d silu conv2d sigmoid mul_channel", "conv2d batchnorm"],
        ),
        ("adaptive_avgpool2d conv2d relu_nd conv2d hardsigmoid", ["adaptive_avgpool2d conv2d relu_nd", "conv2d",
                                                                  "hardsigmoid"]),
        ("adaptive_avgpool2d linear", ["adaptive_avgpool2d", "linear"]),
        (
            "layernorm linear transpose sdpa linear add layernorm linear gelu linear add",
            ["layernorm linear transpose sdpa linear", "add", "layernorm linear gelu", "linear", "add"],
        ),
    ],
)  # fmt: skip
def test_programs_become_the_subgraphs_of_the_tables(program: str, subgraphs: list[str]) -> None:
    ops = program.split()
    assert [" ".join(ops[s.start : s.stop]) for s in fuse(ops)] == subgraphs


@given(st.lists(st.sampled_from(KINDS), max_size=40))
def test_every_call_is_in_exactly_one_subgraph(ops: list[str]) -> None:
    spans = fuse(ops)
    assert [i for s in spans for i in range(s.start, s.stop)] == list(range(len(ops)))
    assert all(1 <= s.nodes <= s.stop - s.start for s in spans)


def test_recorded_resnet_fuses_as_the_tables_count_it() -> None:
    raw = json.loads(gzip.decompress((Path(__file__).parents[2] / "data/fx-shapes/resnet18.json.gz").read_bytes()))
    ops = [op for name in raw["labels"] for op, _ in raw["calls"]["1"].get(name, ())]
    names = ["+".join(ops[s.start : s.stop]) for s in fuse(ops)]
    # 20 convolutions with batch norm, 9 of them with ReLU; 8 additions with ReLU; two pools, one classifier
    assert names.count("conv2d+batchnorm+relu_nd") == 9
    assert names.count("conv2d+batchnorm") == 11
    assert names.count("add_nd+relu_nd") == 8
    assert len(names) == 31
