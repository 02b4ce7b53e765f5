"""Fitted regressors as plain arrays, evaluated with numpy alone.

Each takes features (n, f) float64 and returns the predicted log(latency / (t0 + roofline time)), (n,) float64.
They are fitted in `training` and compared there with the library that fitted them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from graphs.errors import ModelFileError

Arrays = Mapping[str, NDArray[Any]]
#: Rows evaluated at once, so that intermediate arrays stay in cache and memory stays bounded.
CHUNK = 1024


Classes = Mapping[str, NDArray[np.int64]]


class Regressor(Protocol):
    """What a fitted regressor offers: `n_outputs` predictions of each row, to be weighed by its family."""

    form: ClassVar[str]

    @property
    def n_outputs(self) -> int: ...

    def outputs(self, x: NDArray[np.float64], classes: Classes) -> NDArray[np.float64]:
        """Return predictions, (n_outputs, n), of features (n, f); `classes` holds labels (n,) by partition."""
        ...

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what `from_arrays` needs."""
        ...


@dataclass(frozen=True, slots=True)
class TreeEnsemble:
    """Sum of regression trees (gradient boosting).

    Attributes
    ----------
    feature : (nodes,) int16
        Feature tested at a node, -1 at a leaf.
    threshold : (nodes,) float64
        Go left where x <= threshold (missing values do not occur); of single precision, as it is stored.
    left, right : (nodes,) int32
        Children, absolute positions; a leaf points to itself.
    value : (nodes,) float32
        Contribution of a leaf, learning rate included.
    roots : (trees,) int32
    depth : int
        Steps after which every row has reached a leaf.
    base : float
        Added to the sum.
    """

    feature: NDArray[np.int16]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    roots: NDArray[np.int32]
    depth: int
    base: float
    form: ClassVar[str] = "trees"

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.empty(len(x))
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK]
            rows = np.arange(len(part))[:, None]
            node = np.broadcast_to(self.roots, (len(part), len(self.roots)))
            for _ in range(self.depth):
                go_left = part[rows, self.feature[node]] <= self.threshold[node]
                node = np.where(go_left, self.left[node], self.right[node])
            out[start : start + CHUNK] = self.base + self.value[node].sum(axis=1, dtype=np.float64)
        return out

    @property
    def n_outputs(self) -> int:
        return 1

    def outputs(self, x: NDArray[np.float64], classes: Classes) -> NDArray[np.float64]:
        return self.predict(x)[None]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        # Steps from a node to its children repeat, positions do not: they compress to a third.
        own = np.arange(len(self.left), dtype=np.int64)
        left, right = self.left - own, self.right - own
        far = max(left.max(initial=0), right.max(initial=0))
        step = np.int16 if far <= np.iinfo(np.int16).max else np.int32
        return {
            "feature": self.feature, "threshold": self.threshold.astype(np.float32), "left_step": left.astype(step),
            "right_step": right.astype(step), "value": self.value, "roots": self.roots, "depth": np.array(self.depth),
            "base": np.array(self.base),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, a: Arrays) -> TreeEnsemble:
        if "left" in a:  # older files hold positions
            left, right = a["left"], a["right"]
        else:
            own = np.arange(len(a["left_step"]), dtype=np.int32)
            left, right = a["left_step"] + own, a["right_step"] + own
        return cls(
            a["feature"], a["threshold"].astype(np.float64), left, right, a["value"], a["roots"],
            int(a["depth"]), float(a["base"]),
        )  # fmt: skip


