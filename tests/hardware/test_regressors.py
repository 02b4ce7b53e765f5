"""The numpy evaluation of fitted regressors against the libraries that fit them, and their storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_hardware import group, make_model, random_regressors

from graphs.errors import ModelFileError
from graphs.hardware.calibration.artifact import load_model, save_model
from graphs.hardware.calibration.regressors import (
    CHUNK,
    Expert,
    GaussianProcess,
    GaussianProcesses,
    Student,
    TreeEnsemble,
    build,
)

seeds = st.integers(0, 2**31)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, rows=st.integers(20, 300), leaves=st.integers(2, 24), whole=st.booleans())
def test_trees_equal_scikit_learn(seed: int, rows: int, leaves: int, whole: bool) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    from training.fit.trees import export

    rng = np.random.default_rng(seed)
    # whole numbers have ties: queries then lie exactly on thresholds, which are kept in single precision; so are
    # midpoints of these fractions
    x = rng.integers(0, 6, (rows, 5)).astype(float) if whole else np.round(rng.normal(size=(rows, 5)) * 1024) / 1024
    y = x[:, 0] * x[:, 1] + rng.normal(size=rows)
    model = ensemble.HistGradientBoostingRegressor(
        max_iter=12, max_leaf_nodes=leaves, min_samples_leaf=2, early_stopping=False, random_state=0
    ).fit(x, y)
    ours = export(model)
    queries = np.concatenate([x, 3.0 * rng.normal(size=(50, 5)), ours.threshold[:, None] * np.ones(5)])
    # leaves are kept as float32
    np.testing.assert_allclose(ours.predict(queries), model.predict(queries), rtol=2e-6, atol=2e-6 * np.abs(y).max())


@settings(max_examples=20, deadline=None)
@given(seed=seeds, trees=st.integers(1, 6), leaves=st.integers(1, 33))
def test_leaf_masks_are_the_trees_to_the_last_bit(seed: int, trees: int, leaves: int) -> None:
    ensemble = _random_trees(np.random.default_rng(seed), trees, leaves)
    rng = np.random.default_rng(seed + 1)
    # half of the queries lie on thresholds
    x = np.concatenate([rng.normal(size=(30, 3)), rng.choice(ensemble.threshold, (30, 3))])
    stepped = ensemble._descend(x)
    assert (ensemble._masks is None) == (leaves > 32)
    np.testing.assert_array_equal(ensemble.predict(x), stepped)
    np.testing.assert_array_equal([ensemble.predict(x[i : i + 1])[0] for i in range(len(x))], stepped)


def _random_trees(rng: np.random.Generator, trees: int, leaves: int) -> TreeEnsemble:
    """Return trees with `leaves` leaves each, split at random; thresholds repeat."""
    feature, threshold, left, right, value, roots = [], [], [], [], [], []
    for _ in range(trees):
        offset = len(feature)
        roots.append(offset)
        own = [offset]
        for name in (feature, threshold, value):
            name.append(0)
        left.append(offset), right.append(offset)
        while len(own) < leaves:
            node = own.pop(int(rng.integers(len(own))))
            feature[node], threshold[node], value[node] = int(rng.integers(3)), float(rng.integers(-4, 5)) / 4, 0.0
            left[node], right[node] = len(feature), len(feature) + 1
            for child in (left[node], right[node]):
                own.append(child)
                feature.append(0), threshold.append(0.0), value.append(float(rng.normal()))
                left.append(child), right.append(child)
    return TreeEnsemble(
        np.array(feature, dtype=np.int16), np.array(threshold), np.array(left, dtype=np.int32),
        np.array(right, dtype=np.int32), np.array(value, dtype=np.float32), np.array(roots, dtype=np.int32), leaves,
        0.5,
    )  # fmt: skip


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matern-3/2 by the definition, distances taken directly."""
    r = np.sqrt(3.0) * np.linalg.norm(a[:, None] - b[None], axis=2)
    return (1.0 + r) * np.exp(-r)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, points=st.integers(1, 60), features=st.integers(1, 8))
