"""Where models come from: a name on the command line to a module and its inputs, or to a saved trace."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from graphs.errors import MissingExtraError, TracingError, nearest
from graphs.tracing.trace import Trace

FORMS = "torchvision:NAME, hf:NAME-sSEQ, hf:CONFIG.json, module:pkg.mod:callable, or a trace (.json, .json.gz)"

#: Side of the square input images, where it is not 224.
IMAGE_SIDE = {"inception_v3": 299}


class Model(NamedTuple):
    """What `load_model` found.

    `factory` returns the module, on the meta device where that can be; `make_inputs` takes the batch and returns the
    inputs for `graphs.tracing.trace`.  For a saved trace `factory` returns the `Trace` and `make_inputs` None.
    """

    factory: Callable[[], Any]
    make_inputs: Callable[[int], Any]
    name: str = ""


def load_model(spec: str, *, sequence: int | None = None) -> Model:
    """Resolve a model by name.

    Parameters
    ----------
    spec : str
        One of `FORMS`.
    sequence : int, optional
        Tokens of a language model's input, where the name does not say.

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
    loaders = {"torchvision": _torchvision, "hf": lambda name: _language(name, sequence), "module": _module}
    if kind not in loaders or not rest:
        raise TracingError("a model is named in a form that is not known", received=spec, allowed=FORMS,
                           next_step="see 'graphs estimate --help'")  # fmt: skip
    return loaders[kind](rest)


def trace_model(spec: str, batch: int, dtype: str | None = None, *, sequence: int | None = None) -> Trace:
    """Resolve a model by name and trace it, or read its trace.

    Raises
    ------
    TracingError
        If a saved trace is of another batch or dtype, and as `load_model` and `graphs.tracing.trace`.
    """
    model = load_model(spec, sequence=sequence)
    made = model.factory()
    if isinstance(made, Trace):
        if batch and made.batch and batch != made.batch:
            raise TracingError("a saved trace is of one batch", received=batch, allowed=made.batch,
                               next_step="trace the model again with that batch")  # fmt: skip
        return made.with_dtype(dtype) if dtype else made
    from graphs.tracing.tracer import trace

    return trace(made, model.make_inputs(batch), dtype=dtype, name=model.name)


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
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        # RuntimeError: built for another torch.
        from graphs.tracing import zoo

        if name in zoo.MODELS:
            return Model(lambda: _on_meta(zoo.MODELS[name]).eval(), images, name)
        raise MissingExtraError(
            "this model is built by torchvision, which is not usable here", received=f"{name} ({error})",
            allowed=", ".join(zoo.MODELS) + " without it", next_step="pip install 'graphs[models]'",
        ) from error  # fmt: skip
    known = models.list_models(module=models)
    if name not in known:
        raise TracingError("torchvision has no classification model of this name", received=name,
                           allowed=nearest(name, known), next_step="name one of these")  # fmt: skip
    return Model(lambda: _on_meta(lambda: models.get_model(name)).eval(), images, name)


def _on_meta(factory: Callable[[], Any]) -> Any:
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
    base, tokens = language.split_name(name, sequence or 128)

    def ids(batch: int) -> Any:
        return {"input_ids": torch.empty(batch, tokens, dtype=torch.int64, device="meta")}

    return Model(lambda: language.build(base), ids, f"{base if base in language.MODELS else Path(base).stem}-s{tokens}")


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
    made: list[Any] = []

    def parts() -> list[Any]:
        if not made:
            result = factory()
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
        return given(batch) if callable(given) and not hasattr(given, "shape") else given

    return Model(lambda: parts()[0], inputs, attribute)
