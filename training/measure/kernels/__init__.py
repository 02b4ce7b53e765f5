"""Calls of the framework for every operator kind."""

from training.measure.kernels import elementwise, images, memory, products, rowwise
from training.measure.kernels.core import BUILDERS, TORCH_DTYPE, Bound, Maker, Pool, bind, kernel, reserve

__all__ = ["BUILDERS", "TORCH_DTYPE", "Bound", "Maker", "Pool", "bind", "elementwise", "images", "kernel", "memory",
           "products", "reserve", "rowwise"]  # fmt: skip
