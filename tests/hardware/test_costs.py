"""What a call on a CPU is made of, the fitted sum of it, and regressors that see it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_features import TOY

from graphs import ops
from graphs.errors import ModelFileError
from graphs.hardware.calibration.features import FAMILIES, build
from graphs.hardware.calibration.features.costs import costs
from graphs.hardware.calibration.regressors import Augmented, Costs, GaussianProcess
from graphs.hardware.calibration.regressors import build as rebuild
from graphs.hardware.calibration.regressors.augmented import augment
from graphs.hardware.calibration.regressors.costs import log_sum

PROCESSOR = replace(TOY, kind="cpu", units=16)
#: Exact number of amounts after the three that all families share, in the order of the rules.
SHARED = 3


def amounts(op: str, dtype: str = "fp32", **params: Any) -> tuple[list[float], list[float]]:
    """Return the amounts of one call in microseconds, after the shared ones, and its circumstances."""
    (group,) = ops.group_operators([op], [dtype], [params])
    names, x = build(group, PROCESSOR)
    log_us, circumstances = costs(group.kind.family, names, x)
    shared, own = np.exp(log_us[0, :SHARED]), np.exp(log_us[0, SHARED:])
    column = dict(zip(names, x[0], strict=True))
    assert shared[0] == 1.0
    assert max(shared[1:]) == pytest.approx(2.0 ** column["lg_roofline_us"])
    return own.tolist(), circumstances[0].tolist()


def none(value: float) -> bool:
    """Return whether an amount is as good as none."""
    return value < 1e-5


def test_a_large_elementwise_call_wakes_threads_and_faults() -> None:
    # 2^23 elements of 4 bytes are 2^25 fresh bytes at 1e-10 s each; 2^26 bytes move at 2^40 B/s; 16 threads
    (wake, elements, memory, fault), _ = amounts("relu", numel=2**23)
    assert wake == pytest.approx(5.0)
    assert elements == pytest.approx(1e-3 * 2**23 / 16)
    assert memory == pytest.approx(1e6 * 2.0**-14 / 16)
    assert fault == pytest.approx(1e6 * 2**25 * 1e-10)
    (wake, elements, _, fault), circumstances = amounts("relu", numel=1000)
    assert none(wake)
    assert none(fault)
    assert elements == pytest.approx(1.0)
    # always, four dtypes, twenty kinds
    assert len(circumstances) == 1 + 4 + 20
    assert sum(circumstances) == 3.0


def test_a_product_reads_its_weight_and_pads_to_blocks() -> None:
    call = {"m": 8, "n": 512, "k": 1024, "bias": False}
    (fault, wake, serial, weight, padded, output, aliased, ragged), circumstances = amounts("linear", **call)
    byte_us = 1e6 / 2**40
    assert none(fault)
    assert none(serial)
    assert none(ragged)
    assert wake == pytest.approx(5.0)
    assert weight == pytest.approx(4 * 512 * 1024 * byte_us)
    assert output == pytest.approx(4 * 8 * 512 * byte_us)
    # rows of 4096 bytes fall together in a cache; 8 rows are half of a block of 16
    assert aliased == pytest.approx(weight)
    compute = 1e6 * 2.0 * 8 * 512 * 1024 / TOY.peaks["fp32"]
    assert padded == pytest.approx(2.0 * compute)
    assert circumstances[-6:] == [0, 0, 1, 0, 0, 0]
    odd, _ = amounts("linear", **(call | {"k": 1001}))
    assert none(odd[6])
    assert odd[7] == pytest.approx(odd[3])


def test_buffers_that_the_allocator_does_not_keep_together_fault() -> None:
    # three buffers of 24 MiB and the result: none is mapped anew, together they exceed 64 MiB
    own, _ = amounts("rmsnorm", rows=3072, cols=2048)
    fault, scratch, trimmed = own[3:6]
    assert none(fault)
    assert none(scratch)
    assert trimmed == pytest.approx(1e6 * 4 * 24 * 2**20 * 1e-10)
    # layer norm has no scratch
    assert none(amounts("layernorm", rows=3072, cols=2048)[0][5])


def test_planar_convolutions_change_layout() -> None:
    conv = {"n": 2, "c": 32, "h": 16, "w": 16, "o": 64, "k": 1, "stride": 1, "pad": 0, "groups": 1, "bias": False}
    planar, flags = amounts("conv2d", **conv, fmt="contiguous")
    last, other = amounts("conv2d", **conv, fmt="channels_last")
    byte_us = 1e6 / 2**40
    assert planar[1] == pytest.approx(5 * 4 * 2 * 32 * 256 * byte_us)
    assert planar[2] == pytest.approx(5 * 4 * 2 * 64 * 256 * byte_us)
    assert none(last[1])
    assert none(last[2])
    assert planar[3:5] == pytest.approx(last[3:5])
    assert flags != other


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_costs_of_measured_rows_are_finite(family: str) -> None:
    from test_features import measured

    for device in ("xeon-16c", "epyc-2c"):
        _, groups, machine = measured(device)
        shapes = set()
        for group in (g for g in groups if g.kind.family == family):
            names, x = build(group, machine)
            log_us, circumstances = costs(family, names, x)
            assert np.isfinite(log_us).all()
            assert set(np.unique(circumstances)) <= {0.0, 1.0}
            shapes.add((log_us.shape[1], circumstances.shape[1]))
        assert len(shapes) == 1


def test_log_sum_and_shares() -> None:
    total, share = log_sum(np.log(np.array([[1.0, 3.0], [2.0, 2.0]])))
    np.testing.assert_allclose(total, np.log([4.0, 4.0]))
    np.testing.assert_allclose(share, [[0.25, 0.75], [0.5, 0.5]])


def unary_costs() -> tuple[Costs, np.ndarray]:
    """Return unfitted costs of the unary family and some features."""
    (group,) = ops.group_operators(["relu"] * 3, ["fp32"] * 3, [{"numel": n} for n in (100, 10**5, 10**7)])
    names, x = build(group, PROCESSOR)
    log_us, circumstances = costs("unary", names, x)
    return Costs("unary", tuple(names), np.zeros((circumstances.shape[1], log_us.shape[1])), 2.0), x


def test_ordinary_rates_add_up_the_amounts() -> None:
    model, x = unary_costs()
    log_us, _ = costs("unary", list(model.names), x)
    roofline_us = 2.0 ** x[:, model.names.index("lg_roofline_us")]
    np.testing.assert_allclose(np.exp(model.predict(x)), np.exp(log_us).sum(axis=1) / (2.0 + roofline_us))
    doubled = replace(model, rates=model.rates + np.log(2.0) * (np.arange(len(model.rates)) == 0)[:, None])
    np.testing.assert_allclose(doubled.predict(x), model.predict(x) + np.log(2.0))


def test_augmented_regressors_see_the_predictions_and_survive_storage() -> None:
    model, x = unary_costs()
    longer = augment([model], x)
    np.testing.assert_array_equal(longer[:, -1], model.predict(x))
    rng = np.random.default_rng(0)
    process = GaussianProcess(
        rng.normal(size=(4, longer.shape[1])).astype(np.float32), rng.normal(size=4), longer.mean(axis=0),
        np.full(longer.shape[1], 9.0), 0.5,
    )  # fmt: skip
    both = Augmented((model,), (process, process))
    assert both.n_outputs == 2
    out = both.outputs(x, {})
    np.testing.assert_array_equal(out[0], process.predict(longer))
    again = rebuild("augmented", both.arrays(), "here")
    np.testing.assert_array_equal(again.outputs(x, {}), out)
    with pytest.raises(ModelFileError):
        rebuild("augmented", both.arrays() | {"then": np.array([0, 9], dtype=np.uint8)}, "here")


def test_damaged_costs_are_refused() -> None:
    arrays = unary_costs()[0].arrays()
    for change in ({"rates": arrays["rates"][:, 1:]}, {"t0_us": np.array(0.0)}, {"words": arrays["words"][1:]}):
        with pytest.raises(ModelFileError):
            rebuild("costs", arrays | change, "here")
