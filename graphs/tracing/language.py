"""Language models by name: configurations of the transformers library, written out so that no download is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from graphs.errors import MissingExtraError, TracingError, nearest
from graphs.tracing.compat import ready_torchvision


class Language(NamedTuple):
    """A configuration class of transformers, the model class, and what differs from the defaults."""

    config: str
    model: str
    settings: dict[str, Any]


def _bert(**settings: Any) -> Language:
    return Language("BertConfig", "BertModel", settings)


def _gpt2(**settings: Any) -> Language:
    return Language("GPT2Config", "GPT2LMHeadModel", settings)


def _opt(hidden: int, layers: int, ffn: int, heads: int, **settings: Any) -> Language:
    own = {"hidden_size": hidden, "num_hidden_layers": layers, "ffn_dim": ffn, "num_attention_heads": heads}
    return Language("OPTConfig", "OPTForCausalLM", {**own, "word_embed_proj_dim": hidden, **settings})


def _llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> Language:
    return Language("LlamaConfig", "LlamaForCausalLM", {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 32000,
    })  # fmt: skip


MODELS: dict[str, Language] = {
    "bert-base": _bert(),
    "bert-large": _bert(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    "distilbert": Language("DistilBertConfig", "DistilBertModel", {}),
    "roberta-base": Language("RobertaConfig", "RobertaModel", {"vocab_size": 50265, "max_position_embeddings": 514}),
    "gpt2": _gpt2(),
    "gpt2-medium": _gpt2(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": _gpt2(n_embd=1280, n_layer=36, n_head=20),
    "opt-125m": _opt(768, 12, 3072, 12),
    # Norm after the sum, and embeddings narrower than the model.
    "opt-350m": _opt(1024, 24, 4096, 16, do_layer_norm_before=False, word_embed_proj_dim=512),
    "opt-1.3b": _opt(2048, 24, 8192, 32),
    "tinyllama-1.1b": _llama(2048, 5632, 22, 32, 4),
    "llama-7b-8layers": _llama(4096, 11008, 8, 32, 32),
    "llama-7b": _llama(4096, 11008, 32, 32, 32),
}


def split_name(name: str, default: int = 128) -> tuple[str, int]:
    """Return the model and the sequence length of ``NAME-sSEQ``.

    >>> split_name("bert-base-s384")
    ('bert-base', 384)
    """
    found = re.fullmatch(r"(.+)-s(\d+)", name)
    if found and int(found[2]) < 1:
        raise TracingError("a sequence has no tokens", received=name, allowed="NAME-sSEQ with SEQ >= 1",
                           next_step="give its length, such as bert-base-s128")  # fmt: skip
    return (found[1], int(found[2])) if found else (name, default)


def build(name: str) -> Any:
    """Return a language model on the meta device, in eval mode, without a KV cache.

    Parameters
    ----------
    name : str
        A key of `MODELS`, or the path of a transformers ``config.json``.

    Raises
    ------
    MissingExtraError
        Without transformers.
    TracingError
        For an unknown name or an unusable configuration.
    """
    try:
        import torch

        # transformers imports it where it is installed.
        ready_torchvision()
        import transformers
    except ImportError as error:
        from graphs.tracing import library

        raise MissingExtraError(
            "language models are built by transformers, which is not installed", received=name,
            allowed=f"without it saved traces, and forward passes of {library.some('hf', name)}",
            next_step="name one of these, or pip install 'graphs[models]'",
        ) from error  # fmt: skip
    if name in MODELS:
        config_class, model_class, settings = MODELS[name]
        config = getattr(transformers, config_class)(**settings)
        factory = getattr(transformers, model_class)
    elif Path(name).is_file() or Path(name, "config.json").is_file():
        path = Path(name) if Path(name).is_file() else Path(name, "config.json")
        config, factory = _from_json(transformers, path)
    elif name.endswith(".json"):
        raise TracingError("there is no such file", received=name, allowed="the path of a transformers config.json")
    else:
        raise TracingError("unknown language model", received=name, allowed=nearest(name, MODELS),
                           next_step="name one of these, or give the path of a transformers config.json")  # fmt: skip
    # A prompt is priced, and nothing kept for later; a step of generation is `graphs.tracing.decoding`.
    config.use_cache = False
    with torch.device("meta"):
        return factory(config).eval()


def _from_json(transformers: Any, path: Path) -> tuple[Any, Any]:
    try:
        data = json.loads(path.read_text())
        config = transformers.AutoConfig.for_model(**data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TracingError(
            "a transformers configuration cannot be read", received=str(path),
            allowed="a config.json with a model_type that transformers knows",
            next_step=str(error).splitlines()[0] if str(error) else "check the file",
        ) from error  # fmt: skip
    named = [getattr(transformers, a, None) for a in data.get("architectures") or ()]
    classes = [c for c in named if c is not None]
    if classes:
        return config, classes[0]

    def automatic(config: Any) -> Any:
        return transformers.AutoModel.from_config(config)

    return config, automatic


def inputs(model: Any, batch: int, tokens: int) -> dict[str, Any]:
    """Return inputs of what the model's class takes: token ids, images, waves or spectra, and a decoder's ids.

    Parameters
    ----------
    model : transformers model
        Its configuration says how large an image or a spectrum is; 224 and 3000 frames where it does not.
    batch, tokens : int
        Tokens also of the decoder's input; waves are of 5 s at 16 kHz.
    """
    import torch

    def empty(*shape: int, dtype: Any = torch.float32) -> Any:
        return torch.empty(batch, *shape, dtype=dtype, device="meta")

    config, main = model.config, model.main_input_name
    side = getattr(config, "image_size", 224) or 224
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    if main == "pixel_values":
        found = {main: empty(getattr(config, "num_channels", 3), height, width)}
    elif main == "input_values":
        found = {main: empty(80_000)}
    elif main == "input_features":
        found = {main: empty(getattr(config, "num_mel_bins", 80), 2 * getattr(config, "max_source_positions", 1500))}
    elif main == "input_ids":
        found = {main: empty(tokens, dtype=torch.int64)}
    else:
        raise TracingError("this model's inputs cannot be guessed", received=f"{type(model).__name__}: {main}",
                           allowed="token ids, images, waves, spectra",
                           next_step="build it in a function of your own: module:pkg.mod:callable")  # fmt: skip
    if getattr(config, "is_encoder_decoder", False):
        found["decoder_input_ids"] = empty(tokens, dtype=torch.int64)
    return found