@dataclass(frozen=True)
class GaussianProcess:
    """Posterior mean of a Gaussian process with an ARD Matern-3/2 kernel.

    Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, eq. 2.25 and 4.17.

    Attributes
    ----------
    points : (m, f) float32
        Training features, standardised and divided by the length scales.
    weights : (m,) float64
        (K + noise I)^-1 (y - mean), times the kernel's variance.
    shift, scale : (f,) float64
        Applied to a query: (x - shift) / scale, with the length scales inside `scale`.
    mean : float
    """

    points: NDArray[np.float32]
    weights: NDArray[np.float64]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean: float
    form: ClassVar[str] = "gp"

    @cached_property
    def _double(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points and their squared norms; converted once, which is most of the cost of a single query."""
        points = self.points.astype(np.float64)
        return points, np.einsum("ij,ij->i", points, points)

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        points, squares = self._double
        out = np.empty(len(x))
        for start in range(0, len(x), CHUNK):
            # the points are float32, so a query is rounded likewise: equal features then have distance 0
            z = ((x[start : start + CHUNK] - self.shift) / self.scale).astype(np.float32).astype(np.float64)
            d2 = np.einsum("ij,ij->i", z, z)[:, None] + squares - 2.0 * (z @ points.T)
            r = np.sqrt(3.0 * np.maximum(d2, 0.0))
            out[start : start + CHUNK] = self.mean + ((1.0 + r) * np.exp(-r)) @ self.weights
        return out

    @property
    def n_outputs(self) -> int:
        return 1

    def outputs(self, x: NDArray[np.float64], classes: Classes) -> NDArray[np.float64]:
        return self.predict(x)[None]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        return {
            "points": self.points, "weights": self.weights, "shift": self.shift, "scale": self.scale,
            "mean": np.array(self.mean),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, a: Arrays) -> GaussianProcess:
        return cls(a["points"], a["weights"], a["shift"], a["scale"], float(a["mean"]))


@dataclass(frozen=True, slots=True)
class Expert:
    """One Gaussian process of several that share their points; see `GaussianProcess` for the fields.

    `partition` and `label` name the rows it was conditioned on; partition "" is all rows.
    """

    partition: str
    label: int
    weights: NDArray[np.float64]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean: float


@dataclass(frozen=True)
class GaussianProcesses:
    """Gaussian processes over shared points: a joint one, and one for each class of each partition.

    Output 0 is the joint process; each partition gives one more, in which every row is answered by the expert of
    its class, or by the joint process where the class had too few rows.

    Attributes
    ----------
    points : (m, f) float32
        Training features as they are.
    labels : dict of str to (m,) int16
        Class of each point by partition.
    experts : tuple of Expert
        The joint process first.
    """

    points: NDArray[np.float32]
    labels: dict[str, NDArray[np.int16]]
    experts: tuple[Expert, ...]
    form: ClassVar[str] = "gps"

    @property
    def n_outputs(self) -> int:
        return 1 + len(self.labels)

    @cached_property
    def _processes(self) -> list[GaussianProcess]:
        out = []
        for e in self.experts:
            own = self.points if e.partition == "" else self.points[self.labels[e.partition] == e.label]
            scaled = ((own - e.shift) / e.scale).astype(np.float32)
            out.append(GaussianProcess(scaled, e.weights, e.shift, e.scale, e.mean))
        return out

    def outputs(self, x: NDArray[np.float64], classes: Classes) -> NDArray[np.float64]:
        joint = self._processes[0].predict(x)
        out = np.tile(joint, (self.n_outputs, 1))
        row = {name: i + 1 for i, name in enumerate(self.labels)}
        for e, process in zip(self.experts[1:], self._processes[1:], strict=True):
            mine = classes[e.partition] == e.label
            if mine.any():
                out[row[e.partition], mine] = process.predict(x[mine])
        return out

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        out: dict[str, NDArray[np.generic]] = {"points": self.points}
        for name, labels in self.labels.items():
            out[f"labels:{name}"] = labels
        for e in self.experts:
            where = f"expert:{e.partition}:{e.label}:"
            out[where + "weights"] = e.weights.astype(np.float32)
            out[where + "shift"], out[where + "scale"] = e.shift, e.scale
            out[where + "mean"] = np.array(e.mean)
        return out

    @classmethod
    def from_arrays(cls, a: Arrays) -> GaussianProcesses:
        labels = {k.removeprefix("labels:"): v for k, v in a.items() if k.startswith("labels:")}
        experts = []
        for key in a:
            if key.startswith("expert:") and key.endswith(":weights"):
                _, partition, label, _ = key.split(":")
                where = key.removesuffix("weights")
                fields = {name: a[where + name] for name in ("weights", "shift", "scale")}
                weights = np.asarray(fields["weights"], dtype=np.float64)
                mean = float(a[where + "mean"])
                experts.append(Expert(partition, int(label), weights, fields["shift"], fields["scale"], mean))
        experts.sort(key=lambda e: e.partition != "")
        return cls(a["points"], labels, tuple(experts))


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
        return cls(
            [a[f"w{i}"] for i in layers], [a[f"b{i}"] for i in layers], a["shift"], a["scale"], float(a["limit"]),
            a["output_mean"], a["output_scale"],
        )  # fmt: skip


FORMS: dict[str, Any] = {cls.form: cls for cls in (TreeEnsemble, GaussianProcess, GaussianProcesses, Student)}


def build(form: str, arrays: Arrays, origin: str) -> Regressor:
    """Rebuild a regressor from its arrays, or raise `ModelFileError`."""
    try:
        regressor: Regressor = FORMS[form].from_arrays(arrays)
        return regressor
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"a regressor of model '{origin}' cannot be rebuilt ({type(error).__name__}: {error})",
            received=form,
            allowed=", ".join(FORMS),
            next_step="fit the model again with `graphs train`",
        ) from error
