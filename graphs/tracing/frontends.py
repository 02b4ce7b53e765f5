"""Where models come from: a name on the command line to a module and its inputs, or to a saved trace."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from graphs.errors import MissingExtraError, TracingError, nearest
from graphs.tracing import decoding
from graphs.tracing.compat import ready_torchvision
from graphs.tracing.trace import Trace

FORMS = (
    "torchvision:NAME, hf:NAME-sSEQ, hf:NAME-decode-sSEQ, hf:CONFIG.json, module:pkg.mod:callable, an ONNX file "
    "(.onnx), or a trace (.json, .json.gz)"
)

#: Side of the square input images, where it is not 224.
IMAGE_SIDE = {"inception_v3": 299}


class Model(NamedTuple):
    """What `load_model` found.

    `factory` returns the module, on the meta device where that can be; `make_inputs` takes the batch and returns the
    inputs for `graphs.tracing.trace`.  For a saved trace `factory` returns the `Trace` and `make_inputs` None.
    `notes` are those that its traces carry; `decoding` says that it runs on a cache of earlier tokens.
    """

    factory: Callable[[], Any]
    make_inputs: Callable[[int], Any]
    name: str = ""
    notes: tuple[str, ...] = ()
    decoding: bool = False


def load_model(spec: str, *, sequence: int | None = None) -> Model:
    """Resolve a model by name.

    Parameters
    ----------
    spec : str
        One of `FORMS`.
    sequence : int, optional
        Tokens of a language model's input, where the name does not say; of a decoding step (``-decode``) the length of
        the sequence with the new token.

    Returns
    -------
    Model

    Raises
    ------
    MissingExtraError
        If the library that builds it is not installed; names the extra.
    TracingError
        If there is no such model.
    """
    kind, _, rest = spec.partition(":")
    if spec.endswith((".json", ".json.gz")) and kind != "hf":
        trace = Trace.load(spec)
        return Model(lambda: trace, lambda batch: None, trace.name)
    if spec.endswith(".onnx"):
        return Model(lambda: _onnx(spec, None, None), lambda batch: None, Path(spec).stem)
    loaders = {"torchvision": _torchvision, "hf": lambda name: _language(name, sequence), "module": _module}
    if kind not in loaders or not rest:
        raise TracingError("a model is named in a form that is not known", received=spec, allowed=FORMS,
                           next_step="see 'graphs estimate --help'")  # fmt: skip
    return loaders[kind](rest)


def trace_model(
    spec: str, batch: int, dtype: str | None = None, *, sequence: int | None = None, training: bool = False,
    optimizer: str | None = None,
) -> Trace:  # fmt: skip
    """Resolve a model by name and trace it, or read its trace.

    Forward passes of the models in `graphs.tracing.library` are read from there, which needs no torch; a note says so.

    Raises
    ------
    TracingError
        If a saved trace is of another batch or dtype, or no training step where one is asked for; for an optimizer
        without a training step or beside a saved one; for a training step of a decoding step; and as `load_model` and
        `graphs.tracing.trace`.
    """
    if optimizer is not None and not training:
        raise TracingError("an optimizer needs a training step", received=optimizer, allowed="training=True",
                           next_step="ask for a training step, or leave out the optimizer")  # fmt: skip
    if spec.endswith(".onnx") and not training:
        return _onnx(spec, batch or None, dtype)
    if not training and (stored := _stored(spec, batch, dtype, sequence)) is not None:
        return stored
    model = load_model(spec, sequence=sequence)
    if training and model.decoding:
        raise TracingError("a decoding step is not trained", received=spec, allowed="the model without -decode",
                           next_step="leave out -decode, or the training step")  # fmt: skip
    made = model.factory()
    if isinstance(made, Trace):
        if training and not made.training:
            raise TracingError("this holds a forward pass only", received=spec,
                               allowed="a module, or a saved training step",
                               next_step="trace the module with training=True")  # fmt: skip
        if optimizer is not None:
            raise TracingError("a saved training step has the optimizer that it was traced with", received=optimizer,
                               allowed="none", next_step="leave it out, or trace the module again")  # fmt: skip
        if batch and made.batch and batch != made.batch:
            raise TracingError("a saved trace is of one batch", received=batch, allowed=made.batch,
                               next_step="trace the model again with that batch")  # fmt: skip
        return made.with_dtype(dtype) if dtype else made
    from graphs.tracing.tracer import trace

    inputs = model.make_inputs(batch)
    found = trace(made, inputs, dtype=dtype, name=model.name, training=training, optimizer=optimizer)
    return replace(found, notes=(*found.notes, *model.notes))


def _onnx(spec: str, batch: int | None, dtype: str | None) -> Trace:
    from graphs.tracing.onnx_graph import trace_onnx

    return trace_onnx(spec, batch=batch, dtype=dtype)


def _stored(spec: str, batch: int, dtype: str | None, sequence: int | None) -> Trace | None:
    """Return the stored trace of a library's model, if there is one."""
    from graphs.tracing import language, library

    kind, _, name = spec.partition(":")
    if kind == "hf":
        base, tokens = language.split_name(name, sequence or 128)
        name = f"{base}-s{tokens}" if decoding.split_decode(base)[0] in language.MODELS else ""
    elif kind != "torchvision":
        return None
    if not name or name not in library.names():
        return None
    try:
        found = library.load_trace(name, batch, dtype or "fp32")
    except library.UnknownTraceError:
        return None
    return replace(found, notes=(*found.notes, f"read from the stored trace of {name}, made with torch {found.torch}"))


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("building a model needs torch, which is not installed", allowed="saved traces",
                                next_step="pip install 'graphs[trace]'") from error  # fmt: skip
    return torch


