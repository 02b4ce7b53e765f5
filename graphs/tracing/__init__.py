"""From any torch.nn.Module and example inputs to operator calls.  `trace` needs torch; `Trace` does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphs.errors import MissingExtraError
from graphs.tracing.memory import Memory, memory
from graphs.tracing.trace import Trace, TracedOperator

if TYPE_CHECKING:
    import torch

    from graphs.tracing.tracer import Inputs

__all__ = ["Memory", "Trace", "TracedOperator", "memory", "trace"]


# Defined after the import of the module of the same name, so that the package's attribute is the function.
def trace(
    module: torch.nn.Module, inputs: Inputs, *, dtype: str | None = None, name: str | None = None,
    training: bool = False, optimizer: str | None = None,
) -> Trace:  # fmt: skip
    """Trace the forward pass of `module`, or a training step, without running it; see `graphs.tracing.tracer.trace`.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    TracingError, DtypeError
        As `graphs.tracing.tracer.trace`.
    """
    try:
        from graphs.tracing.tracer import trace as run
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError(
            "tracing a module needs torch, which is not installed",
            allowed="saved traces, read with graphs.tracing.Trace.load",
            next_step="pip install 'graphs[trace]'",
        ) from error
    return run(module, inputs, dtype=dtype, name=name, training=training, optimizer=optimizer)
