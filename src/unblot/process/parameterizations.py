"""Parameterizations: how a network's output F becomes an estimate of the picture.

`x0_hat = c_skip·x_t + c_out·F`. Each function gives (c_skip, c_out) for a level and the data's standard deviation;
what F is trained on follows from the same two numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, mix, norm

Parameterization = Callable[[NoiseLevel, float], tuple[Tensor, Tensor]]  # level, data_std -> c_skip, c_out


def eps(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F is the noise: `x0 = (x_t − sigma·F)/alpha` (Ho et al. 2020, eq. 15). Refused where alpha = 0."""
    if bool((level.alpha == 0).any()):
        raise UnblotError("eps-prediction needs alpha > 0 at every level; use --parameterization v with this schedule")
    return 1 / level.alpha, -level.sigma / level.alpha


def x0(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F is the picture itself."""
    return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


def v(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F is the velocity `(alpha·eps − sigma·x0)/sqrt(alpha² + sigma²)` (Salimans & Ho 2022, appendix D)."""
    n_squared = level.alpha**2 + level.sigma**2
    return level.alpha / n_squared, -level.sigma / n_squared.sqrt()


def edm(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F has unit variance at every level (Karras et al. 2022, table 1, for any alpha); at data_std = 1 it is −v."""
    n = norm(level, data_std)
    return level.alpha * data_std**2 / n**2, level.sigma * data_std / n


def flow(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F is the velocity of the straight line, `eps − x0` (Lipman et al. 2023)."""
    total = level.alpha + level.sigma
    return 1 / total, -level.sigma / total


PARAMETERIZATIONS: dict[str, Parameterization] = {"eps": eps, "x0": x0, "v": v, "edm": edm, "flow": flow}


def network_target(
    parameterization: Parameterization, level: NoiseLevel, data_std: float, x0: Tensor, eps: Tensor
) -> Tensor:
    """The F for which x0_hat is x0: `((1 − c_skip·alpha)·x0 − c_skip·sigma·eps)/c_out`, shape (B, C, H, W).

    level: (B,) or () with sigma > 0.
    """
    c_skip, c_out = parameterization(level, data_std)
    return mix((1 - c_skip * level.alpha) / c_out, x0, -c_skip * level.sigma / c_out, eps)
