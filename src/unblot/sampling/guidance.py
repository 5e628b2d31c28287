"""Guidance: closures round a denoiser that bind the label in, and push towards it."""

import torch
from torch import Tensor

from unblot.denoiser import Denoised, Denoiser
from unblot.process.levels import NoiseLevel
from unblot.sampling.loop import Denoise


def labelled(denoiser: Denoiser, label: Tensor | None) -> Denoise:
    """The denoiser with label (B,) bound in; None for no label."""
    return lambda x, level: denoiser(x, level, label)


def classifier_free(denoiser: Denoiser, label: Tensor, scale: Tensor | float) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): `x0 = x0_none + scale·(x0_label − x0_none)`.

    label: (B,) int64; scale: a number or one per picture (B,). Both halves go through the network in one call;
    scale 1 is no guidance, and costs none.
    """
    scale = torch.as_tensor(scale, dtype=torch.float32, device=label.device)
    if bool((scale == 1).all()):
        return labelled(denoiser, label)
    both = torch.cat([label, torch.full_like(label, denoiser.num_classes)])

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        with_label, without = denoiser(torch.cat([x, x]), level, both).x0.chunk(2)
        weight = scale.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return Denoised(torch.lerp(without, with_label, weight))

    return denoise
