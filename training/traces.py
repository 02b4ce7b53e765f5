"""The trace of a network by the name that the tables of measured models give it."""

from __future__ import annotations

from graphs.errors import GraphsError
from graphs.tracing import language
from graphs.tracing.frontends import trace_model
from graphs.tracing.library import UnknownTraceError, load_trace
from graphs.tracing.trace import Trace


def find_trace(name: str, batch: int, dtype: str) -> Trace:
    """Return the stored trace, or trace the network where the library that has it is installed.

    Parameters
    ----------
    name : str
        ``resnet50``, ``bert-base-s128``.
    batch : int
    dtype : str

    Raises
    ------
    UnknownTraceError
        If it is not stored and cannot be built here, for the reason that it comes from.
    TracingError, DtypeError
        As `graphs.tracing.library.load_trace`.
    """
    try:
        return load_trace(name, batch, dtype)
    except UnknownTraceError as not_stored:
        source = "hf" if language.split_name(name)[0] in language.MODELS else "torchvision"
        try:
            return trace_model(f"{source}:{name}", batch, dtype)
        except GraphsError as error:
            raise not_stored from error
