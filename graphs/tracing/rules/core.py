"""A framework call with its tensors as shapes, and the register of rules that price such calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import graphs.ops as ops
from graphs.errors import OperatorParameterError
from graphs.tracing.layout import FLOATS, View, as_views


@dataclass(frozen=True, slots=True)
class Priced:
    """One operator that a framework call is priced as."""

    op: str
    params: Mapping[str, Any]
    dtype: str
    match: str = "exact"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A framework call; tensors in `args`, `kwargs` and `out` are `View`s.

    `schema` holds the parameter names, so that `arg` finds an argument however it was passed.
    """

    aten: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    out: Any = None
    schema: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """Name without name space, overload, and the underscore of the in-place form."""
        return base_name(self.aten)

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        if name in self.kwargs:
            return self.kwargs[name]
        if name in self.schema:
            index = self.schema.index(name)
        return self.args[index] if index < len(self.args) else default

    @property
    def inputs(self) -> list[View]:
        return [*as_views(self.args), *as_views(tuple(self.kwargs.values()))]

    @property
    def result(self) -> View:
        """First output."""
        return as_views(self.out)[0]


Rule = Callable[[Call], list[Priced]]

#: By base name.
RULES: dict[str, Rule] = {}
#: Framework calls that are priced as one though the framework builds them of others.
WHOLE: set[str] = set()


def rule(*names: str, whole: bool = False) -> Callable[[Rule], Rule]:
    """Register the rule of the framework operators `names` (base names)."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = function
            if whole:
                WHOLE.add(name)
        return function

    return register


def base_name(aten: str) -> str:
    """Return a framework name without name space, overload and in-place underscore.

    >>> base_name("aten.relu_.default"), base_name("aten::__and__.Tensor")
    ('relu', '__and__')
    """
    name = aten.replace("::", ".").split(".")[1]
    return name if name.endswith("__") else name.removesuffix("_")


def price(call: Call) -> list[Priced]:
    """Return what `call` is priced as; an empty list where it costs nothing.

    A call without a rule is priced as the traffic of its tensors; one whose kind refuses the parameters too.
    """
    found = RULES.get(call.base, unknown)(call)
    return [checked(p, call) for p in found]


def checked(priced: Priced, call: Call) -> Priced:
    """Return `priced` if its kind takes the parameters, else the same call as traffic."""
    if not priced.op:
        return priced
    try:
        ops.get(priced.op).validate(priced.params)
    except OperatorParameterError as error:
        return traffic(call, f"{call.base}: {error.problem}")[0]
    return priced


def unknown(call: Call) -> list[Priced]:
    """Price a call without a rule: its traffic, if it has any; the note says which operator it is."""
    if not as_views(call.out):
        return [Priced("", {}, "", "unmodelled", f"{call.base} returns no tensor")]
    return traffic(call, f"{call.base} has no rule of its own")


def storage(dtype: str, itemsize: int) -> tuple[str, float]:
    """Return the measured dtype that stands for another one, and how many of its elements make one element.

    >>> storage("int64", 8), storage("bool", 1), storage("bf16", 2)
    (('fp32', 2.0), ('bf16', 0.5), ('bf16', 1.0))
    """
    if dtype in FLOATS:
        return dtype, 1.0
    stand_in = "fp32" if itemsize >= 4 else "bf16"
    return stand_in, itemsize / FLOATS[stand_in]


#: Dtypes in which nothing was measured but machines state peaks: a product keeps them, so that the mapper's default
#: answers where the hardware has such a peak and its error where it has none.
STATED = ("fp64", "fp8", "int8")


def product_dtype(x: View) -> tuple[str, str]:
    """Return the dtype that a product of `x` is asked in, and a note where that stands in for its own."""
    if x.measured or x.dtype in STATED:
        return x.dtype, ""
    return "fp32" if x.itemsize >= 4 else "bf16", f"{x.dtype} product"


def proxies(priced: list[Priced], note: str) -> list[Priced]:
    """Return the same operators, marked as standing for something else."""
    return [Priced(p.op, p.params, p.dtype, "proxy", "; ".join(filter(None, [note, p.note]))) for p in priced]


def traffic(call: Call, note: str, dtype: str | None = None, nbytes: int | None = None) -> list[Priced]:
    """Price a call as a copy that moves as many bytes."""
    views = [v for v in (*call.inputs, *as_views(call.out)) if v.numel]
    if nbytes is None:
        nbytes = sum(v.bytes for v in views)
    if dtype is None:
        widest = max(views, key=lambda v: v.bytes, default=None)
        dtype = storage(widest.dtype, widest.itemsize)[0] if widest else "fp32"
    return [Priced("copy", {"numel": max(1, round(nbytes / 2 / FLOATS[dtype]))}, dtype, "proxy", note)]


def free(call: Call) -> list[Priced]:
    """Price a call that runs nothing on the device."""
    return []


def nchw(view: View) -> dict[str, Any]:
    """Return the parameters n, c, h, w and fmt of a 4-d tensor (3-d: one image)."""
    n, c, h, w = (1,) * (4 - len(view.shape)) + view.shape
    return {"n": n, "c": c, "h": h, "w": w, "fmt": view.fmt}


def both(notes: Iterable[str]) -> tuple[str, str]:
    """Return the match and the note of a call with `notes` about what differs from the measured kind."""
    text = "; ".join(n for n in notes if n)
    return ("near" if text else "exact"), text
