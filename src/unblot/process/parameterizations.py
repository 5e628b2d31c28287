"""Parameterizations: how a network's output F becomes x0_hat.

`x0_hat = c_skip·x_t + c_out·F`. Each function gives (c_skip, c_out) for a level and the data's standard deviation; the
training target of F follows from the same two numbers (`network_target`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unblot.errors import UnblotError, arg
from unblot.process.levels import NoiseLevel, mix, norm

Parameterization = Callable[[NoiseLevel, float], tuple[Tensor, Tensor]]  # level, data_std -> c_skip, c_out


def eps(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F = eps, `x0_hat = (x_t − sigma·F)/alpha` (Ho et al. 2020, eq. 15). Raises UnblotError where alpha = 0."""
    if not torch.compiler.is_exporting() and bool((level.alpha == 0).any()):  # an exported graph has no errors
        raise UnblotError(
            f"eps-prediction needs alpha > 0 at every level; use {arg('parameterization', 'v')} with this schedule"
        )
    return 1 / level.alpha, -level.sigma / level.alpha


def x0(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F = x0."""
    return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


def v(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F = v, the velocity `(alpha·eps − sigma·x0)/sqrt(alpha² + sigma²)` (Salimans & Ho 2022, appendix D)."""
    n_squared = level.alpha**2 + level.sigma**2
    return level.alpha / n_squared, -level.sigma / n_squared.sqrt()


def edm(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F of unit variance at every level (Karras et al. 2022, table 1, for any alpha); −v at data_std = 1."""
    n = norm(level, data_std)
    return level.alpha * data_std**2 / n**2, level.sigma * data_std / n


def flow(level: NoiseLevel, data_std: float) -> tuple[Tensor, Tensor]:
    """F = eps − x0, the velocity of the straight line (Lipman et al. 2023)."""
    total = level.alpha + level.sigma
    return 1 / total, -level.sigma / total


PARAMETERIZATIONS: dict[str, Parameterization] = {"eps": eps, "x0": x0, "v": v, "edm": edm, "flow": flow}


def network_target(
    parameterization: Parameterization, level: NoiseLevel, data_std: float, x0: Tensor, eps: Tensor
) -> Tensor:
    """Training target of F, for which x0_hat = x0: `((1 − c_skip·alpha)·x0 − c_skip·sigma·eps)/c_out`, (B, C, H, W).

    level: () or (B,), sigma > 0.
    """
    c_skip, c_out = parameterization(level, data_std)
    return mix((1 - c_skip * level.alpha) / c_out, x0, -c_skip * level.sigma / c_out, eps)
