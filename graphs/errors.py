"""Typed errors.  Each message names the thing, what was received, what is allowed and the next step."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Self

#: Stands for a value that was not given: None is a value that may have been received.
_NOT_GIVEN: Any = object()


class GraphsError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    problem : str
        What is wrong, naming the thing.
    received, allowed : optional
        The offending value, None too, and what would have been accepted.
    next_step : str, optional
        What the reader can do about it.
    """

    def __init__(
        self, problem: str, *, received: Any = _NOT_GIVEN, allowed: Any = None, next_step: str | None = None
    ) -> None:
        self.problem, self.allowed, self.next_step = problem, allowed, next_step
        self.received = None if received is _NOT_GIVEN else received
        self._given = received
        parts = [problem.rstrip(".")]
        if received is not _NOT_GIVEN:
            parts.append(f"received {received!r}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        if next_step is not None:
            parts.append(next_step)
        super().__init__("; ".join(parts) + ".")

    def at(self, where: str) -> Self:
        """Return this error with the place where it was met, such as a row of a table, in front."""
        return type(self)(
            f"{where}: {self.problem}", received=self._given, allowed=self.allowed, next_step=self.next_step
        )


class UnknownHardwareError(GraphsError, LookupError):
    """No profile has this id.  Never answered with another device's numbers."""


class UnknownOperatorError(GraphsError, LookupError):
    """No operator kind is registered under this name."""


class OperatorParameterError(GraphsError, ValueError):
    """A dimension is missing, unknown, zero, negative, not an integer, or of the wrong type."""


class DtypeError(GraphsError, ValueError):
    """The dtype is unknown, or the hardware has no peak for it."""


class ProfileError(GraphsError, ValueError):
    """A hardware profile cannot be read or contradicts itself."""


class ModelFileError(GraphsError, ValueError):
    """A fitted model is missing, corrupted, or not made for this hardware."""


class SchemaVersionError(ModelFileError):
    """A file was written by another version of this package."""


class DataError(GraphsError, ValueError):
    """A table of measurements cannot be read."""


class OutOfDomainError(GraphsError, ValueError):
    """The query lies outside the applicability domain and the caller asked for an error there."""


class TracingError(GraphsError, RuntimeError):
    """A module could not be traced."""


class MissingExtraError(GraphsError, ImportError):
    """An optional dependency is not installed."""


#: Names that an error lists where none is near.
SHOWN = 24


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a short phrase with the names nearest to `name`; where none is near `otherwise`, or the first of them.

    >>> nearest("h100", ["h100-sxm", "xeon-16c"])
    'h100-sxm'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    if near or otherwise:
        return ", ".join(near) or otherwise
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
