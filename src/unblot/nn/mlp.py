"""A residual multilayer perceptron, for points in the plane and pictures of a few pixels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.nn.layers import LabelEmbedding, TwoLayers, check_sizes, fourier_features, zeroed

FREQUENCIES = 64  # features of the noise level


class MLP(nn.Module):
    """x (B, channels, H, W) of the given size, log(sigma/alpha) (B,), label (B,) -> (B, out_channels, H, W).

    A picture is one vector. width: of the hidden layers. depth: residual blocks. Raises UnblotError for options out of
    range, and in `forward` for a picture of another size.
    """

    embeds, reads_text = "log_noise_ratio", False

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: tuple[int, int],
        num_classes: int,
        *,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes("mlp", width=width, depth=depth)
        if not 0 <= dropout < 1:
            raise UnblotError(f"mlp: dropout {dropout} is not in [0, 1)")
        self.shape_in, self.shape_out = (channels, *size), (out_channels, *size)
        self.enter = nn.Linear(math.prod(self.shape_in), width)
        self.embed_noise = TwoLayers(FREQUENCIES, width)
        self.embed_label = LabelEmbedding(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.leave = zeroed(nn.Linear(width, math.prod(self.shape_out)))

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        if x.shape[1:] != self.shape_in:
            raise UnblotError(f"mlp made for shape {self.shape_in} was given {tuple(x.shape[1:])}; unet takes any size")
        e = self.embed_noise(fourier_features(noise, FREQUENCIES).to(x.dtype))
        if self.embed_label is not None:
            e = e + self.embed_label(label, x.shape[0])
        e = F.silu(e)
        h = self.enter(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.leave(F.silu(F.layer_norm(h, h.shape[1:]))).unflatten(1, self.shape_out)


class Block(nn.Module):
    """A residual branch of two layers on (B, width), scaled and shifted by e (B, width); 0 at first."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.modulate = nn.Linear(width, 2 * width)
        self.linear_1 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.linear_2 = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulate(e).chunk(2, dim=1)
        scaled = torch.addcmul(shift, F.layer_norm(h, h.shape[1:]), 1 + scale)
        return h + self.linear_2(self.dropout(F.silu(self.linear_1(scaled))))
