"""The latents of a data set, as a data set of the second stage."""

from dataclasses import replace

import numpy as np
import torch

from unblot.data.dataset import Dataset
from unblot.data.values import ValueMap
from unblot.nn.autoencoder import Autoencoder

AT_A_TIME = 64  # pictures


@torch.no_grad()
def with_latents(dataset: Dataset, autoencoder: Autoencoder) -> Dataset:
    """The data set with a frozen autoencoder, and the latents of all pictures, each encoded once: to its mean."""
    parts = []
    for first in range(0, len(dataset), AT_A_TIME):
        x = dataset.batch(np.arange(first, min(first + AT_A_TIME, len(dataset))))[0]
        parts.append(autoencoder.encode(x.to(autoencoder.mean.device)).cpu().contiguous().numpy())
    return replace(dataset, autoencoder=autoencoder, latents=np.concatenate(parts))


def latents_of(dataset: Dataset) -> Dataset:
    """What the denoiser learns: a data set of the latents, or the data set itself where it has none."""
    if dataset.latents is None:
        return dataset
    channels = dataset.latents.shape[1]
    values = ValueMap("float32", (0.0,) * channels, (1.0,) * channels)
    return replace(dataset, pictures=dataset.latents, values=values, autoencoder=None, latents=None, stream=None)
