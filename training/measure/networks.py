"""Layer shapes of real networks, and whole networks to time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphs.errors import TracingError
from graphs.tracing import language, library
from graphs.tracing.trace import Trace
from training.measure.plan import Limits, WholeModel

#: Networks measured as a whole, small ones of every sort; image size or sequence length is in their definition.
WHOLE_MODELS = (
    "resnet18", "mobilenet_v2", "bert-base-s128", "efficientnet_b0", "vit_b_16", "squeezenet1_1", "distilbert-s128",
    "densenet121", "resnet50", "shufflenet_v2_x1_0", "gpt2-s128", "mobilenet_v3_large", "convnext_tiny", "googlenet",
    "swin_t", "regnet_y_400mf", "mnasnet1_0", "alexnet", "vgg11", "opt-125m-s128", "resnext50_32x4d",
    "roberta-base-s128", "inception_v3", "bert-base-s384", "mobilenet_v3_small", "resnet34", "efficientnet_b3",
    "gpt2-medium-s128", "vgg16",
)  # fmt: skip


def layer_shapes(
    dtypes: Iterable[str], batches: Iterable[int] = (1, 8), folder: Path | None = None
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return the distinct parameters of each (kind, dtype) in the stored traces; empty where none are stored."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for name in library.names(folder):
        for batch in batches:
            for dtype in dtypes:
                if dtype == "tf32":
                    continue  # the fp32 program
                try:
                    trace = library.load_trace(name, batch, dtype, folder)
                except library.UnknownTraceError:
                    continue  # stored for other batches only
                for o in trace.operators:
                    if o.op and o.match == "exact" and o.dtype == dtype:
                        found.setdefault((o.op, dtype), {})[repr(sorted(o.params.items()))] = o.params
    if "tf32" in dtypes:
        found |= {(op, "tf32"): rows for (op, dtype), rows in found.items() if dtype == "fp32"}
    return {key: [rows[r] for r in sorted(rows)] for key, rows in found.items()}


def operators_of(
    names: Iterable[str], dtypes: Iterable[str], batches: Iterable[int]
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (op, dtype, params) of every operator that the named networks use.

    Parameters
    ----------
    names : iterable of str
        Names of stored traces, paths of trace files, or what ``graphs estimate`` takes (``torchvision:resnet18``).

    Raises
    ------
    TracingError
        For a name that is neither.
    """
    out: list[tuple[str, str, Mapping[str, Any]]] = []
    for name in names:
        for dtype in dtypes:
            for batch in batches:
                out += [(o.op, o.dtype, o.params) for o in trace_of(name, batch, dtype).operators if o.op]
    return out


def check_names(names: Iterable[str]) -> None:
    """Raise what `trace_of` would for a name that stands for no network, without tracing any.

    Raises
    ------
    GraphsError
        With the forms that are known, or the extra that is missing.
    """
    from graphs.tracing.frontends import load_model

    for name in names:
        if not (Path(name).suffix in (".json", ".gz") and Path(name).is_file()) and name not in library.names():
            load_model(name)


def trace_of(name: str, batch: int, dtype: str) -> Trace:
    """Return the trace of a network given as a stored name, a trace file or a model to build."""
    if Path(name).suffix in (".json", ".gz") and Path(name).is_file():
        return Trace.load(name)
    if name in library.names():
        return library.load_trace(name, batch, dtype)
    from graphs.tracing import trace
    from graphs.tracing.frontends import load_model

    model = load_model(name)
    return trace(model.factory(), model.make_inputs(batch), dtype=dtype, name=model.name)


def is_language(name: str) -> bool:
    """Whether a stored trace's name is that of a language model, which transformers builds."""
    return language.split_name(name)[0] in language.MODELS


def modes_of(name: str, kind: str) -> tuple[str, ...]:
    """Return the modes in which a network is timed, eager last.

    Language models are not replayed from a graph: while a stream is being captured transformers records another
    program, with an explicit attention mask.

    >>> modes_of("resnet18", "gpu"), modes_of("gpt2-s128", "gpu"), modes_of("resnet18", "cpu")
    (('graph', 'kernels', 'eager'), ('kernels', 'eager'), ('eager',))
    """
    if kind != "gpu":
        return ("eager",)
    return ("kernels", "eager") if is_language(name) else ("graph", "kernels", "eager")


def whole_models(
    limits: Limits, dtypes: Iterable[str], batches: Iterable[int] = (1, 8), names: Iterable[str] = WHOLE_MODELS,
    *, kind: str = "cpu",
) -> list[WholeModel]:  # fmt: skip
    """Return the networks that can be built here and have a stored trace, with the modes of a kind of device."""
    from training.measure.whole import can_build

    out = []
    for name in names:
        if not can_build(name):
            continue
        for dtype in dtypes:
            for batch in batches:
                try:
                    trace = library.load_trace(name, batch, dtype)
                except TracingError:
                    continue  # without a trace there is nothing to compare with
                out.append(WholeModel(name, batch, dtype, expected_s(trace, limits), modes_of(name, kind)))
    return out


def expected_s(trace: Trace, limits: Limits) -> float:
    """Return the predicted seconds of a forward pass, as rough as `Limits.expected_s`."""
    from graphs import ops

    total = 0.0
    for o in trace.operators:
        if o.op:
            cost = ops.evaluate(o.op, o.params, ops.itemsize(o.dtype))
            dtype = o.dtype if o.dtype in limits.peaks else next(iter(limits.peaks))
            total += o.count * limits.expected_s(dtype, cost.flops, cost.bytes)
    return total
