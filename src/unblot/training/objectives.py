"""What the variational bound needs to know of the data: how its last step gives back the stored values."""

import torch
from torch import Tensor

from unblot.bound import Decoder, density, discretised
from unblot.data.values import ValueMap


def decoder_of(values: ValueMap, device: torch.device) -> Decoder:
    """The probability of stored whole numbers themselves, or a density for other values."""
    return discretised(bin_width(values).to(device)) if values.bounded else density


def bin_width(values: ValueMap) -> Tensor:
    """One step of the stored whole numbers in the network's range, (C, 1, 1)."""
    return torch.tensor(values.scale, dtype=torch.float64).reciprocal().view(-1, 1, 1)
