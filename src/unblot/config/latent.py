"""The choices of a run that learns in latents."""

from dataclasses import dataclass

from unblot.config.options import Checked, option


@dataclass(frozen=True, kw_only=True)
class LatentConfig(Checked):
    """The autoencoder of a run that learns in latents. latent_steps: of its training, None until that is planned."""

    latent: bool = option(
        "learn in the latents of an own autoencoder, trained first (default: with a budget, where that draws better)",
        "latent",
        default=False,
    )
    pixels: bool = option("learn pixels, also where a budget would choose latents", "latent", default=False)
    latent_factor: int = option(
        "pixels to a side of one latent: 2, 4, 8 or 16", "latent", "N", low=2, high=16, default=4
    )
    latent_channels: int = option("channels of the latents", "latent", "N", low=1, high=64, default=4)
    latent_noise: float = option(
        "noise added to the latents while the autoencoder is trained; more gives cleaner shapes, less gives finer "
        "detail",
        "latent",
        "X",
        low=0,
        high=10,
        default=0.8,
    )
    latent_width: int = option("width of the autoencoder", "latent", "N", low=4, high=1024, default=32)
    latent_steps: int | None = option(
        "training steps of the autoencoder (default: as fit into a quarter of the budget, or as many as the run has)",
        "latent",
        "N",
        low=1,
        default=None,
    )
    adversarial_steps: int | None = option(
        "steps of fine-tuning the autoencoder's decoder at the end (default: as fit into a tenth of the budget, more "
        "of a short one, or at most 1,000)",
        "latent",
        "N",
        low=0,
        default=None,
    )
