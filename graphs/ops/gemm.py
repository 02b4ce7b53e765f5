"""Matrix products.  A multiply-add is 2 FLOP; the additions of a bias are not counted, its bytes are."""

from __future__ import annotations

from graphs.ops.shapes import Dim
from graphs.ops.spec import Cost, Param, operator


@operator("linear", "m", "n", "k", Param("bias", bool, False), family="gemm", uses_matrix_units=True)
def linear(m: Dim, n: Dim, k: Dim, bias: Dim, itemsize: Dim) -> Cost:
    """out(m, n) = in(m, k) x weight(n, k) transposed, plus bias(n)."""
    return Cost(2 * m * n * k, (m * k + n * k + m * n + n * bias) * itemsize)


@operator("matmul", "m", "n", "k", family="gemm", uses_matrix_units=True)
def matmul(m: Dim, n: Dim, k: Dim, itemsize: Dim) -> Cost:
    """out(m, n) = a(m, k) x b(k, n)."""
    return Cost(2 * m * n * k, (m * k + k * n + m * n) * itemsize)


@operator("addmm", "m", "n", "k", family="gemm", uses_matrix_units=True)
def addmm(m: Dim, n: Dim, k: Dim, itemsize: Dim) -> Cost:
    """out(m, n) = bias(n) + a(m, k) x b(k, n), the weight not transposed."""
    return Cost(2 * m * n * k, (m * k + k * n + m * n + n) * itemsize)


@operator("bmm", "b", "m", "n", "k", family="gemm", uses_matrix_units=True)
def bmm(b: Dim, m: Dim, n: Dim, k: Dim, itemsize: Dim) -> Cost:
    """out(b, m, n) = x(b, m, k) x y(b, k, n)."""
    return Cost(2 * b * m * n * k, b * (m * k + k * n + m * n) * itemsize)
