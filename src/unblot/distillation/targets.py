"""Distillation targets: where the teacher's sampler leads between two levels that the student visits."""

import torch
from torch import Tensor

from unblot.process.levels import NoiseLevel, mix
from unblot.process.schedules import SIGMA_MAX, SIGMA_MIN, Schedule, karras_ratios
from unblot.sampling.loop import Denoise, no_noise, sample
from unblot.sampling.multistep import dpmpp_2m
from unblot.sampling.spacing import levels_at


def segment(schedule: Schedule, t: NoiseLevel, s: NoiseLevel, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) of the teacher's trajectory from t to a cleaner s, both (), in Karras spacing."""
    clean = bool(s.sigma == 0)
    high, low = (t.sigma / t.alpha).clamp(max=SIGMA_MAX), (s.sigma / s.alpha).clamp(min=SIGMA_MIN)
    share = torch.linspace(0, 1, steps if clean else steps + 1, dtype=torch.float64)
    ratios = karras_ratios(float(high), float(low), share)
    inner = levels_at(schedule, ratios[1:] if clean else ratios[1:-1]).at(slice(0, -1))
    return NoiseLevel(*(torch.cat([a[None], b, c[None]]) for a, b, c in zip(t, inner, s, strict=True)))


def one_step_x0(denoise: Denoise, x_t: Tensor, levels: NoiseLevel) -> Tensor:
    """The x0_hat, (B, C, H, W), with which one deterministic step leads where the denoiser leads through `levels`.

    x_t: (B, C, H, W) at levels.at(0). Where the last level is the clean one, this is the value of the consistency
    function (Song et al. 2023), to second order in the length of the steps.
    """
    x_s = sample(denoise, x_t, levels, dpmpp_2m(), no_noise())
    t, s = levels.at(0), levels.at(-1)
    shrink = s.sigma / t.sigma
    on_x_s = 1 / (s.alpha - shrink * t.alpha)
    return mix(on_x_s, x_s, -shrink * on_x_s, x_t)
