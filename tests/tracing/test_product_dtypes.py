"""Products in dtypes that nothing was measured in: never priced as another dtype in silence."""

from __future__ import annotations

import pytest

import graphs
from graphs.errors import DtypeError
from graphs.tracing.layout import View
from graphs.tracing.rules import Call, price

torch = pytest.importorskip("torch")


def product(dtype: str, itemsize: int) -> Call:
    x, y = View((64, 32), (32, 1), dtype, itemsize), View((32, 16), (16, 1), dtype, itemsize)
    return Call("aten.mm.default", (x, y), {}, View((64, 16), (16, 1), dtype, itemsize))


@pytest.mark.parametrize(("dtype", "itemsize"), [("fp64", 8), ("fp8", 1), ("int8", 1)])
def test_a_product_keeps_a_dtype_that_machines_state_peaks_for(dtype: str, itemsize: int) -> None:
    (priced,) = price(product(dtype, itemsize))
    assert (priced.op, priced.dtype, dict(priced.params)) == ("matmul", dtype, {"m": 64, "n": 16, "k": 32})


@pytest.mark.parametrize(("dtype", "itemsize"), [("int64", 8), ("complex64", 8), ("int16", 2)])
def test_a_product_of_any_other_dtype_is_marked_as_a_stand_in(dtype: str, itemsize: int) -> None:
    (priced,) = price(product(dtype, itemsize))
    assert priced.match == "proxy"
    assert dtype in priced.note


def layers() -> torch.nn.Module:
    with torch.device("meta"):
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 16)).double()


def test_a_module_in_fp64_is_answered_by_the_default_where_there_is_such_a_peak() -> None:
    x = torch.empty(1, 3, 8, 8, dtype=torch.float64, device="meta")
    e = graphs.estimate(layers(), x, hardware="h100-sxm")
    assert e.dtype == "fp64"
    assert [(o.op, o.dtype, o.source) for o in e.operators] == [
        ("conv2d", "fp64", "default"),
        ("linear", "fp64", "default"),
    ]
    assert graphs.estimate(layers(), x, hardware="h100-sxm", dtype="fp32").operators[0].source == "model"


def test_a_module_in_fp64_is_refused_where_there_is_no_such_peak() -> None:
    with pytest.raises(DtypeError, match="no fp64 peak"):
        graphs.estimate(layers(), torch.empty(1, 3, 8, 8, dtype=torch.float64), hardware="i7-12700k")
