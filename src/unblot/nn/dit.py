"""DiT, the diffusion transformer of Peebles & Xie 2023: patches as tokens, adaLN-Zero blocks, fixed positions.

Two additions: queries and keys have unit magnitude, for stability (as in Karras et al. 2024), and the position
embedding is computed for the size of the input, so that one network takes pictures of any size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.nn.layers import (
    CrossAttention,
    LabelEmbedding,
    TwoLayers,
    check_sizes,
    fourier_features,
    pad_to_multiple,
    sinusoids,
    zeroed,
)

FREQUENCIES = 64  # features of the noise level


class DiT(nn.Module):
    """x (B, channels, H, W), log(sigma/alpha) (B,), label (B,) -> (B, out_channels, H, W); any H and W.

    width: channels of a token, a multiple of 4. depth: blocks. patch: side of the square of pixels that is one token.
    heads: of the attention, a divisor of width. mlp_ratio: hidden channels of a block's MLP, as a multiple of width.
    With text (B, L, text) each block attends to it after its self-attention, and its first vector acts as a label does.
    Raises UnblotError for options that do not fit together.
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
        width: int = 192,
        depth: int = 6,
        patch: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        check(width, depth, patch, heads, mlp_ratio)
        self.patch = patch
        self.enter = nn.Linear(channels * patch**2, width)
        self.embed_noise = TwoLayers(FREQUENCIES, width)
        self.embed_label = LabelEmbedding(num_classes, width) if num_classes else None
        self.embed_text = nn.Linear(text, width) if text else None
        self.blocks = nn.ModuleList(Block(width, heads, int(mlp_ratio * width), text) for _ in range(depth))
        self.modulate = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, out_channels * patch**2)
        self.apply(initialise)
        for layer in (self.modulate, self.leave, *(block.get_submodule("modulate") for block in self.blocks)):
            zeroed(layer)
        for block in self.blocks if text else ():
            zeroed(block.get_submodule("read.out"))

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        label: Tensor | None = None,
        text: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        x, crop = pad_to_multiple(x, self.patch)
        e = self.embed_noise(fourier_features(noise, FREQUENCIES).to(x.dtype))
        if self.embed_label is not None:
            e = e + self.embed_label(label, x.shape[0])
        if self.embed_text is not None and text is not None:
            e = e + self.embed_text(text[:, 0])
        e = F.silu(e)[:, None]
        h = F.pixel_unshuffle(x, self.patch).permute(0, 2, 3, 1)  # (B, rows, columns, channels·patch²)
        rows, columns = h.shape[1:3]
        h = self.enter(h.flatten(1, 2))
        h = h + grid_positions(rows, columns, h.shape[-1], h.device).to(h.dtype)
        for block in self.blocks:
            h = block(h, e, text, mask)
        h = self.leave(modulated(h, *self.modulate(e).chunk(2, dim=-1)))
        h = h.transpose(1, 2).unflatten(2, (rows, columns))
        return crop(F.pixel_shuffle(h, self.patch))


class Block(nn.Module):
    """Attention, then two layers, on tokens (B, N, width), modulated and gated by e (B, 1, width); 0 at first.

    With text (B, L, text), attention to it between the two, see `CrossAttention`.
    """

    def __init__(self, width: int, heads: int, hidden: int, text: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.modulate = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.read = CrossAttention(width, text, width // heads) if text else None
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, h: Tensor, e: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.modulate(e).chunk(6, dim=-1)
        h = h + gate_1 * self.attention(modulated(h, scale_1, shift_1))
        if self.read is not None:
            h = h + self.read(F.layer_norm(h, h.shape[-1:], eps=1e-6), text, mask)
        hidden = F.gelu(self.widen(modulated(h, scale_2, shift_2)), approximate="tanh")
        return h + gate_2 * self.narrow(hidden)

    def attention(self, h: Tensor) -> Tensor:
        """Self-attention among tokens, (B, N, width) -> the same shape."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (F.rms_norm(vectors, vectors.shape[-1:], eps=1e-6) for vectors in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


def modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """adaLN: tokens (B, N, width) normalised, then scaled by 1 + scale and shifted, each (B, 1, width)."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale)


def grid_positions(rows: int, columns: int, dim: int, device: torch.device) -> Tensor:
    """Sines and cosines of each position's row, then of its column: (rows·columns, dim); `dim` a multiple of 4."""
    frequencies = 10000.0 ** -(torch.arange(dim // 4, device=device) / (dim // 4))
    of_row = sinusoids(torch.arange(rows, device=device), frequencies)[:, None].expand(-1, columns, -1)
    of_column = sinusoids(torch.arange(columns, device=device), frequencies).expand(rows, -1, -1)
    return torch.cat([of_row, of_column], dim=-1).flatten(0, 1)


def initialise(module: nn.Module) -> None:
    """The paper's initialisation of linear layers: uniform with variance 1/mean(fan_in, fan_out), biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def check(width: int, depth: int, patch: int, heads: int, mlp_ratio: float) -> None:
    """Raises UnblotError where the options of `DiT` do not fit together."""
    check_sizes("dit", width=width, depth=depth, patch=patch, heads=heads)
    if width % 4:
        raise UnblotError(f"dit: width {width} is not a multiple of 4")
    if width % heads:
        raise UnblotError(f"dit: heads {heads} do not divide width {width}")
    if not 1 / width <= mlp_ratio <= 64:
        raise UnblotError(f"dit: mlp_ratio {mlp_ratio} is out of range; 4 is usual")
