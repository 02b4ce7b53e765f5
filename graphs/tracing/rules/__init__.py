"""From framework calls to operator kinds: one rule for each framework operator, by base name."""

from graphs.tracing.rules.core import RULES, WHOLE, Call, Priced, price

# Imported for their effect: each registers its rules.
from graphs.tracing.rules import attention, convolution, gemm, memory, pointwise, recurrent, reduction, spatial  # isort: skip
from graphs.tracing.rules import backward, trilinear  # isort: skip

__all__ = ["RULES", "WHOLE", "Call", "Priced", "attention", "backward", "convolution", "gemm", "memory", "pointwise",
           "price", "recurrent", "reduction", "spatial", "trilinear"]  # fmt: skip
