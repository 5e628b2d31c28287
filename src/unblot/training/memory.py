"""Memory on a CPU: how many pictures go through the network at a time, and how much a run takes."""

import math
from collections.abc import Callable

import torch
from torch import nn

from unblot.config.schema import RunConfig
from unblot.denoiser import Denoiser
from unblot.runs.folder import build_denoiser
from unblot.specs import several
from unblot.system.device import available_device
from unblot.system.memory import machine_memory
from unblot.training.adversarial import fine_tunes_decoder
from unblot.training.counting import kept_bytes, pass_bytes, peak_bytes
from unblot.training.diagnostics.held_out import held_bytes
from unblot.training.first_stage import OPTIMIZER, without_values
from unblot.training.optim import state_bytes

SMALL = 2**20  # values in a batch up to which memory is no question: it is not looked at
SHARE = 0.1  # of the machine's memory for what a pass keeps; the rest is for weights, data, and other programs

# Fitted to measured runs (docs/training.md):
LIBRARIES = 480_000_000  # bytes of the interpreter, PyTorch and the other libraries
SLACK = 1.6  # times the smaller tensors of a pass: between them the allocator keeps gaps, and kernels their own buffers
MAPPED = 2**25  # bytes from which on the C library asks the system for each tensor, and gives it back at once


def taken(size: int) -> int:
    """About how many bytes a tensor of `size` bytes takes within a pass on a CPU."""
    return size if size >= MAPPED else int(SLACK * size)


def fitting_pictures(config: RunConfig, denoiser: Denoiser, memory: int) -> int:
    """The most pictures, at most a batch, for which the network keeps no more than SHARE of `memory` bytes; 0 where
    not even one does.

    As a batch in equal parts, as far as possible. Batches with few values are not checked.
    """
    batch, shape = config.train.batch_size, config.shape
    if batch * math.prod(shape) <= SMALL:
        return batch
    most = int(SHARE * memory / kept_bytes(denoiser, shape))
    return math.ceil(batch / math.ceil(batch / most)) if most else 0


def pictures_at_a_time(config: RunConfig, denoiser: Denoiser, device: torch.device) -> int:
    """The pictures of a micro-batch at the start: on a CPU those that fit, 0 where not even one does; elsewhere all,
    until memory runs out."""
    return fitting_pictures(config, denoiser, machine_memory()) if device.type == "cpu" else config.train.batch_size


def run_bytes(config: RunConfig, denoiser: Denoiser, fitting: int) -> int:
    """About how many bytes a run on a CPU takes at its peak, a run that is not a distillation.

    fitting: pictures that fit at a time, as `pictures_at_a_time` gives them. Not counted are captions, and what the
    system keeps of the dataset cache, which it gives back where others need it.
    """
    train = config.train
    weights = _weight_bytes(denoiser)
    held = weights * (1 + len(several(train.ema))) + state_bytes(denoiser, train.optimizer)
    batch = 2 * 4 * train.batch_size * math.prod(config.shape)  # pictures and noise
    in_parts = fitting < train.batch_size
    held += weights if in_parts else 0  # the gradients of the parts before
    held += held_bytes(train, config.x0_facts) if train.held_out_every else 0
    first, stays = (0, 0) if config.latent is None else first_stage_bytes(config)
    stage = stays + held + batch + pass_bytes(config, denoiser, max(1, fitting), not fitting, taken)
    ending = held + first if fine_tunes_decoder(config) else 0  # its decoder learns again, of about as many pictures
    return LIBRARIES + max(first, max(stage, ending) + latents_bytes(config))


def first_stage_bytes(config: RunConfig, taken: Callable[[int], int] = taken) -> tuple[int, int]:
    """About how many bytes the training of a run's autoencoder takes at its peak, and how many it takes afterwards.

    taken: as in `pass_bytes`.
    """
    known, loss = without_values(config)
    weights = _weight_bytes(known)
    return weights + state_bytes(known, OPTIMIZER) + peak_bytes(known, loss, taken), weights


def _weight_bytes(module: nn.Module) -> int:
    """Bytes of the weights that are trained."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def latents_bytes(config: RunConfig) -> int:
    """Bytes of the latents of all training pictures, which stay in the machine's memory; 0 for a run in pixels."""
    return 0 if config.latent is None else 4 * config.data.count * math.prod(config.shape)


def expected_bytes(config: RunConfig, denoiser: Denoiser, device: torch.device) -> int | None:
    """`run_bytes` on this machine; None on a GPU and of a distillation, where it is not known."""
    if device.type != "cpu" or config.distill is not None:
        return None
    return run_bytes(config, denoiser, pictures_at_a_time(config, denoiser, device))


def planned_bytes(config: RunConfig) -> int | None:
    """`expected_bytes` of a run that has not begun; None with a budget too, whose trial steps decide the network."""
    if config.train.budget:
        return None
    return expected_bytes(config, build_denoiser(config), available_device(config.train.device))
