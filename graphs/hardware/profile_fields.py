"""Checks of the fields of a profile file; each error names the field."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from graphs.errors import ProfileError


class Fields:
    """The fields of one object of a profile file, each returned in its type or refused by its name.

    Parameters
    ----------
    raw : mapping
    origin : str
        Name of the file, for messages.
    within : str
        What part of the profile this is, such as ``"thermal profile '15w': "``; empty for all of it.
    """

    def __init__(self, raw: Mapping[str, Any], origin: str, within: str = "") -> None:
        self.raw, self.origin, self.within = raw, origin, within

    def text(self, name: str) -> str:
        """Return a text that must be there."""
        if isinstance(value := self.raw[name], str) and value.strip():
            return value
        raise self._error(name, value, "text that is not empty")

    def optional_text(self, name: str) -> str | None:
        """Return a text, None where it is left out."""
        return self.text(name) if self.raw.get(name) is not None else None

    def number(self, name: str) -> float | None:
        """Return a finite number above 0, None where it is left out."""
        if (value := self.raw.get(name)) is None or positive(value):
            return value
        raise self._error(name, value, "a finite number > 0; leave it out where it is not known")

    def count(self, name: str) -> int:
        """Return a whole number from 1 up."""
        if positive(value := self.raw[name]) and value == int(value):
            return int(value)
        raise self._error(name, value, "a whole number >= 1")

    def numbers(self, name: str) -> dict[str, float]:
        """Return an object of finite numbers above 0, empty where it is left out."""
        values = self.object(name)
        for key, value in values.items():
            if not positive(value):
                raise self._error(f"{name}[{key}]", value, "a finite number > 0; leave it out where it is not known")
        return {key: float(value) for key, value in values.items()}

    def object(self, name: str) -> dict[str, Any]:
        """Return a JSON object, empty where it is left out."""
        if isinstance(value := self.raw.get(name, {}), Mapping):
            return {str(k): v for k, v in value.items()}
        raise self._error(name, value, "a JSON object")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty where it is left out."""
        if isinstance(value := self.raw.get(name, ()), (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise self._error(name, value, "a list of texts")

    def _error(self, name: str, value: Any, allowed: str) -> ProfileError:
        return ProfileError(
            f"{self.within}{name} of profile '{self.origin}' is not usable",
            received=value,
            allowed=allowed,
            next_step="correct the profile",
        )


def positive(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
