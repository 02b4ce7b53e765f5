"""Operators that move data: copies of views, joins, look-ups, fills, casts."""

from __future__ import annotations

import math
from typing import Any

from graphs.tracing.layout import View, as_views, broadcast_strides, coalesce, pattern
from graphs.tracing.rules.core import Call, Priced, both, nchw, rule, storage, traffic


def contiguous_like(x: View) -> View:
    """Return `x` as a fresh contiguous tensor."""
    strides, step = [], 1
    for n in reversed(x.shape):
        strides.append(step)
        step *= n
    return View(x.shape, tuple(reversed(strides)), x.dtype, x.itemsize)


def copied(x: View, out: View | None = None, note: str = "") -> list[Priced]:
    """Return the copy of a view into `out` (None: a contiguous tensor), in one dtype."""
    out = contiguous_like(x) if out is None else out
    if not out.numel:
        return []
    dtype, elements = storage(x.dtype, x.itemsize)
    stand_in = "" if dtype == x.dtype else f"{x.dtype} as {dtype}"
    shape, (to, own) = coalesce(out.shape, [out.stride, broadcast_strides(x, out.shape)])
    if 0 in own or (elements != 1.0 and len(shape) > 1):
        numel = max(1, round((x.bytes + out.bytes) / 2 / {"fp32": 4}.get(dtype, 2)))
        return [Priced("copy", {"numel": numel}, dtype, "proxy", stand_in or "repeats its input")]
    if len(shape) <= 1 and own in ((), (1,)) and to in ((), (1,)):
        numel = max(1, round(out.numel * elements))
        return [Priced("copy", {"numel": numel}, dtype, "proxy" if stand_in else "exact", stand_in)]
    order = sorted(range(len(shape)), key=lambda i: -own[i])
    source = tuple(shape[i] for i in order)
    perm = tuple(order.index(i) for i in range(len(shape)))
    gaps = "" if _dense(shape, own) and _dense(shape, to) else "rows with gaps"
    if perm == tuple(range(len(shape))):
        return [Priced("copy", {"numel": out.numel}, dtype, *both([gaps, note]))]
    match = both([gaps, note, "" if len(shape) <= 4 else f"{len(shape)} dimensions"])
    if perm in ((1, 0, 2), (0, 2, 1, 3)):
        b, s, h, d = source if len(source) == 4 else (1, *source)
        return [Priced("transpose", {"b": b, "s": s, "h": h, "d": d}, dtype, *match)]
    if len(source) == 2:
        source, perm = (1, *source), (0, 2, 1)
    return [Priced("permute_copy", {"shape": source, "perm": perm}, dtype, *match)]


def _dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    return View(shape, stride, "", 1).dense


def reordered(x: View, channels_last: bool) -> list[Priced]:
    """Return the copy of a 4-d tensor into channels_last or contiguous."""
    if not channels_last:
        return copied(x)
    _, c, h, w = x.shape
    return copied(x, View(x.shape, (h * w * c, 1, w * c, c), x.dtype, x.itemsize))


@rule("clone", "contiguous", "_reshape_copy", "view_copy", "permute_copy", "expand_copy", "alias_copy", "slice_copy",
      "repeat", "lift_fresh_copy")  # fmt: skip
def clone(call: Call) -> list[Priced]:
    x, out = call.args[0], call.result
    if call.base == "repeat":
        return traffic(call, "repeats its input")
    if x.shape != out.shape:
        x = View(out.shape, contiguous_like(out).stride, x.dtype, x.itemsize)
    return copied(x, out)


@rule("copy")
def copy(call: Call) -> list[Priced]:
    to, source = call.args[0], call.args[1]
    return _cast(call, source, to) if source.dtype != to.dtype else copied(source, to)


@rule("_to_copy")
def to_copy(call: Call) -> list[Priced]:
    x, out = call.args[0], call.result
    if x.dtype != out.dtype:
        return _cast(call, x, out)
    return copied(x, out)


