"""FLOP and bytes of each kind as literal integers, with the arithmetic beside them."""

from __future__ import annotations

from typing import Any

import pytest

from graphs import ops

# op, params, bytes an element, FLOP, bytes
CASES: list[tuple[str, dict[str, Any], int, int, int]] = [
    # --- matrix products
    # 2*8*360*4096; (8*4096 + 360*4096 + 8*360 + 360)*2
    ("linear", {"m": 8, "n": 360, "k": 4096, "bias": True}, 2, 23592960, 3021136),
    # 2*3*5*7; (3*7 + 5*7 + 3*5)*4
    ("linear", {"m": 3, "n": 5, "k": 7}, 4, 210, 284),
    # 2*2048**3; 3*2048**2*4
    ("matmul", {"m": 2048, "n": 2048, "k": 2048}, 4, 17179869184, 50331648),
    # 2*3*5*7; (3*7 + 7*5 + 3*5)*2
    ("matmul", {"m": 3, "n": 5, "k": 7}, 2, 210, 142),
    # 2*448*256*128; (448*128 + 128*256 + 448*256 + 256)*4
    ("addmm", {"m": 448, "n": 256, "k": 128}, 4, 29360128, 820224),
    # 2*3*5*7; (3*7 + 7*5 + 3*5 + 5)*2
    ("addmm", {"m": 3, "n": 5, "k": 7}, 2, 210, 152),
    # 2*2*3*5*7; 2*(3*7 + 7*5 + 3*5)*2
    ("bmm", {"b": 2, "m": 3, "n": 5, "k": 7}, 2, 420, 284),
    # 2*16*1*128*64; 16*(1*64 + 64*128 + 1*128)*4
    ("bmm", {"b": 16, "m": 1, "n": 128, "k": 64}, 4, 262144, 536576),
    # --- convolutions
    # ResNet stem, out 112 = (224 + 6 - 7)//2 + 1: 2*64*112*112*3*7*7; (3*224*224 + 64*3*49 + 64*112*112)*2
    (
        "conv2d",
        {"n": 1, "c": 3, "h": 224, "w": 224, "o": 64, "k": 7, "stride": 2, "pad": 3},
        2,
        236027904,
        1925504,
    ),
    # groups 2 and a bias, out 4 x 5: 2*2*8*4*5*(6//2)*9; (2*6*4*5 + 8*3*9 + 2*8*4*5 + 8)*4
    (
        "conv2d",
        {"n": 2, "c": 6, "h": 4, "w": 5, "o": 8, "k": 3, "pad": 1, "groups": 2, "bias": True},
        4,
        17280,
        3136,
    ),
    # kernel 1 x 7 with pads 0 and 3, out 8 x 8: 2*16*8*8*4*7; (4*8*8 + 16*4*7 + 16*8*8)*2
    (
        "conv2d",
        {"n": 1, "c": 4, "h": 8, "w": 8, "o": 16, "k": 1, "pad": 0, "kw": 7, "padw": 3, "fmt": "channels_last"},
        2,
        57344,
        3456,
    ),
    # kernel 7 x 1 with pads 3 and 0, out 8 x 6: 2*16*8*6*4*7; (4*8*6 + 16*4*7 + 16*8*6)*2
    (
        "conv2d",
        {"n": 1, "c": 4, "h": 8, "w": 6, "o": 16, "k": 7, "pad": 3, "kw": 1, "padw": 0},
        2,
        43008,
        2816,
    ),
    # windows that do not divide the input, out (10 - 3)//2 + 1 = 4, (11 - 3)//2 + 1 = 5: 2*4*5*9; (10*11 + 9 + 4*5)*4
    ("conv2d", {"n": 1, "c": 1, "h": 10, "w": 11, "o": 1, "k": 3, "stride": 2}, 4, 360, 556),
    # out 16 x 14: 2*2*8*16*14*9; (2*8*16*14 + 8*9 + 2*8*16*14 + 8)*2
    ("dwconv2d", {"n": 2, "c": 8, "h": 16, "w": 14, "k": 3, "pad": 1, "bias": True}, 2, 64512, 14496),
    # out 28 = (56 + 4 - 5)//2 + 1: 2*96*28*28*25; (96*56*56 + 96*25 + 96*28*28)*4
    (
        "dwconv2d",
        {"n": 1, "c": 96, "h": 56, "w": 56, "o": 96, "k": 5, "stride": 2, "pad": 2, "groups": 96},
        4,
        3763200,
        1514880,
    ),
    # out (1152 + 6 - 7)//1 + 1 = 1152: 2*8*32*1152*14*7; (8*14*1152 + 32*14*7 + 8*32*1152)*2
    ("conv1d", {"n": 8, "c": 14, "l": 1152, "o": 32, "k": 7, "stride": 1, "pad": 3}, 2, 57802752, 854144),
    # out (9 + 2 - 4)//3 + 1 = 3: 2*2*5*3*3*4; (2*3*9 + 5*3*4 + 2*5*3)*4
    ("conv1d", {"n": 2, "c": 3, "l": 9, "o": 5, "k": 4, "stride": 3, "pad": 1}, 4, 720, 576),
    # out 8 = (4 - 1)*2 - 2 + 4, 10 = (5 - 1)*2 - 2 + 4: 2*2*3*4*5*6*16; (2*3*4*5 + 3*6*16 + 2*6*8*10)*2
    (
        "conv_transpose2d",
        {"n": 2, "c": 3, "h": 4, "w": 5, "o": 6, "k": 4, "stride": 2, "pad": 1},
        2,
        23040,
        2736,
    ),
    # out 17 = (8 - 1)*2 + 3: 2*192*8*8*320*9; (192*8*8 + 192*320*9 + 320*17*17)*4
    (
        "conv_transpose2d",
        {"n": 1, "c": 192, "h": 8, "w": 8, "o": 320, "k": 3, "stride": 2, "pad": 0, "fmt": "contiguous"},
        4,
        70778880,
        2630912,
    ),
    # --- attention
    # 4*32*40*257*257*32; 4*(32*40*257*32)*2
    (
        "sdpa",
        {"b": 32, "h": 40, "hkv": 40, "s": 257, "skv": 257, "d": 32, "causal": False},
        2,
        10821468160,
        84213760,
    ),
    # causal, grouped: 2*2*8*16*16*64; (2*2*8*16*64 + 2*2*2*16*64)*2
    ("sdpa", {"b": 2, "h": 8, "hkv": 2, "s": 16, "d": 64, "causal": True}, 2, 524288, 81920),
    # more keys than queries: 4*1*4*8*24*32; (2*4*8*32 + 2*4*24*32)*4
    ("sdpa", {"b": 1, "h": 4, "s": 8, "skv": 24, "d": 32, "layout": "bshd"}, 4, 98304, 32768),
    # 4*2*8*16*24*64; (2*2*8*16*64 + 2*2*8*24*64)*2 + 2*16*24*1
    ("sdpa_mask", {"b": 2, "h": 8, "s": 16, "skv": 24, "d": 64, "mask": "bool"}, 2, 1572864, 164608),
    # the same with a mask of two-byte numbers: 4*2*8*16*24*64; (2*2*8*16*64 + 2*2*8*24*64)*2 + 2*16*24*2
    ("sdpa_mask", {"b": 2, "h": 8, "s": 16, "skv": 24, "d": 64, "mask": "float"}, 2, 1572864, 165376),
    # 4*32*16*13632*64; (2*32*16*64 + 2*32*4*13632*64)*2
    ("sdpa_decode", {"b": 32, "h": 16, "hkv": 4, "s": 1, "skv": 13632, "d": 64}, 2, 1786773504, 446824448),
    # 4*1*8*100*64; (2*8*64 + 2*8*100*64)*4
    ("sdpa_decode", {"b": 1, "h": 8, "skv": 100, "d": 64}, 4, 204800, 413696),
    # --- elementwise (the kinds with one input are below)
    # 3*4*5*6; 2*3*4*5*6*2
    ("relu_nd", {"n": 3, "c": 4, "h": 5, "w": 6, "fmt": "channels_last"}, 2, 360, 1440),
    # no FLOP; 1000*(2 + 4)
    ("cast", {"numel": 1000, "to": "fp32"}, 2, 0, 6000),
    # no FLOP; 1000*(4 + 2)
    ("cast", {"numel": 1000, "to": "bf16"}, 4, 0, 6000),
    # no FLOP; 1000*(8 + 1)
    ("cast", {"numel": 1000, "to": "bool"}, 8, 0, 9000),
    # one row of 1024 against 7 rows, 324 elements left out: 7*1024; (2*7*1024 + 1024)*2
    ("add", {"numel": 7492, "bcast": True}, 2, 7168, 30720),
    # 7492; 3*7492*2
    ("add", {"numel": 7492, "bcast": False}, 2, 7492, 44952),
    # fewer elements than a row: 100; (2*100 + 100)*4
    ("mul", {"numel": 100, "bcast": True}, 4, 100, 1200),
    # 100; 3*100*4
    ("mul", {"numel": 100}, 4, 100, 1200),
    # 2*1024; (2*2*1024 + 1024)*4
    ("div", {"numel": 2048, "bcast": True}, 4, 2048, 20480),
    # 2048; 3*2048*4
    ("div", {"numel": 2048}, 4, 2048, 24576),
    # one element for each of 7 rows: 7*1024; (2*7*1024 + 7)*2
    ("sub", {"numel": 7492, "bcast": True}, 2, 7168, 28686),
    # fewer elements than a row, so one row and a column of one: 100; (2*100 + 1)*4
    ("sub", {"numel": 100, "bcast": True}, 4, 100, 804),
    # 7492; 3*7492*2
    ("sub", {"numel": 7492}, 2, 7492, 44952),
    # cut to 7 rows in any case: no FLOP; 2*7*1024*2 + 7*1024*1
    ("where", {"numel": 7492, "bcast": False}, 2, 0, 35840),
    # the mask is one row: no FLOP; 2*7*1024*2 + 1024*1
    ("where", {"numel": 7492, "bcast": True}, 2, 0, 29696),
    # no FLOP; 2*100*4 + 100*1
    ("where", {"numel": 100}, 4, 0, 900),
    # 5*7; (2*5*7 + 7)*2
    ("mul_row", {"rows": 5, "cols": 7}, 2, 35, 154),
    # 3*4*5*6; (2*3*4*5*6 + 3*4)*2
    ("mul_channel", {"n": 3, "c": 4, "h": 5, "w": 6}, 2, 360, 1464),
    # 3*4*5*6; 3*3*4*5*6*4
    ("add_nd", {"n": 3, "c": 4, "h": 5, "w": 6}, 4, 360, 4320),
    # the half of the operand that is not looked at is not counted: 5*7; 3*5*7*2
    ("add_strided", {"rows": 5, "cols": 7}, 2, 35, 210),
    # --- along rows
    # 5*8*9664; 2*8*9664*4
    ("softmax", {"rows": 8, "cols": 9664}, 4, 386560, 618496),
    # 8*5*7; 2*5*7*2
    ("layernorm", {"rows": 5, "cols": 7}, 2, 280, 140),
    # 5*5*7; 2*5*7*2
    ("rmsnorm", {"rows": 5, "cols": 7}, 2, 175, 140),
    # 5*7; 2*5*7*4
    ("cumsum", {"rows": 5, "cols": 7}, 4, 35, 280),
    # 5*7; (5*7 + 5)*4
    ("sum", {"rows": 5, "cols": 7}, 4, 35, 160),
    # 7626*136; (7626*136 + 7626)*2
    ("mean", {"rows": 7626, "cols": 136}, 2, 1037136, 2089524),
    # --- images
    # 2*4*16*28*28; (2*4*16*28*28 + 4*16)*4
    ("batchnorm", {"n": 4, "c": 16, "h": 28, "w": 28}, 4, 100352, 401664),
    # 8*2*64*7*5; (2*2*64*7*5 + 2*64)*2
    ("groupnorm", {"n": 2, "c": 64, "h": 7, "w": 5, "groups": 32}, 2, 35840, 18176),
    # 32 groups unless given: 8*3*64*7*5; (2*3*64*7*5 + 2*64)*2
    ("groupnorm", {"n": 3, "c": 64, "h": 7, "w": 5}, 2, 53760, 27136),
    # out 56 = (112 + 2 - 3)//2 + 1: 2*64*56*56*9; (2*64*112*112 + 2*64*56*56)*2
    ("maxpool2d", {"n": 2, "c": 64, "h": 112, "w": 112, "k": 3, "stride": 2, "pad": 1}, 2, 3612672, 4014080),
    # the stride is the window unless given, out 3 x 2: 5*3*2*4; (5*7*5 + 5*3*2)*4
    ("maxpool2d", {"n": 1, "c": 5, "h": 7, "w": 5, "k": 2}, 4, 120, 820),
    # out 112: 64*32*112*112*4; (64*32*224*224 + 64*32*112*112)*2
    (
        "avgpool2d",
        {"n": 64, "c": 32, "h": 224, "w": 224, "k": 2, "stride": 2, "pad": 0},
        2,
        102760448,
        256901120,
    ),
    # 448*8*8; (448*8*8 + 448)*4
    ("adaptive_avgpool2d", {"n": 1, "c": 448, "h": 8, "w": 8}, 4, 28672, 116480),
    # 2*3*8*10; (2*3*4*5 + 2*3*8*10)*4
    ("upsample2d", {"n": 2, "c": 3, "h": 4, "w": 5, "scale": 2, "mode": "nearest"}, 4, 480, 2400),
    # 3*12*15; (3*4*5 + 3*12*15)*2
    ("upsample2d", {"n": 1, "c": 3, "h": 4, "w": 5, "scale": 3, "mode": "bilinear"}, 2, 540, 1200),
    # --- moving data: no FLOP
    # 0; 2*1000*2
    ("copy", {"numel": 1000}, 2, 0, 4000),
    # 0; 2*7*3*4*5*4
    ("transpose", {"b": 7, "s": 3, "h": 4, "d": 5}, 4, 0, 3360),
    # 0; 2*16*128*8*32*2
    ("permute_copy", {"shape": [16, 128, 8, 32], "perm": [0, 2, 3, 1]}, 2, 0, 2097152),
    # 0; 2*3*5*7*2
    ("cat", {"parts": 3, "rows": 5, "cols": 7}, 2, 0, 420),
    # 0; 2*5*(8 + 16 + 1)*3*4*2
    ("cat_channels", {"n": 5, "c": [8, 16, 1], "h": 3, "w": 4}, 2, 0, 6000),
    # 0; 2*3*(4*5 + (4 + 4)*(5 + 4))*2
    ("pad2d", {"n": 2, "c": 3, "h": 4, "w": 5, "pad": 2}, 2, 0, 1104),
    # 0; 2*3*(4*5 + 4*5)*2
    ("pad2d", {"n": 2, "c": 3, "h": 4, "w": 5, "pad": 0}, 2, 0, 480),
    # 0; 2*3*4*5*6*4
    ("roll", {"n": 3, "h": 4, "w": 5, "c": 6, "shift": 0}, 4, 0, 2880),
    # 0; 2*16*14*14*128*2
    ("roll", {"n": 16, "h": 14, "w": 14, "c": 128, "shift": 3}, 2, 0, 1605632),
    # the table's other rows are not read: 0; 2*6*768*4 + 8*6
    ("embedding", {"rows": 6, "vocab": 32000, "dim": 768}, 4, 0, 36912),
    # 0; 2*380*32*4 + 8*380
    ("index_select", {"rows": 21, "take": 380, "cols": 32}, 4, 0, 100320),
]

