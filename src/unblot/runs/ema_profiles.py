"""Power-function EMA profiles and sums of them (Karras et al. 2024, section 3.2 and appendix C)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.errors import UnblotError

MAX_STD = 0.28  # that of the uniform average, gamma = 0, is 1/sqrt(12) = 0.289


def power_exponent(std: float) -> float:
    """gamma of the profile `t^gamma` on [0, 1] that has this standard deviation (Karras et al. 2024, eq. 126).

    Raises UnblotError for an EMA std outside (0, MAX_STD), where there is no such gamma above 0.
    """
    if not 0 < std < MAX_STD:
        raise UnblotError(f"the std of an average is a share of the run above 0 and below {MAX_STD}, not {std}")
    # std² = (gamma + 1)/((gamma + 2)²·(gamma + 3)) falls with gamma, so bisection finds the only root.
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        wide = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > std**2
        low, high = (middle, high) if wide else (low, middle)
    return (low + high) / 2


class Profile(NamedTuple):
    """The power-function profile `t^exponent` over the steps from 0 to `step`."""

    exponent: float
    step: float


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> Tensor:
    """Inner products of profiles: the integrals of p_i·p_j over all steps, (len(a), len(b)), float64.

    For profiles that end at steps m <= M: `(g_i + 1)(g_j + 1)/(g_i + g_j + 1) · (m/M)^g/M`, where g is the exponent of
    the one that ends at M.
    """
    rows, columns = (torch.tensor(list(profiles), dtype=torch.float64).view(-1, 2) for profiles in (a, b))
    (g_i, t_i), (g_j, t_j) = rows[:, None].unbind(-1), columns[None].unbind(-1)
    overlap = (t_j / t_i).clamp(max=1) ** g_i * (t_i / t_j).clamp(max=1) ** g_j
    return (g_i + 1) * (g_j + 1) / (g_i + g_j + 1) * overlap / torch.maximum(t_i, t_j)


def combination(kept: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """Coefficients (K,) of the sum of kept profiles nearest to the wanted one, and the relative error of that sum.

    Least squares over the steps, with coefficients that add up to 1, so that constant weights stay as they are.
    """
    gram, aim = inner_products(kept, kept), inner_products(kept, [wanted])
    ones = torch.ones(len(kept), 1, dtype=torch.float64)
    system = torch.cat([torch.cat([gram, ones], 1), torch.cat([ones.T, torch.zeros(1, 1, dtype=torch.float64)], 1)])
    scale = gram.diagonal().max()  # the constraint is scaled to the size of the other rows
    system[:-1, -1:] *= scale
    system[-1:] *= scale
    right = torch.cat([aim, scale.view(1, 1)])
    x = torch.linalg.lstsq(system, right, driver="gelsd").solution[:-1]
    norm = inner_products([wanted], [wanted])
    off = (norm - 2 * x.T @ aim + x.T @ gram @ x).clamp_min(0)
    return x[:, 0], float((off / norm).sqrt())
