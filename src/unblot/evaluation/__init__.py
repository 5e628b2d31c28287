"""Metrics of any pictures or features, and the likelihood of pictures under any denoiser.

>>> import torch
>>> from unblot.evaluation import frechet_distance, share_interval
>>> a, b = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).chunk(2)
>>> frechet_distance(a, a) < 1e-9 < frechet_distance(a, b + 1)
True
>>> [round(end, 3) for end in share_interval(0, 100)]     # 95 % of a share of which 0 of 100 were seen
[0.0, 0.037]
"""

from typing import TYPE_CHECKING

from unblot.system.lazy import names_from

if TYPE_CHECKING:
    from unblot.evaluation.coverage import Covering, covering
    from unblot.evaluation.distances import frechet_distance, frechet_error, frechet_infinity, kernel_distance
    from unblot.evaluation.features import FEATURES, FeatureData, Features, build_features, extract
    from unblot.evaluation.image_set import ImageSet
    from unblot.evaluation.likelihood import Bound, ode_log_likelihood, variational_bound
    from unblot.evaluation.memorization import Nearness, copying_z, nearness, percentiles, share_interval, variants_of
    from unblot.evaluation.metrics import Metric, compare_features
    from unblot.evaluation.spectrum import OctaveRatio, power_ratios
    from unblot.vlb import VARIANCES, density, discretised

__all__ = [
    "FEATURES",
    "VARIANCES",
    "Bound",
    "Covering",
    "FeatureData",
    "Features",
    "ImageSet",
    "Metric",
    "Nearness",
    "OctaveRatio",
    "build_features",
    "compare_features",
    "copying_z",
    "covering",
    "density",
    "discretised",
    "extract",
    "frechet_distance",
    "frechet_error",
    "frechet_infinity",
    "kernel_distance",
    "nearness",
    "ode_log_likelihood",
    "percentiles",
    "power_ratios",
    "share_interval",
    "variants_of",
    "variational_bound",
]

__getattr__ = names_from(
    __name__,
    {
        "unblot.evaluation.coverage": ("Covering", "covering"),
        "unblot.evaluation.distances": (
            "frechet_distance",
            "frechet_error",
            "frechet_infinity",
            "kernel_distance",
        ),
        "unblot.evaluation.features": ("FEATURES", "FeatureData", "Features", "build_features", "extract"),
        "unblot.evaluation.image_set": ("ImageSet",),
        "unblot.evaluation.likelihood": ("Bound", "ode_log_likelihood", "variational_bound"),
        "unblot.evaluation.memorization": (
            "Nearness",
            "copying_z",
            "nearness",
            "percentiles",
            "share_interval",
            "variants_of",
        ),
        "unblot.evaluation.metrics": ("Metric", "compare_features"),
        "unblot.evaluation.spectrum": ("OctaveRatio", "power_ratios"),
        "unblot.vlb": ("VARIANCES", "density", "discretised"),
    },
)
