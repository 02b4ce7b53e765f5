"""Memory of a model against the framework's own record of what its allocator gave and took back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tracing_modules import Decoder, Residual  # noqa: E402

from graphs.errors import TracingError  # noqa: E402
from graphs.tracing import Trace, trace, zoo  # noqa: E402
from graphs.tracing.memory import memory  # noqa: E402


class Views(torch.nn.Module):
    """In-place operators, views that keep a base alive, and a tensor dropped before the end."""

    def forward(self, x: Any) -> Any:
        y = x * 2
        y.relu_()
        v = y.view(-1)[::2]
        del y
        z = torch.cat([v, v])
        return z.add_(1).reshape(2, -1).transpose(0, 1)


def _mlp() -> Any:
    nn = torch.nn
    return nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256), nn.LayerNorm(256))


#: Module, shape of the input, and how much more than the tensors the allocator may have given at once: work space
#: inside an operator (convolutions reorder their weights, recurrent layers keep every step).
NETWORKS = {
    "residual": (lambda: Residual(16), (4, 16, 32, 32), 0.02),
    "decoder": (Decoder, (2, 32, 256), 0.01),
    "views": (Views, (64, 64), 0.01),
    "mlp": (_mlp, (64, 256), 0.01),
    "resnet18": (zoo.resnet18, (2, 3, 64, 64), None),
    "encoder": (lambda: torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), (2, 32, 64), None),
    "lstm": (lambda: torch.nn.LSTM(32, 64, 2), (10, 4, 32), None),
}


def allocated(module: Any, x: Any) -> tuple[int, int]:
    """Return the peak of allocated bytes between operators, and at any time, of a forward pass on real tensors."""
    with torch.no_grad():
        module(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
            module(x)
    events = list(record.profiler.kineto_results.events())
    changes = sorted((e.start_ns(), i, e.nbytes()) for i, e in enumerate(events) if e.name() == "[memory]")
    assert changes, "the framework recorded no allocation"
    ends: list[int] = []
    for start, end in sorted((e.start_ns(), e.end_ns()) for e in events if e.name().startswith("aten::")):
        if not ends or start >= ends[-1]:
            ends.append(end)
    live = peak = between = done = 0
    for when, _, nbytes in changes:
        while done < len(ends) and ends[done] < when:
            between, done = max(between, live), done + 1
        live += nbytes
        peak = max(peak, live)
    return max(between, live), peak


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_peak_is_that_of_the_frameworks_allocator(name: str) -> None:
    make, shape, inside = NETWORKS[name]
    module, x = make().eval(), torch.randn(shape)
    m = memory(trace(module, x))
    between, peak = allocated(module, x)
    assert m.activations_peak_bytes is not None
    # A number that an operator wraps into a tensor is 8 bytes, which a trace need not see; all else is exact.
    assert 0 <= between + x.nbytes - m.activations_peak_bytes <= 64
    if inside is not None:
        assert m.activations_peak_bytes == pytest.approx(peak + x.nbytes, rel=inside)
    assert m.parameters_bytes == sum(p.nbytes for p in module.parameters())
    assert m.buffers_bytes == sum(b.nbytes for b in module.buffers())


def test_shared_tensors_count_once_and_dtypes_as_traced() -> None:
    a = torch.nn.Linear(32, 32, bias=False)
    b = torch.nn.Linear(32, 32, bias=False)
    b.weight = a.weight
    net = torch.nn.Sequential(a, b, torch.nn.BatchNorm1d(32)).eval()
    x = torch.empty(4, 32)
    m = memory(trace(net, x, dtype="bf16"))
    # Weight once, and scale and shift; running mean, variance, and a whole number of 8 bytes.
    assert (m.parameters_bytes, m.buffers_bytes) == (2 * (32 * 32 + 64), 2 * 64 + 8)
    assert m.activations_peak_bytes == 3 * x.numel() * 2


def test_an_input_that_is_overwritten_counts_once() -> None:
    x = torch.empty(4, 32)
    net = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.SiLU(inplace=True), torch.nn.Tanh())
    assert memory(trace(net, x)).activations_peak_bytes == 2 * x.nbytes


def test_fits_is_said_only_where_it_is_clear() -> None:
    t = Trace((), parameter_bytes=800, buffer_bytes=0, peak_activation_bytes=100)
    assert memory(t).fits is None
    assert memory(t, 1001).fits is True
    assert memory(t, 950).fits is None
    assert memory(t, 899).fits is False
    unknown = replace(t, peak_activation_bytes=0)
    assert memory(unknown).activations_peak_bytes is None
    assert memory(unknown).total_peak_bytes is None
    assert memory(unknown, 1e9).fits is None
    assert memory(unknown, 700).fits is False


def test_traces_keep_it_and_older_ones_say_that_they_do_not_know() -> None:
    t = trace(torch.nn.BatchNorm1d(8).eval(), torch.empty(2, 8))
    assert Trace.from_json(t.to_json()).buffer_bytes == t.buffer_bytes == 2 * 8 * 4 + 8
    none = trace(torch.nn.ReLU(), torch.empty(2, 8))
    assert Trace.from_json(none.to_json()).buffer_bytes == 0
    old = json.loads(t.to_json()) | {"version": 1}
    del old["buffer_bytes"]
    m = memory(Trace.from_dict(old))
    assert (m.buffers_bytes, m.parameters_bytes) == (None, 2 * 8 * 4)
    with pytest.raises(TracingError, match="buffer_bytes"):
        Trace.from_dict(old | {"buffer_bytes": -1})
    with pytest.raises(TracingError, match="training"):
        Trace.from_dict(old | {"training": "yes"})
