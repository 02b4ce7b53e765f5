"""Training steps: the work of the backward pass, what is said of it, and that the module is as it was."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from tracing_modules import Decoder, Residual  # noqa: E402

import graphs.ops as ops  # noqa: E402
from graphs.errors import TracingError  # noqa: E402
from graphs.tracing import Trace, memory, trace, zoo  # noqa: E402
from graphs.tracing.layout import View  # noqa: E402
from graphs.tracing.rules.backward import attention_backward  # noqa: E402
from graphs.tracing.rules.core import Call  # noqa: E402
from graphs.tracing.training_step import BACKWARD, UNVALIDATED, UPDATE  # noqa: E402


def matrix_flops(t: Trace, *, backward: bool | None = None, attention: bool | None = None) -> int:
    """Return the FLOP of products, convolutions and attention: of the forward pass, the backward pass, or both.

    `attention` asks for attention alone, or for all but attention.
    """
    total = 0
    for o in t.operators:
        wanted = o.op and (ops.get(o.op).uses_matrix_units or o.op == "dwconv2d")
        if wanted and (attention is None or o.op.startswith("sdpa") == attention):
            flops = int(ops.evaluate(o.op, o.params, ops.itemsize(o.dtype)).flops)
            calls = o.modules or ((o.module, o.count),)
            total += sum(flops * n for path, n in calls if backward is None or (path == BACKWARD) == backward)
    return total


LAYERS = {
    "linear": (lambda: nn.Linear(48, 32), (8, 48)),
    "linear without bias, three dimensions": (lambda: nn.Linear(48, 32, bias=False), (4, 8, 48)),
    "convolution": (lambda: nn.Conv2d(8, 16, 3, padding=1), (2, 8, 14, 14)),
    "strided": (lambda: nn.Conv2d(8, 16, 3, stride=2), (2, 8, 15, 15)),
    "groups": (lambda: nn.Conv2d(8, 16, 3, groups=4), (2, 8, 14, 14)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), (2, 8, 14, 14)),
    "dilated": (lambda: nn.Conv2d(8, 16, 3, padding=6, dilation=6), (2, 8, 20, 20)),
    "dilated, unpadded": (lambda: nn.Conv2d(8, 16, 3, dilation=(2, 3)), (2, 8, 20, 20)),
    "one-dimensional": (lambda: nn.Conv1d(8, 16, 5), (2, 8, 50)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 16, 2, stride=2), (2, 8, 10, 10)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_backward_of_a_layer_has_twice_the_work_of_its_forward_pass(name: str) -> None:
    make, shape = LAYERS[name]
    x = torch.randn(shape, requires_grad=True)
    layer = make()
    t = trace(layer, x, training=True)
    forward = matrix_flops(trace(layer, x))
    assert matrix_flops(t, backward=False) == forward > 0
    assert matrix_flops(t, backward=True) == 2 * forward
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert forward == counter.get_total_flops()


NETWORKS = {
    "resnet18": (zoo.resnet18, (2, 3, 64, 64)),
    "decoder": (Decoder, (2, 32, 256)),
    "encoder": (lambda: nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True), (2, 32, 64)),
    "residual": (Residual, (2, 16, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_work_of_a_step_is_what_the_framework_counts(name: str) -> None:
    make, shape = NETWORKS[name]
    module, x = make().train(), torch.randn(shape)
    t = trace(module, x, training=True)
    with FlopCounterMode(display=False) as counter:
        module(x).sum().backward()
    # The counter knows attention on GPUs only; its backward pass makes five products where the forward pass has two.
    assert matrix_flops(t, attention=False) == counter.get_total_flops()
    assert 2 * matrix_flops(t, backward=True, attention=True) == 5 * matrix_flops(t, backward=False, attention=True)
    assert not t.unmodelled
    assert matrix_flops(trace(module.eval(), x)) == matrix_flops(t, backward=False)


def test_the_first_layer_has_no_gradient_of_its_input() -> None:
    t = trace(nn.Linear(48, 32), torch.empty(8, 48, device="meta"), training=True)
    assert matrix_flops(t, backward=True) == matrix_flops(t, backward=False)


def test_a_step_says_that_it_is_not_validated_and_nothing_of_it_is_exact_but_products() -> None:
    t = trace(zoo.resnet18(), torch.empty(2, 3, 64, 64), dtype="bf16", training=True)
    assert t.training
    assert UNVALIDATED in t.notes
    assert "not validated" in UNVALIDATED
    backward = [o for o in t.operators if o.module == BACKWARD]
    assert {o.match for o in backward if "convolution" in o.aten or "norm" in o.aten} == {"proxy"}
    assert Trace.from_json(t.to_json()) == t
    assert not trace(nn.ReLU(), torch.empty(2)).training


class Keeps(nn.Module):
    """Has a frozen layer, and a loss in its output."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        self.frozen.requires_grad_(False)

    def forward(self, x: Any) -> Any:
        out = self.head(self.frozen(x))
        return {"loss": out.square().mean(), "logits": out}


