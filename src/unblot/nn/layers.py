"""Shared parts of networks: embeddings of noise level and label, attention to a text, padding, checks of options."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError

M = TypeVar("M", bound=nn.Module)

MAX_LEVELS = 16
# The largest sizes: far above any use, so that a mistyped or forged number fails before it takes memory. multiple: of
# pixels, to which height and width are padded.
BOUNDS = {
    "width": 16384,
    "multipliers": 64,
    "blocks": 64,
    "depth": 512,
    "patch": 256,
    "heads": 512,
    "multiple": 1024,
    "kernel": 63,
    "layout": 64,
}
OPTIONAL = ("layout",)  # sizes of what a network need not have: 0 is none


def sinusoids(x: Tensor, frequencies: Tensor) -> Tensor:
    """Sines, then cosines, of `x` at each angular frequency: x (...,), frequencies (K,) -> (..., 2K)."""
    angles = x[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def fourier_features(noise: Tensor, dim: int) -> Tensor:
    """Features (B, dim) of a log noise-to-signal ratio (B,) in about −8 … 10; `dim` even.

    The angular frequencies are geometric from 1/8 (a period longer than the range, so that no two levels have the same
    features) to 16 (a period of 0.4, finer than any relevant change of the level).
    """
    frequencies = torch.logspace(math.log2(1 / 8), math.log2(16), dim // 2, base=2.0, device=noise.device)
    return sinusoids(noise.float(), frequencies)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`x` (B, C, H, W) padded with zeros to multiples of `multiple`, and the function that crops a tensor back.

    It crops (B, any, H', W') of the padded size to (B, any, H, W).
    """
    height, width = x.shape[-2:]
    extra_h, extra_w = -height % multiple, -width % multiple
    if not extra_h and not extra_w:
        return x, lambda y: y
    top, left = extra_h // 2, extra_w // 2
    padded = F.pad(x, (left, extra_w - left, top, extra_h - top))
    return padded, lambda y: y[..., top : top + height, left : left + width]


class TwoLayers(nn.Module):
    """Two linear layers with a SiLU between them, for the noise embedding: (B, dim) -> (B, width)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class LabelEmbedding(nn.Module):
    """A learned vector for each class and, the last, for "no label", as classifier-free guidance needs."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        # The scale of the activations that it is added to; with the usual 0.02 labels are learned last.
        self.weight = nn.Parameter(torch.randn(num_classes + 1, dim))

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        """label (B,) int64 in 0 … num_classes, or None for no label -> (B, dim)."""
        if label is None:
            return self.weight[-1].expand(batch, -1)
        return F.embedding(label, self.weight)


def channel_norm(h: Tensor) -> Tensor:
    """Vectors (..., C) of mean 0 and variance 1, with no weights."""
    return F.layer_norm(h, h.shape[-1:])


def heads_of(width: int, head: int) -> int:
    """The number of attention heads of about `head` channels each that divides the width."""
    return max(n for n in range(1, max(1, width // head) + 1) if width % n == 0)


class CrossAttention(nn.Module):
    """What positions take from a text: h (B, N, width), normalised, attends to vectors (B, L, text) -> (B, N, width).

    0 at first. mask: bool (B, 1, 1, L), true where there is a vector. head: channels of an attention head.
    """

    def __init__(self, width: int, text: int, head: int) -> None:
        super().__init__()
        self.heads = heads_of(width, head)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text, 2 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        q = self.query(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


def numbers(option: str, text: str) -> list[int]:
    """The whole numbers of an option such as "1-2-2", none for an empty text.

    Raises UnblotError for anything else, and for more than MAX_LEVELS of them.
    """
    parts = text.split("-") if text else []
    if not all(part.isdecimal() for part in parts) or len(parts) > MAX_LEVELS:
        raise UnblotError(f"{option} {text[:80]!r} is not up to {MAX_LEVELS} whole numbers joined by dashes, as 1-2-2")
    return [int(part) for part in parts]


def check_sizes(network: str, **values: int) -> None:
    """Raises UnblotError for a size outside 1 … its bound in BOUNDS; 0 is allowed for those in OPTIONAL."""
    for name, value in values.items():
        least = 0 if name in OPTIONAL else 1
        if not least <= value <= BOUNDS[name]:
            raise UnblotError(f"{network}: {name} must be from {least} to {BOUNDS[name]}, not {value}")


def zeroed(module: M) -> M:
    """The module with every parameter set to zero: a residual branch, or an output, that is 0 at first."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
