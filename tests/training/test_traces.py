"""Networks of the measured tables are found by name: stored, else built, else the reason."""

from __future__ import annotations

from typing import Any

import pytest

from graphs.errors import MissingExtraError
from graphs.tracing.library import UnknownTraceError, load_trace
from training import traces


def test_a_stored_network_is_read_and_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "trace_model", None)
    assert traces.find_trace("resnet18", 4, "bf16").operators == load_trace("resnet18", 4, "bf16").operators


@pytest.mark.parametrize(
    ("name", "spec"), [("bert-base-s77", "hf:bert-base-s77"), ("googlenet2", "torchvision:googlenet2")]
)
def test_another_one_is_built_from_its_library(monkeypatch: pytest.MonkeyPatch, name: str, spec: str) -> None:
    asked: list[tuple[Any, ...]] = []

    def build(*args: Any) -> str:
        asked.append(args)
        return "traced"

    monkeypatch.setattr(traces, "trace_model", build)
    assert traces.find_trace(name, 2, "fp32") == "traced"
    assert asked == [(spec, 2, "fp32")]


def test_one_that_cannot_be_built_is_reported_as_not_stored_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise MissingExtraError("transformers is not installed")

    monkeypatch.setattr(traces, "trace_model", missing)
    with pytest.raises(UnknownTraceError, match="bert-base-s128") as raised:
        traces.find_trace("bert-base-s77", 1, "bf16")
    assert isinstance(raised.value.__cause__, MissingExtraError)
