"""What tracing leaves alone, refuses, answers itself and counts: values, errors, state, weights, memory, FLOP."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from tracing_modules import Function, Remembers, meta, names, of  # noqa: E402

from graphs.errors import DtypeError, TracingError  # noqa: E402
from graphs.tracing import Trace, trace, zoo  # noqa: E402


def test_branch_on_activations_is_an_error_that_says_where() -> None:
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(TracingError, match=r"value of a tensor.*'1'"):
        trace(nn.Sequential(nn.Linear(8, 8), Gate()), meta(2, 8))
    with pytest.raises(TracingError, match="value of a tensor"):
        of(lambda x: x[: int(x.argmax())], meta(8))
    with pytest.raises(TracingError, match=r"nonzero.*depends on data"):
        of(lambda x: torch.nonzero(x), meta(8))
    with pytest.raises(TracingError, match="depends on data"):
        of(lambda x: x[x > 0], meta(8))


def test_checks_of_masks_and_of_overflow_are_answered_and_noted() -> None:
    def masked(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x if mask.bool().all() else x * 2

    t = of(masked, meta(2, 8), meta(2, 8, dtype=torch.int64))
    assert "mul_scalar" not in names(t)
    assert t.notes == ("a check of a mask in '(the model)' was answered True",)
    t = of(lambda x: x.clamp(-1, 1) if torch.isinf(x).any() else x, meta(2, 8))
    assert "clamp" not in names(t)
    assert "non-finite" in t.notes[0]
    # Ones made by the module itself, in floats: still a mask.
    t = of(lambda x: x if (torch.ones(2, 8, device=x.device) > 0).all() else x * 2, meta(2, 8))
    assert "mul_scalar" not in names(t)


def test_errors_of_the_module_name_the_submodule() -> None:
    with pytest.raises(TracingError, match=r"failed on these inputs, in its module '1'.*RuntimeError"):
        trace(nn.Sequential(nn.Linear(8, 8), nn.Linear(9, 8)), meta(2, 8))
    with pytest.raises(DtypeError, match="int4"):
        trace(nn.Linear(8, 8), meta(2, 8), dtype="int4")
    with pytest.raises(TracingError, match=r"torch\.nn\.Module"):
        trace(len, meta(2))  # type: ignore[arg-type]


def test_modules_that_have_no_parameters_to_replace_are_refused() -> None:
    with pytest.raises(TracingError, match="lazy"):
        trace(nn.Sequential(nn.LazyLinear(4)), meta(2, 8))


def test_module_and_its_attributes_are_left_as_they_were() -> None:
    module = Remembers()
    weight = module.linear.weight
    trace(module, meta(2, 8), dtype="bf16")
    assert module.seen is None
    assert not hasattr(module, "later")
    assert module.linear.weight is weight
    assert module.linear.weight.dtype == torch.float32
    assert module(torch.ones(2, 8)).shape == (2, 8)
    with pytest.raises(TracingError):
        trace(module, meta(2, 9))
    assert module.linear.weight is weight


def test_tied_parameters_count_once() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[1].weight = module[0].weight
    assert trace(module, meta(2, 8)).parameters == 64 + 16


def test_inputs_as_keywords_and_on_any_device() -> None:
    def join(*, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b

    t = trace(Function(join), {"a": torch.ones(4, 4), "b": meta(4, 4)})
    assert names(t) == ["add"]
    assert trace(nn.Linear(8, 8, device="meta"), torch.ones(2, 8)).operators == trace(
        nn.Linear(8, 8), meta(2, 8)
    ).operators  # fmt: skip


def test_no_weight_is_allocated() -> None:
    with torch.device("meta"):
        module = nn.Sequential(*(nn.Linear(65536, 65536) for _ in range(8)))
    # 137 GB of weights: allocating any of them would fail here.
    t = trace(module, meta(1, 65536))
    assert t.parameter_bytes == 8 * (65536 * 65536 + 65536) * 4
    assert t.flops == 8 * 2 * 65536**2


def test_peak_activations_match_a_count_by_hand() -> None:
    t = trace(nn.Sequential(nn.Linear(100, 100), nn.ReLU()), meta(10, 100))
    # The input, the product and its relu are alive together.
    assert t.peak_activation_bytes == 3 * 10 * 100 * 4


@pytest.mark.parametrize(("name", "macs"), [("resnet18", 1.82e9), ("resnet50", 4.11e9)])
def test_flops_of_resnets_agree_with_the_framework(name: str, macs: float) -> None:
    with torch.device("meta"):
        module = zoo.MODELS[name]().eval()
    t = trace(module, meta(1, 3, 224, 224))
    with FlopCounterMode(display=False) as counter:
        module(meta(1, 3, 224, 224))
    ours = sum(Trace((o,)).flops for o in t.operators if o.op in ("conv2d", "linear"))
    assert ours == counter.get_total_flops()
    assert ours == pytest.approx(2 * macs, rel=0.01)
    assert {o.match for o in t.operators} == {"exact"}


def test_resnet50_has_its_calls_at_any_batch() -> None:
    with torch.device("meta"):
        module = zoo.resnet50().eval()
    for batch in (1, 32):
        t = trace(module, meta(batch, 3, 224, 224), dtype="bf16")
        assert (len(t), t.parameters, t.batch) == (174, 25_557_032, batch)


def test_threads_trace_and_run_modules_beside_each_other() -> None:
    tall, wide = (nn.Sequential(*[nn.Linear(8, 8) for _ in range(n)]).eval() for n in (40, 3))
    alone = [trace(m, meta(2, 8)) for m in (tall, wide)]
    other = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    found: list[Trace] = []

    def work(module: nn.Module) -> None:
        for _ in range(6):
            found.append(trace(module, meta(2, 8)))
            other(torch.ones(1, 4))

    threads = [threading.Thread(target=work, args=(m,)) for m in (tall, wide, wide)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 18
    assert all(t in alone for t in found)