def _cast(call: Call, x: View, out: View) -> list[Priced]:
    if not out.numel:
        return []
    if storage(x.dtype, x.itemsize)[0] != x.dtype or storage(out.dtype, out.itemsize)[0] != out.dtype:
        return traffic(call, f"{x.dtype} to {out.dtype}", nbytes=x.bytes + out.bytes)
    kind = pattern(out, x).kind
    notes = [] if kind == "full" or x.numel == 1 else [f"an input lying {kind}"]
    return [Priced("cast", {"numel": out.numel, "to": out.dtype}, x.dtype, *both(notes))]


@rule("cat", "concat", "stack", "hstack")
def cat(call: Call) -> list[Priced]:
    parts = [v for v in as_views(call.args[0]) if v.numel]
    if len(parts) <= 1:
        return [p for v in parts for p in copied(v)]
    out, dim = call.result, call.arg(1, "dim", 0)
    if call.base == "stack":
        dim %= len(out.shape)
        parts = [_unsqueezed(v, dim) for v in parts]
    dim %= len(out.shape)
    dtype = out.dtype
    if not out.measured:
        return traffic(call, f"cat of {out.dtype}")
    notes = [] if all(v.contiguous for v in parts) or out.channels_last else ["strided inputs"]
    if len({v.dtype for v in parts}) > 1:
        notes.append("inputs of several dtypes")
    if dim == 1 and len(out.shape) == 4 and out.shape[2] * out.shape[3] > 1:
        image = {**nchw(out), "c": [v.shape[1] for v in parts]}
        return [Priced("cat_channels", image, dtype, *both(notes))]
    rows, inner = math.prod(out.shape[:dim]), math.prod(out.shape[dim + 1 :])
    sizes = [v.shape[dim] * inner for v in parts]
    if len(set(sizes)) == 1:
        return [Priced("cat", {"parts": len(parts), "rows": rows, "cols": sizes[0]}, dtype, *both(notes))]
    image = {"n": rows, "c": sizes, "h": 1, "w": 1, "fmt": "contiguous"}
    return [Priced("cat_channels", image, dtype, *both([*notes, "unequal parts"]))]


def _unsqueezed(x: View, dim: int) -> View:
    return View((*x.shape[:dim], 1, *x.shape[dim:]), (*x.stride[:dim], 0, *x.stride[dim:]), x.dtype, x.itemsize)


@rule("split_with_sizes_copy", "unbind_copy", "narrow_copy", "_foreach_copy", "tril", "triu", "flip", "rot90",
      "index_add", "scatter", "scatter_add", "scatter_reduce", "index_put", "index_fill", "masked_scatter",
      "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter", "index_copy", "put", "im2col",
      "col2im", "grid_sampler_2d", "grid_sampler_3d", "affine_grid_generator", "_fft_r2c", "_fft_c2r", "_fft_c2c",
      "complex", "view_as_real_copy", "polar", "one_hot", "tril_indices", "triu_indices", "repeat_interleave",
      "channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "take", "diag_embed",
      "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
      "unfold_backward", "masked_select", "meshgrid", "angle", "conj_physical", "_unsafe_index_put", "eye",
      "fft_fftfreq", "_index_put_impl", "block_diag", "kron", "cartesian_prod", "tensor_split", "linspace",
      "_weight_norm_interface")  # fmt: skip
def moves(call: Call) -> list[Priced]:
    if call.base in ("index_put", "_index_put_impl", "_unsafe_index_put", "index_copy", "slice_scatter"):
        # In place, only what is written moves.
        written = [v for v in call.inputs[1:] if v.floating]
        if call.aten.split(".")[1].endswith("_"):
            return traffic(call, f"{call.base} as its traffic", nbytes=2 * sum(v.bytes for v in written))
    return traffic(call, f"{call.base} as its traffic")


