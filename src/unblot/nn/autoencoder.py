"""A small convolutional autoencoder: pictures to maps of latents, `factor` times smaller on each side, and back."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unblot.errors import UnblotError, arg

M = TypeVar("M", bound=nn.Module)

MOST_FACTOR = 16
GROUPS = 4  # of a normalization


class Autoencoder(nn.Module):
    """Pictures (B, C, H, W) to latents (B, c, ceil(H/factor), ceil(W/factor)) and back, for any H and W.

    Every halving folds 2x2 pixels into channels before it convolves, so that nothing is lost on the way to the latents
    themselves. Latents have mean 0 and standard deviation 1 in each channel by the buffers `mean` and `std` (c,), which
    are measured after the training. width: channels at half the size; a level below has twice as many, at most
    four times. Raises UnblotError for a factor that is no power of 2.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, factor: int, latent_channels: int, width: int):
        super().__init__()
        levels = round(math.log2(factor)) if factor > 0 else 0
        if 2**levels != factor or not 2 <= factor <= MOST_FACTOR:
            raise UnblotError(f"{arg('latent_factor', factor)} is not 2, 4, 8 or {MOST_FACTOR}; give one of these")
        if width % GROUPS:
            raise UnblotError(f"{arg('latent_width', width)} is no multiple of {GROUPS}; give one, such as 32")
        self.factor = factor
        widths = [width * min(2**i, 4) for i in range(levels)]
        down, up = [], []
        for before, after in zip([channels, *widths], widths, strict=False):
            down += [nn.PixelUnshuffle(2), nn.Conv2d(4 * before, after, 3, padding=1), Residual(after)]
            up += [nn.PixelShuffle(2), nn.Conv2d(after, 4 * before, 3, padding=1), Residual(after)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], latent_channels, 1))
        self.decoder = nn.Sequential(nn.Conv2d(latent_channels, widths[-1], 3, padding=1), *reversed(up))
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))

    def raw(self, x: Tensor) -> Tensor:
        """The latents (B, c, h, w) before they are brought to mean 0 and standard deviation 1."""
        bottom, right = -x.shape[2] % self.factor, -x.shape[3] % self.factor
        x = F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
        return self.encoder(x.contiguous(memory_format=torch.channels_last))

    def encode(self, x: Tensor) -> Tensor:
        """The latents (B, c, h, w) of pictures in the network's range."""
        return (self.raw(x) - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, z: Tensor, height: int, width: int) -> Tensor:
        """The pictures (B, C, height, width) of latents."""
        return self.decoder(z.contiguous(memory_format=torch.channels_last))[..., :height, :width]


class Residual(nn.Module):
    """x + two convolutions of it, of which the second begins at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def frozen(module: M) -> M:
    """The module with its parameters as buffers, which move, copy and save with it, but are not trained or averaged."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            del part._parameters[name]
            part.register_buffer(name, parameter.detach())
    return module.eval()
