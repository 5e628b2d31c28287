"""The choices of the commands that measure a run: evaluate, ema and tune."""

from dataclasses import dataclass

from unblot.config.options import (
    AS_TUNED,
    SPEC,
    Checked,
    batch_size_option,
    device_option,
    moved_data_option,
    nfe_option,
    option,
    quality_option,
    solver_option,
    spacing_option,
    steps_option,
)
from unblot.errors import UnblotError, arg

DRAWING = ("guidance", "quality", "nfe", "steps", "solver", "spacing", "seed", "batch_size")
OF_THE_RUN = (*DRAWING, "likelihood", "ode")
"""Choices that say nothing of pictures from elsewhere: how the run draws, and what is measured of its model."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """Every choice of an evaluation. Raises UnblotError for `samples` beside a choice of OF_THE_RUN."""

    n: int = option("number of samples to evaluate", "what", "N", low=2, default=2000)
    samples: str | None = option(
        "judge these pictures, at most N of them, instead of drawing samples: a folder, archive or array file of the"
        " run's size, colours and depth",
        "what",
        "PATH",
        default=None,
    )
    features: str = option(
        "features to compare pictures by, several with + (default: efficientnet for colour from 48 pixels, where"
        " installed; classifier with labels; else random)",
        "what",
        SPEC,
        table="FEATURES",
        default="",
    )
    flip: bool = option("mirrored copies of training pictures count as copies", "what", default=False)
    shift: int = option("copies moved by up to N pixels count as copies", "what", "N", low=0, default=0)
    likelihood: int = option("pictures to compute the variational bound of; 0 for none", "what", "N", low=0, default=64)
    ode: int = option("pictures to compute the likelihood of along the ODE; 0 for none", "what", "N", low=0, default=0)
    data: str | None = moved_data_option("what")
    guidance: float | None = option(
        "strength of guidance; 1 is none (default: 2 with captions, else as tuned, else 1.5 with labels or "
        "clusters, and 2 of a run in latents)",
        "sampling",
        "X",
        default=None,
    )
    quality: str | None = quality_option("sampling")
    nfe: int | None = nfe_option("sampling")
    steps: int | None = steps_option("sampling", AS_TUNED)
    solver: str | None = solver_option("sampling", AS_TUNED)
    spacing: str | None = spacing_option("sampling", AS_TUNED)
    seed: int = option("seed of the samples", "sampling", "N", low=0, default=0)
    batch_size: int = batch_size_option("sampling")
    device: str = device_option("sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples is None:
            return
        object.__setattr__(self, "samples", str(self.samples))
        for name in OF_THE_RUN:
            given, usual = getattr(self, name), getattr(EvaluateConfig, name)
            if given != usual and (name, given) != ("likelihood", 0):  # there is none in any case
                raise UnblotError(
                    f"{arg(name, given)} is for what the run draws or for its model, and "
                    f"{arg('samples', self.samples)} gives pictures to judge instead; leave one of the two out"
                )


@dataclass(frozen=True, kw_only=True)
class EmaConfig(Checked):
    """Every choice of choosing the average of the weights."""

    std: float | None = option("EMA std, as a share of the run (default: the best)", "what", "X", default=None)
    by: str = option("how the best is found: by the held-out loss, or by distance", "what", "HOW", default="loss")
    n: int = option("samples for a distance", "what", "N", low=2, default=500)
    data: str | None = moved_data_option("what")
    seed: int = option("seed of the noise and the samples", "what", "N", low=0, default=0)
    batch_size: int = batch_size_option("what")
    device: str = device_option("what")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Checked):
    """Every choice of a tuning."""

    n: int = option("the most samples for one measurement", "what", "N", low=100, default=2000)
    budget: str = option("time for the search, as 90s or 1h", "what", "TIME", default="10m")
    features: str = option(
        "features to compare pictures by (default: classifier with labels, else random)",
        "what",
        SPEC,
        table="FEATURES",
        default="",
    )
    data: str | None = moved_data_option("what")
    seed: int = option("seed of the samples", "what", "N", low=0, default=0)
    batch_size: int = batch_size_option("what")
    device: str = device_option("what")
