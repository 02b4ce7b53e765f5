"""Small modules whose operators are known by hand, and what tests ask of their traces."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphs.tracing import Trace, trace


class Residual(nn.Module):
    """Convolution, batch norm, relu, and a sum with the input."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x))) + x


class RMSNorm(nn.Module):
    """Root mean square norm in fp32 whatever the dtype, as language models have it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6)).to(dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin


class Decoder(nn.Module):
    """RMSNorm, rotary grouped-query attention and a gated feed-forward: one block of a language model."""

    def __init__(self, dim: int = 256, heads: int = 8, kv_heads: int = 2, hidden: int = 512) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.d = heads, kv_heads, dim // heads
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.q = nn.Linear(dim, heads * self.d, bias=False)
        self.k = nn.Linear(dim, kv_heads * self.d, bias=False)
        self.v = nn.Linear(dim, kv_heads * self.d, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        self.register_buffer("cos", torch.ones(64, self.d))
        self.register_buffer("sin", torch.ones(64, self.d))

    def forward(self, x: Tensor) -> Tensor:
        b, s, _ = x.shape
        y = self.norm1(x)
        q, k, v = (p(y).view(b, s, -1, self.d).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rotated(q, self.cos[:s], self.sin[:s]), rotated(k, self.cos[:s], self.sin[:s])
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(out.transpose(1, 2).reshape(b, s, -1))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.function(*args, **kwargs)  # type: ignore[operator,no-any-return]


class Remembers(nn.Module):
    """Keeps a tensor between calls, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.linear(x)
        self.later = self.seen * 2
        return self.seen


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def calls(t: Trace) -> list[tuple]:
    """Return (op, dtype, params) of each call in program order."""
    return [(t.operators[i].op, t.operators[i].dtype, dict(t.operators[i].params)) for i in t.sequence]


def names(t: Trace) -> list[str]:
    return [c[0] for c in calls(t)]


def of(function: object, *args: Tensor, dtype: str | None = None) -> Trace:
    return trace(Function(function), args, dtype=dtype)
