"""Attention: the framework's one operator, its back ends, and the fused paths of its modules."""

from __future__ import annotations

from typing import Any

from graphs.tracing.layout import View
from graphs.tracing.rules.core import Call, Priced, both, product_dtype, rule, traffic


def attention(q: View, k: View, v: View, mask: View | None, causal: bool, bshd: bool | None = None) -> Priced:
    """Return scaled dot-product attention of q (..., s, d) over k and v (..., skv, d)."""
    s, d = q.shape[-2:]
    h = q.shape[-3] if len(q.shape) > 2 else 1
    hkv = k.shape[-3] if len(k.shape) > 2 else 1
    skv = k.shape[-2]
    b = q.numel // max(1, h * s * d)
    notes = [f"values of {v.shape[-1]} beside keys of {d}"] if v.shape[-1] != d else []
    params: dict[str, Any] = {"b": b, "h": h, "hkv": hkv, "s": s, "skv": skv, "d": d}
    dtype, stand_in = product_dtype(q)
    notes += [stand_in] if stand_in else []
    if mask is not None:
        if causal:
            notes.append("a mask and causal")
        if any(n != 1 for n in mask.shape[-3:-2]):
            notes.append("a mask for each head")
        return Priced("sdpa_mask", {**params, "mask": "bool" if mask.dtype == "bool" else "float"}, dtype, *both(notes))
    if s == 1:
        # One query sees the first key only if causal: aligned to the upper left corner.
        notes += ["causal with one query"] if causal and skv > 1 else []
        return Priced("sdpa_decode", {**params, "causal": False}, dtype, *both(notes))
    params["causal"] = bool(causal)
    if bshd if bshd is not None else transposed(q):
        params["layout"] = "bshd"
    return Priced("sdpa", params, dtype, *both(notes))


def transposed(q: View) -> bool:
    """Whether q lies as (b, s, h, d): a step to the next position is longer than one to the next head."""
    return len(q.shape) == 4 and q.shape[1] > 1 and q.shape[2] > 1 and q.stride[1] < q.stride[2]


@rule("scaled_dot_product_attention", whole=True)
def sdpa(call: Call) -> list[Priced]:
    q, k, v = call.args[:3]
    return [attention(q, k, v, call.arg(3, "attn_mask"), bool(call.arg(5, "is_causal", False)))]


@rule(
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def backend(call: Call) -> list[Priced]:
    q, k, v = call.args[:3]
    mask = call.arg(99, "attn_mask") or call.arg(99, "attn_bias")
    return [attention(q, k, v, mask, bool(call.arg(99, "is_causal", False)))]


@rule("_native_multi_head_attention", whole=True)
def multi_head(call: Call) -> list[Priced]:
    q, k, v, embed, heads = call.args[:5]
    mask = call.arg(11, "mask")
    return projections(q, k, v, embed, heads, mask)


def projections(q: View, k: View, v: View, embed: int, heads: int, mask: View | None) -> list[Priced]:
    """Return what a GPU runs for the fused self-attention module: a product, attention, a product.

    q, k and v come out of one product as views of (b, s, 3, h, d); with a mask, or heads that fused attention does not
    take, they are copied apart and the scores are written out.
    """
    b, s, _ = q.shape
    dtype, d = q.dtype, embed // heads
    fused = mask is None and d % 8 == 0
    into = Priced("linear", {"m": b * s, "n": 3 * embed, "k": embed, "bias": fused}, dtype)
    out = Priced("linear", {"m": b * s, "n": embed, "k": embed, "bias": True}, dtype)
    one = View((b, heads, s, d), (3 * s * embed, d, 3 * embed, 1), dtype, q.itemsize)
    if fused:
        return [into, attention(one, one, one, None, False, bshd=s > 1), out]
    split = Priced("permute_copy", {"shape": (b, s, 3, heads, d), "perm": (2, 0, 3, 1, 4)}, dtype, "near",
                   "bias, scale and split of q, k and v")  # fmt: skip
    scores = Priced("bmm", {"b": b * heads, "m": s, "n": s, "k": d}, dtype)
    mixed = Priced("bmm", {"b": b * heads, "m": s, "n": d, "k": s}, dtype)
    softmax = Priced("softmax", {"rows": b * heads * s, "cols": s}, dtype, "near", "masked softmax")
    joined = Priced("transpose", {"b": b, "s": heads, "h": s, "d": d}, dtype)
    return [into, split, scores, softmax, mixed, joined, out]


@rule("_transformer_encoder_layer_fwd", whole=True)
def encoder_layer(call: Call) -> list[Priced]:
    x, embed, heads = call.args[:3]
    use_gelu = bool(call.arg(7, "use_gelu"))
    hidden = call.arg(14, "ffn_weight_1").shape[0]
    mask = call.arg(18, "mask")
    b, s, _ = x.shape
    m, dtype = b * s, x.dtype
    norm = Priced("layernorm", {"rows": m, "cols": embed}, dtype)
    add = Priced("add", {"numel": m * embed, "bcast": False}, dtype)
    activation = f"with {'gelu' if use_gelu else 'relu'} in its epilogue"
    feed = [
        Priced("linear", {"m": m, "n": hidden, "k": embed, "bias": True}, dtype, "near", activation),
        Priced("linear", {"m": m, "n": embed, "k": hidden, "bias": True}, dtype),
    ]
    # Before or after each half makes no difference to what runs.
    return [*projections(x, x, x, embed, heads, mask), add, norm, *feed, add, norm]


@rule("_flash_attention_forward", "_efficient_attention_forward", "_nested_tensor_from_mask", whole=True)
def opaque(call: Call) -> list[Priced]:
    if call.base == "_nested_tensor_from_mask":
        return traffic(call, "padding removed")
    q, k, v = call.inputs[:3]

    def heads_first(x: View) -> View:
        order = (0, 2, 1, 3)
        return View(tuple(x.shape[i] for i in order), tuple(x.stride[i] for i in order), x.dtype, x.itemsize)

    if len(q.shape) != 4:
        return traffic(call, f"{call.base} of sequences of unequal length")
    causal = bool(call.arg(99, "is_causal", call.arg(99, "custom_mask_type", 0)))
    return [attention(heads_first(q), heads_first(k), heads_first(v), None, causal)]
