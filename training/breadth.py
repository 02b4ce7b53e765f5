"""Trace networks that nobody tuned for, and say how their time is priced: ``python -m training.breadth``.

Needs torch, and of torchvision, timm, transformers and diffusers what is there; networks of a missing library are
listed as not run.  Nothing is downloaded: all networks are built from configurations, on the meta device.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from graphs.errors import GraphsError
from graphs.estimation import LatencyEstimate, estimate_trace
from graphs.hardware.mappers.registry import create_mapper
from graphs.tracing.compat import ready_torchvision
from graphs.tracing.frontends import on_meta

#: Share of time or of calls that a network may leave unpriced.
LIMIT = 0.02

Inputs = Callable[[Any, int], Any]


class Network(NamedTuple):
    """A network: what kind it is, the library that builds it and how, and its inputs.

    `dtype` is set where the network runs in that one only.
    """

    name: str
    kind: str
    library: str
    build: Callable[[Any], Any]
    inputs: Inputs
    batch: int = 8
    dtype: str = ""


def _image(side: int = 224, *, key: str = "", channels: int = 3) -> Inputs:
    def make(torch: Any, batch: int) -> Any:
        x = torch.empty(batch, channels, side, side, device="meta")
        return {key: x} if key else x

    return make


def _ids(tokens: int, *, decoder: int = 0) -> Inputs:
    def make(torch: Any, batch: int) -> Any:
        def ids(n: int) -> Any:
            return torch.empty(batch, n, dtype=torch.int64, device="meta")

        return {"input_ids": ids(tokens)} | ({"decoder_input_ids": ids(decoder)} if decoder else {})

    return make


def _floats(**shapes: tuple[int, ...]) -> Inputs:
    """Return inputs of these shapes after the batch; a name that ends in ``_ids`` or in ``timestep`` holds integers."""

    def make(torch: Any, batch: int) -> Any:
        def one(name: str, shape: tuple[int, ...]) -> Any:
            whole = name.endswith("_ids") or name in ("timestep", "class_labels")
            return torch.empty(batch, *shape, device="meta", dtype=torch.int64 if whole else torch.float32)

        return {name: one(name, shape) for name, shape in shapes.items()}

    return make


def _torchvision(where: str, name: str, kind: str, inputs: Inputs, batch: int = 8, dtype: str = "") -> Network:
    def build(models: Any) -> Any:
        heads = {} if where == "video" or where == "optical_flow" else {"weights_backbone": None}
        return getattr(getattr(models, where), name)(weights=None, **heads)

    return Network(name, kind, "torchvision.models", build, inputs, batch, dtype)


def _timm(name: str, side: int = 224) -> Network:
    return Network(name, "vision", "timm", lambda timm: timm.create_model(name, pretrained=False), _image(side))


def _hf(name: str, kind: str, config: str, model: str, inputs: Inputs, batch: int = 8, **settings: Any) -> Network:
    def build(transformers: Any) -> Any:
        made = getattr(transformers, config)(**settings)
        made.use_cache = False
        return getattr(transformers, model)(made)

    return Network(name, kind, "transformers", build, inputs, batch)


def _diffusers(name: str, model: str, inputs: Inputs, batch: int = 2, **settings: Any) -> Network:
    return Network(name, "diffusion", "diffusers", lambda d: getattr(d, model)(**settings), inputs, batch)


_MOE = {"hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 16, "vocab_size": 32000}

NETWORKS: tuple[Network, ...] = (
    _torchvision("segmentation", "deeplabv3_resnet50", "segmentation", _image(520)),
    _torchvision("segmentation", "lraspp_mobilenet_v3_large", "segmentation", _image(520)),
    _torchvision("video", "r3d_18", "video", _floats(x=(3, 16, 112, 112))),
    _torchvision("video", "swin3d_t", "video", _floats(x=(3, 16, 224, 224)), 2),
    _torchvision("optical_flow", "raft_small", "optical flow",
                 _floats(image1=(3, 256, 256), image2=(3, 256, 256)), 2, "fp32"),
    _timm("mixer_b16_224"), _timm("mobilevit_s", 256), _timm("coatnet_0_rw_224"), _timm("xcit_tiny_12_p16_224"),
    _timm("hrnet_w18"), _timm("ghostnet_100"), _timm("levit_128"), _timm("dm_nfnet_f0", 192),
    _timm("poolformer_s12"), _timm("convnextv2_tiny"), _timm("beit_base_patch16_224"), _timm("eva02_tiny_patch14_224"),
    _timm("res2net50_26w_4s"), _timm("resnetrs50", 160), _timm("gcvit_tiny"), _timm("dpn68"), _timm("cait_s24_224"),
    _hf("deberta-v3-base", "encoder", "DebertaV2Config", "DebertaV2Model", _ids(256), hidden_size=768,
        num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, relative_attention=True,
        pos_att_type=["p2c", "c2p"], position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
        vocab_size=128100),
    _hf("electra-base", "encoder", "ElectraConfig", "ElectraModel", _ids(256), hidden_size=768, embedding_size=768,
        num_attention_heads=12, intermediate_size=3072),
    _hf("qwen2.5-0.5b", "decoder", "Qwen2Config", "Qwen2ForCausalLM", _ids(512), 4, hidden_size=896,
        intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2),
    _hf("gemma-2-2b", "decoder", "Gemma2Config", "Gemma2ForCausalLM", _ids(512), 2, hidden_size=2304,
        intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4, head_dim=256),
    _hf("phi-3-mini", "decoder", "Phi3Config", "Phi3ForCausalLM", _ids(512), 2, pad_token_id=0, bos_token_id=1,
        eos_token_id=2),
    _hf("bloom-560m", "decoder", "BloomConfig", "BloomForCausalLM", _ids(512), 4, hidden_size=1024, n_layer=24,
        n_head=16),
    _hf("falcon-rw-1b", "decoder", "FalconConfig", "FalconForCausalLM", _ids(512), 4, hidden_size=2048,
        num_hidden_layers=24, num_attention_heads=32, alibi=True, multi_query=False, parallel_attn=False, bias=True),
    _hf("t5-base", "encoder-decoder", "T5Config", "T5ForConditionalGeneration", _ids(256, decoder=64), d_model=768,
        d_ff=3072, num_layers=12, num_heads=12),
    _hf("bart-base", "encoder-decoder", "BartConfig", "BartForConditionalGeneration", _ids(256, decoder=64),
        d_model=768, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=3072, decoder_ffn_dim=3072,
        encoder_attention_heads=12, decoder_attention_heads=12),
    _hf("whisper-small", "speech", "WhisperConfig", "WhisperForConditionalGeneration",
        _floats(input_features=(80, 3000), decoder_input_ids=(64,)), 4, d_model=768, encoder_layers=12,
        decoder_layers=12, encoder_attention_heads=12, decoder_attention_heads=12, encoder_ffn_dim=3072,
        decoder_ffn_dim=3072),
    _hf("wav2vec2-base", "speech", "Wav2Vec2Config", "Wav2Vec2ForCTC", _floats(input_values=(80000,)), 4),
    _hf("clip-vit-b32", "vision", "CLIPVisionConfig", "CLIPVisionModel", _image(key="pixel_values")),
    _hf("segformer-b0", "segmentation", "SegformerConfig", "SegformerForSemanticSegmentation",
        _image(512, key="pixel_values")),
    _hf("dinov2-base", "vision", "Dinov2Config", "Dinov2Model", _image(key="pixel_values")),
    _hf("mixtral-4layers", "mixture of experts", "MixtralConfig", "MixtralForCausalLM", _ids(512), 2, **_MOE,
        intermediate_size=7168, num_key_value_heads=4, num_local_experts=8),
    _hf("qwen2-moe-4layers", "mixture of experts", "Qwen2MoeConfig", "Qwen2MoeForCausalLM", _ids(512), 2, **_MOE,
        intermediate_size=5632, num_key_value_heads=16, num_experts=60, num_experts_per_tok=4),
    _hf("mamba-4layers", "state space", "MambaConfig", "MambaForCausalLM", _ids(64), 2, hidden_size=768,
        num_hidden_layers=4, vocab_size=50280),
    _diffusers("unet-sd-1.5", "UNet2DConditionModel",
               _floats(sample=(4, 64, 64), timestep=(), encoder_hidden_states=(77, 768)),
               sample_size=64, cross_attention_dim=768, attention_head_dim=8),
    _diffusers("dit-xl-2", "DiTTransformer2DModel",
               _floats(hidden_states=(4, 32, 32), timestep=(), class_labels=()), 8, sample_size=32),
    _diffusers("sd3-medium-6layers", "SD3Transformer2DModel",
               _floats(hidden_states=(16, 64, 64), encoder_hidden_states=(154, 4096), pooled_projections=(2048,),
                       timestep=()),
               sample_size=128, num_layers=6, caption_projection_dim=1152, joint_attention_dim=4096,
               pooled_projection_dim=2048),
    _diffusers("vae-sd-1.5", "AutoencoderKL", _floats(sample=(3, 256, 256)), 2, layers_per_block=2,
               block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
               up_block_types=("UpDecoderBlock2D",) * 4),
)  # fmt: skip


class Row(NamedTuple):
    """A line of the table; shares are of time.  `problem` says why a network was not traced."""

    network: Network
    seconds: float = 0.0
    latency_s: float = 0.0
    calls: int = 0
    exact: float = 0.0
    near: float = 0.0
    proxy: float = 0.0
    default: float = 0.0
    unmodelled_calls: float = 0.0
    notes: tuple[str, ...] = ()
    problem: str = ""
    missing: bool = False


def run(network: Network, hardware: str, dtype: str) -> Row:
    """Build, trace and estimate a network."""
    import torch

    from graphs.tracing import trace

    ready_torchvision()
    try:
        library = importlib.import_module(network.library)
    except ImportError as error:
        return Row(network, problem=str(error), missing=True)
    module = on_meta(lambda: network.build(library)).eval()
    start = time.perf_counter()
    try:
        traced = trace(module, network.inputs(torch, network.batch), dtype=network.dtype or dtype, name=network.name)
    except GraphsError as error:
        return Row(network, problem=str(error))
    seconds = time.perf_counter() - start
    return _row(network, seconds, estimate_trace(traced, create_mapper(hardware)), traced)


def _row(network: Network, seconds: float, e: LatencyEstimate, traced: Any) -> Row:
    order = traced.sequence
    share = dict.fromkeys(("exact", "near", "proxy", "default", "unmodelled"), 0.0)
    for call, index in zip(e.operators, order, strict=True):
        match = traced.operators[index].match
        # What the mapper answers from the default, and what it prices as another kind, comes before the trace's word.
        kind = call.source if call.source in ("default", "unmodelled", "proxy") else match
        share[kind] += call.latency_s / e.latency_s
    unpriced = sum(c.source == "unmodelled" for c in e.operators) / len(e.operators)
    return Row(network, seconds, e.latency_s, len(order), share["exact"], share["near"], share["proxy"],
               share["default"], unpriced, traced.notes)  # fmt: skip


def table(rows: list[Row], hardware: str, dtype: str) -> str:
    """Return the table as Markdown."""
    head = ["network", "kind", "batch", "operators", f"{hardware}, {dtype}", "exact", "near", "proxy", "default",
            "unmodelled calls"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for r in rows:
        n = r.network
        if r.problem:
            lines.append(f"| {n.name} | {n.kind} | {n.batch} | {'not run' if r.missing else 'FAILED'}: {r.problem} |")
            continue
        shares = [f"{100 * v:.1f} %" for v in (r.exact, r.near, r.proxy, r.default, r.unmodelled_calls)]
        time_ = f"{r.latency_s * 1e3:.2f} ms"
        batch = f"{n.batch} ({n.dtype})" if n.dtype else str(n.batch)
        lines.append("| " + " | ".join([n.name, n.kind, batch, str(r.calls), time_, *shares]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table; fail if a network does not trace or leaves too much unpriced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hardware", default="h100-sxm")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("names", nargs="*", help="networks to run; all by default")
    options = parser.parse_args(argv)
    rows = []
    for network in NETWORKS:
        if options.names and network.name not in options.names:
            continue
        rows.append(run(network, options.hardware, options.dtype))
        row = rows[-1]
        print(f"{network.name}: {row.problem or f'{row.seconds:.1f} s'}", *row.notes, sep="\n  ", file=sys.stderr)
    print(table(rows, options.hardware, options.dtype))
    if options.json:
        options.json.write_text(json.dumps([{**r._asdict(), "network": r.network.name} for r in rows], indent=1) + "\n")
    bad = [r for r in rows if (r.problem and not r.missing) or r.unmodelled_calls > LIMIT]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
