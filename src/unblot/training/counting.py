"""The memory of a training pass, counted on PyTorch's meta device, which has shapes and no values: it takes neither
memory nor much time."""

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from unblot.config.schema import RunConfig
from unblot.denoiser import Condition, Denoiser
from unblot.losses import OBJECTIVES, WEIGHTINGS
from unblot.nn.recomputing import recompute
from unblot.specs import build
from unblot.training.batches import Batch, training_schedule
from unblot.training.task import denoising_loss
from unblot.vlb import density

M = TypeVar("M", bound=nn.Module)


def kept_bytes(denoiser: Denoiser, shape: Sequence[int]) -> int:
    """Bytes that the network keeps of one picture (C, H, W) in a forward pass, for the gradients."""
    known = shapes_of(denoiser)
    weights = {t.untyped_storage()._cdata for t in [*known.parameters(), *known.buffers()]}
    kept: dict[int, Tensor] = {}  # by storage: held, so that no other takes its place

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.empty(1, shape[0] + denoiser.added_channels, *shape[1:], device="meta")
    conditioning = known.network_conditioning(_condition(known, 1), 1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = known.network(x, torch.empty(1, device="meta"), *conditioning)
    del output
    return max(1, sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights))


def pass_bytes(
    config: RunConfig,
    denoiser: Denoiser,
    pictures: int,
    recomputing: bool = False,
    taken: Callable[[int], int] = int,
) -> int:
    """The most bytes that the tensors of a pass, forward and back, take at a time, those of its gradients included.

    recomputing: with its blocks computed again in the backward pass. taken: bytes that a tensor of so many bytes takes.
    """
    known = shapes_of(denoiser)
    if recomputing:
        recompute(known)
    return peak_bytes(known, _losses_of(config, known, pictures), taken)


def peak_bytes(known: nn.Module, losses: Callable[[], Tensor], taken: Callable[[int], int] = int) -> int:
    """Peak bytes of all tensors in one forward and backward pass of a module on the meta device."""
    with _Live(known, taken) as live:
        losses().sum().backward()
    return live.most


def _losses_of(config: RunConfig, known: Denoiser, pictures: int) -> Callable[[], Tensor]:
    """The losses of a batch of this many pictures without values, by a denoiser without values."""
    train = config.train
    t = torch.full((pictures,), 0.5, dtype=torch.float64)
    x0, eps, augmentation = (
        torch.empty(pictures, *shape, device="meta") for shape in (config.shape, config.shape, (known.augmentations,))
    )
    batch = Batch(x0, t, eps, *_condition(known, pictures)[:2], augmentation if known.augmentations else None)
    objective, weighting = (
        build(OBJECTIVES, train.objective, "objective"),
        build(WEIGHTINGS, train.weighting, "weighting"),
    )
    return lambda: denoising_loss(known, batch, training_schedule(train), objective, weighting, density)


def pass_work(config: RunConfig, denoiser: Denoiser) -> tuple[float, int]:
    """Floating-point operations of a pass of one picture, forward and back, and the number of kernels of any pass."""
    return work(_losses_of(config, shapes_of(denoiser), 1))


def work(losses: Callable[[], Tensor]) -> tuple[float, int]:
    """Floating-point operations of these losses, forward and back, and the number of kernels."""
    with FlopCounterMode(display=False) as flops, _Kernels() as kernels:
        losses().sum().backward()
    return float(flops.get_total_flops()), kernels.count


class _Kernels(TorchDispatchMode):
    """Within it `count` is the number of operations so far."""

    count = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class _Live(TorchDispatchMode):
    """Within it, `now` is the sum of bytes that the shapes take which are made and not yet dropped, without those of a
    module; `most`: its maximum."""

    def __init__(self, module: nn.Module, taken: Callable[[int], int]) -> None:
        super().__init__()
        self.taken = taken
        known = [*module.parameters(), *module.buffers()]
        self.sizes = {t.untyped_storage()._cdata: 0 for t in known}  # by storage
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = self.taken(storage.nbytes())
            self.now += self.sizes[key]
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def shapes_of(module: M) -> M:
    """A copy of the module that has shapes in place of weights."""
    memo = {id(t): _shape_of(t) for t in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, dict(memo))


def _shape_of(tensor: Tensor) -> Tensor:
    """A parameter or buffer of this shape and type without values."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _condition(known: Denoiser, pictures: int) -> Condition:
    """A condition of this many pictures with all that a denoiser without values reads."""

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device="meta")

    label = numbers(pictures) if known.num_classes else None
    encoder = known.text_encoder
    return Condition(label, None if encoder is None else numbers(pictures, encoder.tokenizer.length))
