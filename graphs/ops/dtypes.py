"""Dtypes by their short names and the size of an element."""

from __future__ import annotations

from graphs.errors import DtypeError, nearest

#: Bytes an element.  tf32 is fp32 tensors with TF32 matrix units allowed.
ITEMSIZE = {
    "fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "bool": 1,
}  # fmt: skip

_ALIASES = {
    "float64": "fp64", "double": "fp64", "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16",
    "bfloat16": "bf16", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8",
    "uint8": "int8", "long": "int64", "int": "int32",
}  # fmt: skip


def canonical(dtype: object) -> str:
    """Return the short name of a dtype given as a string or a framework's dtype.

    >>> canonical("torch.bfloat16")
    'bf16'
    """
    text = str(dtype).strip().lower().removeprefix("torch.")
    name = _ALIASES.get(text, text)
    if name not in ITEMSIZE:
        raise DtypeError(
            "unknown dtype",
            received=text if dtype is None else dtype,
            allowed=", ".join(ITEMSIZE),
            next_step=f"did you mean {nearest(text, [*ITEMSIZE, *_ALIASES], 'one of these')}?",
        )
    return name


def itemsize(dtype: object) -> int:
    """Return the bytes of one element."""
    return ITEMSIZE[canonical(dtype)]
