"""Reductions, norms and scans."""

from __future__ import annotations

import math
from typing import Any

from graphs.tracing.layout import View
from graphs.tracing.rules.core import Call, Priced, both, nchw, rule, traffic
from graphs.tracing.rules.memory import copied


def reduce(call: Call, kind: str, dims: Any, notes: list[str]) -> list[Priced]:
    """Price a reduction of the first argument over `dims` (None or empty: all) as `kind`, mean or sum."""
    x = call.args[0]
    if not x.numel:
        return []
    ndim = len(x.shape)
    dims = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,) if isinstance(dims, int) else ()
    over = {d % ndim for d in dims} if dims and ndim else set(range(ndim))
    cols = math.prod(x.shape[d] for d in over)
    if not x.measured:
        return traffic(call, f"{call.base} of {x.dtype}")
    notes = list(notes)
    if not _inner(x, over):
        notes.append("not over the inner dimension")
    if call.result.floating and call.result.dtype != x.dtype:
        notes.append(f"result in {call.result.dtype}")
    return [Priced(kind, {"rows": x.numel // cols, "cols": cols}, x.dtype, *both(notes))]


def _inner(x: View, over: set[int]) -> bool:
    """Whether the dimensions reduced are the innermost in memory."""
    if not x.dense:
        return False
    kept = [x.stride[d] for d in range(len(x.shape)) if d not in over and x.shape[d] > 1]
    gone = [x.stride[d] for d in over if x.shape[d] > 1]
    return not kept or not gone or min(kept) > max(gone)


@rule("mean", "sum")
def mean(call: Call) -> list[Priced]:
    return reduce(call, call.base, call.arg(99, "dim"), [])


@rule("amax", "amin", "max", "min", "prod", "argmax", "argmin", "any", "all", "norm", "linalg_vector_norm", "var",
      "std", "var_mean", "std_mean", "logsumexp", "nansum", "aminmax", "count_nonzero", "median", "cumprod", "cummax",
      "logcumsumexp")  # fmt: skip
def other(call: Call) -> list[Priced]:
    if call.base in ("max", "min") and len(call.inputs) == 2:
        return traffic(call, f"{call.base} of two tensors")
    if call.base in ("cumprod", "cummax", "logcumsumexp"):
        return cumsum(call)
    dims = call.arg(99, "dim")
    return reduce(call, "mean", dims, [f"{call.base} as mean"])


@rule("softmax", "_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> list[Priced]:
    return _along(call, "softmax", call.args[1], ["log_softmax"] if "log" in call.base else [])


@rule("cumsum")
def cumsum(call: Call) -> list[Priced]:
    return _along(call, "cumsum", call.args[1], [] if call.base == "cumsum" else [f"{call.base} as cumsum"])


def _along(call: Call, kind: str, dim: int, notes: list[str]) -> list[Priced]:
    x = call.args[0]
    if not x.numel or not x.shape:
        return []
    if not x.measured:
        return traffic(call, f"{call.base} of {x.dtype}")
    cols = x.shape[dim]
    if math.prod(x.shape[dim % len(x.shape) + 1 :]) != 1:
        notes = [*notes, "not along the inner dimension"]
    first = [] if x.contiguous or kind != "softmax" else copied(x)
    return [*first, Priced(kind, {"rows": x.numel // cols, "cols": cols}, x.dtype, *both(notes))]


@rule("native_layer_norm")
def layer_norm(call: Call) -> list[Priced]:
    x, shape = call.args[:2]
    return _normalised(call, "layernorm", x, math.prod(shape))


@rule("rms_norm", "_fused_rms_norm", whole=True)
def rms_norm(call: Call) -> list[Priced]:
    x, shape = call.args[:2]
    return _normalised(call, "rmsnorm", x, math.prod(shape))


def _normalised(call: Call, kind: str, x: View, cols: int) -> list[Priced]:
    if not x.numel:
        return []
    first = [] if x.contiguous else copied(x)
    weight = next((v for v in call.inputs[1:] if v.dtype != x.dtype), None)
    notes = [f"weights in {weight.dtype}"] if weight is not None else []
    return [*first, Priced(kind, {"rows": x.numel // cols, "cols": cols}, x.dtype, *both(notes))]


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm")  # fmt: skip
def batch_norm(call: Call) -> list[Priced]:
    x = call.args[0]
    if not x.numel:
        return []
    training = bool(call.arg(99, "training", call.base in ("_batch_norm_with_update", "_native_batch_norm_legit")))
    if call.base == "_native_batch_norm_legit_no_training":
        training = False
    notes = ["statistics of the batch"] if training else []
    view = _as_image(x)
    if view is not x:
        notes.append(f"{len(x.shape)}-d input")
    weight = next((v for v in call.inputs[1:] if v.dtype != x.dtype), None)
    if weight is not None:
        notes.append(f"weights in {weight.dtype}")
    # Statistics read the input once more.
    times = [Priced("mean", {"rows": x.shape[1], "cols": x.numel // x.shape[1]}, x.dtype, "near", "batch statistics")]
    first = times if training else []
    first += [] if x.contiguous or x.channels_last or len(x.shape) != 4 else copied(x)
    return [*first, Priced("batchnorm", nchw(view), x.dtype, *both(notes))]


def _as_image(x: View) -> View:
    """Return (n, c), (n, c, l) and (n, c, d, h, w) as (n, c, h, w)."""
    if len(x.shape) == 4:
        return x
    n, c, *rest = x.shape
    return View((n, c, math.prod(rest), 1), (c * math.prod(rest), math.prod(rest), 1, 1), x.dtype, x.itemsize)


@rule("native_group_norm")
def group_norm(call: Call) -> list[Priced]:
    x, groups = call.args[0], call.arg(6, "group")
    if not x.numel:
        return []
    notes = [] if groups == 32 else [f"{groups} groups"]
    view = _as_image(x)
    if view is not x:
        notes.append(f"{len(x.shape)}-d input")
    first = [] if x.contiguous or x.channels_last else copied(x)
    return [*first, Priced("groupnorm", {**nchw(view), "groups": groups}, x.dtype, *both(notes))]


@rule("topk", "sort", "argsort", "kthvalue", "unique", "multinomial", "searchsorted", "bucketize", "histc", "bincount")
def sorting(call: Call) -> list[Priced]:
    return traffic(call, f"{call.base} as its traffic: sorting costs more")