def _torchvision(name: str) -> Model:
    torch = _torch()
    side = IMAGE_SIDE.get(name, 224)

    def images(batch: int) -> Any:
        return torch.empty(batch, 3, side, side, device="meta")

    try:
        ready_torchvision()
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        # RuntimeError: built for another torch.
        from graphs.tracing import library, zoo

        if name in zoo.MODELS:
            return Model(lambda: on_meta(zoo.MODELS[name]).eval(), images, name)
        raise MissingExtraError(
            "this model is built by torchvision, which is not usable here", received=f"{name} ({error})",
            allowed=f"without it {', '.join(zoo.MODELS)}, and forward passes of {library.some('torchvision', name)}",
            next_step="name one of these, or pip install 'graphs[models]'",
        ) from error  # fmt: skip
    known = models.list_models(module=models)
    if name not in known:
        raise TracingError("torchvision has no classification model of this name", received=name,
                           allowed=nearest(name, known), next_step="name one of these")  # fmt: skip
    return Model(lambda: on_meta(lambda: models.get_model(name)).eval(), images, name)


def on_meta(factory: Callable[[], Any]) -> Any:
    """Build a module without allocating its weights, or with them where its constructor reads values."""
    torch = _torch()
    try:
        with torch.device("meta"):
            return factory()
    except (NotImplementedError, RuntimeError):
        return factory()


def _language(name: str, sequence: int | None) -> Model:
    from graphs.tracing import language

    torch = _torch()
    named, tokens = language.split_name(name, sequence or 128)
    base, decode = decoding.split_decode(named)
    made: list[Any] = []

    def factory() -> Any:
        if not made:
            built = language.build(base)
            made.append(decoding.decoding(built, tokens) if decode else built)
        return made[0]

    label = f"{base if base in language.MODELS else Path(base).stem}{decoding.SUFFIX if decode else ''}-s{tokens}"
    if decode:
        decoding.check_tokens(tokens)
        return Model(factory, lambda batch: decoding.inputs(factory(), batch, tokens), label, decoding.notes(tokens),
                     decoding=True)  # fmt: skip
    if base in language.MODELS:

        def ids(batch: int) -> Any:
            return {"input_ids": torch.empty(batch, tokens, dtype=torch.int64, device="meta")}

        return Model(lambda: language.build(base), ids, label)
    return Model(factory, lambda batch: language.inputs(factory(), batch, tokens), label)


def _batch_of(inputs: Any) -> int:
    """Return the first dimension of the first tensor in `inputs`; 0 where there is none."""
    if hasattr(inputs, "shape"):
        return int(inputs.shape[0]) if len(inputs.shape) else 0
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (list, tuple)) else ()
    return next((n for n in map(_batch_of, parts) if n), 0)


def _module(path: str) -> Model:
    """Import ``pkg.mod:callable``.

    The callable returns a module, or a module and its inputs, or a module and a function from the batch to inputs.
    """
    where, _, attribute = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        # As for 'python -m': a module of the current folder can be named.
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise TracingError("the factory of a model cannot be imported", received=path,
                           allowed="module:pkg.mod:callable", next_step=str(error)) from error  # fmt: skip
    except Exception as error:
        # A mistake in the module itself, such as one of syntax; the chained traceback shows where.
        raise TracingError("the module of a factory fails when it is imported",
                           received=f"{path}: {type(error).__name__}: {error}", allowed="a module that can be imported",
                           next_step=f"correct it until 'python -c \"import {where}\"' works") from error  # fmt: skip
    made: list[Any] = []

    def parts() -> list[Any]:
        if not made:
            try:
                result = factory()
            except Exception as error:
                # What a user's function raises is its own; the chained traceback shows where.
                raise TracingError("the factory of a model failed", received=f"{path}: {type(error).__name__}: {error}",
                                   allowed="a callable without arguments that returns a torch.nn.Module",
                                   next_step="call it in Python to see where") from error  # fmt: skip
            made.extend(result if isinstance(result, tuple) else (result, None))
        return made

    def inputs(batch: int) -> Any:
        given = parts()[1] if len(parts()) > 1 else None
        if given is None:
            given = getattr(parts()[0], "example_inputs", None)
        if given is None:
            raise TracingError("the factory gives no inputs", received=path,
                               allowed="a factory that returns (module, inputs) or (module, batch -> inputs)",
                               next_step="return both, or give the module an attribute 'example_inputs'")  # fmt: skip
        if callable(given) and not hasattr(given, "shape"):
            return given(batch)
        own = _batch_of(given)
        if own and batch not in (1, own):
            raise TracingError("the inputs that the factory gives are of one batch", received=batch, allowed=own,
                               next_step="return a function from the batch to the inputs")  # fmt: skip
        return given

    def module() -> Any:
        found = parts()[0]
        if not isinstance(found, _torch().nn.Module):
            raise TracingError("the factory returns no module", received=f"{path} returns {type(found).__name__}",
                               allowed="a torch.nn.Module, (module, inputs) or (module, batch -> inputs)",
                               next_step="return the module itself")  # fmt: skip
        return found

    return Model(module, inputs, attribute)
