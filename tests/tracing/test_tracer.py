"""Modules to exact lists of operators."""

from __future__ import annotations

import logging

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from tracing_modules import Decoder, Residual, calls, meta, names, of  # noqa: E402

from graphs.errors import DtypeError, TracingError  # noqa: E402
from graphs.tracing import trace  # noqa: E402


def test_convolution_batchnorm_relu_and_residual_sum() -> None:
    t = trace(Residual().eval(), meta(2, 16, 8, 8), dtype="bf16")
    image = {"n": 2, "c": 16, "h": 8, "w": 8, "fmt": "contiguous"}
    conv = {**image, "o": 16, "k": 3, "stride": 1, "pad": 1, "groups": 1, "bias": False}
    assert calls(t) == [
        ("conv2d", "bf16", conv), ("batchnorm", "bf16", image), ("relu_nd", "bf16", image), ("add_nd", "bf16", image),
    ]  # fmt: skip
    assert [o.module for o in t.operators] == ["conv", "bn", "", ""]
    assert {o.match for o in t.operators} == {"exact"}
    assert t.parameters == 16 * 16 * 9 + 2 * 16
    assert t.parameter_bytes == 2 * t.parameters
    assert (t.batch, t.dtype, t.name) == (2, "bf16", "Residual")


def test_training_state_of_the_module_is_kept() -> None:
    module = Residual().train()
    t = trace(module, meta(2, 16, 8, 8))
    assert module.training
    (bn,) = [o for o in t.operators if o.op == "batchnorm"]
    assert bn.match == "near"
    assert "batch" in bn.note


def test_channels_last_input_runs_channels_last_and_converts_contiguous_weights() -> None:
    x = meta(2, 16, 8, 8).to(memory_format=torch.channels_last)
    t = trace(Residual().eval(), x)
    assert names(t) == ["permute_copy", "conv2d", "batchnorm", "relu_nd", "add_nd"]
    assert {c[2]["fmt"] for c in calls(t)[1:]} == {"channels_last"}
    assert calls(t)[0][2] == {"shape": (16, 16, 9), "perm": (0, 2, 1)}


