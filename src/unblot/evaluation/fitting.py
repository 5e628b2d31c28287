"""Training of the small networks that judge pictures."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def fit(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    *,
    batch: int,
    steps: int,
    rate: float = 2e-3,
    weight_decay: float = 0.05,
) -> None:
    """Trains in place by AdamW with a one-cycle learning rate (Smith & Topin 2018), and ends in eval mode.

    loss: indices (batch,) int64 of examples -> a scalar. Of `count` examples every pass visits each once, in an order
    from torch's own generator. rate: the highest learning rate.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    order = torch.randperm(count)
    network.train()
    for _ in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(count)])
        chosen, order = order[:batch], order[batch:]
        value = loss(chosen)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    network.eval()
