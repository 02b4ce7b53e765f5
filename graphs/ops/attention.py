"""Scaled dot-product attention: the two products, 4 b h s skv d FLOP; a causal mask halves them.

The softmax between the products is not counted, and the scores are no traffic: they are neither input nor output.
"""

from __future__ import annotations

from graphs.ops.shapes import Dim, Rules
from graphs.ops.spec import Cost, Param, operator

# Fewer heads for k and v than for q: grouped-query attention (hkv = 1: multi-query).
_HKV = Param("hkv", like="h")
_SKV = Param("skv", like="s")
_CAUSAL = Param("causal", bool, False)
_HKV_DIVIDES_H = {"hkv divides h": lambda p: p["h"] % p["hkv"] == 0}


def _elements(b: Dim, h: Dim, hkv: Dim, s: Dim, skv: Dim, d: Dim) -> Dim:
    """Return the elements of q, k, v and the output together."""
    return 2 * b * h * s * d + 2 * b * hkv * skv * d


# tf32 differs from fp32 where hkv < h: all 32 profiled H100 calls in fp32 ran plain matrix products, 33 of 35 in tf32
# tensor-core ones (20 to 60 % less time).  With hkv = h both run the same fused kernel.
@operator(
    "sdpa",
    "b",
    "h",
    _HKV,
    "s",
    _SKV,
    "d",
    _CAUSAL,
    # bshd: q, k and v are transposed views of (b, s, h, d) tensors, as projections leave them.
    Param("layout", str, "bhsd", choices=("bhsd", "bshd")),
    family="sdpa",
    uses_matrix_units=True,
    check=Rules(_HKV_DIVIDES_H),
)
def sdpa(b: Dim, h: Dim, hkv: Dim, s: Dim, skv: Dim, d: Dim, causal: Dim, layout: Dim, itemsize: Dim) -> Cost:
    """out(b, h, s, d) of q(b, h, s, d), k and v(b, hkv, skv, d)."""
    return Cost(2 * b * h * s * skv * d * (2 - causal), _elements(b, h, hkv, s, skv, d) * itemsize)


# All 53 profiled calls, fp32 and tf32, ran one fused kernel (measured with hkv = h only): tf32 counts as fp32.
@operator(
    "sdpa_mask",
    "b",
    "h",
    _HKV,
    "s",
    _SKV,
    "d",
    Param("mask", str, choices=("bool", "float")),
    family="sdpa",
    check=Rules(_HKV_DIVIDES_H),
)
def sdpa_mask(b: Dim, h: Dim, hkv: Dim, s: Dim, skv: Dim, d: Dim, mask: Dim, itemsize: Dim) -> Cost:
    """Attention with an explicit mask (b, 1, s, skv), which saves no work; float masks have the row's dtype."""
    is_bool = (mask == "bool") * 1
    mask_bytes = b * s * skv * (is_bool + (1 - is_bool) * itemsize)
    return Cost(4 * b * h * s * skv * d, _elements(b, h, hkv, s, skv, d) * itemsize + mask_bytes)


# A new token's products are matrix-vector: tf32 and fp32 rows differ by less than 1 % (paired configurations, and a
# model of the fp32 rows on the tf32 rows).
@operator(
    "sdpa_decode",
    "b",
    "h",
    _HKV,
    Param("s", default=1),
    "skv",
    "d",
    _CAUSAL,
    family="sdpa_decode",
    check=Rules(
        {
            "s is 1, one new token (use sdpa for more)": lambda p: p["s"] == 1,
            "causal is false (one new token sees all keys)": lambda p: p["causal"] == 0,
            **_HKV_DIVIDES_H,
        }
    ),
)
def sdpa_decode(b: Dim, h: Dim, hkv: Dim, s: Dim, skv: Dim, d: Dim, causal: Dim, itemsize: Dim) -> Cost:
    """Attention of one new token, q(b, h, 1, d), over a cache of skv keys and values."""
    return Cost(4 * b * h * s * skv * d, _elements(b, h, hkv, s, skv, d) * itemsize)
