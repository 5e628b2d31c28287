"""The autoencoder of a run in latents, and the latents of a data set, as a data set of the second stage."""

from dataclasses import replace

import numpy as np
import torch

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.data.values import ValueMap
from unblot.nn.autoencoder import Autoencoder, frozen
from unblot.process.randomness import seeded

AT_A_TIME = 8  # pictures, of perhaps a thousand pixels a side


def build_autoencoder(config: RunConfig) -> Autoencoder:
    """The run's autoencoder with fresh weights, which follow from the run's seed, in channels_last."""
    assert config.latent is not None
    chosen, channels = config.latent, config.data.channels
    with seeded(config.train.seed):
        network = Autoencoder(channels, chosen.latent_factor, chosen.latent_channels, chosen.latent_width)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def with_latents(dataset: Dataset, autoencoder: Autoencoder) -> Dataset:
    """The data set with a frozen autoencoder, and the latents of all pictures, each encoded once: to its mean."""
    count = len(dataset)
    latents = np.empty((count, *encoded(autoencoder, dataset.batch(np.arange(1))[0]).shape[1:]), np.float32)
    for chosen in (np.arange(first, min(first + AT_A_TIME, count)) for first in range(0, count, AT_A_TIME)):
        latents[chosen] = encoded(autoencoder, dataset.batch(chosen)[0])
    return replace(dataset, autoencoder=autoencoder, latents=latents)


@torch.no_grad()
def encoded(autoencoder: Autoencoder, x: torch.Tensor) -> torch.Tensor:
    """The latents of pictures (B, C, H, W), on the CPU, encoded AT_A_TIME."""
    device = autoencoder.mean.device
    return torch.cat([autoencoder.encode(part.to(device)).cpu() for part in x.split(AT_A_TIME)])


def with_blank_latents(dataset: Dataset, config: RunConfig) -> Dataset:
    """The data set with a fresh autoencoder and latents of zeros, to time steps of the second stage without a first."""
    latents = np.zeros((len(dataset), *config.shape), np.float32)
    return replace(dataset, autoencoder=frozen(build_autoencoder(config)), latents=latents)


def latents_of(dataset: Dataset) -> Dataset:
    """What the denoiser learns: a data set of the latents, or the data set itself where it has none."""
    if dataset.latents is None:
        return dataset
    channels = dataset.latents.shape[1]
    values = ValueMap("float32", (0.0,) * channels, (1.0,) * channels)
    return replace(dataset, pictures=dataset.latents, values=values, autoencoder=None, latents=None, stream=None)
