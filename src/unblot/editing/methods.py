"""Methods of editing: inpaint, restore, img2img, variations, interpolate, invert, outpaint.

All are functions of a `Denoise` and of tensors (B, C, H, W) in the network's range, with any number of channels. Known
pixels are exact in the result. levels: (N + 1,), noisiest first, ending on the clean picture. x_T: noise at the first.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from unblot.editing.operators import Operator, conditioned, imposed_within, masking, tilted
from unblot.errors import UnblotError, arg
from unblot.process.levels import NoiseLevel, corrupt
from unblot.process.prior import Prior
from unblot.sampling.loop import Denoise, History, Noise, Solver, no_noise, renoise, sample
from unblot.sampling.solvers import SOLVERS

MAX_BORDER = 10_000  # pixels: a mistyped number fails before it takes memory

Inpaint = Callable[[Tensor, Tensor], Tensor]  # known pixels (B, C, H, W), mask (true where known) -> whole pictures


def restore(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    x_T: Tensor,
    levels: NoiseLevel,
    solver: Solver,
    noise: Noise,
    iterations: int = 1,
    ends: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Samples (B, C, H, W) of x0 given its measurement y: super-resolution, colorization, inpainting.

    ends: the least and the largest values that can be stored, (C, 1, 1) each; the samples then lie between them.
    iterations: of `conditioned`; each adds the work of about two denoiser calls to every call. Raises UnblotError where
    y has not the shape of a measurement.
    """
    wanted = operator.measure(x_T).shape
    if y.shape != wanted:
        raise UnblotError(f"a measurement of these pictures has shape {tuple(wanted)}, not {tuple(y.shape)}")
    x = sample(conditioned(denoise, operator, y, iterations), x_T, levels, solver, noise)
    return operator.impose(x, y) if ends is None else imposed_within(operator, x, y, *ends)


def inpaint(
    denoise: Denoise,
    known: Tensor,
    mask: Tensor,
    x_T: Tensor,
    levels: NoiseLevel,
    solver: Solver,
    noise: Noise,
) -> Tensor:
    """Samples (B, C, H, W) of the unknown pixels given the known ones, by `tilted`; known pixels are exact.

    mask: (B or 1, C or 1, H, W), true where a pixel is known. Raises UnblotError where it does not fit the pictures.
    """
    _check_mask(known, mask)
    operator = masking(mask)
    x = sample(tilted(denoise, operator, operator.measure(known)), x_T, levels, solver, noise)
    return operator.impose(x, known)