def test_gaussian_process_equals_its_definition(seed: int, points: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    gp = GaussianProcess(
        rng.normal(size=(points, features)).astype(np.float32), rng.normal(size=points),
        rng.normal(size=features), rng.uniform(0.3, 3.0, features), float(rng.normal()),
    )  # fmt: skip
    x = np.concatenate([rng.normal(size=(40, features)), gp.points[:3] * gp.scale + gp.shift])
    z = (x - gp.shift) / gp.scale
    expected = gp.mean + _matern(z, gp.points.astype(np.float64)) @ gp.weights
    np.testing.assert_allclose(gp.predict(x), expected, atol=2e-5 * (1.0 + np.abs(gp.weights).sum()))


@pytest.mark.parametrize("family", ["gemm", "sdpa", "nchw"])
def test_single_precision_costs_a_shipped_process_less_than_the_timing_noise(root: Path, family: str) -> None:
    """Against double precision, at its own points, where distances cancel most, and near them."""
    model = load_model(root / "models" / "h100-sxm").families[family]
    joint = next(m for m in model.members if isinstance(m, GaussianProcesses))._processes["", 0]
    rng = np.random.default_rng(0)
    z = joint.points[rng.choice(len(joint.points), 60)].astype(np.float64)
    z[30:] += rng.normal(scale=0.1, size=z[30:].shape)
    used = joint.scale < 1e29
    expected = joint.mean + _matern(z[:, used], joint.points[:, used].astype(np.float64)) @ joint.weights
    np.testing.assert_allclose(joint.predict(z * joint.scale + joint.shift), expected, atol=2e-3)


def test_gaussian_process_interpolates_what_it_was_fitted_on() -> None:
    pytest.importorskip("torch")
    from training.fit.gp import Hyperparameters, fit_gp

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    x[:, 2] = 4.0  # a constant feature must not matter
    hyper = Hyperparameters(x.mean(axis=0), np.array([1.0, 2.0, np.inf]), 1.5, 1e-6)
    gp = fit_gp(x, y, hyper)
    np.testing.assert_allclose(gp.predict(x), y, atol=1e-3)
    # and equals (their eq. 2.25) solved directly, at new places
    z = (x - hyper.shift) / np.where(np.isfinite(hyper.scale), hyper.scale, 1e30)
    new = rng.normal(size=(20, 3))
    zn = (new - hyper.shift) / np.where(np.isfinite(hyper.scale), hyper.scale, 1e30)
    k = 1.5 * _matern(z, z) + 1e-6 * np.eye(60)
    expected = y.mean() + 1.5 * _matern(zn, z) @ np.linalg.solve(k, y - y.mean())
    np.testing.assert_allclose(gp.predict(new), expected, atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, features=st.integers(1, 10), hidden=st.integers(1, 16), layers=st.integers(0, 3))
def test_student_equals_torch_in_double_precision(seed: int, features: int, hidden: int, layers: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    sizes = [(features, hidden), *[(hidden, hidden)] * layers, (hidden, 2)]
    net = Student(
        [(rng.normal(size=pair) / np.sqrt(pair[0])).astype(np.float16) for pair in sizes],
        [rng.normal(size=b).astype(np.float32) for _, b in sizes],
        rng.normal(size=features), rng.uniform(0.5, 2.0, features), 4.0, np.array([0.3, -3.0]), np.array([0.7, 0.2]),
    )  # fmt: skip
    x = 5.0 * rng.normal(size=(30, features))
    w, b = ([torch.tensor(v, dtype=torch.float64) for v in part] for part in (net.weights, net.biases))
    h = torch.relu(torch.tensor(np.clip((x - net.shift) / net.scale, -4.0, 4.0)) @ w[0] + b[0])
    for middle, bias in zip(w[1:-1], b[1:-1], strict=True):
        h = h + torch.relu(h @ middle + bias)
    out = (h @ w[-1] + b[-1]).numpy() * net.output_scale + net.output_mean
    prediction, spread = net.predict_with_spread(x)
    np.testing.assert_allclose(prediction, out[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(spread, np.exp(out[:, 1]), rtol=1e-3)


def test_student_far_outside_stays_finite_and_quiet() -> None:
    net = random_regressors(4)[2]
    far = net.predict(np.full((1, 4), 1e9))
    assert np.isfinite(far).all()
    # features are clipped: further out changes nothing
    np.testing.assert_array_equal(far, net.predict(np.full((1, 4), 1e12)))


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("rows", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_blocks_of_rows_do_not_show(which: int, rows: int) -> None:
    regressor = random_regressors(4)[which]
    x = np.random.default_rng(1).normal(scale=10.0, size=(rows, 4))
    whole = regressor.predict(x)
    assert whole.shape == (rows,)
    if rows:
        some = [0, rows // 2, rows - 1]
        np.testing.assert_allclose(whole[some], [regressor.predict(x[i : i + 1])[0] for i in some], rtol=1e-5)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_rebuilt_from_its_arrays_predicts_the_same_bits(which: int) -> None:
    regressor = random_regressors(4)[which]
    again = build(regressor.form, regressor.arrays(), "here")
    x = np.random.default_rng(2).normal(scale=10.0, size=(200, 4))
    np.testing.assert_array_equal(again.predict(x), regressor.predict(x))


def test_saved_and_loaded_model_predicts_the_same_bits(tmp_path: Path) -> None:
    model = make_model(random_regressors)
    save_model(model, tmp_path / "toy-gpu")
    again = load_model(tmp_path / "toy-gpu")
    for op, params in (("matmul", {"m": 300, "n": 200, "k": 100}), ("relu", {"numel": 12345})):
        before, after = model.answer(group(op, **params)), again.answer(group(op, **params))
        assert before.source[0] == "model"
        for name in ("latency_s", "low_s", "high_s"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert before.low_s[0] < before.latency_s[0] < before.high_s[0]


def test_unknown_form_and_missing_arrays_are_typed_errors() -> None:
    with pytest.raises(ModelFileError, match=r"received .forest.; allowed: trees, gp"):
        build("forest", {}, "here")
    arrays = random_regressors(4)[1].arrays()
    del arrays["weights"]
    with pytest.raises(ModelFileError, match="weights"):
        build("gp", arrays, "here")


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("feature", lambda a: a[: len(a) // 2], "differ in length"),
        ("value", lambda a: np.append(a, a[:1]), "differ in length"),
        ("left_step", lambda a: a + len(a), "'left' points outside"),
        ("right_step", lambda a: a - len(a), "'right' points outside"),
        ("roots", lambda a: a - 1, "'roots' points outside"),
        ("depth", lambda a: np.array(10**9), "1000000000 deep"),
        # an inner node that leads to itself, and two that share a leaf: walks without end, trees without bound
        ("left_step", lambda a: np.where(np.arange(len(a)) == 0, 0, a), "do not form trees"),
        ("right_step", lambda a: np.where(np.arange(len(a)) == 0, 1, a), "do not form trees"),
        ("feature", lambda a: a - 1, "tests no feature"),
        ("value", lambda a: np.where(a == a[-1], np.inf, a), "not finite"),
    ],
)
def test_trees_that_no_fit_writes_are_refused_before_the_first_answer(name: str, change: Any, word: str) -> None:
    arrays = random_regressors(4)[0].arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(ModelFileError, match=word):
        build("trees", arrays, "here")


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("expert::0:weights", lambda a: a[:-1], "not of its 30 points"),
        ("expert:half:1:weights", lambda a: a[:-1], "not of its 15 points"),
        ("expert::0:shift", lambda a: a[:-1], "4 features"),
        ("labels:half", lambda a: a[:-1], "classes are not of the 30 points"),
        ("expert:half:0:scale", lambda a: -a, "not finite"),
        ("expert::0:weights", lambda a: a * np.nan, "not finite"),
        ("expert::0:weights", None, "joint process is missing"),
        ("labels:half", None, "half"),
    ],
)
def test_processes_that_no_fit_writes_are_refused_before_the_first_answer(name: str, change: Any, word: str) -> None:
    rng = np.random.default_rng(0)
    labels = {"half": (np.arange(30) % 2).astype(np.int16)}
    experts = [
        Expert(p, v, rng.normal(size=n), rng.normal(size=4), np.ones(4), 0.0)
        for p, v, n in (("", 0, 30), ("half", 0, 15), ("half", 1, 15))
    ]
    arrays = GaussianProcesses(rng.normal(size=(30, 4)).astype(np.float32), labels, tuple(experts)).arrays()
    build("gps", arrays, "here")
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    with pytest.raises(ModelFileError, match=word):
        build("gps", arrays, "here")


@pytest.mark.parametrize(
    ("name", "change"),
    [("w1", lambda a: a[:-1]), ("b0", lambda a: a[:-1]), ("w2", lambda a: a[:, :1]), ("scale", lambda a: -a)],
)
def test_networks_that_no_fit_writes_are_refused_before_the_first_answer(name: str, change: Any) -> None:
    arrays = random_regressors(4)[2].arrays()
    build("student", arrays, "here")
    arrays[name] = change(arrays[name])
    with pytest.raises(ModelFileError, match="network"):
        build("student", arrays, "here")


def test_outputs_come_back_in_the_order_that_their_weights_are_in() -> None:
    rng = np.random.default_rng(0)
    labels = {name: (np.arange(30) % 2).astype(np.int16) for name in ("size", "narrow", "operands")}
    experts = [Expert("", 0, rng.normal(size=30), rng.normal(size=4), np.ones(4), 0.0)]
    experts += [Expert(p, v, rng.normal(size=15), rng.normal(size=4), np.ones(4), 0.0) for p in labels for v in (0, 1)]
    fitted = GaussianProcesses(rng.normal(size=(30, 4)).astype(np.float32), labels, tuple(experts))
    # a blob of arrays is written in alphabetical order
    arrays = dict(sorted(fitted.arrays().items()))
    x, classes = rng.normal(size=(8, 4)), {name: np.arange(8) % 2 for name in labels}
    again = build("gps", arrays, "here").in_order(["size", "other", "narrow", "operands"])
    np.testing.assert_allclose(again.outputs(x, classes), fitted.outputs(x, classes), rtol=1e-5)
    with pytest.raises(ValueError, match="no place for the outputs of narrow"):
        again.in_order(["size", "operands"])


def test_forms_have_distinct_names() -> None:
    forms = (TreeEnsemble, GaussianProcess, GaussianProcesses, Student)
    assert {c.form for c in forms} == {"trees", "gp", "gps", "student"}
