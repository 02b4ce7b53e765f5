"""Decoding steps: attention of one token over a cache, the traffic of the cache, and what is said of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from graphs import ops
from graphs.errors import TracingError
from graphs.estimation import estimate_trace
from graphs.hardware.mappers.registry import create_mapper
from graphs.tracing import Trace, family, library
from graphs.tracing.decoding import notes
from graphs.tracing.frontends import load_model, trace_model

stored = pytest.mark.skipif("gpt2-decode-s1024" not in library.names(), reason="data/traces is not here")


def calls(t: Trace, op: str) -> list[tuple[dict, int]]:
    return [(dict(o.params), o.count) for o in t.operators if o.op == op]


def test_one_token_over_a_cache_is_decoding_without_transformers() -> None:
    torch = pytest.importorskip("torch")
    from graphs.tracing import trace

    class Attention(torch.nn.Module):
        """Six heads of 32 that share two of keys and values; the cache is written into in place."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv = torch.nn.Linear(192, 192, bias=False), torch.nn.Linear(192, 128, bias=False)

        def forward(self, x, keys, values, at):
            b = x.shape[0]
            q = self.q(x).view(b, 1, 6, 32).transpose(1, 2)
            k, v = self.kv(x).view(b, 1, 2, 2, 32).permute(2, 0, 3, 1, 4).unbind(0)
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
            out = torch.nn.functional.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
            return out.transpose(1, 2).reshape(b, 1, 192)

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    given = (empty(3, 1, 192), empty(3, 2, 77, 32), empty(3, 2, 77, 32), empty(1, dtype=torch.int64))
    t = trace(Attention(), given, dtype="bf16")
    params = {"b": 3, "h": 6, "hkv": 2, "s": 1, "skv": 77, "d": 32, "causal": False}
    assert calls(t, "sdpa_decode") == [(params, 1)]
    cost = ops.evaluate("sdpa_decode", params, 2)
    # two products of a row of 32 with 77 keys, a multiply and an add each; q and the output, keys and values
    assert cost.flops == 2 * 2 * 3 * 6 * 77 * 32
    assert cost.bytes == 2 * (2 * 3 * 6 * 32 + 2 * 3 * 2 * 77 * 32)
    # In place, only the token's keys and values move, read and written: not the 77 that are kept.
    written = [o for o in t.operators if "index_copy" in o.aten]
    assert [(o.op, o.params["numel"], o.count) for o in written] == [("copy", 3 * 2 * 32, 2)]
    assert not calls(t, "sdpa")


TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 50}  # fmt: skip


def config(folder: Path, **settings: object) -> str:
    path = folder / "tiny.json"
    path.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **TINY, **settings}))
    return f"hf:{path}"


def tiny(folder: Path, **settings: object) -> str:
    pytest.importorskip("transformers", reason="transformers builds these models and is not installed")
    return config(folder, **settings)


def test_a_step_of_a_language_model(tmp_path: Path) -> None:
    spec = tiny(tmp_path)
    t = trace_model(f"{spec}-decode-s40", 5, "bf16")
    assert (t.name, t.batch, t.dtype, t.unmodelled) == ("tiny-decode-s40", 5, "bf16", ())
    assert calls(t, "sdpa_decode") == [
        ({"b": 5, "h": 4, "hkv": 2, "s": 1, "skv": 40, "d": 16, "causal": False}, 3)
    ]  # fmt: skip
    assert not calls(t, "sdpa") + calls(t, "sdpa_mask")
    # Keys and values of each layer: 39 tokens joined with one, all read and all written.
    assert [(p["n"], tuple(p["c"]), n) for p, n in calls(t, "cat_channels")] == [(5 * 2, (39 * 16, 16), 2 * 3)]
    assert {p["m"] for p, _ in calls(t, "linear")} == {5}
    assert sum(n for _, n in calls(t, "linear")) == 3 * 7 + 1
    (joined,) = [o for o in t.operators if o.op == "cat_channels"]
    assert ops.evaluate(joined.op, joined.params, 2).bytes == 2 * 2 * 5 * 2 * 40 * 16
    assert joined.module.endswith("layers.0.self_attn")
    cache = 2 * 3 * 5 * 2 * 39 * 16 * 2
    layer = 2 * 5 * 2 * 40 * 16 * 2
    # One cache, one layer's copy of it, and activations of 5 tokens (at most 96 or 50 wide), not two caches.
    assert cache + layer <= t.peak_activation_bytes < cache + layer + 5 * 10 * 96 * 4 < 2 * cache
    assert sum("decoding step" in n for n in t.notes) == 2
    assert any("tokens/s" in n for n in t.notes)
    assert any("not validated" in n for n in t.notes)
    prompt = trace_model(f"{spec}-s40", 5, "bf16")
    assert prompt.parameters == t.parameters
    assert not calls(prompt, "sdpa_decode") + calls(prompt, "cat_channels")
    assert not any("decoding" in n for n in prompt.notes)


