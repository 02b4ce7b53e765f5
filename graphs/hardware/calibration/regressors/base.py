"""What a fitted regressor offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

#: Rows evaluated at once, so that intermediate arrays stay in cache and memory stays bounded.
CHUNK = 512

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]
Classes = Mapping[str, NDArray[np.int64]]


class Regressor(Protocol):
    """A fitted regressor: `n_outputs` predictions of each row, to be weighed by its family."""

    form: ClassVar[str]

    @property
    def n_outputs(self) -> int: ...

    def outputs(self, x: Array, classes: Classes) -> Array:
        """Return predictions, (n_outputs, n), of features (n, f); `classes` holds labels (n,) by partition."""
        ...

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what `from_arrays` needs."""
        ...
