"""A small machine with a small fitted model, both made up, so that every answer can be computed by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from graphs import ops
from graphs.hardware.calibration import features
from graphs.hardware.calibration.domain import Domain
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.fitted import EfficiencyModel, FamilyModel, Interval
from graphs.hardware.calibration.regressors import GaussianProcess, Student, TreeEnsemble

PEAK = {"fp32": 1e12, "fp64": 5e11, "bf16": 8e12}
BANDWIDTH = 1e11
T0 = 2e-6
#: The made-up model says: latency = RATIO * (T0 + roofline time).
RATIO = {"gemm": 1.6, "unary": 1.25}
MEASURED = {
    "matmul": [
        ({"m": m, "n": n, "k": k}, dtype)
        for m, n, k in ((64, 64, 64), (2048, 1024, 4096))
        for dtype in ("fp32", "bf16")
    ],
    "linear": [({"m": 64, "n": 64, "k": 64}, "fp32"), ({"m": 2048, "n": 2048, "k": 2048, "bias": False}, "fp32")],
    "relu": [({"numel": 2**10}, "fp32"), ({"numel": 2**24}, "fp32")],
}  # fmt: skip


def raw_profile(**changes: Any) -> dict[str, Any]:
    """Return the content of the made-up machine's profile, with changes."""
    source = "made up for tests"
    raw: dict[str, Any] = {
        "schema_version": 1, "id": "toy-gpu", "name": "Toy GPU", "vendor": "none", "kind": "gpu", "compute_units": 10,
        "cache_bytes": {"l2": 1e6},
        "peak_flops_per_s": {d: {"value": v, "source": source} for d, v in PEAK.items()},
        "bandwidth_bytes_per_s": {"value": BANDWIDTH, "source": source},
        "measured": {"bandwidth_bytes_per_s": {"value": 0.8 * BANDWIDTH, "source": source}},
        "model": "models/toy-gpu",
    }  # fmt: skip
    return raw | changes


def group(op: str, dtype: str = "fp32", **params: Any) -> ops.OperatorGroup:
    """Return one call as a group."""
    return ops.group_operators([op], [dtype], [params])[0]


def constant_trees(value: float) -> TreeEnsemble:
    """Return a one-leaf ensemble."""
    zero, index = np.zeros(1), np.zeros(1, dtype=np.int32)
    return TreeEnsemble(zero.astype(np.int16), zero, index, index, zero.astype(np.float32), index, 0, value)


def random_regressors(n_features: int, seed: int = 0) -> list[Any]:
    """Return one regressor of each form with random, harmless numbers."""
    rng = np.random.default_rng(seed)
    stump = TreeEnsemble(
        feature=np.array([0, 0, 0], dtype=np.int16), threshold=np.array([10.0, 0.0, 0.0]),
        left=np.array([1, 1, 2], dtype=np.int32), right=np.array([2, 1, 2], dtype=np.int32),
        value=np.array([0.0, 0.25, -0.125], dtype=np.float32), roots=np.zeros(1, dtype=np.int32), depth=1, base=0.1,
    )  # fmt: skip
    gp = GaussianProcess(
        points=rng.normal(size=(7, n_features)).astype(np.float32), weights=rng.normal(size=7),
        shift=rng.normal(size=n_features), scale=rng.uniform(5, 20, n_features), mean=0.2,
    )  # fmt: skip
    widths = [n_features, 8, 8, 2]
    student = Student(
        weights=[(0.2 * rng.normal(size=pair)).astype(np.float16) for pair in itertools.pairwise(widths)],
        biases=[(0.1 * rng.normal(size=b)).astype(np.float32) for b in widths[1:]],
        shift=rng.normal(size=n_features), scale=rng.uniform(5, 20, n_features), limit=6.0,
        output_mean=np.array([-0.1, -2.0]), output_scale=np.array([0.5, 0.3]),
    )  # fmt: skip
    return [stump, gp, student]


def make_model(members: Any = None, hardware: str = "toy-gpu") -> EfficiencyModel:
    """Return the made-up fitted model; `members` maps a family and its features to regressors."""
    machine = Machine(units=10, l2_bytes=1e6, peaks=PEAK, bandwidth_bytes_per_s=BANDWIDTH)
    families: dict[str, FamilyModel] = {}
    for op, rows in MEASURED.items():
        (rows_group,) = ops.group_operators([op] * len(rows), [d for _, d in rows], [p for p, _ in rows])
        family = ops.get(op).family
        names = features.build(rows_group, machine)[0]
        if family not in families:
            regressors = members(len(names)) if members else [constant_trees(float(np.log(RATIO[family])))]
            families[family] = FamilyModel(
                family=family, t0_s=T0, feature_names=tuple(names), members=regressors,
                weights=np.full(len(regressors), 1.0 / len(regressors)),
                interval=Interval(quantile=5.0, floor=0.02, rows=100), domains={}, scores={"rows": len(rows)},
            )  # fmt: skip
        families[family].domains[op] = Domain.of(rows_group)
    return EfficiencyModel(hardware, machine, families, {"provenance": {"data": "made up", "date": "2026-01-01"}})
