"""What an operator kind is: its parameters, its family, and the formula for its FLOP and bytes."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from graphs.errors import OperatorParameterError, UnknownOperatorError, nearest

#: Marks a parameter without a default.
REQUIRED: Any = object()
#: Largest dimension: float64 columns hold every integer up to here exactly.
LARGEST = 2**53
#: Any real number, numpy's too; typed so because `numbers.Real` has no arithmetic for type checkers.
_REAL: Any = numbers.Real


class Cost(NamedTuple):
    """Algorithmic work of one call.

    One multiply-add is 2 FLOP; every input, weight and output is counted once.  Python integers for
    one operator, float64 arrays for many.
    """

    flops: Any
    bytes: Any


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of an operator kind.

    `type` is ``int`` (a dimension, at least `low`), ``bool``, ``str`` (one of `choices`), or ``tuple``
    (a list of integers, each at least `low`).  A parameter with a default may be left out; `like` names
    an earlier parameter whose value is the default (the kernel width of a square kernel is its height).
    """

    name: str
    type: type = int
    default: Any = REQUIRED
    low: int = 1
    choices: tuple[str, ...] = ()
    like: str = ""

    @property
    def shown_default(self) -> str:
        """The default as it stands in a signature, empty for a parameter that must be given."""
        if self.like:
            return f" = {self.like}"
        return "" if self.default is REQUIRED else f" = {self.default!r}"

    def check(self, op: str, value: Any) -> Any:
        """Return `value` in its plain Python type, or raise `OperatorParameterError`."""
        if self.type is bool:
            if isinstance(value, (bool, np.bool_)):
                return bool(value)
            raise self._error(op, value, "true or false")
        if self.type is str:
            if isinstance(value, str) and value in self.choices:
                return str(value)
            raise self._error(op, value, ", ".join(self.choices))
        if self.type is tuple:
            if not (isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1) or len(value) == 0:
                raise self._error(op, value, f"a non-empty list of integers >= {self.low}")
            return tuple(self._integer(op, v) for v in value)
        return self._integer(op, value)

    def _integer(self, op: str, value: Any) -> int:
        if type(value) is int and self.low <= value <= LARGEST:  # nearly all; the rest of this costs time
            return value
        # Data frames turn integer columns with holes into floats: an integral float is the same number.
        integral = (
            not isinstance(value, bool)
            and isinstance(value, _REAL)
            and self.low <= value <= LARGEST  # also refuses nan and infinity
            and value == int(value)
        )
        if not integral:
            raise self._error(op, value, f"an integer >= {self.low} (at most 2**53)")
        return int(value)

    def _error(self, op: str, value: Any, allowed: str) -> OperatorParameterError:
        return OperatorParameterError(
            f"parameter '{self.name}' of operator '{op}' is not usable",
            received=value,
            allowed=allowed,
            next_step=f"see graphs.ops.get('{op}').signature for its parameters",
        )


