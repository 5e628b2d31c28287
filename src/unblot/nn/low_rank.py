"""Low-rank additions to the weights of a network, which stay as they are (LoRA, Hu et al. 2021).

A layer's weight as a matrix (outputs, inputs·height·width) becomes `W + up·down`, of the rank that up and down have. At
first up is 0: the network does what it did.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unblot.config.transfer import MOST_RANK
from unblot.errors import UnblotError


class LowRank(nn.Module):
    """A weight (outputs, …) plus `up·down`, up (outputs, rank), down (rank, all other axes together)."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.down = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def suited(network: nn.Module, rank: int) -> dict[str, nn.Module]:
    """The layers that get an addition: linear ones, and convolutions of 1×1 and 3×3 pixels, larger than the rank."""
    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    chosen = {name: m for name, m in layers.items() if getattr(m, "kernel_size", (1, 1)) in ((1, 1), (3, 3))}
    return {name: m for name, m in chosen.items() if min(m.get_parameter("weight").flatten(1).shape) > rank}


def add_low_rank(network: nn.Module, rank: int) -> None:
    """Gives a network low-rank additions; they alone can be trained from then on, and what layers keep in buffers, such
    as the statistics of batch norm, stays as it is.

    Raises UnblotError for a rank out of range, or where no layer is large enough for it.
    """
    if not 1 <= rank <= MOST_RANK:
        raise UnblotError(f"an adapter has a rank from 1 to {MOST_RANK}, not {rank}")
    layers = suited(network, rank)
    if not layers:
        raise UnblotError(f"no layer of this network is larger than rank {rank}; take a smaller one")
    network.requires_grad_(False)
    for module in network.modules():
        if module._buffers.keys() - module._non_persistent_buffers_set:
            module.register_forward_pre_hook(_without_training)
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.get_parameter("weight"), rank), unsafe=True)


def _without_training(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    module.training = False  # of this layer alone, before each call


def additions(network: nn.Module) -> dict[str, LowRank]:
    """The additions of a network, by the name of their layer."""
    marked = ".parametrizations.weight.0"
    return {name.removesuffix(marked): m for name, m in network.named_modules() if isinstance(m, LowRank)}


def merge_low_rank(network: nn.Module) -> None:
    """Makes the additions part of the weights: a plain network again, which does the same."""
    for name in additions(network):
        parametrize.remove_parametrizations(network.get_submodule(name), "weight", leave_parametrized=True)
