"""The normal distribution that sampling starts from: what is known of x_T without a network.

The noisiest level keeps a trace of the picture, which N(0, n²·I) lacks. So pictures turn out too gray, and too much of
one brightness (Lin et al. 2024 saw it in Stable Diffusion): for normal data the sampling ODE is linear, and takes a
wave of mean m and standard deviation s to m·(1 − alpha·s/n) and s·sigma/n, where n² = alpha²·s² + sigma². The mean
colour has sqrt(H·W) times its own standard deviation for s, so that the error grows with the pictures. Where the data's
spectrum is known, so are mean and variance of each wave of x_T, and x_T has them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.process.levels import NoiseLevel, broadcast, norm
from unblot.process.spectrum import Spectrum
from unblot.system.device import to_float64


class Prior(NamedTuple):
    """The distribution of x_T at a level (): that of white noise as strong as the data, or that of the spectrum."""

    level: NoiseLevel
    data_std: float
    spectrum: Spectrum | None = None

    def draw(self, noise: Tensor) -> Tensor:
        """x_T (B, C, H, W) for standard normal noise (B, C, H, W)."""
        mean, std = self.moments(noise)
        if self.spectrum is None:
            return std * noise
        return self.spectrum.from_waves(mean + std * self.spectrum.to_waves(noise))

    def noise(self, x_T: Tensor) -> Tensor:
        """The noise (B, C, H, W) that `draw` makes x_T (B, C, H, W) of."""
        standard, _ = self.standardised(x_T)
        return standard if self.spectrum is None else self.spectrum.from_waves(standard)

    def log_density(self, x_T: Tensor) -> Tensor:
        """log p(x_T) in nats per dimension, (B,), float64."""
        standard, std = self.standardised(to_float64(x_T))
        return (-0.5 * standard.square() - (std * math.sqrt(2 * math.pi)).log()).flatten(1).mean(1)

    def kl(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x0) || this) in nats per dimension, (B,), float64 (Ho et al. 2020, eq. 5, L_T)."""
        x = to_float64(x0)
        standard, std = self.standardised(broadcast(self.level.alpha, x) * x)
        excess = (broadcast(self.level.sigma, x) / std) ** 2 - 1
        return 0.5 * (standard.square() + excess - excess.log1p()).flatten(1).mean(1)

    def standardised(self, x_T: Tensor) -> tuple[Tensor, Tensor]:
        """x_T, or its waves, less the mean and over the standard deviation; and that, see `moments`."""
        mean, std = self.moments(x_T)
        return ((x_T if self.spectrum is None else self.spectrum.to_waves(x_T)) - mean) / std, std

    def moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_T, of its waves where there is a spectrum; they broadcast to `like`."""
        alpha, sigma = (broadcast(part, like) for part in self.level)
        if self.spectrum is None:
            return torch.zeros_like(sigma), broadcast(norm(self.level, self.data_std), like)
        stds, mean = self.spectrum.of_shape(like)
        return alpha * mean, torch.sqrt((alpha * stds) ** 2 + sigma**2)
