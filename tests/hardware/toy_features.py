"""Features of single calls on a made-up machine with round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graphs import ops
from graphs.hardware.calibration.features import Machine, build

#: A made-up machine with round numbers: 100 units, 2^25 bytes of cache, 2^40 B/s.
TOY = Machine(100, 2.0**25, {"fp32": 2.0**45, "tf32": 2.0**47, "fp16": 2.0**48, "bf16": 2.0**48}, 2.0**40)


def one(op: str, dtype: str = "fp32", **params: Any) -> dict[str, float]:
    """Return the features of one call on the made-up machine, by name."""
    (group,) = ops.group_operators([op], [dtype], [params])
    names, x = build(group, TOY)
    return dict(zip(names, x[0].tolist(), strict=True))


def on_processor(op: str, dtype: str = "fp32", **params: Any) -> dict[str, float]:
    """Return the features of one call on the made-up machine as a CPU of 16 cores."""
    (group,) = ops.group_operators([op], [dtype], [params])
    names, x = build(group, replace(TOY, kind="cpu", units=16))
    return dict(zip(names, x[0].tolist(), strict=True))