@rule("fill", "zero", "zeros", "ones", "full", "arange", "zeros_like", "ones_like", "full_like", "new_zeros",
      "new_ones", "new_full", "normal", "uniform", "randn", "rand", "randn_like", "rand_like",
      "randint", "randperm", "random", "exponential")  # fmt: skip
def fills(call: Call) -> list[Priced]:
    out = call.result
    return traffic(call, f"{call.base} only writes", nbytes=out.bytes) if out.numel else []


@rule("embedding", "embedding_renorm")
def embedding(call: Call) -> list[Priced]:
    table, index = call.args[:2]
    if not index.numel:
        return []
    params = {"rows": index.numel, "vocab": table.shape[0], "dim": table.shape[1]}
    notes = [] if table.contiguous else ["a strided table"]
    return [Priced("embedding", params, storage(table.dtype, table.itemsize)[0], *both(notes))]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> list[Priced]:
    table, index = call.args[:2]
    params = {"rows": max(1, index.numel), "vocab": table.shape[0], "dim": table.shape[1]}
    return [Priced("embedding", params, table.dtype, "near", "summed in bags")]


@rule("index_select", "index", "_unsafe_index", "gather", "take_along_dim")
def select(call: Call) -> list[Priced]:
    x, out = call.args[0], call.result
    if not out.numel:
        return []
    dtype = storage(x.dtype, x.itemsize)[0]
    if call.base == "gather":
        return traffic(call, "gather as its traffic", nbytes=2 * out.bytes + call.arg(2, "index").bytes)
    dim, index = _one_index(call)
    if index is None or not x.measured:
        # As much read as written, and the indices.
        nbytes = 2 * out.bytes + sum(v.bytes for v in call.inputs[1:])
        return traffic(call, f"{call.base} as its traffic", dtype, nbytes)
    cols = math.prod(x.shape[dim + 1 :])
    outer = math.prod(x.shape[:dim])
    notes = ["" if x.contiguous else "a strided input", "" if outer == 1 else "along an inner dimension"]
    notes.append("" if call.base == "index_select" else f"{call.base} with one tensor")
    params = {"rows": outer * x.shape[dim], "take": outer * index.numel, "cols": cols}
    return [Priced("index_select", params, dtype, *both(notes))]


def _one_index(call: Call) -> tuple[int, View | None]:
    """Return the dimension and the indices if exactly one dimension is indexed, with integers."""
    if call.base == "index_select":
        return call.args[1] % max(1, len(call.args[0].shape)), call.args[2]
    given: list[tuple[int, Any]] = [(i, v) for i, v in enumerate(call.args[1]) if v is not None]
    if len(given) != 1 or given[0][1].dtype == "bool":
        return 0, None
    return given[0]


@rule("roll")
def roll(call: Call) -> list[Priced]:
    x, shifts, dims = call.args[0], call.args[1], call.arg(2, "dims", ())
    shifts = shifts if isinstance(shifts, (list, tuple)) else [shifts]
    if len(x.shape) == 4 and tuple(dims) == (1, 2) and len(set(shifts)) == 1 and x.numel:
        n, h, w, c = x.shape
        if x.measured:
            notes = ["" if x.contiguous else "a strided input"]
            # Back by as much is the same movement.
            params = {"n": n, "h": h, "w": w, "c": c, "shift": abs(shifts[0])}
            return [Priced("roll", params, x.dtype, *both(notes))]
    return traffic(call, "roll of other dimensions")


@rule("constant_pad_nd")
def pad(call: Call) -> list[Priced]:
    x, amounts = call.args[0], tuple(call.args[1])
    out = call.result
    if not any(amounts):
        return copied(x)
    even = len(x.shape) == 4 and len(amounts) == 4 and len(set(amounts)) == 1 and amounts[0] > 0
    if even and x.measured and (x.contiguous or x.channels_last):
        return [Priced("pad2d", {**nchw(x), "pad": amounts[0]}, x.dtype)]
    # All is filled, then the input is copied into it.
    return traffic(call, "padding of other sides", nbytes=x.bytes + out.bytes)
