"""Gaussian processes with a Matern-3/2 kernel: posterior means, in single precision.

Distances and kernel are computed in single precision, in blocks that stay in cache.  That changes answers of the
shipped models by less than 0.2 % against double precision, about the difference between two timings of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors.base import CHUNK, Array, Arrays, Classes

#: Points that distances are computed to at once: few large products, because each waits for all threads of the library.
POINTS = 4096
#: Numbers that the kernel is computed of at once, which stay in cache.
BLOCK = 65_536
#: Scale from which on a feature is constant as far as a process is concerned: it was so among its points.
UNUSED_SCALE = 1e29
_ROOT_3 = 3.0**0.5


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
    weights: Array
    shift: Array
    scale: Array
    mean: float
    form: ClassVar[str] = "gp"

    @cached_property
    def _prepared(self) -> _Prepared:
        return _Prepared.of(self)

    def predict(self, x: Array) -> Array:
        """Return the mean at features (n, f), (n,)."""
        return self.mean + self._prepared.kernel_sum(x)

    @property
    def n_outputs(self) -> int:
        return 1

    def outputs(self, x: Array, classes: Classes) -> Array:
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
class _Prepared:
    """What a process is evaluated with: only the features it looks at, distances in units of the kernel.

    With z = sqrt(3) (x - shift) / scale, 3 d^2 = |z|^2 + |p|^2 - 2 z.p for a block of points at once.

    Attributes
    ----------
    used : (u,) int64
    shift, factor : (u,) float64
        z = (x - shift) * factor.
    points : (u + 1, m) float32
        -2 p, and |p|^2 as the last row.
    weights : (m,) float32
    """

    used: NDArray[np.int64]
    shift: Array
    factor: Array
    points: NDArray[np.float32]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, process: GaussianProcess) -> _Prepared:
        used = np.flatnonzero(process.scale < UNUSED_SCALE)
        # rounded before the squares are taken, so that a query at a point has a distance near 0
        points = (_ROOT_3 * process.points[:, used].T).astype(np.float32).astype(np.float64)
        rows = np.vstack([-2.0 * points, (points * points).sum(axis=0)]).astype(np.float32)
        weights = process.weights.astype(np.float32)
        return cls(used, process.shift[used], _ROOT_3 / process.scale[used], rows, weights)

    def kernel_sum(self, x: Array) -> Array:
        """Return the weighted sum of the kernel with every point for features (n, f), (n,)."""
        z = np.ones((len(x), len(self.used) + 1), dtype=np.float32)
        z[:, :-1] = (x[:, self.used] - self.shift) * self.factor
        norm = np.einsum("ij,ij->i", z[:, :-1], z[:, :-1])[:, None]
        out = np.zeros(len(x))
        for begin in range(0, len(x), CHUNK):
            rows = slice(begin, begin + CHUNK)
            for first in range(0, len(self.weights), POINTS):
                points = slice(first, first + POINTS)
                r = z[rows] @ self.points[:, points]
                r += norm[rows]
                step = max(1, BLOCK // r.shape[1])
                for i in range(0, len(r), step):
                    _matern(r[i : i + step])
                out[rows] += r @ self.weights[points]
        return out


def _matern(squares: NDArray[np.float32]) -> None:
    """Replace 3 d^2 by (1 + r) exp(-r), r = sqrt(3) d, in place."""
    r = np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
    decay = np.exp(-r)
    r += 1.0
    r *= decay


@dataclass(frozen=True, slots=True)
class Expert:
    """One Gaussian process of several that share their points; see `GaussianProcess` for the fields.

    `partition` and `label` name the rows it was conditioned on; partition "" is all rows.
    """

    partition: str
    label: int
    weights: Array
    shift: Array
    scale: Array
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
    def _processes(self) -> dict[tuple[str, int], GaussianProcess]:
        out = {}
        for e in self.experts:
            own = self.points if e.partition == "" else self.points[self.labels[e.partition] == e.label]
            scaled = ((own - e.shift) / e.scale).astype(np.float32)
            out[e.partition, e.label] = GaussianProcess(scaled, e.weights, e.shift, e.scale, e.mean)
        return out

    def outputs(self, x: Array, classes: Classes) -> Array:
        joint = self._processes["", 0].predict(x)
        out = np.empty((self.n_outputs, len(x)))
        out[:] = joint
        for row, name in zip(out[1:], self.labels, strict=True):
            labels = classes[name]
            for label in set(labels.tolist()):
                process = self._processes.get((name, label))
                if process is not None:
                    mine = labels == label
                    row[mine] = process.predict(x[mine])
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
        processes = cls(a["points"], labels, tuple(experts))
        processes._check()
        return processes

    def in_order(self, partitions: Sequence[str]) -> GaussianProcesses:
        """Return these processes with their outputs in the order of `partitions`, which may hold others too.

        Raises
        ------
        ValueError
            If a partition of theirs is not among them.
        """
        if missing := set(self.labels) - set(partitions):
            raise ValueError(f"there is no place for the outputs of {', '.join(sorted(missing))}")
        return replace(self, labels={name: self.labels[name] for name in partitions if name in self.labels})

    def _check(self) -> None:
        """Raise `ValueError` for arrays that do not fit one another, or are not finite."""
        rows, features = self.points.shape
        if any(len(own) != rows for own in self.labels.values()):
            raise ValueError(f"classes are not of the {rows} points")
        for e in self.experts:
            own = rows if e.partition == "" else int((self.labels[e.partition] == e.label).sum())
            if len(e.weights) != own or len(e.shift) != features or len(e.scale) != features:
                raise ValueError(
                    f"process '{e.partition}:{e.label}' is not of its {own} points and {features} features"
                )
            # a feature that a process does not look at may have an endless scale, not a negative one
            if not (np.isfinite(e.weights).all() and np.isfinite(e.shift).all() and (e.scale > 0).all()):
                raise ValueError(f"numbers of process '{e.partition}:{e.label}' are not finite")
        if not self.experts or self.experts[0].partition != "":
            raise ValueError("the joint process is missing")
