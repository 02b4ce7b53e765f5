"""What the formulas share: output sizes, memory formats, and rules between parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphs.ops.spec import Param

#: A dimension: an integer for one call, a float64 column for many.
Dim = Any

#: Order of the elements in memory: (n, c, h, w) or (n, h, w, c).
FMT = Param("fmt", str, "contiguous", choices=("contiguous", "channels_last"))
NCHW = (Param("n"), Param("c"), Param("h"), Param("w"))


class Rules:
    """Relations that the parameters of one kind must satisfy, for the `check` of `graphs.ops.operator`.

    Parameters
    ----------
    rules : dict of str to callable
        The rule in words, and a predicate of the mapping of parameters.  Predicates are plain
        arithmetic and comparisons, so that they hold for columns as well.

    Examples
    --------
    >>> rules = Rules({"groups divides c": lambda p: p["c"] % p["groups"] == 0})
    >>> rules(c=8, groups=3)
    'groups divides c'
    >>> rules(c=9, groups=3) is None
    True
    """

    def __init__(self, rules: Mapping[str, Callable[[Mapping[str, Any]], Any]]) -> None:
        self.rules = dict(rules)

    def __call__(self, **params: Any) -> str | None:
        for text, holds in self.rules.items():
            if not holds(params):
                return text
        return None


def smaller(a: Dim, b: Dim) -> Dim:
    """Return the smaller of two numbers, element by element.

    >>> smaller(3, 1024)
    3
    """
    return a * (a <= b) + b * (a > b)


def window_outputs(size: Dim, k: Dim, stride: Dim, pad: Dim) -> Dim:
    """Return how many windows of `k` fit along one axis, padded with `pad` on both sides.

    >>> window_outputs(224, 7, 2, 3)
    112
    """
    return (size + 2 * pad - k) // stride + 1
