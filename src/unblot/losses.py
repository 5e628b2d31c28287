"""Training losses: the squared error of the network's output, weighted by noise level, and the variational bound."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.denoiser import Condition, Denoiser
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, corrupt, log_snr, norm, per_picture
from unblot.process.parameterizations import network_target
from unblot.vlb import Decoder, ReverseStep, bound_terms

Weighting = Callable[[NoiseLevel, Denoiser], Tensor]  # levels (B,) -> weights (B,) on the network's squared error


class Objective(NamedTuple):
    """What is minimized: the squared error of the network's output, or `scale` times the variational bound, or both.

    steps: number of reverse steps of the bound; 0 for no bound. With a bound the variance is learned.
    """

    squared_error: bool
    scale: float = 0.0
    steps: int = 0

    @property
    def learned_variance(self) -> bool:
        """Whether the network also predicts the variance of the reverse step."""
        return self.steps > 0


def simple() -> Objective:
    """The squared error alone, weighted by level (L_simple of Ho et al. 2020, where the weight is 1)."""
    return Objective(squared_error=True)


def hybrid(*, scale: float = 0.001, steps: int = 1000) -> Objective:
    """The squared error, plus the bound for the learned variance (L_hybrid of Nichol & Dhariwal 2021, eq. 16)."""
    return _checked(Objective(True, scale, steps))


def vlb(*, steps: int = 1000) -> Objective:
    """The variational bound alone, for mean and variance (L_vlb of Nichol & Dhariwal 2021); no weighting by level.

    With many steps it approaches the continuous-time bound of Kingma et al. 2021.
    """
    return _checked(Objective(False, 1.0, steps))


OBJECTIVES: dict[str, Callable[..., Objective]] = {"simple": simple, "hybrid": hybrid, "vlb": vlb}


def _checked(objective: Objective) -> Objective:
    if objective.steps < 2 or objective.scale <= 0:
        raise UnblotError(
            f"an objective with a bound needs 2 steps or more and a scale above 0, not {objective.steps} and "
            f"{objective.scale}"
        )
    return objective


def training_loss(
    denoiser: Denoiser,
    x0: Tensor,
    level: NoiseLevel,
    eps: Tensor,
    condition: Condition | None = None,
    weight: Tensor | None = None,
    augmentation: Tensor | None = None,
) -> Tensor:
    """Weighted mean squared error between the network's output and its target, per picture, shape (B,).

    x0, eps: (B, C, H, W), x0 in the network's range; level, weight: (B,); augmentation: (B, K), how x0 was
    augmented.
    With eps-prediction and no weight this is L_simple (Ho et al. 2020, eq. 14).
    """
    output = denoiser.output(corrupt(x0, level, eps), level, condition, augmentation)
    return squared_error(denoiser, output, x0, level, eps, weight)


def bound_loss(
    denoiser: Denoiser,
    x0: Tensor,
    reverse_step: ReverseStep,
    eps: Tensor,
    objective: Objective,
    decoder: Decoder,
    condition: Condition | None = None,
    weight: Tensor | None = None,
    augmentation: Tensor | None = None,
) -> Tensor:
    """The loss of an objective with a bound, per picture, (B,): nats per dimension, with the squared error or alone.

    x0, eps, condition, weight, augmentation: as in `training_loss`; reverse_step: of each picture, its `t` being the
    level. With the squared error the bound trains only the variance: x0_hat is detached in it (Nichol & Dhariwal 2021,
    section 3.1).
    """
    x_t = corrupt(x0, reverse_step.t, eps)
    output = denoiser.output(x_t, reverse_step.t, condition, augmentation)
    denoised = denoiser.to_denoised(output, x_t, reverse_step.t)
    if not objective.squared_error:
        return objective.scale * objective.steps * bound_terms(denoised, x0, reverse_step, decoder)
    detached = denoised._replace(x0=denoised.x0.detach())
    bound = objective.scale * objective.steps * bound_terms(detached, x0, reverse_step, decoder)
    return bound + squared_error(denoiser, output, x0, reverse_step.t, eps, weight)


def squared_error(
    denoiser: Denoiser, output: Tensor, x0: Tensor, level: NoiseLevel, eps: Tensor, weight: Tensor | None
) -> Tensor:
    """The weighted mean squared error of the network's raw output, per picture, (B,)."""
    output = output[:, : x0.shape[1]]
    target = network_target(denoiser.parameterization, level, denoiser.data_std, x0, eps)
    error = (output - target).square().flatten(1).mean(1)  # in x0's dtype, even where the output is bf16
    return error if weight is None else error * per_picture(weight, error)


def none() -> Weighting:
    """No weighting: plain mean squared error of the network's output, the paper's L_simple (Ho et al. 2020)."""
    return lambda level, denoiser: torch.ones_like(level.alpha)


def min_snr(*, gamma: float = 5.0) -> Weighting:
    """`min(SNR, gamma)` on the squared error of x0_hat (Hang et al. 2023), as a weight on the network's error.

    gamma: above 0.
    """
    if gamma <= 0:
        raise UnblotError(f"weighting 'min_snr' needs gamma > 0, not {gamma}")
    return lambda level, denoiser: log_snr(level).exp().clamp(max=gamma) * _x0_error_per_output_error(level, denoiser)


def edm() -> Weighting:
    """`n²/(sigma·sd)²` on the squared error of x0_hat (Karras et al. 2022, eq. 8), as a weight on the network's error.

    Under EDM's parameterization it is 1 at every level; n² = alpha²·sd² + sigma².
    """

    def weight(level: NoiseLevel, denoiser: Denoiser) -> Tensor:
        per_x0 = (norm(level, denoiser.data_std) / (level.sigma * denoiser.data_std)) ** 2
        return per_x0 * _x0_error_per_output_error(level, denoiser)

    return weight


def balanced() -> Weighting:
    """No weight on the loss that is measured; in training each level's loss is divided by its size, as it is found (see
    `training.loss_by_time`; Karras et al. 2024)."""
    return none()


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {"none": none, "min_snr": min_snr, "edm": edm, "balanced": balanced}


def _x0_error_per_output_error(level: NoiseLevel, denoiser: Denoiser) -> Tensor:
    _, c_out = denoiser.parameterization(level, denoiser.data_std)
    return c_out**2
