"""One step of generation: a language model run on one new token, beside keys and values kept of earlier ones."""

from __future__ import annotations

from typing import Any

from graphs.errors import TracingError

#: Ends the name of a model of which a decoding step is meant.
SUFFIX = "-decode"
#: Kept tokens whose layout is known: all of them, or those in a window.
_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")


def split_decode(name: str) -> tuple[str, bool]:
    """Return the name without ``-decode``, and whether it ended so.

    >>> split_decode("gpt2-decode"), split_decode("gpt2")
    (('gpt2', True), ('gpt2', False))
    """
    return name.removesuffix(SUFFIX), name.endswith(SUFFIX)


def notes(tokens: int) -> tuple[str, ...]:
    """Return what a reader of the trace must know."""
    return (
        f"decoding step: one new token a sequence, which makes it {tokens} long; the {tokens - 1} before it are in a "
        "KV cache, which grows by concatenation, a copy of it, as transformers' DynamicCache does; inputs/s are "
        "tokens/s",
        "decoding step: not validated as a whole: no measured decoding step stands beside it, and any interval is that "
        "of whole forward passes",
    )


def check_tokens(tokens: int) -> None:
    """Raise `TracingError` where no earlier token is left."""
    if tokens < 2:
        raise TracingError("a decoding step needs an earlier token", received=tokens, allowed="2 tokens or more",
                           next_step="name the length with the new token, such as gpt2-decode-s1024")  # fmt: skip


def decoding(model: Any, tokens: int) -> Any:
    """Make the model's forward pass a decoding step, ``forward(input_ids, cache)``, and return the model.

    The paths of its modules stay what they are.  The cache grows by concatenation; what it was is freed, as in
    generation, so that the peak of memory holds one cache and one layer's copy of it.

    Parameters
    ----------
    model : transformers model
        Of `graphs.tracing.language.build`, on the meta device.
    tokens : int
        Length of the sequence with the new token.

    Raises
    ------
    TracingError
        If the model keeps no keys and values of a known layout (encoders, encoder-decoders, state-space layers).
    """
    check_tokens(tokens)
    from transformers import DynamicCache

    class Kept(DynamicCache):  # type: ignore[misc]
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            layer = self.layers[layer_idx]
            before = layer.keys, layer.values
            joined = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            # The tracer's inputs hold the old cache for the whole step; keeping the new one too would count it twice.
            layer.keys, layer.values = before
            return joined

    shapes = _shapes(model, DynamicCache(config=model.config))
    ordinary = model.forward

    def forward(input_ids: Any, cache: Any) -> Any:
        kept = Kept(config=model.config)
        for layer, (keys, values) in zip(kept.layers, cache, strict=True):
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            layer.keys, layer.values = keys, values
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = tokens - 1
        return ordinary(input_ids=input_ids, past_key_values=kept, use_cache=True)

    model.forward = forward
    model._graphs_cache = shapes
    return model


def inputs(model: Any, batch: int, tokens: int) -> dict[str, Any]:
    """Return a new token a sequence and a full cache, for a model made by `decoding`."""
    import torch

    def empty(heads: int, width: int, window: int | None) -> Any:
        length = tokens - 1 if window is None else min(tokens, window) - 1
        return torch.empty(batch, heads, length, width, dtype=model.dtype, device="meta")

    cache = [
        [empty(heads, width, window) for heads, width in (keys, values)] for keys, values, window in model._graphs_cache
    ]
    return {"input_ids": torch.empty(batch, 1, dtype=torch.int64, device="meta"), "cache": cache}


def _shapes(model: Any, cache: Any) -> list[tuple[tuple[int, int], tuple[int, int], int | None]]:
    """Return heads and width of each layer's keys and of its values, and its window, from a run on one token.

    Asked of the model, not its configuration: heads shared by groups, or of several widths, need no rule here.
    """
    import torch

    from graphs.tracing.tracer import trace

    name, allowed = type(model).__name__, "a class that generates (GPT2LMHeadModel), whose layers keep keys and values"
    refused = "give the model without -decode, or build the step in a function of your own: module:pkg.mod:callable"
    text = model.can_generate() and model.main_input_name == "input_ids"
    text = text and not getattr(model.config, "is_encoder_decoder", False)
    if not text or any(type(layer).__name__ not in _LAYERS for layer in cache.layers):
        raise TracingError("this model decodes in a form that is not known", received=name, allowed=allowed,
                           next_step=refused)  # fmt: skip
    given = {"input_ids": torch.empty(1, 1, dtype=torch.int64, device="meta")}
    ordinary = model.forward
    model.forward = lambda input_ids: ordinary(input_ids=input_ids, past_key_values=cache, use_cache=True)
    try:
        trace(model, given)
    except TracingError as error:
        raise TracingError("this model takes no cache of earlier tokens", allowed=allowed, next_step=refused,
                           received=f"{name}: {error.received or error}") from error  # fmt: skip
    finally:
        del model.forward
    found = []
    for layer in cache.layers:
        if layer.keys is None or layer.keys.dim() != 4 or layer.values.dim() != 4:
            raise TracingError("a layer of this model keeps nothing of earlier tokens", received=name,
                               allowed=allowed, next_step=refused)  # fmt: skip
        keys, values = ((t.shape[1], t.shape[3]) for t in (layer.keys, layer.values))
        found.append((keys, values, getattr(layer, "sliding_window", None)))
    return found
