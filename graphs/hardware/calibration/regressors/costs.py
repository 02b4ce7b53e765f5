"""Sum of the times of what a call is made of, each at a fitted rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.features.costs import costs
from graphs.hardware.calibration.regressors.base import Array, Arrays, Classes


@dataclass(frozen=True)
class Costs:
    """A latency that is a sum of amounts, the log of whose rates is a sum over circumstances.

    log latency = log sum_i exp(log amount_i + sum_g circumstance_g rate_gi)

    Attributes
    ----------
    family : str
    names : tuple of str, length f
        Features.
    rates : (g, i) float64
    t0_us : float
        What the prediction, a log ratio, is relative to: t0 + roofline.
    """

    family: str
    names: tuple[str, ...]
    rates: Array
    t0_us: float
    form: ClassVar[str] = "costs"

    def predict(self, x: Array) -> Array:
        """Return log(latency / (t0 + roofline)) of features (n, f), (n,)."""
        names = list(self.names)
        log_us, circumstances = costs(self.family, names, x)
        total = log_sum(log_us + circumstances @ self.rates)[0]
        return np.asarray(total - np.log(self.t0_us + 2.0 ** x[:, names.index("lg_roofline_us")]))

    @property
    def n_outputs(self) -> int:
        return 1

    def outputs(self, x: Array, classes: Classes) -> Array:
        return self.predict(x)[None]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        # files hold numbers alone
        words = ",".join((self.family, *self.names)).encode()
        return {"words": np.frombuffer(words, dtype=np.uint8), "rates": self.rates, "t0_us": np.array(self.t0_us)}

    @classmethod
    def from_arrays(cls, a: Arrays) -> Costs:
        family, *names = a["words"].tobytes().decode().split(",")
        made = cls(family, tuple(names), a["rates"], float(a["t0_us"]))
        if not (np.isfinite(made.rates).all() and made.t0_us > 0):
            raise ValueError("rates are not finite")
        log_us, circumstances = costs(made.family, list(made.names), np.zeros((1, len(made.names))))
        if made.rates.shape != (circumstances.shape[1], log_us.shape[1]):
            raise ValueError(f"rates of shape {made.rates.shape} are not those of family '{made.family}'")
        return made


def log_sum(terms: Array) -> tuple[Array, Array]:
    """Return log sum exp of each row of (n, i), (n,), and the share of each term in it, (n, i)."""
    largest = terms.max(axis=1, keepdims=True)
    each = np.exp(terms - largest)
    total = each.sum(axis=1, keepdims=True)
    return (largest + np.log(total))[:, 0], each / total
