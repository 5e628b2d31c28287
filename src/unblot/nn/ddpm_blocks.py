"""The blocks of the network of Ho et al. 2020, and of those that Nichol and Dhariwal made of it.

All maps are in channels_last memory format.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.nn.layers import zeroed


class Style(NamedTuple):
    """What all blocks share: channels of the embedding, and the options of `DDPMUNet` of these names."""

    dim: int
    groups: int
    eps: float
    head: int
    heads: int
    symmetric: bool
    resample: str
    scale_shift: bool
    dropout: float


class ResBlock(nn.Module):
    """Two 3×3 convolutions after group norms, the embedding (B, dim) between them, and a residual path.

    The embedding is added before the second norm, or scales and shifts the channels after it. resize: "down" to halve
    height and width of both paths by means of 2×2 pixels, "up" to double them by copies, "" to keep them.
    """

    def __init__(self, channels: int, width: int, style: Style, resize: str = ""):
        super().__init__()
        self.scale_shift, self.resize = style.scale_shift, resize
        self.norm1 = nn.GroupNorm(style.groups, channels, style.eps)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(style.dim, 2 * width if style.scale_shift else width)
        self.norm2 = nn.GroupNorm(style.groups, width, style.eps)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resize:
            h, x = resized(h, self.resize), resized(x, self.resize)
        h, e = self.conv1(h), self.time_emb_proj(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h += e  # in place: a convolution's output is not kept for its gradient
            h = self.norm2(h)
        h = self.conv2(self.dropout(F.silu(h)))
        h += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h


class Attention(nn.Module):
    """Self-attention over all positions of a channels_last map, (B, C, H, W) -> the same, with a residual path."""

    def __init__(self, width: int, style: Style):
        super().__init__()
        self.heads = style.heads or width // (style.head or width)
        self.group_norm = nn.GroupNorm(style.groups, width, style.eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        qkv = pointwise(self.group_norm(x), self.to_q, self.to_k, self.to_v)
        heads = qkv.permute(0, 2, 3, 1).reshape(b, height * width, 3, self.heads, c // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(1, 2).reshape(b, height, width, c).permute(0, 3, 1, 2)
        return pointwise(mixed, self.to_out[0]).add_(x)


class Downsample(nn.Module):
    """Halves height and width: a 3×3 convolution of stride 2, padded at the right and the bottom only, or all round.

    The embedding is not used.
    """

    def __init__(self, width: int, symmetric: bool):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=int(symmetric))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width: nearest-neighbour upsampling, then a 3×3 convolution.

    The 9 pixels under the kernel are copies of at most 4. So it equals a transposed convolution of stride 2, whose 4×4
    taps are sums of the 3×3 taps that meet the same pixel, at 4/9 of the work. The embedding is not used.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        flipped = F.pad(self.conv.weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
        kernel = F.avg_pool2d(flipped, 2, stride=1, divisor_override=1)
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


def downsampler(width: int, style: Style) -> nn.Module:
    """What halves height and width between two levels: (B, width, H, W) and the embedding."""
    return ResBlock(width, width, style, "down") if style.resample == "block" else Downsample(width, style.symmetric)


def upsampler(width: int, style: Style) -> nn.Module:
    """What doubles height and width between two levels: (B, width, H, W) and the embedding."""
    return ResBlock(width, width, style, "up") if style.resample == "block" else Upsample(width)


def resized(x: Tensor, how: str) -> Tensor:
    """Maps of half the height and width, means of 2×2 pixels ("down"), or of twice that, each pixel copied ("up")."""
    return F.avg_pool2d(x, 2) if how == "down" else F.interpolate(x, scale_factor=2.0, mode="nearest")


def pointwise(x: Tensor, *layers: nn.Module) -> Tensor:
    """Linear layers on each pixel, outputs concatenated, as one 1×1 convolution (half the time)."""
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return F.conv2d(x, weight[:, :, None, None], bias)


def zero_branch(module: nn.Module) -> None:
    """Zero weights for the last layer of a residual branch, so that the block is the identity at first."""
    if isinstance(module, ResBlock):
        zeroed(module.conv2)
    elif isinstance(module, Attention):
        zeroed(module.to_out)
