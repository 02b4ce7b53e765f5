"""What a traced call is priced as where its own kind was never measured: a kind that runs nearly the same kernel.

Only whole models use this, and every such row says so (source ``proxy``); a query for the kind itself stays outside the
applicability domain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from graphs import ops

Params = Mapping[str, Any]
Substitute = tuple[str, dict[str, Any]]


def _numel(p: Params) -> int:
    if "numel" in p:
        return int(p["numel"])
    if "rows" in p:
        return int(p["rows"] * p["cols"])
    return int(p["n"] * p["c"] * p["h"] * p["w"])


def _same_bytes(op: str, p: Params, dtype: str) -> Substitute:
    """Return the plain copy that moves as many bytes."""
    size = ops.itemsize(dtype)
    return "copy", {"numel": max(1, round(ops.evaluate(op, p, size).bytes / (2 * size)))}


def _as(kind: str, **fixed: Any) -> Callable[[str, Params, str], Substitute]:
    return lambda op, p, dtype: (kind, {"numel": _numel(p), **fixed})


_RULES: dict[str, Callable[[str, Params, str], Substitute]] = {
    **dict.fromkeys(
        ("relu_nd", "relu6", "hardsigmoid", "clamp", "abs", "neg", "add_scalar", "mul_scalar", "pow2"), _as("relu")
    ),
    **dict.fromkeys(("rsqrt", "cos", "erf"), _as("exp")),
    "add_nd": _as("add"),
    "add_strided": _as("add"),
    "sub": lambda op, p, dtype: ("add", {"numel": p["numel"], "bcast": p.get("bcast", False)}),
    "mul_row": _as("mul", bcast=True),
    "mul_channel": _as("mul", bcast=True),
    "addmm": lambda op, p, dtype: ("linear", {**p, "bias": True}),
    "mean": lambda op, p, dtype: ("sum", dict(p)),
    "index_select": lambda op, p, dtype: (
        "embedding", {"rows": p["take"], "vocab": p["rows"], "dim": p["cols"]},
    ),
    # one query on a cache is a kernel of its own, which many queries on as many keys tell nothing of
    "sdpa_mask": lambda op, p, dtype: (
        "sdpa_decode" if p["s"] == 1 else "sdpa", {k: p[k] for k in ("b", "h", "hkv", "s", "skv", "d")},
    ),
    "groupnorm": lambda op, p, dtype: (
        "layernorm", {"rows": p["n"] * p["groups"], "cols": p["c"] // p["groups"] * p["h"] * p["w"]},
    ),
    **dict.fromkeys(
        ("cast", "permute_copy", "roll", "pad2d", "cat_channels", "where", "upsample2d", "transpose", "cat"),
        _same_bytes,
    ),
}  # fmt: skip


def substitute(op: str, params: Params, dtype: str, measured: Collection[str]) -> Substitute | None:
    """Return the kind and parameters to price a call as, or None where it was measured or nothing fits.

    Parameters
    ----------
    op, params, dtype
        The call.
    measured : collection of str
        Kinds that the hardware's model knows.
    """
    if op in measured or op not in _RULES:
        return None
    found = _RULES[op](op, ops.get(op).validate(params), dtype)
    return found if found[0] in measured else None
