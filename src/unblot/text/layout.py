"""Where a text says that things are: the mean of all pictures of a text, in a few large squares."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.nn.layers import CrossAttention, channel_norm, zeroed

WIDTH, HEAD = 64, 16  # channels of a square, and of an attention head
WEIGHT = 0.3  # of its loss beside the denoiser's, as measured; with 1 the text encoder learns little else
WAVES = 4  # cosine waves down and along, by which a square knows its place


class Layout(nn.Module):
    """An encoded text (B, L, text) -> the mean of its pictures, (B, channels, height, width): squares of their size.

    What a denoiser estimates of noise alone, coarsely. It is learned with it, but by a loss of its own: which of two
    things is on the left is decided at high noise, where a denoiser spends little of its training, and its loss hardly
    shows it; here every picture of every batch does. mask: bool (B, 1, 1, L), true where there is a vector.
    """

    waves: Tensor

    def __init__(self, text: int, channels: int, height: int, width: int):
        super().__init__()
        self.channels, self.size = channels, (height, width)
        down, along = (
            torch.cos(torch.pi * torch.arange(WAVES) * (torch.arange(n)[:, None] + 0.5) / n) for n in self.size
        )
        self.register_buffer("waves", torch.kron(down, along), persistent=False)
        self.place = nn.Linear(WAVES**2, WIDTH)
        self.read = CrossAttention(WIDTH, text, HEAD)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), zeroed(nn.Linear(4 * WIDTH, WIDTH))
        self.leave = zeroed(nn.Linear(WIDTH, channels))

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        places = channel_norm(self.place(self.waves)).expand(text.shape[0], -1, -1)
        h = places + self.read(places, text, mask)
        h = h + self.narrow(F.gelu(self.widen(channel_norm(h)), approximate="tanh"))
        return self.leave(channel_norm(h)).transpose(1, 2).unflatten(2, self.size)


def layout_for(text: int, squares: int, shape: tuple[int, int, int]) -> Layout | None:
    """The layout of pictures (C, H, W), with `squares` along their longer side, for 0 none. text: channels of it."""
    channels, height, width = shape
    longer = max(height, width)
    sizes = (max(1, round(min(squares, longer) * side / longer)) for side in (height, width))
    return Layout(text, channels, *sizes) if squares else None


def layout_loss(layout: Tensor, x0: Tensor, data_std: float) -> Tensor:
    """WEIGHT times the squared error of layouts (B, C, h, w) of x0 (B, C, H, W), over the data's variance, (B,)."""
    height, width = layout.shape[2:]
    error = F.adaptive_avg_pool2d(x0, (height, width)) - layout
    return WEIGHT * error.square().flatten(1).mean(1) / data_std**2
