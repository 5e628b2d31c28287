"""The network of Ho et al. 2020 (appendix B), layer by layer; its weights fit diffusers' UNet2DModel.

Parameter names, shapes and outputs are those of `UNet2DModel`, by default as google/ddpm-cifar10-32 configures it (one
attention head over all channels, asymmetric padding before a stride), so that weights load unchanged. Only the
computation differs: all maps are in channels_last memory format, layers on single pixels are 1×1 convolutions, and
nearest-neighbour upsampling with its convolution is one transposed convolution.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.nn.ddpm_blocks import Attention, ResBlock, Style, downsampler, upsampler, zero_branch
from unblot.nn.layers import LabelEmbedding, TwoLayers, check_sizes, numbers, pad_to_multiple, sinusoids, zeroed

EMBEDS_OF_INDEX = {  # option index -> what `embeds` names
    "ddpm": "ddpm_index",
    "schedule": "schedule_index",
    "rescaled": "rescaled_index",
}
EMBEDDINGS = "ho", "nichol"  # see `index_features`
RESAMPLES = "conv", "block"


class DDPMUNet(nn.Module):
    """x (B, channels, H, W), DDPM's index (B,), label (B,) -> (B, out_channels, H, W); any H and W.

    width: channels, an even number. multipliers: of the width, one per level; each level has half the size of the one
    before. blocks: residual blocks per level going down, one more going up. attention: the levels with attention after
    each block, joined by dashes, 0 is the first, empty for none. groups: of the group norms; 0 is Ho's 32, or fewer
    where a group would have less than 4 channels. Raises UnblotError for options that do not fit together.

    The rest is for weights from elsewhere. eps: of the group norms. head: channels of an attention head, 0: all.
    heads: of each attention instead, 0: as head says. symmetric: pad all sides before a stride, not only right and
    bottom. resample: by a convolution (conv) or a residual block (block). scale_shift: the embedding scales and shifts
    the channels after the second norm of a residual block, instead of being added before it (Nichol & Dhariwal 2021).
    embedding: ho or nichol, see `index_features`. index: of the level in DDPM's table (ddpm), in that of the run's own
    schedule (schedule), or that times 1000/T for a table of T (rescaled).
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
        heads: int = 0,
        symmetric: bool = False,
        resample: str = "conv",
        scale_shift: bool = False,
        embedding: str = "ho",
        index: str = "ddpm",
    ) -> None:
        super().__init__()
        factors, attended = numbers("multipliers", multipliers), numbers("attention", attention)
        check(width, factors, blocks, attended, dropout, groups)
        check_taken(eps, resample, embedding, index)
        check_heads(width, head, heads)
        widths = [width * factor for factor in factors]
        first, last = widths[0], len(widths) - 1
        groups = groups or suitable_groups(width)
        style = Style(4 * first, groups, eps, head, heads, symmetric, resample, scale_shift, dropout)
        self.embeds = EMBEDS_OF_INDEX[index]
        self.features, self.embedding, self.multiple = first, embedding, 2**last

        self.conv_in = nn.Conv2d(channels, first, 3, padding=1)
        self.time_embedding = TwoLayers(first, style.dim)
        self.class_embedding = LabelEmbedding(num_classes, style.dim) if num_classes else None
        self._add_stages(widths, blocks, attended, style)
        self.conv_norm_out = nn.GroupNorm(style.groups, first, eps)
        self.conv_out = nn.Conv2d(first, out_channels, 3, padding=1)
        self.apply(initialise)
        self.apply(zero_branch)
        zeroed(self.conv_out)

    def _add_stages(self, widths: list[int], blocks: int, attended: list[int], style: Style) -> None:
        """The stages going down, in the middle and going up; widths: channels of each level."""
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        c, skips, last = widths[0], [widths[0]], len(widths) - 1
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
        self.downsamplers = nn.ModuleList([downsampler(width, style)] if resize else [])

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:  # type: ignore[override]
        for i in range(len(self.resnets)):
            h = self.block(i, h, e)
            skips.append(h)
        for downsample in self.downsamplers:
            h = downsample(h, e)
            skips.append(h)
        return h


class Up(Stage):
    """A stage going up: each block pops one map off `skips`."""

    def __init__(self, ins: list[int], width: int, style: Style, attention: bool, resize: bool):
        super().__init__(ins, width, style, len(ins) if attention else 0)
        self.upsamplers = nn.ModuleList([upsampler(width, style)] if resize else [])

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:  # type: ignore[override]
        for i in range(len(self.resnets)):
            h = self.block(i, torch.cat([h, skips.pop()], dim=1), e)
        for upsample in self.upsamplers:
            h = upsample(h, e)
        return h


def index_features(index: Tensor, dim: int, embedding: str = "ho") -> Tensor:
    """Sines, then cosines, of DDPM's index (B,), fractions allowed, at frequencies 1 … 1/10000 -> (B, dim).

    embedding "nichol": cosines, then sines, at frequencies that end a step above 1/10000 (Nichol & Dhariwal 2021).
    """
    half = dim // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=index.device)
    features = sinusoids(index.float(), torch.exp(exponents / (max(half - 1, 1) if embedding == "ho" else half)))
    return features if embedding == "ho" else features.roll(half, dims=-1)


def channels_last(x: Tensor) -> Tensor:
    """`x` in channels_last memory format."""
    return x.contiguous(memory_format=torch.channels_last)


def initialise(module: nn.Module) -> None:
    """Ho et al.'s initialisation: uniform with variance 1/mean(fan_in, fan_out), biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


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


def check_taken(eps: float, resample: str, embedding: str, index: str) -> None:
    """Raises UnblotError for a value of these options that `DDPMUNet` does not have."""
    if not 0 < eps < 1:
        raise UnblotError(f"ddpm_unet: eps must be between 0 and 1, not {eps}")
    named = {"resample": (resample, RESAMPLES), "embedding": (embedding, EMBEDDINGS), "index": (index, EMBEDS_OF_INDEX)}
    for name, (value, known) in named.items():
        if value not in known:
            raise UnblotError(f"ddpm_unet: {name} is one of {', '.join(known)}, not {value[:80]!r}")


def check_heads(width: int, head: int, heads: int) -> None:
    """Raises UnblotError where attention heads do not share out the channels."""
    if head and heads:
        raise UnblotError(f"ddpm_unet: head={head} and heads={heads} say the same; give one of them")
    if heads < 0 or (heads and width % heads):
        raise UnblotError(f"ddpm_unet: heads {heads} do not divide width {width}")
    if head < 0 or (head and width % head):
        raise UnblotError(f"ddpm_unet: head {head} does not divide width {width}; 0 is one head over all channels")
