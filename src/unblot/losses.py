"""What a denoiser is trained on: the squared error of the network's output, weighted by noise level."""

from collections.abc import Callable

import torch
from torch import Tensor

from unblot.denoiser import Denoiser
from unblot.process.levels import NoiseLevel, corrupt, log_snr, norm, per_picture
from unblot.process.parameterizations import network_target

Weighting = Callable[[NoiseLevel, Denoiser], Tensor]  # levels (B,) -> weights (B,) on the network's squared error


def training_loss(
    denoiser: Denoiser,
    x0: Tensor,
    level: NoiseLevel,
    eps: Tensor,
    label: Tensor | None = None,
    weight: Tensor | None = None,
    conditions: Tensor | None = None,
) -> Tensor:
    """Weighted mean squared error between the network's output and its target, per picture, shape (B,).

    x0, eps: (B, C, H, W), x0 in the network's range; level, weight: (B,); conditions (B, K): how
    x0 was augmented. With eps-prediction and no weight this is L_simple (Ho et al. 2020, eq. 14).
    """
    output = denoiser.output(corrupt(x0, level, eps), level, label, conditions)
    target = network_target(denoiser.parameterization, level, denoiser.data_std, x0, eps)
    error = (output - target).square().flatten(1).mean(1)  # in x0's dtype, also where the output is bf16
    return error if weight is None else error * per_picture(weight, error)


def none() -> Weighting:
    """No weighting: plain mean squared error of the network's output, the paper's L_simple (Ho et al. 2020)."""
    return lambda level, denoiser: torch.ones_like(level.alpha)


def min_snr(*, gamma: float = 5.0) -> Weighting:
    """`min(SNR, gamma)` on the squared error of x0_hat (Hang et al. 2023), as a weight on the network's error."""
    return lambda level, denoiser: log_snr(level).exp().clamp(max=gamma) * _x0_error_per_output_error(level, denoiser)


def edm() -> Weighting:
    """`n²/(sigma·sd)²` on the squared error of x0_hat (Karras et al. 2022, eq. 8), as a weight on the network's error.

    It makes every level count alike under EDM's parameterization, where it is 1; n² = alpha²·sd² + sigma².
    """

    def weight(level: NoiseLevel, denoiser: Denoiser) -> Tensor:
        per_x0 = (norm(level, denoiser.data_std) / (level.sigma * denoiser.data_std)) ** 2
        return per_x0 * _x0_error_per_output_error(level, denoiser)

    return weight


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {"none": none, "min_snr": min_snr, "edm": edm}


def _x0_error_per_output_error(level: NoiseLevel, denoiser: Denoiser) -> Tensor:
    _, c_out = denoiser.parameterization(level, denoiser.data_std)
    return c_out**2
