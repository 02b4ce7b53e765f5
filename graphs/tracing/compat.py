"""Libraries that run another program when they see a tracer: while tracing, they are told that there is none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def library_shims() -> Iterator[None]:
    """Let transformers build the program of an ordinary call.

    It recognises tensors without data and then writes attention masks out, which an ordinary call does not.
    """
    module: Any = sys.modules.get("transformers.utils.import_utils")
    original = getattr(module, "is_fake_tensor", None)
    if original is None:
        yield
        return
    module.is_fake_tensor = lambda x: False
    try:
        yield
    finally:
        module.is_fake_tensor = original