def test_the_module_is_as_it_was_and_frozen_layers_have_no_backward() -> None:
    module = Keeps().eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    t = trace(module, torch.randn(8, 16), training=True, optimizer="sgd")
    assert not module.training
    assert all(p.grad is None for p in module.parameters())
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    # The gradient of the head's weights only: nothing before the head takes one.
    assert matrix_flops(t, backward=True) == 2 * 8 * 16 * 4


def test_optimizers_move_and_keep_what_they_do() -> None:
    module, x = nn.Linear(64, 32, bias=False), torch.empty(4, 64)
    for name, touched, kept in (("sgd", 3, 0), ("adamw", 7, 2)):
        t = trace(module, x, dtype="bf16", training=True, optimizer=name)
        update = t.operators[-1]
        nbytes = 2 * 64 * 32
        assert (update.module, update.match, update.dtype) == (UPDATE, "proxy", "bf16")
        assert ops.evaluate(update.op, update.params, 2).bytes == touched * nbytes
        assert t.optimizer_bytes == kept * nbytes
        m = memory(t)
        assert m.total_peak_bytes == nbytes + t.peak_activation_bytes + kept * nbytes


def allocated(module: Any, x: Any) -> int:
    """Return the peak of allocated bytes in a real step."""

    def step() -> None:
        out = module(x)
        torch.autograd.backward([out], [torch.empty_like(out)])

    step()
    module.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    live = peak = 0
    events = (e for e in record.profiler.kineto_results.events() if e.name() == "[memory]")
    for e in sorted(events, key=lambda e: e.start_ns()):
        live += e.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    # What operators allocate for themselves is not in a trace; grouped queries are repeated by CPU's attention only.
    ("make", "shape", "tolerance"),
    [
        (lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)), (32, 64), 0.001),
        (zoo.resnet18, (2, 3, 64, 64), 0.02),
        (Decoder, (2, 32, 256), 0.05),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_peak_of_a_step_is_that_of_the_frameworks_allocator(
    make: Any, shape: tuple[int, ...], tolerance: float
) -> None:
    module, x = make().train(), torch.randn(shape)
    t = trace(module, x, training=True)
    assert t.peak_activation_bytes == pytest.approx(allocated(module, x) + x.nbytes, rel=tolerance)


@pytest.mark.parametrize(("heads", "groups"), [(8, 8), (10, 5), (14, 7), (12, 1), (1, 1)])
def test_backward_of_grouped_attention_is_of_valid_shapes(heads: int, groups: int) -> None:
    q, k = (View((2, h, 64, 32), (h * 2048, 2048, 32, 1), "bf16", 2) for h in (heads, groups))
    priced = attention_backward(Call("aten._scaled_dot_product_flash_attention_backward.default", (q, q, k, k)))
    forward = ops.evaluate("sdpa", ops.get("sdpa").validate(dict(priced[0].params)), 2).flops
    total = sum(ops.evaluate(p.op, ops.get(p.op).validate(dict(p.params)), 2).flops for p in priced)
    assert total == (2.5 if heads > 1 else 3) * forward


def test_errors() -> None:
    with pytest.raises(TracingError, match="takes a gradient"):
        trace(nn.ReLU(), torch.empty(2), training=True)
    with pytest.raises(TracingError, match=r"lion.*sgd, adamw"):
        trace(nn.Linear(2, 2), torch.empty(2, 2), training=True, optimizer="lion")
    with pytest.raises(TracingError, match="needs a training step"):
        trace(nn.Linear(2, 2), torch.empty(2, 2), optimizer="sgd")


class Experts(nn.Module):
    """Products of rows sorted by expert."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, 64, 32, dtype=torch.bfloat16))

    def forward(self, x: Any, ends: Any) -> Any:
        return torch._grouped_mm(x, self.weight, offs=ends)


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped product")
@pytest.mark.parametrize(("rows", "each"), [(256, {"b": 8, "m": 32}), (4, {"b": 4, "m": 1})])
def test_experts_are_read_each_and_take_an_even_share(rows: int, each: dict[str, int]) -> None:
    x = torch.empty(rows, 64, dtype=torch.bfloat16, device="meta")
    t = trace(Experts(8), (x, torch.empty(8, dtype=torch.int32, device="meta")))
    (o,) = t.operators
    assert (o.op, dict(o.params), o.match) == ("bmm", {**each, "n": 32, "k": 64}, "near")
    assert t.flops == 2 * rows * 64 * 32
    assert any("even spread over the experts" in n for n in t.notes)