def test_decoder_block_in_bf16_has_its_fp32_islands() -> None:
    b, s, dim, heads, kv, d, hidden = 2, 64, 256, 8, 2, 32, 512
    t = trace(Decoder().eval(), meta(b, s, dim), dtype="bf16")
    numel, m = b * s * dim, b * s
    norm = [
        ("cast", "bf16", {"numel": numel, "to": "fp32"}), ("pow2", "fp32", {"numel": numel}),
        ("mean", "fp32", {"rows": m, "cols": dim}), ("add_scalar", "fp32", {"numel": m}),
        ("rsqrt", "fp32", {"numel": m}), ("sub", "fp32", {"numel": numel, "bcast": True}),
        ("cast", "fp32", {"numel": numel, "to": "bf16"}), ("mul_row", "bf16", {"rows": m, "cols": dim}),
    ]  # fmt: skip

    def linear(n: int, k: int) -> tuple:
        return ("linear", "bf16", {"m": m, "n": n, "k": k, "bias": False})

    def rotary(h: int) -> list[tuple]:
        n = b * h * s * d
        return [
            ("neg", "bf16", {"numel": n // 2}), ("cat", "bf16", {"parts": 2, "rows": b * h * s, "cols": d // 2}),
            # cos is one (s, d) tensor, q lies as (b, s, h, d): the inner run that repeats is d long.
            ("mul_row", "bf16", {"rows": n // d, "cols": d}),
            # The joined halves lie as (b, h, s, d): one row of s d, repeated for every head.
            ("mul_row", "bf16", {"rows": b * h, "cols": s * d}), ("add", "bf16", {"numel": n, "bcast": False}),
        ]  # fmt: skip

    add = ("add", "bf16", {"numel": numel, "bcast": False})
    attention = {"b": b, "h": heads, "hkv": kv, "s": s, "skv": s, "d": d, "causal": True, "layout": "bshd"}
    gated = b * s * hidden
    expected = [
        *norm, linear(dim, dim), linear(kv * d, dim), linear(kv * d, dim), *rotary(heads), *rotary(kv),
        ("sdpa", "bf16", attention), linear(dim, dim), add, *norm,
        linear(hidden, dim), ("silu", "bf16", {"numel": gated}), linear(hidden, dim),
        ("mul", "bf16", {"numel": gated, "bcast": False}), linear(dim, hidden), add,
    ]  # fmt: skip
    assert calls(t) == expected
    assert not t.unmodelled


def test_fp32_decoder_has_no_casts_and_grouped_attention_leaves_a_copy() -> None:
    t = trace(Decoder().eval(), meta(2, 64, 256))
    assert "cast" not in names(t)
    # Grouped queries in fp32 run as products: the output lies by heads and is copied back.
    after = names(t)[names(t).index("sdpa") + 1]
    assert after == "transpose"


def test_tf32_tags_products_only() -> None:
    fp32, tf32 = (trace(Decoder().eval(), meta(2, 64, 256), dtype=d) for d in ("fp32", "tf32"))
    tagged = {o.op: o.dtype for o in tf32.operators}
    assert tagged["linear"] == tagged["sdpa"] == "tf32"
    assert tagged["silu"] == tagged["mul"] == tagged["rsqrt"] == "fp32"
    assert fp32.with_dtype("tf32") == tf32
    assert tf32.with_dtype("fp32") == fp32


def test_half_dtypes_are_the_same_program() -> None:
    bf16, fp16 = (trace(Decoder().eval(), meta(2, 64, 256), dtype=d) for d in ("bf16", "fp16"))
    assert bf16.with_dtype("fp16") == fp16
    with pytest.raises(DtypeError, match="trace the module"):
        bf16.with_dtype("fp32")


@pytest.mark.parametrize("bias", [True, False])
def test_linear_of_any_leading_dimensions_is_one_product(bias: bool) -> None:
    t = trace(nn.Linear(8, 4, bias=bias), meta(2, 3, 5, 8))
    assert calls(t) == [("linear", "fp32", {"m": 30, "n": 4, "k": 8, "bias": bias})]


def test_self_attention_module_takes_the_fused_path_in_eval_only() -> None:
    attention = nn.MultiheadAttention(64, 4, batch_first=True)

    def run(x: torch.Tensor) -> torch.Tensor:
        return attention(x, x, x, need_weights=False)[0]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return run(x)

    t = trace(Block().eval(), meta(2, 10, 64))
    assert calls(t) == [
        ("linear", "fp32", {"m": 20, "n": 192, "k": 64, "bias": True}),
        ("sdpa", "fp32", {"b": 2, "h": 4, "hkv": 4, "s": 10, "skv": 10, "d": 16, "causal": False, "layout": "bshd"}),
        ("linear", "fp32", {"m": 20, "n": 64, "k": 64, "bias": True}),
    ]
    assert {o.module for o in t.operators} == {"attention"}
    slow = names(trace(Block().train(), meta(2, 10, 64)))
    assert [n for n in slow if n in ("linear", "sdpa")] == ["linear", "sdpa", "linear"]
    assert len(slow) > 3


def test_encoder_layer_fast_path_is_priced_as_its_kernels() -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu").eval()
    t = trace(layer, meta(2, 10, 64), dtype="fp16")
    assert names(t) == ["linear", "sdpa", "linear", "add", "layernorm", "linear", "linear", "add", "layernorm"]
    assert calls(t)[5][2] == {"m": 20, "n": 128, "k": 64, "bias": True}


def test_attention_mask_and_decode_are_kinds_of_their_own() -> None:
    q, k = meta(2, 4, 1, 32), meta(2, 4, 50, 32)
    assert names(of(functional.scaled_dot_product_attention, q, k, k)) == ["sdpa_decode"]
    q = meta(2, 4, 50, 32)
    for dtype, name in ((torch.bool, "bool"), (torch.float32, "float")):
        t = of(functional.scaled_dot_product_attention, q, k, k, meta(2, 1, 50, 50, dtype=dtype))
        expected = {"b": 2, "h": 4, "hkv": 4, "s": 50, "skv": 50, "d": 32, "mask": name}
        assert calls(t) == [("sdpa_mask", "fp32", expected)]


def test_views_cost_nothing_and_copies_are_what_they_move() -> None:
    def views(x: torch.Tensor) -> torch.Tensor:
        return x.view(2, 6, 4).transpose(1, 2).unsqueeze(0)[..., :3].squeeze(0)

    t = of(views, meta(2, 3, 8))
    assert len(t) == 0
    assert t.views > 0
    heads = of(lambda x: x.view(2, 10, 4, 16).transpose(1, 2).contiguous(), meta(2, 10, 64))
    assert calls(heads) == [("transpose", "fp32", {"b": 2, "s": 10, "h": 4, "d": 16})]
    image = of(lambda x: x.permute(0, 2, 3, 1).contiguous(), meta(2, 5, 6, 7))
    assert calls(image) == [("permute_copy", "fp32", {"shape": (2, 5, 42), "perm": (0, 2, 1)})]
    matrix = of(lambda x: x.t().contiguous(), meta(6, 7))
    assert calls(matrix) == [("permute_copy", "fp32", {"shape": (1, 6, 7), "perm": (0, 2, 1)})]
    plain = of(lambda x: x.clone(), meta(6, 7))
    assert calls(plain) == [("copy", "fp32", {"numel": 42})]
    half = of(lambda x: x[:, :8].contiguous(), meta(6, 16))
    assert [(o.op, o.match, o.note) for o in half.operators] == [("copy", "near", "rows with gaps")]
    # A repeated operand is read once: two thirds of the traffic of a copy of this size.
    repeated = of(lambda x: x.expand(12, 4, 8).contiguous(), meta(12, 1, 8))
    assert [(o.op, o.match, o.params["numel"]) for o in repeated.operators] == [("copy", "proxy", (96 + 384) // 2)]


def test_cat_of_channels_rows_and_unequal_parts() -> None:
    a, b = meta(2, 3, 8, 8), meta(2, 5, 8, 8)
    t = of(lambda x, y: torch.cat([x, y], 1), a, b)
    assert calls(t) == [("cat_channels", "fp32", {"n": 2, "c": [3, 5], "h": 8, "w": 8, "fmt": "contiguous"})]
    t = of(lambda x: torch.cat([x, x, x], -1), meta(4, 10))
    assert calls(t) == [("cat", "fp32", {"parts": 3, "rows": 4, "cols": 10})]
    t = of(lambda x, y: torch.cat([x, y], 0), meta(4, 10), meta(2, 10))
    assert t.operators[0].op == "cat_channels"
    assert sum(t.operators[0].params["c"]) == 60


@pytest.mark.parametrize(
    ("other", "op", "params", "match"),
    [
        ((64, 96), "mul", {"numel": 6144, "bcast": False}, "exact"),
        ((96,), "mul_row", {"rows": 64, "cols": 96}, "exact"),
        ((64, 1), "sub", {"numel": 6144, "bcast": True}, "near"),
        ((), "mul_scalar", {"numel": 6144}, "exact"),
        ((1, 1), "mul_scalar", {"numel": 6144}, "exact"),
    ],
)
def test_product_by_broadcast(other: tuple[int, ...], op: str, params: dict, match: str) -> None:
    t = of(torch.mul, meta(64, 96), meta(*other))
    assert [(o.op, dict(o.params), o.match) for o in t.operators] == [(op, params, match)]


def test_binary_kinds_with_rows_channels_and_strides() -> None:
    assert calls(of(torch.add, meta(8, 1024), meta(1024))) == [("add", "fp32", {"numel": 8192, "bcast": True})]
    image = {"n": 2, "c": 5, "h": 8, "w": 8, "fmt": "contiguous"}
    assert calls(of(torch.mul, meta(2, 5, 8, 8), meta(2, 5, 1, 1))) == [("mul_channel", "fp32", image)]
    strided = of(lambda x, y: x[:, :8] + y, meta(4, 16), meta(4, 8))
    assert calls(strided) == [("add_strided", "fp32", {"rows": 4, "cols": 8})]
    assert strided.operators[0].match == "exact"


def test_casts_pools_and_the_rest_of_the_kinds() -> None:
    x = meta(2, 32, 8, 8)
    image = {"n": 2, "c": 32, "h": 8, "w": 8, "fmt": "contiguous"}
    cases = [
        (lambda x: x.half(), "cast", {"numel": 4096, "to": "fp16"}),
        (lambda x: functional.max_pool2d(x, 3, 2, 1), "maxpool2d", {**image, "k": 3, "stride": 2, "pad": 1}),
        (lambda x: functional.avg_pool2d(x, 2), "avgpool2d", {**image, "k": 2, "stride": 2, "pad": 0}),
        (lambda x: functional.adaptive_avg_pool2d(x, 1), "adaptive_avgpool2d", image),
        (lambda x: functional.group_norm(x, 32), "groupnorm", {**image, "groups": 32}),
        (lambda x: functional.interpolate(x, scale_factor=2), "upsample2d", {**image, "scale": 2, "mode": "nearest"}),
        (lambda x: functional.pad(x, (1, 1, 1, 1)), "pad2d", {**image, "pad": 1}),
        (lambda x: torch.roll(x, (-3, -3), (1, 2)), "roll", {"n": 2, "h": 32, "w": 8, "c": 8, "shift": 3}),
        (lambda x: x.softmax(-1), "softmax", {"rows": 512, "cols": 8}),
        (lambda x: x.mean((2, 3)), "mean", {"rows": 64, "cols": 64}),
        (lambda x: x.cumsum(-1), "cumsum", {"rows": 512, "cols": 8}),
        (lambda x: functional.hardtanh(x, 0.0, 6.0), "relu6", {"numel": 4096}),
        (lambda x: x**2, "pow2", {"numel": 4096}),
        (lambda x: functional.rms_norm(x, (8,)), "rmsnorm", {"rows": 512, "cols": 8}),
        (lambda x: torch.where(x.new_empty(2, 32, 8, 8, dtype=torch.bool), x, 0.0), "where",
         {"numel": 4096, "bcast": False}),
    ]  # fmt: skip
    for function, op, params in cases:
        t = of(function, x)
        assert [(o.op, dict(o.params), o.match) for o in t.operators] == [(op, params, "exact")], op


def test_convolutions_of_other_shapes() -> None:
    def conv(module: nn.Module, *shape: int) -> tuple:
        (o,) = trace(module, meta(*shape)).operators
        return o.op, dict(o.params), o.match

    op, params, match = conv(nn.Conv2d(8, 8, (1, 7), padding=(0, 3)), 2, 8, 9, 9)
    assert (op, match) == ("conv2d", "exact")
    assert (params["k"], params["kw"], params["pad"], params["padw"]) == (1, 7, 0, 3)
    assert conv(nn.Conv2d(8, 8, 3, groups=8), 2, 8, 9, 9)[0] == "dwconv2d"
    assert conv(nn.Conv2d(8, 16, 3, groups=8), 2, 8, 9, 9)[0] == "conv2d"
    one = {"n": 2, "c": 8, "l": 50, "o": 4, "k": 3, "stride": 2, "pad": 1}
    assert conv(nn.Conv1d(8, 4, 3, 2, 1, bias=False), 2, 8, 50) == ("conv1d", one, "exact")
    # Neither kind has a bias.
    assert conv(nn.Conv1d(8, 4, 3, 2, 1), 2, 8, 50) == ("conv1d", one, "near")
    up = {"n": 2, "c": 8, "h": 9, "w": 9, "o": 4, "k": 2, "stride": 2, "pad": 0, "fmt": "contiguous"}
    assert conv(nn.ConvTranspose2d(8, 4, 2, 2, bias=False), 2, 8, 9, 9) == ("conv_transpose2d", up, "exact")
    assert conv(nn.ConvTranspose2d(8, 4, 2, 2), 2, 8, 9, 9) == ("conv_transpose2d", up, "near")
    assert conv(nn.Conv2d(8, 8, 3, dilation=2), 2, 8, 9, 9)[2] == "near"


def test_what_no_kind_describes_is_a_proxy_with_its_bytes_or_unmodelled() -> None:
    t = of(lambda x: x.flip(0), meta(10, 20))
    (o,) = t.operators
    assert (o.op, o.match, o.params["numel"]) == ("copy", "proxy", 200)
    assert "flip" in o.note
    ids = of(lambda x: x + 1, meta(100, dtype=torch.int64))
    assert (ids.operators[0].dtype, ids.operators[0].params["numel"]) == ("fp32", 200)


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers_count_all_their_products(cell: type[nn.Module], gates: int) -> None:
    t = trace(cell(64, 128, 2, batch_first=True), meta(4, 10, 64))
    products = [(dict(o.params), o.count) for o in t.operators if o.op == "linear"]
    n = gates * 128
    assert products == [
        ({"m": 40, "n": n, "k": 64, "bias": True}, 1), ({"m": 4, "n": n, "k": 128, "bias": True}, 20),
        ({"m": 40, "n": n, "k": 128, "bias": True}, 1),
    ]  # fmt: skip
    assert {o.match for o in t.operators} <= {"near", "proxy"}


def test_padded_encoder_is_traced_without_packing() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2).eval()
    mask = meta(2, 10, dtype=torch.bool)
    t = trace(encoder, {"src": meta(2, 10, 64), "src_key_padding_mask": mask})
    assert names(t).count("softmax") == 2
    assert any("padding" in note for note in t.notes)


def test_a_call_that_fails_prints_no_traceback_of_its_own() -> None:
    printed: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            printed.append(record)

    log, keep = logging.getLogger("torch._subclasses.fake_tensor"), Keep()
    log.addHandler(keep)
    try:
        with pytest.raises(TracingError, match="Linear failed on these inputs"):
            trace(torch.nn.Linear(8, 4), torch.empty(2, 9, device="meta"))
        assert not printed
        log.error("of another kind")
        assert [r.getMessage() for r in printed] == ["of another kind"]
    finally:
        log.removeHandler(keep)
    assert not log.filters
