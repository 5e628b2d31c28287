"""DDPM as its paper has it (Ho et al. 2020, algorithms 1 and 2), in as few lines as it takes; shown in the lessons."""

from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
"""From x_t (B, C, H, W) and steps 0 … 999 (B,) to the noise in x_t."""


def train(network: torch.nn.Module, pictures: Tensor, steps: int, batch: int = 64) -> list[float]:
    """Algorithm 1: the network learns to see the noise. pictures: (N, C, H, W); returns the loss of each step."""
    betas = torch.linspace(0.0001, 0.02, 1000)
    alpha_bar = (1 - betas).cumprod(0)
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=2e-3), []
    for _ in range(steps):
        x0 = pictures[torch.randint(len(pictures), (batch,))]
        t = torch.randint(1000, (batch,))
        eps = torch.randn_like(x0)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
        loss = (network(x_t, t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def sample(network: Network, shape: tuple[int, ...]) -> Tensor:
    """Algorithm 2: from noise, step by step back. shape: (N, C, H, W) of the pictures."""
    betas = torch.linspace(0.0001, 0.02, 1000)
    alpha_bar = (1 - betas).cumprod(0)
    x = torch.randn(shape)
    for t in reversed(range(1000)):
        eps_hat = network(x, torch.full((len(x),), t))
        x = (x - betas[t] / (1 - alpha_bar[t]).sqrt() * eps_hat) / (1 - betas[t]).sqrt()
        if t > 0:
            x = x + betas[t].sqrt() * torch.randn_like(x)
    return x
