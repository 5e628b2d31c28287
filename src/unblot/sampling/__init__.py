"""From noise to pictures with any denoiser: one loop, solvers, spacings, guidance.

>>> import torch
>>> from unblot.denoiser import Denoised
>>> from unblot.sampling import SOLVERS, sample, sampling_levels
>>> def denoise(x, level):                                # the exact denoiser of data N(2, 0)
...     return Denoised(torch.full_like(x, 2.0))
>>> levels = sampling_levels("cosine", "time", 5)
>>> x = sample(denoise, torch.randn(4, 1, 8, 8), levels, SOLVERS["ddim"](), lambda: torch.randn(4, 1, 8, 8))
>>> x.mean().item()
2.0
"""

from typing import TYPE_CHECKING

from unblot.system.lazy import names_from

if TYPE_CHECKING:
    from unblot.sampling.batched import sample_batches, sampling_levels
    from unblot.sampling.guidance import (
        THRESHOLDS,
        Guidance,
        autoguidance,
        classifier_free,
        dynamic_threshold,
        guided,
        static_threshold,
    )
    from unblot.sampling.loop import Denoise, Estimate, Noise, Progress, Solver, count_nfe, pictures_noise, sample
    from unblot.sampling.solvers import SOLVERS
    from unblot.sampling.spacing import SPACINGS, Spacing, spaced_levels

__all__ = [
    "SOLVERS",
    "SPACINGS",
    "THRESHOLDS",
    "Denoise",
    "Estimate",
    "Guidance",
    "Noise",
    "Progress",
    "Solver",
    "Spacing",
    "autoguidance",
    "classifier_free",
    "count_nfe",
    "dynamic_threshold",
    "guided",
    "pictures_noise",
    "sample",
    "sample_batches",
    "sampling_levels",
    "spaced_levels",
    "static_threshold",
]

__getattr__ = names_from(
    __name__,
    {
        "unblot.sampling.batched": ("sample_batches", "sampling_levels"),
        "unblot.sampling.guidance": (
            "THRESHOLDS",
            "Guidance",
            "autoguidance",
            "classifier_free",
            "dynamic_threshold",
            "guided",
            "static_threshold",
        ),
        "unblot.sampling.loop": (
            "Denoise",
            "Estimate",
            "Noise",
            "Progress",
            "Solver",
            "count_nfe",
            "pictures_noise",
            "sample",
        ),
        "unblot.sampling.solvers": ("SOLVERS",),
        "unblot.sampling.spacing": ("SPACINGS", "Spacing", "spaced_levels"),
    },
)
