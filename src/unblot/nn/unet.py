"""The default network: a U-Net on patches of pixels, in channels_last memory format.

Folding p×p pixels into channels makes each convolution a large matrix product on a small map, which is fast on a CPU
and on a GPU. Normalising over the channels of each pixel (as in Karras et al. 2024) is one pass over contiguous memory.
Residual blocks with noise-dependent scale and shift follow Dhariwal & Nichol 2021.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.nn.layers import (
    CrossAttention,
    LabelEmbedding,
    check_sizes,
    fourier_features,
    heads_of,
    numbers,
    pad_to_multiple,
    zeroed,
)
from unblot.system.device import own_precision

FREQUENCIES = 64  # features of the noise level
HEAD = 32  # channels of an attention head


class UNet(nn.Module):
    """x (B, channels, H, W), log(sigma/alpha) (B,), label (B,) -> (B, out_channels, H, W); any H and W.

    width: channels of the first level. multipliers: of the width, one per level; each level has half the size of the
    one before. blocks: residual blocks per level going down, and one more going up, which also sees what the first
    layer or a change of size made, as in DDPM; paired: not that one. patch: side of the square of pixels that is
    folded into channels. attention: levels with self-attention, 0 is the first; the middle block always has it. With
    text (B, L, text) there is attention to it after each self-attention, and its first vector, which sums it up, acts
    as the label does. waves: whether a folded square is its cosine waves (DCT-II) instead of its pixels. join: whether
    the folded input, with a gain by noise level and place for each value, joins the output: a full-rank way from input
    to output, however few channels lie between. Raises UnblotError for options out of range.
    """

    embeds, reads_text = "log_noise_ratio", True

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: tuple[int, int],
        num_classes: int,
        text: int = 0,
        *,
        width: int = 96,
        multipliers: str = "1-2",
        blocks: int = 2,
        patch: int = 2,
        attention: str = "1",
        dropout: float = 0.0,
        waves: bool = False,
        join: bool = False,
        paired: bool = False,
    ):
        super().__init__()
        widths = _widths(width, multipliers, blocks, patch, dropout)
        self.patch, self.multiple, self.paired = patch, patch * 2 ** (len(widths) - 1), paired
        attended = numbers("attention", attention)
        dim = 4 * width
        self.embed_noise = nn.Sequential(nn.Linear(FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.embed_label = LabelEmbedding(num_classes, dim) if num_classes else None
        self.embed_text = nn.Linear(text, dim) if text else None

        self.waves = Waves(patch) if waves else None
        self.enter = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c, skips = width, [] if paired else [width]
        for level, w in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(c, w, 2, stride=2))
                c = w
                skips += [] if paired else [c]
            for _ in range(blocks):
                self.down.append(Block(c, w, dim, level in attended, dropout, text))
                c = w
                skips.append(c)
        self.middle = Block(c, c, dim, True, dropout, text)
        for level, w in reversed(list(enumerate(widths))):
            for _ in range(blocks if paired else blocks + 1):
                self.up.append(Block(c + skips.pop(), w, dim, level in attended, dropout, text))
                c = w
            if level:
                self.up.append(Upsample(c, widths[level - 1]))
                c = widths[level - 1]
        self.join = Join(dim, c, min(channels, out_channels) * patch**2) if join else None
        self.leave = zeroed(nn.Conv2d(c, out_channels * patch**2, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        label: Tensor | None = None,
        text: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        x, crop = pad_to_multiple(x, self.multiple)
        e = self.embed_noise(fourier_features(noise, FREQUENCIES).to(x.dtype))
        if self.embed_label is not None:
            e = e + self.embed_label(label, x.shape[0])
        if self.embed_text is not None and text is not None:
            e = e + self.embed_text(text[:, 0])
        e = F.silu(e)
        folded = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)
        folded = folded if self.waves is None else self.waves(folded)
        h = self.enter(folded)
        skips = [] if self.paired else [h]
        for layer in self.down:
            h = layer(h, e, text, mask) if isinstance(layer, Block) else layer(h)
            if isinstance(layer, Block) or not self.paired:
                skips.append(h)
        h = self.middle(h, e, text, mask)
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], 1), e, text, mask) if isinstance(layer, Block) else layer(h)
        h = F.silu(pixel_norm(h))
        out = self.leave(h)
        h = out if self.join is None else self.join(out, folded, e, h)
        h = h if self.waves is None else self.waves.inverse(h)
        return crop(F.pixel_shuffle(h, self.patch))


def _widths(width: int, multipliers: str, blocks: int, patch: int, dropout: float) -> list[int]:
    """The channels of each level. Raises UnblotError for options out of range."""
    factors = numbers("multipliers", multipliers)
    check_sizes("unet", width=width, blocks=blocks, patch=patch, multiple=patch * 2 ** max(0, len(factors) - 1))
    for factor in factors or [0]:
        check_sizes("unet", multipliers=factor)
    if not 0 <= dropout < 1:
        raise UnblotError(f"unet: dropout {dropout} is not in [0, 1)")
    return [width * factor for factor in factors]


class Waves(nn.Module):
    """Folded pixels (B, C·patch², H, W) as the cosine waves of their square (DCT-II, orthonormal), and the way back."""

    matrix: Tensor

    def __init__(self, patch: int):
        super().__init__()
        place = (torch.arange(patch) + 0.5) * math.pi / patch
        rows = torch.cos(torch.arange(patch)[:, None] * place) * math.sqrt(2 / patch)
        rows[0] /= math.sqrt(2)
        self.register_buffer("matrix", torch.kron(rows, rows), persistent=False)

    def forward(self, folded: Tensor) -> Tensor:
        return self._each(folded, self.matrix)

    def inverse(self, waves: Tensor) -> Tensor:
        """Waves (B, C·patch², H, W) as pixels again."""
        return self._each(waves, self.matrix.T)

    def _each(self, x: Tensor, matrix: Tensor) -> Tensor:
        """The matrix times the patch² values of each channel and place."""
        b, c, height, width = x.shape
        values = x.permute(0, 2, 3, 1).reshape(b, height, width, -1, len(matrix)) @ matrix.T
        return values.reshape(b, height, width, c).permute(0, 3, 1, 2)


class Join(nn.Module):
    """Adds the first `values` of the folded input (B, ≥ values, H, W) to those of the output (B, ≥ values, H, W).

    Each has a gain by noise level, of the embedding e (B, dim), and by place, of the map h (B, c, H, W): an adaptive
    Wiener filter, where a square is folded into waves. 0 at first.
    """

    def __init__(self, dim: int, c: int, values: int):
        super().__init__()
        self.values = values
        self.by_level = zeroed(nn.Linear(dim, values))
        self.by_place = zeroed(nn.Conv2d(c, values, 1))

    def forward(self, out: Tensor, folded: Tensor, e: Tensor, h: Tensor) -> Tensor:
        added = folded[:, : self.values] * (self.by_level(e)[:, :, None, None] + self.by_place(h))
        return out + F.pad(added, (0, 0, 0, 0, 0, out.shape[1] - self.values))


class Block(nn.Module):
    """A residual block (B, c_in, H, W) -> (B, c_out, H, W), scaled and shifted by the embedding (B, dim).

    attention: whether self-attention follows and, where there is text (B, L, text), attention to it, see
    `CrossAttention`.
    """

    def __init__(self, c_in: int, c_out: int, dim: int, attention: bool, dropout: float, text: int = 0):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.modulate = nn.Linear(dim, 2 * c_out)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attend = Attention(c_out) if attention else nn.Identity()
        self.read = CrossAttention(c_out, text, HEAD) if attention and text else None
        self.dropout = dropout

    def forward(self, x: Tensor, e: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(pixel_norm(x)))
        scale, shift = self.modulate(e)[:, :, None, None].chunk(2, 1)
        h = F.silu(torch.addcmul(shift, pixel_norm(h), 1 + scale))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        h = self.attend(self.skip(x) + self.conv2(h))
        if self.read is None:
            return h
        return h + as_map(self.read(as_tokens(pixel_norm(h)), text, mask), h)


class Attention(nn.Module):
    """Self-attention over all positions of a map, (B, C, H, W) -> the same shape, added to its input."""

    def __init__(self, c: int):
        super().__init__()
        self.heads = heads_of(c, HEAD)
        self.qkv = nn.Linear(c, 3 * c)
        self.out = zeroed(nn.Linear(c, c))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        q, k, v = self.qkv(as_tokens(pixel_norm(x))).view(b, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, height, width, c)
        return x + self.out(mixed).permute(0, 3, 1, 2)


def as_tokens(x: Tensor) -> Tensor:
    """A map (B, C, H, W) in channels_last as tokens (B, H·W, C), row by row."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens (B, H·W, C) as the map that they came from, of the shape of `like`."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


class Upsample(nn.Module):
    """Doubles height and width: one matrix product per pixel, its channels unfolded into 2×2 pixels."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.unfold = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.unfold(x)


def pixel_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels of each pixel, (B, C, H, W) in channels_last.

    Computed in the precision of x: autocast would write float32, twice the memory; the kernel sums in float32 anyway.
    """
    with own_precision(x):
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)
