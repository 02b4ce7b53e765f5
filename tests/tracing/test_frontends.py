"""Models by name, and the traces that are stored of them."""

from __future__ import annotations

import builtins
import json
import sys
import textwrap
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from graphs.errors import MissingExtraError, TracingError  # noqa: E402
from graphs.tracing import Trace, family, language, library, trace  # noqa: E402
from graphs.tracing.frontends import load_model, trace_model  # noqa: E402


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Make imports of named libraries fail, as where they are not installed."""
    real = builtins.__import__

    def block(*names: str) -> None:
        def fails(name: str, *args, **kwargs):
            if name.split(".")[0] in names:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)
            return real(name, *args, **kwargs)

        for name in [m for m in sys.modules if m.split(".")[0] in names]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(builtins, "__import__", fails)

    return block


def test_resnets_are_ours_where_torchvision_is_missing(
    without, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(library.ENVIRONMENT, str(tmp_path))
    without("torchvision")
    t = trace_model("torchvision:resnet18", 4, "bf16")
    assert (t.name, t.batch, t.dtype, t.parameters, len(t)) == ("resnet18", 4, "bf16", 11_689_512, 68)
    with pytest.raises(MissingExtraError, match=r"vgg16.*resnet18, resnet50.*graphs\[models\]"):
        load_model("torchvision:vgg16")


def test_language_models_need_transformers(without) -> None:
    without("transformers")
    model = load_model("hf:gpt2-s256")
    assert model.name == "gpt2-s256"
    assert tuple(model.make_inputs(3)["input_ids"].shape) == (3, 256)
    with pytest.raises(MissingExtraError, match=r"graphs\[models\]"):
        model.factory()


def test_names_of_language_models_hold_the_sequence() -> None:
    assert language.split_name("opt-1.3b-s512") == ("opt-1.3b", 512)
    assert language.split_name("tinyllama-1.1b") == ("tinyllama-1.1b", 128)
    assert load_model("hf:tinyllama-1.1b", sequence=64).name == "tinyllama-1.1b-s64"
    with pytest.raises(TracingError, match="no tokens"):
        language.split_name("bert-base-s0")


def test_factories_are_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text(
        textwrap.dedent(
            """
            import torch

            def fixed():
                return torch.nn.Linear(8, 4), torch.empty(5, 8, device="meta")

            def by_batch():
                return torch.nn.Linear(8, 4), lambda batch: torch.empty(batch, 8, device="meta")

            def alone():
                return torch.nn.Linear(8, 4)
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert trace_model("module:own_model:fixed", 1).batch == trace_model("module:own_model:fixed", 5).batch == 5
    with pytest.raises(TracingError, match="one batch; received 2; allowed: 5"):
        trace_model("module:own_model:fixed", 2)
    by_batch = trace_model("module:own_model:by_batch", 7, "fp16")
    assert (by_batch.name, by_batch.operators[0].params["m"], by_batch.dtype) == ("by_batch", 7, "fp16")
    with pytest.raises(TracingError, match="no inputs"):
        trace_model("module:own_model:alone", 2)
    for spec in ("module:own_model:absent", "module:no_such_module:f", "module:own_model"):
        with pytest.raises(TracingError, match="cannot be imported"):
            load_model(spec)


def test_trace_files_are_models_too(tmp_path: Path) -> None:
    t = trace(torch.nn.Linear(8, 4), torch.empty(5, 8, device="meta"), name="toy")
    path = t.save(tmp_path / "toy.json.gz")
    assert load_model(str(path)).factory() == t
    assert trace_model(str(path), 5, "tf32") == t.with_dtype("tf32")
    with pytest.raises(TracingError, match="one batch"):
        trace_model(str(path), 6)


@pytest.mark.parametrize("spec", ["resnet50", "torchvision:", "keras:resnet50", ""])
def test_other_forms_are_named(spec: str) -> None:
    with pytest.raises(TracingError, match="torchvision:NAME"):
        load_model(spec)


# Stored traces --------------------------------------------------------------------------------------------------

stored = pytest.mark.skipif(not library.names(), reason="data/traces is not here")


@stored
@pytest.mark.parametrize(
    ("name", "batch", "dtype"), [("resnet18", 1, "fp32"), ("resnet50", 8, "bf16"), ("resnet50", 13, "tf32")]
)
def test_stored_traces_are_what_tracing_gives(name: str, batch: int, dtype: str, without) -> None:
    without("torchvision")
    fresh = trace_model(f"torchvision:{name}", batch, dtype)
    kept = library.load_trace(name, batch, dtype)
    assert family.same_calls(kept, fresh)
    assert kept.compact().operators == fresh.compact().operators


