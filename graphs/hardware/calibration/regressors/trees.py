"""Regression trees, evaluated by bit masks over their leaves.

Lucchese et al., "QuickScorer: a fast algorithm to rank documents with additive ensembles of regression trees",
SIGIR 2015: a test that fails rules out the leaves on its left, and of the leaves no failed test rules out the leftmost
is the one a row ends in.  Tests of one feature fail from the smallest threshold upwards, so that what they rule out
together is kept for every place between two thresholds: a row costs one look-up a feature, however deep the trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration.regressors.base import CHUNK, Array, Arrays, Classes

#: Leaves that a mask has bits for.
MOST_LEAVES = 32
#: Fewer rows than these are looked up in one step for all features, more of them feature by feature.
FEW_ROWS = 8
_ALL = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
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
    threshold: Array
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    roots: NDArray[np.int32]
    depth: int
    base: float
    form: ClassVar[str] = "trees"

    @cached_property
    def _masks(self) -> LeafMasks | None:
        """The trees in the form that is evaluated; None where a tree has too many leaves for it."""
        return LeafMasks.of(self)

    def predict(self, x: Array) -> Array:
        """Return the sum of the trees for features (n, f), (n,)."""
        return self._descend(x) if self._masks is None else self._masks.predict(x)

    def _descend(self, x: Array) -> Array:
        """Step from node to node, all trees and rows at once."""
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

    def outputs(self, x: Array, classes: Classes) -> Array:
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
        trees = cls(
            a["feature"], a["threshold"].astype(np.float64), left, right, a["value"], a["roots"],
            int(a["depth"]), float(a["base"]),
        )  # fmt: skip
        trees._check()
        return trees

    def _check(self) -> None:
        """Raise `ValueError` for arrays that no fit writes: they would fail, or never end, at the first answer."""
        nodes = len(self.feature)
        if any(len(a) != nodes for a in (self.threshold, self.left, self.right, self.value)):
            raise ValueError("the arrays of the trees' nodes differ in length")
        for name, places in (("left", self.left), ("right", self.right), ("roots", self.roots)):
            if len(places) and not 0 <= places.min() <= places.max() < nodes:
                raise ValueError(f"'{name}' points outside the {nodes} nodes of the trees")
        own = np.arange(nodes)
        inner = (self.left != own) | (self.right != own)
        children = np.concatenate([self.left[inner], self.right[inner]])
        # children behind their parents, each with one: every walk ends, and no tree is larger than its nodes
        if (children <= np.concatenate([own[inner], own[inner]])).any() or len(np.unique(children)) < len(children):
            raise ValueError("the nodes of the trees do not form trees")
        if inner.any() and self.feature[inner].min() < 0:
            raise ValueError("an inner node of the trees tests no feature")
        if not 0 <= self.depth <= nodes:
            raise ValueError(f"trees of {nodes} nodes are {self.depth} deep")
        if not (np.isfinite(self.threshold).all() and np.isfinite(self.value).all() and np.isfinite(self.base)):
            raise ValueError("numbers of the trees are not finite")


@dataclass(frozen=True, slots=True)
class LeafMasks:
    """A `TreeEnsemble` as masks of the leaves left over.

    Attributes
    ----------
    features : (u,) int64
        Features that are tested, ascending.
    threshold, feature : (t,) float64, (t,) int64
        Distinct thresholds by feature, ascending, and the feature of each.
    start, row : (u,) int64
        Where the thresholds of each feature begin, and its rows of the table.
    table : (t + u, trees) uint32
        For each feature the leaves left over when none, one, two ... of its thresholds lie below the value.
    value : (trees * 32,) float32
        Of each leaf, from left to right.
    base : float
    """

    features: NDArray[np.int64]
    threshold: Array
    feature: NDArray[np.int64]
    start: NDArray[np.int64]
    row: NDArray[np.int64]
    table: NDArray[np.uint32]
    value: NDArray[np.float32]
    base: float

    @classmethod
    def of(cls, e: TreeEnsemble) -> LeafMasks | None:
        """Return the masks of an ensemble, or None if a tree has more than `MOST_LEAVES` leaves."""
        leaf = e.left == np.arange(len(e.left))
        levels = []
        reached = e.roots.astype(np.int64)
        for _ in range(e.depth + 1):
            levels.append(reached[~leaf[reached]])
            reached = np.concatenate([e.left[levels[-1]], e.right[levels[-1]]])
        leaves = leaf.astype(np.int64)
        for inner in reversed(levels):
            leaves[inner] = leaves[e.left[inner]] + leaves[e.right[inner]]
        if leaves[e.roots].max(initial=0) > MOST_LEAVES:
            return None
        first, tree = np.zeros((2, len(leaf)), dtype=np.int64)
        tree[e.roots] = np.arange(len(e.roots))
        for inner in levels:
            left, right = e.left[inner], e.right[inner]
            first[left], first[right] = first[inner], first[inner] + leaves[left]
            tree[left] = tree[right] = tree[inner]
        value = np.zeros((len(e.roots), MOST_LEAVES), dtype=np.float32)
        value[tree[leaf], first[leaf]] = e.value[leaf]

        inner = np.flatnonzero(~leaf)
        inner = inner[np.lexsort((e.threshold[inner], e.feature[inner]))]
        feature, threshold = e.feature[inner].astype(np.int64), e.threshold[inner]
        # each distinct threshold once; a feature has one entry more than thresholds
        other = np.diff(feature, prepend=-1) != 0
        new = other | (np.diff(threshold, prepend=np.nan) != 0)
        row = np.cumsum(new) + np.cumsum(other) - 1
        # 64 bits, because a shift by all 32 is not defined
        ruled_out = ((np.uint64(1) << leaves[e.left[inner]].astype(np.uint64)) - np.uint64(1)) << first[inner].astype(
            np.uint64
        )
        table = np.full((int(new.sum() + other.sum()), len(e.roots)), _ALL)
        np.bitwise_and.at(table, (row, tree[inner]), ~ruled_out.astype(np.uint32))
        start = np.flatnonzero(other[new])
        first_row = start + np.arange(len(start))
        # not strict: trees of a single leaf test no feature
        for begin, end in zip(first_row, [*first_row[1:], len(table)], strict=False):
            np.bitwise_and.accumulate(table[begin:end], axis=0, out=table[begin:end])
        return cls(feature[other], threshold[new], feature[new], start, first_row, table, value.ravel(), e.base)

    def predict(self, x: Array) -> Array:
        """Return the sum of the trees for features (n, f), (n,)."""
        out = np.empty(len(x))
        for begin in range(0, len(x), CHUNK):
            part = x[begin : begin + CHUNK]
            left_over = self._of_few(part) if len(part) < FEW_ROWS else self._of_many(part)
            lowest = left_over & (~left_over + np.uint32(1))
            # the exponent of a power of two is the number of its bit
            position = (lowest.astype(np.float32).view(np.int32) >> 23) - 127
            position += np.arange(0, len(self.value), MOST_LEAVES, dtype=np.int32)
            out[begin : begin + CHUNK] = self.base + self.value[position].sum(axis=1, dtype=np.float64)
        return out

    def _of_few(self, x: Array) -> NDArray[np.uint32]:
        if not len(self.start):
            return np.full((len(x), self.table.shape[1]), _ALL)
        below = np.add.reduceat(x[:, self.feature] > self.threshold, self.start, axis=1, dtype=np.int64)
        found: NDArray[np.uint32] = self.table[below + self.row]
        left_over: NDArray[np.uint32] = np.bitwise_and.reduce(found, axis=1)
        return left_over

    def _of_many(self, x: Array) -> NDArray[np.uint32]:
        out = np.full((len(x), self.table.shape[1]), _ALL)
        ends = [*self.start[1:].tolist(), len(self.threshold)]
        for feature, begin, end, row in zip(self.features, self.start, ends, self.row, strict=False):
            out &= self.table[row + np.searchsorted(self.threshold[begin:end], x[:, feature])]
        return out
