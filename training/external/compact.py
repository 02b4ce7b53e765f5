"""Small models to ship: two boosted ensembles a family, stored in few bytes, with an interval from rows left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.hardware.calibration import features
from graphs.hardware.calibration.domain import Domain, Margin, effective_dtype, physical
from graphs.hardware.calibration.features import Machine
from graphs.hardware.calibration.fitted import FamilyModel, take
from graphs.hardware.calibration.regressors import TreeEnsemble
from graphs.ops.batch import OperatorGroup
from training.fit.family import conformal
from training.fit.trees import fit_trees

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Trees and leaves of each of the two ensembles, by rows of the family (at least as many rows: trees, leaves).
SIZES = ((10_000, 150, 31), (3_000, 80, 31), (0, 50, 24))
#: Width of the domain beyond the measured range in factors of two, below and above.  Small work is the fixed cost of a
#: call, which is known.  Of twins fitted without the largest rows (top decade of tokens, L40S), products held up over
#: two steps (median error 7.7 %), attention over none (32.6 %).
MARGINS: dict[str, Margin] = {"gemm": (1.0, 2.0), "sdpa": (0.5, 0.5), "sdpa_decode": (0.5, 0.5)}
MARGIN: Margin = (1.0, 1.0)
SMALL_WORK = 12.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured calls of one operator kind.

    Attributes
    ----------
    group : OperatorGroup
    latency_s : (n,) float64
    held : (n,) bool
        Rows that twins do not see.
    """

    group: OperatorGroup
    latency_s: Array
    held: Mask


def fit_twin(family: str, kinds: Sequence[Measured], machine: Machine, seed: int) -> FamilyModel:
    """Fit one family without the held-out rows, and without a tenth of the others, which calibrates its interval."""
    seen = [(take(m.group, ~m.held), m.latency_s[~m.held]) for m in kinds]
    names, x, y, t0 = _problem(seen, machine)
    left_out = np.random.default_rng(seed).random(len(y)) < 0.1
    pair = _pair(x[~left_out], y[~left_out], seed)
    each = np.stack([m.predict(x[left_out]) for m in pair])
    error = each.mean(axis=0) - y[left_out]
    ape = np.abs(np.exp(error) - 1.0)
    return FamilyModel(
        family=family,
        t0_s=t0,
        feature_names=tuple(names),
        members=pair,
        weights=np.array([0.5, 0.5]),
        interval=conformal(np.abs(error), each.std(axis=0)),
        domains={g.kind.name: domain_of(g) for g, _ in seen},
        scores={
            "rows": len(y), "cv_median_ape": round(float(np.median(ape)), 5),
            "cv_mape": round(float(ape.mean()), 5),
        },
    )  # fmt: skip


def fit_final(twin: FamilyModel, kinds: Sequence[Measured], machine: Machine, seed: int) -> FamilyModel:
    """Fit the family of a twin on all rows; the interval stays that of the twin, which knew fewer."""
    seen = [(m.group, m.latency_s) for m in kinds]
    _, x, y, t0 = _problem(seen, machine)
    return replace(
        twin, t0_s=t0, members=_pair(x, y, seed), domains={g.kind.name: domain_of(g) for g, _ in seen},
        scores=twin.scores | {"rows": len(y)},
    )  # fmt: skip


def _problem(seen: Sequence[tuple[OperatorGroup, Array]], machine: Machine) -> tuple[list[str], Array, Array, float]:
    """Return names, features (n, f), targets (n,) and t0."""
    built = [features.build(g, machine) for g, _ in seen]
    latency = np.concatenate([s for _, s in seen])
    roofline = np.concatenate([machine.attainable_s(g.flops, g.bytes, effective_dtype(g)) for g, _ in seen])
    t0 = float(np.quantile(latency, 0.01))
    return built[0][0], np.concatenate([x for _, x in built]), np.log(latency / (t0 + roofline)), t0


def domain_of(group: OperatorGroup) -> Domain:
    """Return the domain of measured calls, with the margins of this module."""
    low, high = MARGINS.get(group.kind.family, MARGIN)
    margins = {n: (SMALL_WORK if n in ("flops", "bytes", "output elements") else low, high) for n in physical(group)}
    domain = Domain.of(group, margins)
    if group.kind.name == "linear":
        # the sources do not record whether a layer had a bias; n additions are far below the noise of a product
        return replace(domain, choices=domain.choices | {"bias": (0, 1)})
    return domain


def _pair(x: Array, y: Array, seed: int) -> list[TreeEnsemble]:
    trees, leaves = next((t, n) for rows, t, n in SIZES if len(y) >= rows)
    changes: dict[str, Any] = {
        "max_iter": trees, "max_leaf_nodes": leaves, "max_features": 0.4, "learning_rate": 0.15,
    }  # fmt: skip
    return [shrink(fit_trees(x, y, seed + i, **changes)) for i in (0, 1)]


def shrink(trees: TreeEnsemble) -> TreeEnsemble:
    """Return the ensemble in fewer bytes: half-precision leaves, short positions.

    Leaves lose less than one part in a thousand; positions need fewer than 65,536 nodes.
    """
    if len(trees.feature) > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(trees.feature)} nodes do not fit 16 bits")
    return replace(
        trees,
        feature=trees.feature.astype(np.int16),
        left=trees.left.astype(np.uint16),
        right=trees.right.astype(np.uint16),
        value=trees.value.astype(np.float16),
    )
