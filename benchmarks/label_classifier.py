"""A classifier of labelled pictures that says whether a sample shows the label that was asked for."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from unblot.evaluation.fitting import fit

WIDTHS = (32, 64, 128, 128)
EPOCHS, BATCH, RATE = 12, 64, 4e-3
TURN, SHIFT, SCALE, LIGHT = 0.25, 0.12, 0.12, 0.2  # radians, halves of a side, relative, half of the range; at most


def fitted(pictures: Tensor, labels: Tensor, classes: int, kept: Path) -> nn.Module:
    """A small convolutional network, trained from seed 0 on pictures (N, C, H, W) in [-1, 1] and labels (N,).

    It is written to the file `kept`, and loaded from there the next time.

    Each is turned, moved, scaled and lit a little differently every time that it is seen: a classifier that knew the
    training pictures by heart would be no judge of new ones.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = _network(pictures.shape[1], classes)
        if kept.exists():
            network.load_state_dict(load_file(kept))
            return network.eval()
        batch = min(BATCH, len(pictures))
        steps = max(1, EPOCHS * (len(pictures) // batch))

        def loss(chosen: Tensor) -> Tensor:
            return cross_entropy(network(_varied(pictures[chosen])), labels[chosen], label_smoothing=0.05)

        fit(network, loss, len(pictures), batch=batch, steps=steps, rate=RATE, weight_decay=0.02)
    save_file(network.state_dict(), kept)
    return network


@torch.no_grad()
def agreement(network: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """The share of pictures (N, C, H, W) whose label (N,) the network gives."""
    found = torch.cat([network(part).argmax(1) for part in pictures.split(100)])
    return float((found == labels).double().mean())


def _network(channels: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((channels, *WIDTHS), WIDTHS):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.4), nn.Linear(16 * WIDTHS[-1], classes)
    )


def _varied(pictures: Tensor) -> Tensor:
    n = len(pictures)
    turn, scale = TURN * _uniform(n), 1 + SCALE * _uniform(n)
    rows = [torch.stack([scale * turn.cos(), -scale * turn.sin(), SHIFT * _uniform(n)], 1)]
    rows += [torch.stack([scale * turn.sin(), scale * turn.cos(), SHIFT * _uniform(n)], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    moved = grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    contrast = torch.exp(math.log(1 + LIGHT) * _uniform(n)).view(-1, 1, 1, 1)
    return contrast * moved + LIGHT * _uniform(n).view(-1, 1, 1, 1)


def _uniform(n: int) -> Tensor:
    return 2 * torch.rand(n) - 1
