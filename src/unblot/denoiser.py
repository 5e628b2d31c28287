"""The denoiser: from x_t and its noise level to x0_hat."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unblot.nn.autoencoder import Autoencoder
from unblot.process.levels import NoiseLevel, broadcast, log_noise_ratio, mix, norm, per_picture
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.schedules import ddpm_index
from unblot.process.spectrum import Spectrum


class Denoised(NamedTuple):
    """The estimate x0_hat, (B, C, H, W), and the learned reverse variance.

    variance_interpolation: (B, C, H, W) in [0, 1], between the posterior variance (0) and beta (1), in the logarithm
    (v of Nichol & Dhariwal 2021, eq. 15); None where the variance is not learned.
    """

    x0: Tensor
    variance_interpolation: Tensor | None = None


class Denoiser(nn.Module):
    """A network with its parameterization, `x0_hat = c_skip·x_t + c_out·F(c_in·x_t, level, label)`.

    network: computes F; its `embeds` names the noise embedding that it takes. parameterization: a name in
    PARAMETERIZATIONS. data_std: standard deviation of the data in the network's range. num_classes: labels are 0 …
    num_classes − 1, and num_classes is "no label"; 0 for a model without labels. conditions: the number of augmentation
    parameters, which are further input channels of constant value; they are zeros in sampling (Karras et al. 2022,
    appendix F.2). learned_variance: the network has twice the output channels, the second half for the variance.
    spectrum: of the data, for c_skip, c_out and c_in of each frequency (with edm only).

    autoencoder: of a model of latents, frozen; None where x0 is the picture itself.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: str,
        data_std: float = 1.0,
        num_classes: int = 0,
        conditions: int = 0,
        learned_variance: bool = False,
        spectrum: Spectrum | None = None,
    ):
        super().__init__()
        self.network = network
        self.conditions = conditions
        self.learned_variance = learned_variance
        self.spectrum = spectrum
        self.num_classes = num_classes
        self.parameterization = PARAMETERIZATIONS[parameterization]
        self.data_std = data_std
        self.autoencoder: Autoencoder | None = None

    def latents(self, pictures: Tensor) -> Tensor:
        """The x0 of pictures (B, C, H, W) in the network's range: they themselves, or their latents."""
        with torch.no_grad():
            return pictures if self.autoencoder is None else self.autoencoder.encode(pictures)

    def pictures(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        """The pictures of x0, of this height and width, in the network's range: x0 itself, or its latents decoded."""
        with torch.no_grad():
            return x0 if self.autoencoder is None else self.autoencoder.decode(x0, *size)

    def output(
        self, x_t: Tensor, level: NoiseLevel, label: Tensor | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """The network's output F (B, C, H, W), for a level () or (B,) and conditions (B, K) or None.

        With a learned variance 2·C channels, of which the second half are the logits of `variance_interpolation`.
        """
        embed = ddpm_index if self.network.embeds == "ddpm_index" else log_noise_ratio
        x = broadcast(1 / norm(level, self.data_std), x_t) * x_t
        seen = None if self.spectrum is None else self.spectrum.precondition(x, level, self.data_std)
        x = x if seen is None else seen.input.contiguous(memory_format=torch.channels_last)
        if self.conditions:
            given = x.new_zeros(len(x), self.conditions) if conditions is None else conditions
            x = torch.cat([x, given[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        output = self.network(x, per_picture(embed(level), x_t), label)
        if seen is None:
            return output
        f, variance = output.to(x_t.dtype).tensor_split([x_t.shape[1]], 1)  # no variance channels: an empty tensor
        return torch.cat([seen.output(f), variance], 1)

    def forward(self, x_t: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Denoised:
        """x0_hat for x_t (B, C, H, W) at a level () or (B,); label: (B,) int64, or None for no label."""
        return self.read(self.output(x_t, level, label), x_t, level)

    def read(self, output: Tensor, x_t: Tensor, level: NoiseLevel) -> Denoised:
        """The estimate that the network's output for x_t stands for."""
        c_skip, c_out = self.parameterization(level, self.data_std)
        output = output.to(x_t.dtype)  # mixed precision ends here
        if not self.learned_variance:
            return Denoised(mix(c_skip, x_t, c_out, output))
        f, logits = output.chunk(2, 1)
        return Denoised(mix(c_skip, x_t, c_out, f), torch.sigmoid(logits))
