"""The network of Ho et al. 2020 (appendix B), layer by layer; its weights fit diffusers' UNet2DModel.

Parameter names, shapes and outputs are those of `UNet2DModel`, by default as google/ddpm-cifar10-32 configures it (one
attention head over all channels, asymmetric padding before a stride), so that weights load unchanged. Only the
computation differs: all maps are in channels_last memory format, layers on single pixels are 1×1 convolutions, and
nearest-neighbour upsampling with its convolution is one transposed convolution.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.nn.layers import LabelEmbedding, TwoLayers, check_sizes, numbers, pad_to_multiple, sinusoids, zeroed

INDICES = {"ddpm": "ddpm_index", "schedule": "schedule_index"}  # option index -> what `embeds` names
EMBEDDINGS = "ho", "nichol"  # see `index_features`


class Style(NamedTuple):
    """What all blocks share: channels of the embedding, and the options of `DDPMUNet` of these names."""

    dim: int
    groups: int
    eps: float
    head: int
    symmetric: bool
    dropout: float


class DDPMUNet(nn.Module):
    """x (B, channels, H, W), DDPM's index (B,), label (B,) -> (B, out_channels, H, W); any H and W.

    width: channels, an even number. multipliers: of the width, one per level; each level has half the size of the one
    before. blocks: residual blocks per level going down, one more going up. attention: the levels with attention after
    each block, joined by dashes, 0 is the first, empty for none. groups: of the group norms; 0 is Ho's 32, or fewer
    where a group would have less than 4 channels. Raises UnblotError for options that do not fit together.

    The rest is for weights from elsewhere. eps: of the group norms. head: channels of an attention head, 0: all.
    symmetric: pad all sides before a stride, not only right and bottom. embedding: ho or nichol, see `index_features`.
    index: of the level in DDPM's table (ddpm) or in that of the run's own schedule (schedule).
    """

    embeds, reads_text = "ddpm_index", False

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: tuple[int, int],
        num_classes: int,
        *,
        width: int = 128,
        multipliers: str = "1-2-2-2",
        blocks: int = 2,
        attention: str = "1",
        dropout: float = 0.0,
        groups: int = 0,
        eps: float = 1e-6,
        head: int = 0,
        symmetric: bool = False,
        embedding: str = "ho",
        index: str = "ddpm",
    ) -> None:
        super().__init__()
        factors, attended = numbers("multipliers", multipliers), numbers("attention", attention)
        check(width, factors, blocks, attended, dropout, groups)
        check_taken(width, eps, head, embedding, index)
        widths = [width * factor for factor in factors]
        first, last = widths[0], len(widths) - 1
        style = Style(4 * first, groups or suitable_groups(width), eps, head, symmetric, dropout)
        self.embeds = INDICES[index]
        self.features, self.embedding, self.multiple = first, embedding, 2**last

        self.conv_in = nn.Conv2d(channels, first, 3, padding=1)
        self.time_embedding = TwoLayers(first, style.dim)
        self.class_embedding = LabelEmbedding(num_classes, style.dim) if num_classes else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        c, skips = first, [first]
        for level, w in enumerate(widths):
            ins = [c] + [w] * (blocks - 1)
            self.down_blocks.append(Down(ins, w, style, level in attended, level < last))
            skips += [w] * (blocks + (level < last))
            c = w
        self.mid_block = Stage([c, c], c, style, attentions=1)
        for level, w in reversed(list(enumerate(widths))):
            ins = [below + skips.pop() for below in [c] + [w] * blocks]
            self.up_blocks.append(Up(ins, w, style, level in attended, level > 0))
            c = w
        self.conv_norm_out = nn.GroupNorm(style.groups, first, eps)
        self.conv_out = nn.Conv2d(first, out_channels, 3, padding=1)
        self.apply(initialise)
        self.apply(zero_branch)
        zeroed(self.conv_out)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        x, crop = pad_to_multiple(x, self.multiple)
        e = self.time_embedding(index_features(noise, self.features, self.embedding).to(x.dtype))
        if self.class_embedding is not None:
            e = e + self.class_embedding(label, x.shape[0])
        e = F.silu(e)
        # With one channel the two formats have the same strides, and the convolution may choose the other.
        h = channels_last(self.conv_in(channels_last(x)))
        skips = [h]
        for down in self.down_blocks:
            h = down(h, e, skips)
        h = self.mid_block(h, e)
        for up in self.up_blocks:
            h = up(h, e, skips)
        return crop(self.conv_out(F.silu(self.conv_norm_out(h))))


class Stage(nn.Module):
    """Residual blocks of one level, (B, ins[i], H, W) -> (B, width, H, W), with attention after the first ones."""

    def __init__(self, ins: list[int], width: int, style: Style, attentions: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(i, width, style) for i in ins)
        self.attentions = nn.ModuleList(Attention(width, style) for _ in range(attentions))

    def block(self, i: int, h: Tensor, e: Tensor) -> Tensor:
        """The i-th block, and its attention if it has one."""
        h = self.resnets[i](h, e)
        return self.attentions[i](h) if i < len(self.attentions) else h

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        for i in range(len(self.resnets)):
            h = self.block(i, h, e)
        return h


class Down(Stage):
    """A stage going down: each of its maps is pushed onto `skips`."""

    def __init__(self, ins: list[int], width: int, style: Style, attention: bool, resize: bool):
        super().__init__(ins, width, style, len(ins) if attention else 0)
        self.downsamplers = nn.ModuleList([Downsample(width, style.symmetric)] if resize else [])

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:  # type: ignore[override]
        for i in range(len(self.resnets)):
            h = self.block(i, h, e)
            skips.append(h)
        for downsample in self.downsamplers:
            h = downsample(h)
            skips.append(h)
        return h


class Up(Stage):
    """A stage going up: each block pops one map off `skips`."""

    def __init__(self, ins: list[int], width: int, style: Style, attention: bool, resize: bool):
        super().__init__(ins, width, style, len(ins) if attention else 0)
        self.upsamplers = nn.ModuleList([Upsample(width)] if resize else [])

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:  # type: ignore[override]
        for i in range(len(self.resnets)):
            h = self.block(i, torch.cat([h, skips.pop()], dim=1), e)
        for upsample in self.upsamplers:
            h = upsample(h)
        return h


class ResBlock(nn.Module):
    """Two 3×3 convolutions after group norms, the embedding (B, dim) added between them, and a residual path."""

    def __init__(self, channels: int, width: int, style: Style):
        super().__init__()
        self.norm1 = nn.GroupNorm(style.groups, channels, style.eps)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(style.dim, width)
        self.norm2 = nn.GroupNorm(style.groups, width, style.eps)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h += self.time_emb_proj(e)[:, :, None, None]  # in place: a convolution's output is not kept for its gradient
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        h += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h


class Attention(nn.Module):
    """Self-attention over all positions of a channels_last map, (B, C, H, W) -> the same, with a residual path."""

    def __init__(self, width: int, style: Style):
        super().__init__()
        self.heads = width // (style.head or width)
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
    """Halves height and width: a 3×3 convolution of stride 2, padded at the right and the bottom only, or all round."""

    def __init__(self, width: int, symmetric: bool):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=int(symmetric))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width: nearest-neighbour upsampling, then a 3×3 convolution.

    The 9 pixels under the kernel are copies of at most 4. So it equals a transposed convolution of stride 2, whose 4×4
    taps are sums of the 3×3 taps that meet the same pixel, at 4/9 of the work.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        flipped = F.pad(self.conv.weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
        kernel = F.avg_pool2d(flipped, 2, stride=1, divisor_override=1)
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


def index_features(index: Tensor, dim: int, embedding: str = "ho") -> Tensor:
    """Sines, then cosines, of DDPM's index (B,), fractions allowed, at frequencies 1 … 1/10000 -> (B, dim).

    embedding "nichol": cosines, then sines, at frequencies that end a step above 1/10000 (Nichol & Dhariwal 2021).
    """
    half = dim // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=index.device)
    features = sinusoids(index.float(), torch.exp(exponents / (max(half - 1, 1) if embedding == "ho" else half)))
    return features if embedding == "ho" else features.roll(half, dims=-1)


def pointwise(x: Tensor, *layers: nn.Module) -> Tensor:
    """Linear layers on each pixel, outputs concatenated, as one 1×1 convolution (half the time)."""
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return F.conv2d(x, weight[:, :, None, None], bias)


def channels_last(x: Tensor) -> Tensor:
    """`x` in channels_last memory format."""
    return x.contiguous(memory_format=torch.channels_last)


def initialise(module: nn.Module) -> None:
    """Ho et al.'s initialisation: uniform with variance 1/mean(fan_in, fan_out), biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def zero_branch(module: nn.Module) -> None:
    """Zero weights for the last layer of a residual branch, so that the block is the identity at first."""
    if isinstance(module, ResBlock):
        zeroed(module.conv2)
    elif isinstance(module, Attention):
        zeroed(module.to_out)


