"""Noise levels, schedules and parameterizations: the pure maths, for any network.

>>> import torch
>>> from unblot.process import SCHEDULES, corrupt, log_snr, posterior
>>> schedule = SCHEDULES["linear"]()                      # Ho's betas, as a function of time in [0, 1]
>>> level = schedule(torch.tensor([0.5, 1.0]))
>>> [round(a, 6) for a in (level.alpha**2).tolist()]      # alpha_bar
[0.078587, 4e-05]
>>> x_t = corrupt(torch.ones(2, 3, 8, 8), level, torch.zeros(2, 3, 8, 8))
>>> round(float(x_t[0, 0, 0, 0]), 4) == round(float(level.alpha[0]), 4)
True
"""

from typing import TYPE_CHECKING

from unblot.system.lazy import names_from

if TYPE_CHECKING:
    from unblot.process.levels import (
        NoiseLevel,
        Posterior,
        Transition,
        corrupt,
        eps_from_x0,
        log_snr,
        norm,
        posterior,
        transition,
    )
    from unblot.process.parameterizations import PARAMETERIZATIONS, Parameterization, network_target
    from unblot.process.prior import Prior
    from unblot.process.randomness import generator, normal, picture_generators
    from unblot.process.schedules import (
        SCHEDULES,
        Schedule,
        ddpm_index,
        from_betas,
        uniform_time_levels,
        zero_terminal_snr,
    )

__all__ = [
    "PARAMETERIZATIONS",
    "SCHEDULES",
    "NoiseLevel",
    "Parameterization",
    "Posterior",
    "Prior",
    "Schedule",
    "Transition",
    "corrupt",
    "ddpm_index",
    "eps_from_x0",
    "from_betas",
    "generator",
    "log_snr",
    "network_target",
    "norm",
    "normal",
    "picture_generators",
    "posterior",
    "transition",
    "uniform_time_levels",
    "zero_terminal_snr",
]

__getattr__ = names_from(
    __name__,
    {
        "unblot.process.levels": (
            "NoiseLevel",
            "Posterior",
            "Transition",
            "corrupt",
            "eps_from_x0",
            "log_snr",
            "norm",
            "posterior",
            "transition",
        ),
        "unblot.process.parameterizations": ("PARAMETERIZATIONS", "Parameterization", "network_target"),
        "unblot.process.prior": ("Prior",),
        "unblot.process.randomness": ("generator", "normal", "picture_generators"),
        "unblot.process.schedules": (
            "SCHEDULES",
            "Schedule",
            "ddpm_index",
            "from_betas",
            "uniform_time_levels",
            "zero_terminal_snr",
        ),
    },
)