@pytest.mark.parametrize("window", [None, 16])
def test_the_calls_are_those_of_a_step_that_runs(window: int | None, tmp_path: Path) -> None:
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
    spec = tiny(tmp_path, **(mistral if window else {}))
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.joined, self.attended, self.products = Counter(), Counter(), 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.name().split("::")[1].split(".")[0]
            if name == "cat" and len({t.shape for t in args[0]}) > 1:
                self.joined[tuple(t.shape[-2] * t.shape[-1] for t in args[0])] += 1
            elif "attention" in name:
                self.attended[(*args[0].shape, args[1].shape[-2])] += 1
            self.products += name in ("mm", "addmm")
            return func(*args, **(kwargs or {}))

    # On the processor, with weights, as generation does it: a prompt of 38 tokens, a step, and the step in question.
    model = load_model(f"{spec}-decode-s40").factory()
    model = type(model)(model.config).eval()
    token = torch.zeros(5, 1, dtype=torch.int64)
    with torch.no_grad():
        kept = model(token.expand(5, 38), use_cache=True).past_key_values
        model(token, past_key_values=kept, use_cache=True)
        with Seen() as seen:
            model(token, past_key_values=kept, use_cache=True)
    t = trace_model(f"{spec}-decode-s40", 5, "fp32")
    assert seen.joined == {tuple(p["c"]): n for p, n in calls(t, "cat_channels")}
    attention = calls(t, "sdpa_decode") + calls(t, "sdpa_mask")
    assert seen.attended == {tuple(p[k] for k in ("b", "h", "s", "d", "skv")): n for p, n in attention}
    assert seen.products == sum(n for _, n in calls(t, "linear"))


def test_a_full_window_bounds_the_cache(tmp_path: Path) -> None:
    spec = tiny(tmp_path, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=16)
    short = trace_model(f"{spec}-decode-s12", 1, "fp32")
    assert [p["skv"] for p, _ in calls(short, "sdpa_decode")] == [12]
    full = trace_model(f"{spec}-decode-s40", 1, "fp32")
    assert [(p["s"], p["skv"]) for p, _ in calls(full, "sdpa_mask")] == [(1, 16)]
    assert [tuple(p["c"]) for p, _ in calls(full, "cat_channels")] == [(15 * 16, 16)]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"], "intermediate_size": 96}, "form that is not known"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "form that is not known"),
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "form that is not known"),
    ],
)
def test_models_without_such_a_cache_are_refused(settings: dict, problem: str, tmp_path: Path) -> None:
    with pytest.raises(TracingError, match=problem):
        trace_model(f"{tiny(tmp_path, **settings)}-decode-s40", 1)


def test_what_a_step_cannot_be_is_said(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    spec = config(tmp_path)
    with pytest.raises(TracingError, match="needs an earlier token"):
        load_model(f"{spec}-decode-s1")
    with pytest.raises(TracingError, match="a decoding step is not trained"):
        trace_model(f"{spec}-decode-s40", 1, training=True)
    with pytest.raises(TracingError, match="needs a training step"):
        trace_model(f"{spec}-decode-s40", 1, optimizer="sgd")
    assert load_model(f"{spec}-decode", sequence=64).name == "tiny-decode-s64"
    assert load_model(f"{spec}-s64").notes == ()


@stored
@pytest.mark.parametrize(
    ("name", "layers", "heads", "width", "tokens", "parameters"),
    [("gpt2-decode-s1024", 12, 12, 64, 1024, 124_439_808),
     ("llama-7b-decode-s2048", 32, 32, 128, 2048, 6_738_415_616)],
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 8])
def test_stored_steps(name: str, layers: int, heads: int, width: int, tokens: int, parameters: int, batch: int) -> None:
    for dtype in ("fp32", "bf16"):
        t = trace_model(f"hf:{name}", batch, dtype)
        assert (t.name, t.batch, t.dtype, t.parameters, t.unmodelled) == (name, batch, dtype, parameters, ())
        params = {"b": batch, "h": heads, "hkv": heads, "s": 1, "skv": tokens, "d": width, "causal": False}
        assert calls(t, "sdpa_decode") == [(params, layers)]
        moved = Counter()
        for p, n in calls(t, "cat_channels"):
            moved[p["n"] * sum(p["c"])] += n
        assert moved == {batch * heads * tokens * width: 2 * layers}
        # Every weight but the token table (unless the head shares it) and positions is multiplied once a token.
        work = sum(
            o.count * ops.evaluate(o.op, o.params, ops.itemsize(o.dtype)).flops
            for o in t.operators
            if o.op in ("linear", "addmm")
        )
        assert work == pytest.approx(2 * batch * parameters, rel=0.02)
        assert set(notes(tokens)) < set(t.notes)
        assert any("stored trace" in n for n in t.notes)


@stored
def test_a_stored_step_is_what_tracing_gives() -> None:
    pytest.importorskip("transformers", reason="transformers builds these models and is not installed")
    from graphs.tracing import trace

    model = load_model("hf:gpt2-decode-s1024")
    fresh = trace(model.factory(), model.make_inputs(3), dtype="bf16", name=model.name)
    kept = library.load_trace("gpt2-decode-s1024", 3, "bf16")
    assert family.same_calls(kept, fresh)


@stored
def test_throughput_is_tokens_a_second_and_attention_is_the_fitted_kind() -> None:
    e = estimate_trace(trace_model("hf:gpt2-decode-s1024", 8, "bf16"), create_mapper("h200-sxm"), "device")
    assert e.throughput_per_s == pytest.approx(8 / e.latency_s)
    assert any("inputs/s are tokens/s" in n for n in e.notes)
    decode = [o for o in e.operators if o.op == "sdpa_decode"]
    assert len(decode) == 12
    assert {o.source for o in decode} == {"model"}
    # No device reads its memory faster than the peak.
    assert all(0 < o.efficiency <= 1 for o in decode)