def suitable_groups(width: int) -> int:
    """The largest number of groups, at most Ho's 32, that gives groups of at least 4 channels; else 1."""
    return max([groups for groups in range(1, 33) if width % groups == 0 and width // groups >= 4], default=1)


def check(width: int, factors: list[int], blocks: int, attended: list[int], dropout: float, groups: int) -> None:
    """Raises UnblotError where the options of `DDPMUNet` do not fit together."""
    check_sizes("ddpm_unet", width=width, blocks=blocks, multiple=2 ** max(0, len(factors) - 1))
    for factor in factors or [0]:
        check_sizes("ddpm_unet", multipliers=factor)
    if width % 2:
        raise UnblotError(f"ddpm_unet: width {width} is not an even number")
    if max(attended, default=0) >= len(factors):
        raise UnblotError(f"ddpm_unet: attention at {max(attended)}, but the sizes are 0 to {len(factors) - 1}")
    if not 0 <= dropout < 1:
        raise UnblotError(f"ddpm_unet: dropout {dropout} is not in [0, 1)")
    if groups < 0 or (groups and width % groups):
        raise UnblotError(f"ddpm_unet: groups {groups} do not divide width {width}; 0 chooses groups that do")


def check_taken(width: int, eps: float, head: int, embedding: str, index: str) -> None:
    """Raises UnblotError for a value of these options that `DDPMUNet` does not have."""
    if not 0 < eps < 1 or embedding not in EMBEDDINGS or index not in INDICES:
        known = f"eps between 0 and 1, embedding {' or '.join(EMBEDDINGS)}, index {' or '.join(INDICES)}"
        raise UnblotError(f"ddpm_unet: it has {known}; not {eps}, {embedding[:80]!r} and {index[:80]!r}")
    if head < 0 or (head and width % head):
        raise UnblotError(f"ddpm_unet: head {head} does not divide width {width}; 0 is one head over all channels")
