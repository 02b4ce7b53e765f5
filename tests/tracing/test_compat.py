"""A trace neither loads the compiler nor hides it from those who use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from graphs.tracing.compat import fake_mode, ready_torchvision  # noqa: E402

PROGRAM = """
import sys, torch
from graphs.tracing import trace, zoo

class Asks(torch.nn.Module):
    def forward(self, x):
        # An attribute of the compiler, asked for while its settings stand in for it.
        return x * 2 if torch._dynamo.is_compiling() else x + 1

t = trace(zoo.resnet18().eval(), torch.empty(2, 3, 64, 64))
assert len(t) == 68, len(t)
assert not [m for m in sys.modules if m.startswith("torch._dynamo")], "the compiler was loaded"
assert "_dynamo" not in vars(torch)
assert [o.op for o in trace(Asks(), torch.empty(4)).operators] == ["add_scalar"]
import torch._dynamo
assert torch._dynamo.config.cache_size_limit > 0
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
assert trace(zoo.resnet18().eval(), torch.empty(2, 3, 64, 64)) == t
"""


def test_tracing_needs_no_compiler_and_leaves_it_usable() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_the_short_way_the_mode_is_the_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    import graphs.tracing.compat as compat

    def closed(mode: object) -> object:
        raise AttributeError("another version of torch")

    monkeypatch.setattr(compat, "_without_compiler", closed)
    with fake_mode() as mode:
        assert type(mode).__module__ == "torch._subclasses.fake_tensor"
        assert type(torch.empty(2)).__name__ == "FakeTensor"
    assert type(torch.empty(2)) is torch.Tensor


def test_torchvision_that_is_missing_stays_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    ready_torchvision()
    assert "torchvision" not in sys.modules
