"""What several networks share: embeddings of the noise level and of the label, padding, zeroed layers."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError

M = TypeVar("M", bound=nn.Module)


def sinusoids(x: Tensor, frequencies: Tensor) -> Tensor:
    """Sines, then cosines, of `x` at each angular frequency: x (...,), frequencies (K,) -> (..., 2K)."""
    angles = x[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def fourier_features(noise: Tensor, dim: int) -> Tensor:
    """Features of a log noise-to-signal ratio: (B,) with values of about -8 ... 10 -> (B, dim), `dim` even.

    The angular frequencies run geometrically from 1/8 (a wave longer than the whole range, so that no two
    levels look alike) to 16 (a wave of 0.4, finer than any change of the level that matters).
    """
    frequencies = torch.logspace(math.log2(1 / 8), math.log2(16), dim // 2, base=2.0, device=noise.device)
    return sinusoids(noise.float(), frequencies)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`x` (B, C, H, W) in a frame of zeros whose sides are multiples of `multiple`, and the way back.

    The second value crops a (B, any, H', W') tensor of the padded size to (B, any, H, W).
    """
    height, width = x.shape[-2:]
    extra_h, extra_w = -height % multiple, -width % multiple
    if not extra_h and not extra_w:
        return x, lambda y: y
    top, left = extra_h // 2, extra_w // 2
    padded = F.pad(x, (left, extra_w - left, top, extra_h - top))
    return padded, lambda y: y[..., top : top + height, left : left + width]


class TwoLayers(nn.Module):
    """Two linear layers with a SiLU between them, on the features of the noise level: (B, dim) -> (B, width)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class LabelEmbedding(nn.Module):
    """A learned vector per class, and one more, the last, for "no label" (classifier-free guidance)."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        # As large as the activations that it is added to: with the 0.02 that is usual, labels are learned last.
        self.weight = nn.Parameter(torch.randn(num_classes + 1, dim))

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        """label (B,) int64 in 0..num_classes, or None for no label at all -> (B, dim)."""
        if label is None:
            return self.weight[-1].expand(batch, -1)
        return F.embedding(label, self.weight)


def numbers(option: str, text: str) -> list[int]:
    """The numbers of an option such as "1-2-2"; none for an empty text. Raises UnblotError for anything else."""
    parts = text.split("-") if text else []
    if not all(part.isdecimal() for part in parts):
        raise UnblotError(f"{option} {text!r} is not whole numbers joined by dashes, as 1-2-2")
    return [int(part) for part in parts]


def zeroed(module: M) -> M:
    """The module with every parameter set to zero: a residual branch, or an output, that starts silent."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
