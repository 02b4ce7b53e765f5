"""Gaussian processes of several classes over shared points."""

from __future__ import annotations

import numpy as np
import pytest

from graphs.hardware.calibration.regressors import GaussianProcesses, build


@pytest.fixture(scope="module")
def fitted():
    gp = pytest.importorskip("training.fit.gp")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 3))
    labels = {"size": (x[:, 0] > 0).astype(np.int64), "rare": np.where(np.arange(160) < 8, 1, 0)}
    # two classes of quite different behaviour
    y = np.where(labels["size"] == 1, 3.0 + np.sin(2 * x[:, 1]), -x[:, 2])
    hyper = gp.fit_class_hyperparameters(x, y, labels, seed=0)
    return gp, x, y, labels, hyper, gp.fit_gps(x, y, labels, hyper)


def test_each_output_is_the_process_of_the_row_class(fitted) -> None:
    gp, x, y, labels, hyper, both = fitted
    rng = np.random.default_rng(1)
    query = rng.normal(size=(40, 3))
    classes = {"size": (query[:, 0] > 0).astype(np.int64), "rare": np.arange(40) % 2}
    out = both.outputs(query, classes)
    assert out.shape == (3, 40)
    points = x.astype(np.float32).astype(np.float64)

    def rounding(process) -> float:
        """Single precision: each kernel value is off by up to half a unit in its last place, twice."""
        return float(np.finfo(np.float32).eps * np.abs(process.weights).sum())

    joint = gp.fit_gp(points, y, hyper["", 0])
    np.testing.assert_allclose(out[0], joint.predict(query), atol=1e-6 + rounding(joint))
    for value in (0, 1):
        mine = labels["size"] == value
        alone = gp.fit_gp(points[mine], y[mine], hyper["size", value])
        own = classes["size"] == value
        np.testing.assert_allclose(out[1][own], alone.predict(query)[own], atol=1e-6 + rounding(alone))
    # 8 rows are too few for a process of their own: the joint one answers
    np.testing.assert_array_equal(out[2][classes["rare"] == 1], out[0][classes["rare"] == 1])


def test_a_class_of_its_own_serves_its_rows_better(fitted) -> None:
    both = fitted[-1]
    rng = np.random.default_rng(2)
    query = rng.uniform(-1.5, 1.5, size=(200, 3))
    query[:, 0] = rng.uniform(-0.3, 0.3, 200)  # near the border, where one smooth function must fail
    size = (query[:, 0] > 0).astype(np.int64)
    truth = np.where(size == 1, 3.0 + np.sin(2 * query[:, 1]), -query[:, 2])
    out = both.outputs(query, {"size": size, "rare": np.zeros(200, dtype=np.int64)})
    assert np.abs(out[1] - truth).mean() < 0.5 * np.abs(out[0] - truth).mean()


def test_arrays_rebuild_the_same_processes(fitted) -> None:
    *_, both = fitted
    arrays = {k: np.asarray(v) for k, v in both.arrays().items()}
    again = build("gps", arrays, "test")
    assert isinstance(again, GaussianProcesses)
    rng = np.random.default_rng(3)
    query = rng.normal(size=(20, 3))
    classes = {"size": np.zeros(20, dtype=np.int64), "rare": np.ones(20, dtype=np.int64)}
    # weights are stored as float32
    np.testing.assert_allclose(again.outputs(query, classes), both.outputs(query, classes), atol=1e-4)
