"""Errors of measuring that callers tell apart."""

from __future__ import annotations

from graphs.errors import GraphsError


class BusyFolderError(GraphsError, RuntimeError):
    """Another run writes into this folder.  Caught by nobody: the second run must not start."""


class RunFolderError(GraphsError, ValueError):
    """A folder holds a run that this call cannot continue (not asked to, another machine, another plan)."""


class UnmeasurableError(GraphsError, RuntimeError):
    """One configuration cannot be measured here.  The runner catches it and records the reason in the row."""


class DeviceLostError(UnmeasurableError):
    """A call left the device in a state in which it answers nothing.  The runner records the row and ends the run."""


class DeviceKindError(GraphsError, ValueError):
    """What was asked for exists on another kind of device only."""