@stored
def test_stored_traces_are_complete_and_small() -> None:
    folder = library.default_folder()
    names = library.names()
    assert sum(p.stat().st_size for p in folder.iterdir()) < 3_000_000
    assert {"vit_b_16", "swin_t", "densenet121", "bert-base-s128", "gpt2-s128", "tinyllama-1.1b-s512"} <= set(names)
    for name in names[:: max(1, len(names) // 12)]:
        for batch in (1, 8, 64):
            for dtype in ("fp32", "fp16"):
                t = library.load_trace(name, batch, dtype)
                assert t.batch == batch
                assert not t.unmodelled
                assert sum(o.count for o in t.operators) == len(t.sequence)
                # Every stored call has parameters its kind accepts: a file read as a trace is checked.
                Trace.from_dict(t.to_dict())


@stored
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("alexnet", 61_100_840), ("vgg16", 138_357_544), ("bert-base-s128", 109_482_240), ("gpt2-s128", 124_439_808),
     ("tinyllama-1.1b-s512", 1_100_048_384), ("opt-1.3b-s512", 1_315_758_080)],
)  # fmt: skip
def test_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    t = library.load_trace(name, 1, "bf16")
    assert (t.parameters, t.parameter_bytes) == (parameters, 2 * parameters)


def test_stored_models_need_no_library_and_say_so(without) -> None:
    without("torch", "torchvision", "transformers")
    for spec, name in (("torchvision:resnet50", "resnet50"), ("hf:bert-base-s128", "bert-base-s128")):
        t = trace_model(spec, 4, "tf32")
        assert (t.name, t.batch, t.dtype) == (name, 4, "tf32")
        assert any(f"stored trace of {name}" in n for n in t.notes)
    assert trace_model("hf:bert-base", 4).dtype == "fp32"
    with pytest.raises(MissingExtraError):
        trace_model("hf:bert-base", 4, training=True)


def test_a_stored_trace_is_that_of_the_module() -> None:
    from graphs.tracing import zoo

    stored = trace_model("torchvision:resnet18", 3, "bf16")
    own = trace(zoo.resnet18().eval(), torch.empty(3, 3, 224, 224, device="meta"), dtype="bf16")
    assert family.same_calls(stored, own)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return 3", "returns no module.*returns int"),
        ("return {}, None", "returns no module.*returns dict"),
        ("raise OSError('no weights')", "factory of a model failed.*no weights"),
    ],
)
def test_factories_that_give_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, problem: str) -> None:
    name = f"factory_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def make():\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TracingError, match=problem):
        trace_model(f"module:{name}:make", 1)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TracingError, match=r"missing\.json"):
        trace_model(str(tmp_path / "missing.json"), 1)
    pytest.importorskip("transformers")
    with pytest.raises(TracingError, match="no such file"):
        trace_model(f"hf:{tmp_path / 'missing.json'}", 1)


@pytest.mark.parametrize(
    ("kind", "settings", "shapes"),
    [
        ("t5", {"d_model": 64, "d_ff": 128, "num_layers": 1, "num_heads": 4, "d_kv": 16},
         {"input_ids": (2, 128), "decoder_input_ids": (2, 128)}),
        ("vit", {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128,
                 "image_size": 64}, {"pixel_values": (2, 3, 64, 64)}),
        ("whisper", {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
                     "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
         {"input_features": (2, 80, 3000), "decoder_input_ids": (2, 128)}),
    ],
)  # fmt: skip
def test_configurations_say_what_their_model_takes(
    tmp_path: Path, kind: str, settings: dict[str, int], shapes: dict[str, tuple[int, ...]]
) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, **settings}))
    model = load_model(f"hf:{path}")
    assert {k: tuple(v.shape) for k, v in model.make_inputs(2).items()} == shapes
    assert len(trace_model(f"hf:{path}", 2, "bf16")) > 10


@pytest.mark.parametrize(("body", "words"), [("def f(:", "SyntaxError"), ("f = 1 / 0", "ZeroDivisionError")])
def test_a_module_that_fails_at_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str) -> None:
    (tmp_path / f"broken_{words.lower()}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TracingError, match=f"when it is imported.*broken_.*{words}"):
        load_model(f"module:broken_{words.lower()}:f")


def test_without_its_library_an_unknown_model_gets_those_that_work(without) -> None:
    without("torchvision", "transformers")
    for spec, words in (("torchvision:nope", "resnet18, resnet50, and .*alexnet.* more"),
                        ("torchvision:alexnett", "forward passes of alexnet, "),
                        ("hf:nope", "forward passes of bert-base-s128, ")):  # fmt: skip
        with pytest.raises(MissingExtraError, match=words):
            trace_model(spec, 1)
