"""Backward passes: products and convolutions as the products and convolutions they are, the rest as its traffic.

No backward operator was measured.  Products are of a measured kind; a convolution's two gradients have the work of its
forward pass each and are priced as it; everything else moves its tensors.
"""

from __future__ import annotations

import math
from typing import Any

from graphs.tracing.layout import View
from graphs.tracing.rules.attention import attention
from graphs.tracing.rules.convolution import convolution
from graphs.tracing.rules.core import Call, Priced, both, proxies, rule, traffic


@rule("convolution_backward")
def convolution_backward(call: Call) -> list[Priced]:
    grad, x, weight, bias_sizes, stride, pad, dilation, transposed, output_pad, groups, wanted = call.args[:11]
    args = (x, weight, None, stride, pad, dilation, transposed, output_pad, groups)
    out: list[Priced] = []
    for asked in wanted[:2]:
        if asked:
            forward = convolution(Call("aten.convolution.default", args, {}, (grad,)))
            out += proxies(forward, "gradient of input or weights, as the convolution of the forward pass")
    if wanted[2] and bias_sizes:
        sums = {"rows": grad.shape[1], "cols": grad.numel // grad.shape[1]}
        out.append(Priced("sum", sums, grad.dtype, "proxy", "gradient of the bias"))
    return out


@rule(
    "_scaled_dot_product_flash_attention_for_cpu_backward", "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_efficient_attention_backward", "_scaled_dot_product_cudnn_attention_backward",
    "_scaled_dot_product_fused_attention_overrideable_backward",
)  # fmt: skip
def attention_backward(call: Call) -> list[Priced]:
    """Price five products, the scores of the forward pass anew among them, where the forward pass has two."""
    _, q, k, v = call.args[:4]
    mask: Any = call.arg(99, "attn_mask") or call.arg(99, "attn_bias")
    causal = bool(call.arg(99, "is_causal", False))
    whole = attention(q, k, v, mask if isinstance(mask, View) else None, causal)
    heads = whole.params["h"]
    # Half of the groups need not divide half of the heads.
    groups = math.gcd(max(1, heads // 2), max(1, whole.params["hkv"] // 2))
    half = {**whole.params, "h": max(1, heads // 2), "hkv": groups}
    note = "backward of attention as two and a half forward passes"
    if heads == 1:
        return proxies([whole] * 3, "backward of attention as three forward passes")
    return proxies([whole, whole, Priced(whole.op, half, whole.dtype)], note)


@rule("native_batch_norm_backward", "native_group_norm_backward", "cudnn_batch_norm_backward", "batch_norm_backward")
def norm_backward(call: Call) -> list[Priced]:
    grad, x = call.args[:2]
    # Sums over the gradient and the input first, then both are read again and the gradient of the input is written.
    nbytes = 2 * (grad.bytes + x.bytes) + x.bytes
    return traffic(call, f"{call.base} as its traffic, in two passes", nbytes=nbytes) if x.numel else []


@rule("embedding_dense_backward", "embedding_backward")
def embedding_backward(call: Call) -> list[Priced]:
    # The gradient of the whole table is cleared, then the rows that were looked up are added to.
    return traffic(call, "gradient of a table as its traffic", nbytes=call.result.bytes + 2 * call.args[0].bytes)


@rule("elu_backward", "leaky_relu_backward", "hardtanh_backward", "hardswish_backward", "hardsigmoid_backward",
      "softplus_backward", "mish_backward", "log_sigmoid_backward", "logit_backward", "softshrink_backward",
      "native_dropout_backward", "glu_backward", "rrelu_with_noise_backward")  # fmt: skip
def activation_backward(call: Call) -> list[Priced]:
    grad = call.args[0]
    if not grad.numel:
        return []
    if not grad.measured or not grad.dense:
        return traffic(call, f"{call.base} as its traffic")
    return [Priced("mul", {"numel": grad.numel, "bcast": False}, grad.dtype, *both([f"{call.base} as mul"]))]


@rule("native_layer_norm_backward", "_fused_rms_norm_backward", "_softmax_backward_data", "_log_softmax_backward_data",
      "max_pool2d_with_indices_backward", "avg_pool2d_backward", "_adaptive_avg_pool2d_backward",
      "max_pool3d_with_indices_backward", "avg_pool3d_backward", "_adaptive_avg_pool3d_backward",
      "upsample_nearest2d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
      "nll_loss_forward", "nll_loss_backward", "nll_loss2d_forward", "nll_loss2d_backward", "mse_loss",
      "mse_loss_backward", "slice_backward", "select_backward", "diagonal_backward", "constant_pad_nd_backward",
      "grid_sampler_2d_backward", "index_backward", "value_selecting_reduction_backward",
      "_prelu_kernel_backward")  # fmt: skip
def as_traffic(call: Call) -> list[Priced]:
    return traffic(call, f"{call.base} as its traffic")
