"""What other libraries do that stands in the way of a trace: tests for tracers, builds for another torch, imports."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

#: Operators of torchvision's compiled part that its Python part expects at import.
_TORCHVISION = ("nms", "qnms")
_KEPT: list[Any] = []


@contextlib.contextmanager
def library_shims() -> Iterator[None]:
    """Let transformers build the program of an ordinary call.

    It recognises tensors without data and then writes attention masks out, which an ordinary call does not.
    """
    module: Any = sys.modules.get("transformers.utils.import_utils")
    original = getattr(module, "is_fake_tensor", None)
    if original is None:
        yield
        return
    module.is_fake_tensor = lambda x: False
    try:
        yield
    finally:
        module.is_fake_tensor = original


def ready_torchvision() -> None:
    """Make torchvision importable where its compiled part does not fit the installed torch.

    Networks are built of torch's own operators; the compiled part holds others (boxes, image files), of which the
    Python part registers shape functions at import.  Naming them is enough for that.  Does nothing where torchvision
    is missing or imports as it is.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in _TORCHVISION:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        # The definitions live as long as the library object.
        _KEPT.append(library)
        importlib.import_module("torchvision")


@contextlib.contextmanager
def fake_mode() -> Iterator[Any]:
    """Run under a FakeTensorMode, without the compiler where it is not loaded.

    The mode reads settings of the compiler, and for them imports all of it, which is most of what a first trace
    takes.  The settings are a module of their own, which needs no compiler.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode, settings = None, None
    if "torch._dynamo" not in sys.modules:
        # In a version of torch where the short way is not open, the plain one below.
        with contextlib.suppress(AttributeError, ImportError), _settings_only() as settings:
            mode = _without_compiler(FakeTensorMode)(allow_non_fake_inputs=True)
    if mode is None:
        settings = None
        mode = FakeTensorMode(allow_non_fake_inputs=True)
    if settings is not None:
        torch.__dict__["_dynamo"] = settings
    # torch prints the traceback of every call that fails; who traces raises an error that says what failed.
    log = logging.getLogger(FakeTensorMode.__module__)
    log.addFilter(_not_of_a_failed_call)
    try:
        with mode:
            yield mode
    finally:
        log.removeFilter(_not_of_a_failed_call)
        if settings is not None and torch.__dict__.get("_dynamo") is settings:
            del torch.__dict__["_dynamo"]


def _not_of_a_failed_call(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("failed while attempting to run meta")


@functools.cache
def _without_compiler(mode: Any) -> Any:
    """Return the mode without the wrapper that asks the compiler to leave its calls alone: nothing is compiled here."""

    def keep(cls: type) -> bool:
        return False

    dispatch = inspect.unwrap(mode.__torch_dispatch__)
    return type(mode.__name__, (mode,), {"_should_skip_dynamo": classmethod(keep), "__torch_dispatch__": dispatch})


class _Settings(types.ModuleType):
    """The compiler's settings in its place; asked for anything else, it imports the compiler.

    It is an attribute of torch only, so that an import statement finds the compiler too.
    """

    config: Any

    def __getattr__(self, name: str) -> Any:
        if name == "config" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("torch._dynamo"), name)


@contextlib.contextmanager
def _settings_only() -> Iterator[Any]:
    """Stand in for the compiler's package while a mode is made, and yield what holds its settings."""
    import torch

    stand_in = _Settings("torch._dynamo")
    spec = importlib.util.find_spec("torch")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    stand_in.__path__ = [f"{place}/_dynamo" for place in places]
    sys.modules["torch._dynamo"] = stand_in
    try:
        stand_in.config = importlib.import_module("torch._dynamo.config")
        yield stand_in
    finally:
        for name in [n for n in sys.modules if n == "torch._dynamo" or n.startswith("torch._dynamo.")]:
            del sys.modules[name]
        if torch.__dict__.get("_dynamo") is stand_in:
            del torch.__dict__["_dynamo"]
