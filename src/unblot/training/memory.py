"""How many pictures go through the network at a time on a CPU, so that what it keeps for the gradients fits."""

import copy
import math

import torch
from torch import Tensor, nn

from unblot.config.schema import RunConfig
from unblot.denoiser import Denoiser
from unblot.system.memory import machine_memory

SMALL = 2**20  # values in a batch up to which memory is no question: it is not looked at
SHARE = 0.1  # of the machine's memory for what a pass keeps; the rest is for weights, data, and other programs


def fitting_pictures(config: RunConfig, denoiser: Denoiser, memory: int) -> int:
    """The most pictures, at most a batch, for which the network keeps no more than SHARE of `memory` bytes; at least 1.

    As a batch in equal parts, as far as possible. The whole batch, unlooked at, where it has few values.
    """
    batch, shape = config.train.batch_size, config.shape
    if batch * math.prod(shape) <= SMALL:
        return batch
    most = max(1, int(SHARE * memory / kept_bytes(denoiser, shape)))
    return math.ceil(batch / math.ceil(batch / most))


def kept_bytes(denoiser: Denoiser, shape: tuple[int, int, int]) -> int:
    """Bytes that the network keeps of one picture (C, H, W) in a forward pass, for the gradients.

    Counted on PyTorch's meta device, which has shapes and no values: it takes neither memory nor time.
    """
    network: nn.Module = denoiser.network
    tensors = [*network.parameters(), *network.buffers()]
    memo = {id(t): _shape_of(t) for t in tensors}  # the copy of the network has these in place of its weights
    weights = {t.untyped_storage()._cdata for t in memo.values()}
    network = copy.deepcopy(network, dict(memo))
    kept: dict[int, Tensor] = {}  # by storage: held, so that no other takes its place

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.empty(1, shape[0] + denoiser.augmentations, *shape[1:], device="meta")
    label = torch.zeros(1, dtype=torch.int64, device="meta") if denoiser.num_classes else None
    shown = [label]
    if denoiser.text_encoder is not None:
        length, width = denoiser.text_encoder.tokenizer.length, denoiser.text_encoder.width
        mask = torch.ones(1, 1, 1, length, dtype=torch.bool, device="meta")
        shown += [torch.empty(1, length, width, device="meta"), mask]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(x, torch.empty(1, device="meta"), *shown)
    del output
    return max(1, sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights))


def _shape_of(tensor: Tensor) -> Tensor:
    """A parameter or buffer of this shape and type without values."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def pictures_at_a_time(config: RunConfig, denoiser: Denoiser, device: torch.device) -> int:
    """The pictures of a micro-batch at the start: on a CPU those that fit, elsewhere all, until memory runs out."""
    return fitting_pictures(config, denoiser, machine_memory()) if device.type == "cpu" else config.train.batch_size