ONE_INPUT = [
    "relu", "gelu", "silu", "sigmoid", "tanh", "exp", "hardswish", "relu6", "hardsigmoid", "pow2", "rsqrt", "neg",
    "cos", "erf", "abs", "clamp", "add_scalar", "mul_scalar",
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "params", "itemsize", "flops", "nbytes"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_flops_and_bytes(op: str, params: dict[str, Any], itemsize: int, flops: int, nbytes: int) -> None:
    cost = ops.evaluate(op, params, itemsize)
    assert type(cost.flops) is int
    assert type(cost.bytes) is int
    assert cost == (flops, nbytes)


@pytest.mark.parametrize("op", ONE_INPUT)
def test_one_input(op: str) -> None:
    assert ops.evaluate(op, {"numel": 2249317}, itemsize=2) == (2249317, 8997268)  # 1 each; 2*2249317*2
    assert ops.evaluate(op, {"numel": 1}, itemsize=4) == (1, 8)


def test_every_kind_has_a_case() -> None:
    assert {case[0] for case in CASES} | set(ONE_INPUT) == set(ops.kinds())


def test_numbers_beyond_64_bits_stay_exact() -> None:
    cost = ops.evaluate("bmm", {"b": 10**6, "m": 10**6, "n": 10**6, "k": 10**6 + 1}, itemsize=2)
    assert cost.flops == 2 * 10**24 + 2 * 10**18
