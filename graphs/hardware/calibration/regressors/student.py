"""A small network, evaluated in single precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors.base import CHUNK, Arrays, Classes


@dataclass(frozen=True)
class Student:
    """A residual multilayer perceptron that learnt a teacher's prediction and spread.

    h = relu(z W0 + b0); h = h + relu(h Wi + bi) for the middle layers; (prediction, log spread) = h Wl + bl, times
    `output_scale` plus `output_mean`.  z is the standardised features clipped to +-`limit`.

    Attributes
    ----------
    weights : list of (in, out) float16
    biases : list of (out,) float32
    shift, scale : (f,) float64
    output_mean, output_scale : (2,) float64
    """

    weights: list[NDArray[np.float16]]
    biases: list[NDArray[np.float32]]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    limit: float
    output_mean: NDArray[np.float64]
    output_scale: NDArray[np.float64]
    form: ClassVar[str] = "student"

    @property
    def n_outputs(self) -> int:
        return 1

    @cached_property
    def _single(self) -> list[NDArray[np.float32]]:
        return [w.astype(np.float32) for w in self.weights]

    def predict_with_spread(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return prediction and spread of features (n, f), both (n,)."""
        out = np.empty((len(x), 2))
        first, *middle, last = self._single
        for start in range(0, len(x), CHUNK):
            z = (x[start : start + CHUNK] - self.shift) / self.scale
            np.clip(z, -self.limit, self.limit, out=z)
            h = z.astype(np.float32) @ first
            h += self.biases[0]
            np.maximum(h, 0.0, out=h)
            for w, b in zip(middle, self.biases[1:-1], strict=True):
                u = h @ w
                u += b
                np.maximum(u, 0.0, out=u)
                h += u
            out[start : start + CHUNK] = h @ last + self.biases[-1]
        out = out * self.output_scale + self.output_mean
        return out[:, 0], np.exp(out[:, 1])

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.predict_with_spread(x)[0]

    def outputs(self, x: NDArray[np.float64], classes: Classes) -> NDArray[np.float64]:
        return self.predict(x)[None]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        out: dict[str, NDArray[np.generic]] = {
            "shift": self.shift, "scale": self.scale, "limit": np.array(self.limit),
            "output_mean": self.output_mean, "output_scale": self.output_scale,
        }  # fmt: skip
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            out[f"w{i}"], out[f"b{i}"] = w, b
        return out

    @classmethod
    def from_arrays(cls, a: Arrays) -> Student:
        layers = range(sum(1 for name in a if name.startswith("w")))
        student = cls(
            [a[f"w{i}"] for i in layers], [a[f"b{i}"] for i in layers], a["shift"], a["scale"], float(a["limit"]),
            a["output_mean"], a["output_scale"],
        )  # fmt: skip
        student._check()
        return student

    def _check(self) -> None:
        """Raise `ValueError` for layers that do not follow on one another."""
        sizes = [len(self.shift), *(w.shape[1] for w in self.weights)]
        if len(self.weights) < 2 or sizes[-1] != 2 or len(set(sizes[1:-1])) != 1:
            raise ValueError(f"layers of a network are {sizes} wide")
        for w, b, before in zip(self.weights, self.biases, sizes, strict=False):
            if w.shape[0] != before or b.shape != w.shape[1:]:
                raise ValueError("layers of a network do not follow on one another")
        if not ((self.scale > 0).all() and len(self.scale) == len(self.shift) and self.limit > 0):
            raise ValueError("the scales of a network's features are not positive")
