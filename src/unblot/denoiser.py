"""A network that denoises: from x_t and its noise level to an estimate of the picture."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unblot.process.levels import NoiseLevel, broadcast, log_noise_ratio, mix, norm, per_picture
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.schedules import ddpm_index


class Denoised(NamedTuple):
    """What is known of the picture behind x_t: `x0` (B, C, H, W), the estimate x0_hat.

    `var_mix` (B, C, H, W) in [0, 1] says where the reverse variance stands between the posterior's and beta
    (Nichol & Dhariwal 2021, eq. 15); None where the variance is not learned.
    """

    x0: Tensor
    variance_interpolation: Tensor | None = None


class Denoiser(nn.Module):
    """A network with its parameterization: `forward(x_t, level, label)` estimates x0.

    network: maps (c_in·x_t, embedding of the level, label) to F; `network.embeds` says which embedding it takes.
    parameterization: a name in PARAMETERIZATIONS. data_std: the data's standard deviation in the network's range.
    num_classes: labels run over 0 … num_classes − 1, and num_classes itself means "no label"; 0 where there are none.
    conditions: numbers that say how a picture was augmented, which the network is given as constant channels behind
    the picture's own, as many as it then has more input channels; zeros wherever none are given, as in sampling.
    learned_variance: the network has twice the picture's output channels, and the second half says var_mix.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: str,
        data_std: float = 1.0,
        num_classes: int = 0,
        conditions: int = 0,
        learned_variance: bool = False,
    ):
        super().__init__()
        self.network = network
        self.conditions = conditions
        self.learned_variance = learned_variance
        self.num_classes = num_classes
        self.parameterization = PARAMETERIZATIONS[parameterization]
        self.data_std = data_std

    def output(
        self, x_t: Tensor, level: NoiseLevel, label: Tensor | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """The network's raw output F, shape (B, C, H, W); level () or (B,), conditions (B, K) or None.

        With a learned variance 2·C channels, the second half the log odds of var_mix.
        """
        embed = ddpm_index if self.network.embeds == "ddpm_index" else log_noise_ratio
        x = broadcast(1 / norm(level, self.data_std), x_t) * x_t
        if self.conditions:
            given = x.new_zeros(len(x), self.conditions) if conditions is None else conditions
            x = torch.cat([x, given[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        return self.network(x, per_picture(embed(level), x_t), label)

    def forward(self, x_t: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Denoised:
        """x0_hat for x_t (B, C, H, W) at a level of shape () or (B,); label (B,) int64, or None for no label."""
        return self.read(self.output(x_t, level, label), x_t, level)

    def read(self, output: Tensor, x_t: Tensor, level: NoiseLevel) -> Denoised:
        """What the network's raw output for x_t says of the picture."""
        c_skip, c_out = self.parameterization(level, self.data_std)
        output = output.to(x_t.dtype)  # mixed precision ends here
        if not self.learned_variance:
            return Denoised(mix(c_skip, x_t, c_out, output))
        says, odds = output.chunk(2, 1)
        return Denoised(mix(c_skip, x_t, c_out, says), torch.sigmoid(odds))
