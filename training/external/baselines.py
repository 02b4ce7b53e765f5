"""What a model of public measurements has to beat.

`Lookup` is AIConfigurator's rule for GEMM, re-implemented from its description; `affine` is the line of NeuSight's own
comparison; `neighbours` is a table lookup on log efficiency; `log_linear` a power law.  NeuSight's network is not
re-implemented: its inputs need the kernels' tile sizes, which only a profiler knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.neighbors import KNeighborsRegressor

Array = NDArray[np.float64]

#: Sites that answer for an unknown one, and their largest distance in log2 (n, k).
SITES, GATE = 4, 2.0
#: End points whose utilisation is held beyond the measured m.
ENDS = 3


@dataclass(frozen=True, slots=True)
class Lookup:
    """AIConfigurator's table lookup of one GEMM set.

    Rows below the roofline are raised to it at load.  A known (n, k): a straight line in m through raw latency; off
    either end of m the median utilisation (roofline / latency) of the three end points is held.  An unknown one:
    utilisation of the four nearest sites in log2 (n, k) whose m range covers the query, weights 1 / distance squared,
    within two octaves - waived where exactly one of n and k overflows upwards and the other passes.  Else a miss, NaN.

    Attributes
    ----------
    sites : dict of (n, k) to (m, latency_s, utilisation), each ascending in m
    where : (sites, 2) float64
        log2 (n, k) of each site.
    """

    sites: dict[tuple[float, float], tuple[Array, Array, Array]]
    where: Array

    @classmethod
    def fit(cls, m: Array, n: Array, k: Array, latency_s: Array, roofline_s: Array) -> Lookup:
        """Build the table from measured rows, each (rows,)."""
        raised = np.maximum(latency_s, roofline_s)
        order = np.lexsort((m, k, n))
        m, n, k, raised, util = m[order], n[order], k[order], raised[order], (roofline_s / raised)[order]
        starts = np.flatnonzero(np.r_[True, (np.diff(n) != 0) | (np.diff(k) != 0)])
        sites = {
            (float(n[i]), float(k[i])): (m[i:j], raised[i:j], util[i:j])
            for i, j in zip(starts, np.r_[starts[1:], len(m)], strict=True)
        }
        return cls(sites, np.log2(np.array(list(sites))))

    def predict(self, m: Array, n: Array, k: Array, roofline_s: Array) -> Array:
        """Return seconds of queries (rows,); NaN is a miss."""
        out = np.full(len(m), np.nan)
        order = np.lexsort((k, n))
        starts = np.flatnonzero(np.r_[True, (np.diff(n[order]) != 0) | (np.diff(k[order]) != 0)])
        for rows in np.split(order, starts[1:]):
            site = (float(n[rows[0]]), float(k[rows[0]]))
            if site in self.sites:
                out[rows] = self._known(site, m[rows], roofline_s[rows])
            else:
                out[rows] = self._unknown(site, m[rows], roofline_s[rows])
        return out

    def _known(self, site: tuple[float, float], m: Array, roofline_s: Array) -> Array:
        known, latency, util = self.sites[site]
        line = np.interp(m, known, latency)
        low, high = np.median(util[:ENDS]), np.median(util[-ENDS:])
        held = np.where(m < known[0], roofline_s / low, roofline_s / high)
        return np.where((m < known[0]) | (m > known[-1]), held, line)

    def _unknown(self, site: tuple[float, float], m: Array, roofline_s: Array) -> Array:
        offset = self.where - np.log2(site)
        distance = np.sqrt((offset**2).sum(axis=1))
        passes = distance <= GATE
        above = np.log2(site) > self.where.max(axis=0)
        if above.sum() == 1:
            passes = np.abs(offset[:, int(np.argmin(above))]) <= GATE
        keys = list(self.sites)
        covers = np.array([self.sites[q][0][0] <= m for q in keys]) & np.array(
            [self.sites[q][0][-1] >= m for q in keys]
        )
        covers &= passes[:, None]
        out = np.full(len(m), np.nan)
        order = np.argsort(distance, kind="stable")
        for i in range(len(m)):
            near = order[covers[order, i]][:SITES]
            if len(near):
                utils = [np.interp(m[i], self.sites[keys[j]][0], self.sites[keys[j]][2]) for j in near]
                out[i] = roofline_s[i] / np.average(utils, weights=1.0 / np.maximum(distance[near], 1e-9) ** 2)
        return out


def affine(flops: Array, nbytes: Array, latency_s: Array, q_flops: Array, q_bytes: Array) -> Array:
    """Return a + b flops + c bytes, non-negative least squares of the relative error."""
    seen, asked = (np.stack([np.ones(len(f)), f, b], axis=1) for f, b in ((flops, nbytes), (q_flops, q_bytes)))
    return additive(seen, latency_s, asked)


def additive(terms: Array, latency_s: Array, query: Array) -> Array:
    """Return the non-negative combination of terms (n, t) that fits latencies best, for queries (q, t).

    Least squares of the relative error.
    """
    # columns of one size: the solver's tolerance is absolute; a column of zeros stays one
    scale = np.maximum(terms.max(axis=0), 1e-300)
    weights, _ = nnls(terms / scale / latency_s[:, None], np.ones(len(terms)), maxiter=30 * terms.shape[1])
    out: Array = query / scale @ weights
    return out


def neighbours(x: Array, log_efficiency: Array, query: Array, n: int = 4) -> Array:
    """Return log efficiency of the nearest rows in log dimensions (rows, d), weights 1 / distance."""
    model = KNeighborsRegressor(n_neighbors=min(n, len(x)), weights="distance").fit(x, log_efficiency)
    return np.asarray(model.predict(query), dtype=np.float64)


def log_linear(x: Array, log_efficiency: Array, query: Array) -> Array:
    """Return least squares of log efficiency on log dimensions (a power law), inside the range of what was seen."""
    mean = x.mean(axis=0)
    a = x - mean
    slope = np.linalg.solve(
        a.T @ a + 1e-3 * len(a) * np.eye(a.shape[1]), a.T @ (log_efficiency - log_efficiency.mean())
    )
    line = log_efficiency.mean() + (query - mean) @ slope
    return np.asarray(np.clip(line, log_efficiency.min(), log_efficiency.max()))