@dataclass(frozen=True, slots=True)
class OperatorKind:
    """A registered operator kind.

    `cost` takes the parameters as keywords plus ``itemsize`` (bytes an element of the row's dtype) and
    returns `Cost`.  It uses plain arithmetic only, so that integers give exact integers and arrays
    give arrays (`vectorised` is False for kinds with list parameters, which are evaluated row by row).
    """

    name: str
    family: str
    params: tuple[Param, ...]
    cost: Callable[..., Cost]
    uses_matrix_units: bool = False
    #: Relations between parameters: returns the broken rule in words, or None.
    check: Callable[..., str | None] | None = field(default=None, compare=False)
    doc: str = ""

    @property
    def vectorised(self) -> bool:
        return all(p.type is not tuple for p in self.params)

    @property
    def signature(self) -> str:
        """Parameters with types and defaults, for messages."""
        return ", ".join(f"{p.name}: {p.type.__name__}{p.shown_default}" for p in self.params)

    def validate(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return `params` checked, in plain types, with defaults filled in.

        Raises
        ------
        OperatorParameterError
            For a missing, unknown or unusable parameter.
        """
        unknown = sorted(set(params) - {p.name for p in self.params})
        if unknown:
            raise OperatorParameterError(
                f"operator '{self.name}' has no parameter {', '.join(map(repr, unknown))}",
                received=dict(params),
                allowed=self.signature,
                next_step="remove or rename it",
            )
        out: dict[str, Any] = {}
        for p in self.params:
            if p.name in params:
                out[p.name] = p.check(self.name, params[p.name])
            elif p.like:
                out[p.name] = out[p.like]
            elif p.default is REQUIRED:
                raise OperatorParameterError(
                    f"operator '{self.name}' needs parameter '{p.name}'",
                    received=dict(params),
                    allowed=self.signature,
                    next_step="add it",
                )
            else:
                out[p.name] = p.default
        if self.check is not None:
            broken = self.check(**out)
            if broken:
                raise OperatorParameterError(
                    f"the parameters of operator '{self.name}' do not fit together: {broken}",
                    received=dict(params),
                    allowed=self.signature,
                    next_step="correct the shape",
                )
        return out


_REGISTRY: dict[str, OperatorKind] = {}


def operator(
    name: str,
    *params: Param | str,
    family: str,
    uses_matrix_units: bool = False,
    check: Callable[..., str | None] | None = None,
) -> Callable[[Callable[..., Cost]], Callable[..., Cost]]:
    """Register a cost formula as an operator kind.

    Parameters
    ----------
    name : str
        The kind's name, unique.
    *params : Param or str
        Its parameters in order; a string is a required dimension.
    family : str
        Kinds of one family share one fitted model.
    uses_matrix_units : bool
        Whether matrix units run it, so that tf32 and fp32 rows differ; where they are the same
        measurement, tf32 counts as fp32.
    check : callable, optional
        Takes the parameters, returns the broken rule in words or None.

    Examples
    --------
    >>> @operator("my_axpy", "numel", family="binary")
    ... def my_axpy(numel, itemsize):
    ...     return Cost(2 * numel, 3 * numel * itemsize)
    >>> evaluate("my_axpy", {"numel": 10}, itemsize=4)
    Cost(flops=20, bytes=120)
    >>> unregister("my_axpy")
    """

    def register(formula: Callable[..., Cost]) -> Callable[..., Cost]:
        if name in _REGISTRY:
            raise OperatorParameterError(
                "an operator kind of this name is already registered",
                received=name,
                next_step="choose another name, or unregister the old kind first",
            )
        _REGISTRY[name] = OperatorKind(
            name=name,
            family=family,
            params=tuple(p if isinstance(p, Param) else Param(p) for p in params),
            cost=formula,
            uses_matrix_units=uses_matrix_units,
            check=check,
            doc=(formula.__doc__ or "").strip(),
        )
        return formula

    return register


def unregister(name: str) -> None:
    """Forget an operator kind (for tests and interactive work)."""
    del _REGISTRY[get(name).name]


def get(name: str) -> OperatorKind:
    """Return the operator kind called `name`, or raise `UnknownOperatorError` with the nearest names."""
    try:
        return _REGISTRY[name]
    except (KeyError, TypeError):
        raise UnknownOperatorError(
            "unknown operator",
            received=name,
            allowed=nearest(str(name), _REGISTRY),
            next_step="graphs.ops.kinds() lists all; register your own with graphs.ops.operator",
        ) from None


def kinds() -> dict[str, OperatorKind]:
    """Return every registered kind by name."""
    return dict(sorted(_REGISTRY.items()))


def evaluate(name: str, params: Mapping[str, Any], itemsize: int) -> Cost:
    """Return the exact integer FLOP and bytes of one call."""
    kind = get(name)
    return kind.cost(**kind.validate(params), itemsize=itemsize)
