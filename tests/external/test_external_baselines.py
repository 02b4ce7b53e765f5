"""Baselines of public measurements against plain, slow re-statements of their rules."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from external_rows import gemm_rows

from training.external.baselines import Lookup, affine, log_linear, neighbours
from training.external.splits import splits

Row = tuple[float, float, float, float, float]  # m, n, k, latency, roofline


def brute_force(rows: list[Row], m: float, n: float, k: float, roofline: float) -> float:
    """The rule of the table, one query at a time, as it is described."""
    raised = [(a, b, c, max(t, r), r) for a, b, c, t, r in rows]

    def curve(site: tuple[float, float]) -> list[tuple[float, float, float]]:
        return sorted((a, t, r / t) for a, b, c, t, r in raised if (b, c) == site)

    def between(points: list[tuple[float, float]], x: float) -> float:
        for (x0, y0), (x1, y1) in pairwise(points):
            if x0 <= x <= x1:
                return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        return points[0][1]  # a single point

    sites = sorted({(b, c) for _, b, c, _, _ in rows})
    if (n, k) in sites:
        points = curve((n, k))
        if m < points[0][0]:
            return roofline / float(np.median([u for _, _, u in points[:3]]))
        if m > points[-1][0]:
            return roofline / float(np.median([u for _, _, u in points[-3:]]))
        return between([(a, t) for a, t, _ in points], m)
    over = [n > max(b for b, _ in sites), k > max(c for _, c in sites)]
    near = []
    for site in sites:
        dn, dk = abs(math.log2(n / site[0])), abs(math.log2(k / site[1]))
        distance = math.hypot(dn, dk)
        allowed = ((dk if over[0] else dn) if sum(over) == 1 else distance) <= 2.0
        points = curve(site)
        if allowed and points[0][0] <= m <= points[-1][0]:
            near.append((distance, between([(a, u) for a, _, u in points], m)))
    near = sorted(near)[:4]
    if not near:
        return math.nan
    weights = [1 / d**2 for d, _ in near]
    return roofline / (sum(w * u for w, (_, u) in zip(weights, near, strict=True)) / sum(weights))


@pytest.fixture(scope="module")
def table() -> list[Row]:
    rng = np.random.default_rng(3)
    rows = []
    for n, k in [(100, 300), (130, 700), (512, 512), (900, 90), (2000, 260), (4100, 3000)]:
        for m in sorted(rng.choice(np.arange(1, 400), 6, replace=False)):
            roofline = float(rng.uniform(1, 4))
            rows.append((float(m), float(n), float(k), roofline * float(rng.uniform(0.8, 6)), roofline))
    return rows


def test_lookup_is_the_described_rule(table: list[Row]) -> None:
    rng = np.random.default_rng(4)
    sites = [(512, 512), (100, 300), (480, 400), (1200, 150), (9000, 2500), (9000, 90), (300, 9000), (20_000, 20_000)]
    queries = [(float(m), float(n), float(k)) for n, k in [*sites, (7, 7)] for m in rng.integers(1, 500, 12)]
    m, n, k = (np.array(c) for c in zip(*queries, strict=True))
    roofline = rng.uniform(1, 4, len(m))
    lookup = Lookup.fit(*(np.array(c) for c in zip(*table, strict=True)))
    answers = lookup.predict(m, n, k, roofline)
    expected = [brute_force(table, *q, r) for q, r in zip(queries, roofline.tolist(), strict=True)]
    np.testing.assert_allclose(answers, expected, rtol=1e-9)
    assert np.isnan(answers).any()  # some are misses
    assert np.isfinite(answers).sum() > 40


def test_lookup_returns_measured_rows_raised_to_the_roofline(table: list[Row]) -> None:
    columns = [np.array(c) for c in zip(*table, strict=True)]
    answers = Lookup.fit(*columns).predict(columns[0], columns[1], columns[2], columns[4])
    np.testing.assert_allclose(answers, np.maximum(columns[3], columns[4]))
    assert (columns[3] < columns[4]).any()


def test_affine_recovers_its_own_line_at_any_scale() -> None:
    rng = np.random.default_rng(0)
    flops, nbytes = 10 ** rng.uniform(6, 13, 200), 10 ** rng.uniform(4, 9, 200)
    seconds = 2e-5 + flops / 8e12 + nbytes / 6e11
    np.testing.assert_allclose(affine(flops, nbytes, seconds, flops * 3, nbytes), seconds + 2 * flops / 8e12, rtol=1e-6)


def test_neighbours_and_log_linear() -> None:
    x = np.random.default_rng(1).uniform(0, 10, (300, 2))
    y = -0.2 * x[:, 0] + 0.1 * x[:, 1]
    np.testing.assert_allclose(neighbours(x, y, x[:5]), y[:5])
    np.testing.assert_allclose(log_linear(x, y, x[:5]), y[:5], atol=0.02)
    assert log_linear(x, y, np.array([[1000.0, 0.0]]))[0] == y.min()


def test_splits_hold_out_whole_shapes_and_the_same_rows_on_every_dtype() -> None:
    frame = gemm_rows().assign(op="linear")
    held = {d: splits(g.reset_index(drop=True)) for d, g in frame.groupby("dtype")}
    np.testing.assert_array_equal(held["fp8"]["random"], held["bfloat16"]["random"])
    one = frame[frame["dtype"] == "fp8"].reset_index(drop=True)
    shape = held["fp8"]["new_shape"]
    sites = set(zip(one["n"][shape], one["k"][shape], strict=True))
    assert sites
    assert not sites & set(zip(one["n"][~shape], one["k"][~shape], strict=True))
    assert (one["m"][held["fp8"]["largest"]] > one["m"].max() / 10).all()
    assert 0.1 < held["fp8"]["random"].mean() < 0.3
