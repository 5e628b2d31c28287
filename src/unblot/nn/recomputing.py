"""Less memory for more time: what a block of a network keeps for its gradients is computed again when they are taken.

Checkpointing of activations (Chen et al. 2016, "Training deep nets with sublinear memory cost"): of a block only its
inputs are kept. The gradients are the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unblot.nn import ddpm_blocks, dit, mlp, unet

BLOCKS = unet.Block, dit.Block, mlp.Block, ddpm_blocks.ResBlock, ddpm_blocks.Attention  # without side effects


def recompute(network: nn.Module) -> None:
    """Lets each block of the network be computed again in the backward pass, from now on. Outputs and weights stay."""
    for block in network.modules():
        if isinstance(block, BLOCKS) and not isinstance(block.forward, partial):
            block.forward = partial(_again, block.forward)  # type: ignore[method-assign]


def _again(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False)