def repaint(
    denoise: Denoise,
    known: Tensor,
    mask: Tensor,
    x_T: Tensor,
    levels: NoiseLevel,
    noise: Noise,
    jump: int = 10,
    repeats: int = 10,
) -> Tensor:
    """RePaint: ancestral sampling, the noised known pixels imposed at each level (Lugmayr et al. 2022, algorithm 1).

    Each segment of `jump` steps is sampled `repeats` times, with noise added in between, so that known and unknown
    pixels agree. One denoiser call per step, about `repeats` times as many steps as levels.
    """
    _check_mask(known, mask)
    if jump < 1 or repeats < 1:
        raise UnblotError(f"RePaint needs jump and repeats of 1 or more, not {jump} and {repeats}")
    ancestral, mask = SOLVERS["ddpm"](), mask.bool()

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x_s = ancestral.step(history, s, denoise, noise)
        return torch.where(mask, corrupt(known, s, noise()), x_s)

    def route(levels: NoiseLevel) -> NoiseLevel:
        last, visits = len(levels.sigma) - 2, list(range(len(levels.sigma)))
        for bottom in range(jump * (last // jump), 0, -jump):
            again = list(range(bottom - jump, bottom + 1)) * (repeats - 1)
            visits[bottom + 1 : bottom + 1] = again
        return levels.at(torch.tensor(visits))

    x = sample(denoise, x_T, levels, Solver(step, order=1, route=route, renoise=renoise), noise)
    return torch.where(mask, known, x)


def img2img(denoise: Denoise, x0: Tensor, strength: float, levels: NoiseLevel, solver: Solver, noise: Noise) -> Tensor:
    """SDEdit: x0 noised to an intermediate level and sampled from there (Meng et al. 2022); coarse features stay.

    strength: the share of the steps that is sampled, in (0, 1]. Raises UnblotError for another.
    """
    part = _last_part(levels, strength)
    return sample(denoise, corrupt(x0, part.at(0), noise()), part, solver, noise)


def invert(denoise: Denoise, x0: Tensor, levels: NoiseLevel, solver: Solver, refinements: int = 0) -> Tensor:
    """DDIM inversion: the x_T from which deterministic sampling leads to x0 (Song et al. 2021, section 4.3).

    The ODE is integrated from picture to noise. Each refinement samples, and inverts x0 plus the reconstruction error,
    at twice the denoiser calls. Raises UnblotError for a stochastic solver, for a single step, and where alpha = 0 at
    the first level.
    """
    if len(levels.sigma) < 3:  # the last step, to the clean picture, has no way back
        raise UnblotError(f"inversion needs {arg('steps', 2)} or more")
    if levels.alpha[0] == 0:
        raise UnblotError(f"inversion needs alpha > 0 at the first level; give {arg('spacing', 'karras')}")
    up = levels.at(torch.arange(len(levels.sigma) - 2, -1, -1))  # x0 stands for x at the last level above 0
    target, x_T = x0, sample(denoise, x0, up, solver, _no_noise())
    for _ in range(refinements):
        target = target + x0 - sample(denoise, x_T, levels, solver, _no_noise())
        x_T = sample(denoise, target, up, solver, _no_noise())
    return x_T


def variations(
    denoise: Denoise,
    x0: Tensor,
    amount: float,
    levels: NoiseLevel,
    solver: Solver,
    noise: Noise,
    prior: Prior,
    refinements: int = 0,
) -> Tensor:
    """Samples from the inverted noise rotated towards fresh noise by `amount`: 0 is x0, 1 an independent sample.

    prior: what x_T of independent samples is drawn from.
    """
    found = prior.noise(invert(denoise, x0, levels, solver, refinements))
    return sample(denoise, prior.draw(spherical(found, noise(), amount)), levels, solver, _no_noise())


def interpolate(
    denoise: Denoise,
    a: Tensor,
    b: Tensor,
    share: Tensor | float,
    levels: NoiseLevel,
    solver: Solver,
    prior: Prior,
    refinements: int = 0,
) -> Tensor:
    """Samples from between the inverted noises of a and b; share: 0 is a, 1 is b; a number or one per picture (B,)."""
    noise_a, noise_b = (prior.noise(invert(denoise, x0, levels, solver, refinements)) for x0 in (a, b))
    return sample(denoise, prior.draw(spherical(noise_a, noise_b, share)), levels, solver, _no_noise())


def outpaint(x0: Tensor, inpaint: Inpaint, *, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0) -> Tensor:
    """Pictures (B, C, top + H + bottom, left + W + right), their border sampled by `inpaint`.

    A window of the pictures' own size moves outwards by at most half of it, and its unknown pixels are inpainted.
    inpaint: a function of the known pixels and their mask, both (B, C, H, W). left … bottom: up to MAX_BORDER pixels.
    """
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    if min(sides.values()) < 0 or not 1 <= max(sides.values()) <= MAX_BORDER:
        raise UnblotError(
            f"outpainting needs 1 to {MAX_BORDER} pixels on some side and none below 0, not "
            + ", ".join(arg(name, pixels) for name, pixels in sides.items())
        )
    height, width = x0.shape[2:]
    whole = F.pad(x0, (left, right, top, bottom))
    known = F.pad(torch.ones_like(x0, dtype=torch.bool), (left, right, top, bottom))
    down, across = _windows(top, bottom, height), _windows(left, right, width)
    for y, x in sorted(itertools.product(down, across), key=lambda at: abs(at[0] - top) + abs(at[1] - left)):
        window = (..., slice(y, y + height), slice(x, x + width))
        if not bool(known[window].all()):
            whole[window] = inpaint(whole[window], known[window])
            known[window] = True
    return whole


def _windows(before: int, after: int, length: int) -> list[int]:
    """First pixels of the windows along one axis: the picture itself, then outwards in steps of at most half of it."""
    step = max(1, length // 2)
    back = [max(0, before - k * step) for k in range(1, math.ceil(before / step) + 1)]
    on = [before + min(after, k * step) for k in range(1, math.ceil(after / step) + 1)]
    return [before, *back, *on]


def spherical(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """Spherical interpolation of two noises (B, C, H, W), which keeps their norm (Shoemake 1985)."""
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device).view(-1, 1, 1, 1)
    dims = (1, 2, 3)
    lengths = [x.square().sum(dims, keepdim=True).sqrt() for x in (a, b)]
    cosine = ((a * b).sum(dims, keepdim=True) / (lengths[0] * lengths[1])).clamp(-1, 1)
    angle = torch.acos(cosine).clamp(min=1e-4, max=math.pi - 1e-4)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def _last_part(levels: NoiseLevel, strength: float) -> NoiseLevel:
    if not 0 < strength <= 1:
        raise UnblotError(f"{arg('strength', strength)} is not a share of the steps; give one above 0 and up to 1")
    steps = len(levels.sigma) - 1
    return levels.at(slice(steps - max(1, round(strength * steps)), None))


def _check_mask(known: Tensor, mask: Tensor) -> None:
    if mask.ndim != 4 or any(m not in (1, k) for m, k in zip(mask.shape, known.shape, strict=True)):
        raise UnblotError(f"a mask of shape {tuple(mask.shape)} does not fit pictures of shape {tuple(known.shape)}")


def _no_noise() -> Noise:
    return no_noise(f"inversion needs a deterministic solver; give {arg('solver', 'heun')} or dpmpp_2m")
