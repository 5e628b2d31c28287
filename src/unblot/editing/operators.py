"""Measurements of a picture, and denoisers that know one: filling in, super-resolution, colouring.

A linear operator H measures y = H·x0: the known pixels, a small version, the grey version. Given y as well as x_t, the
expected picture is `x0_hat + V·Hᵀ·(H·V·Hᵀ)⁻¹·(y − H·x0_hat)` where the spread of x0 about x0_hat is normal; its
covariance `V = sigma²/alpha · ∂x0_hat/∂x_t` follows from the denoiser itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast
from unblot.sampling.loop import Denoise

FLOOR = 1e-8  # variance of a measurement: where x0_hat is surer than this of what contradicts y, it stays
FAR = 100.0  # from this sigma/alpha on x_t says nothing of the picture
LOW, HIGH = 0.15, 10.0  # the sigma/alpha between which most of a picture is decided


class Operator(NamedTuple):
    """A linear measurement of pictures (B, C, H, W).

    measure: `H·x`; impose: the picture nearest to x with measurement y, as `impose(x, y)`.
    """

    measure: Callable[[Tensor], Tensor]
    impose: Callable[[Tensor, Tensor], Tensor]


def masking(mask: Tensor) -> Operator:
    """The known pixels: mask is true (or 1) where a pixel is known, of a shape that broadcasts to (B, C, H, W)."""
    known = mask.bool()
    return Operator(lambda x: x * known, lambda x, y: torch.where(known, y, x))


def averaging(factor: int) -> Operator:
    """The picture made smaller by a whole factor: means of factor × factor pixels. Its inverse is super-resolution."""
    if factor < 1:
        raise UnblotError(f"a picture is made smaller by a factor of 1 or more, not {factor}")

    def measure(x: Tensor) -> Tensor:
        if x.shape[-1] % factor or x.shape[-2] % factor:
            raise UnblotError(f"pictures of {x.shape[-2]}x{x.shape[-1]} do not divide by {factor}")
        return F.avg_pool2d(x, factor)

    def impose(x: Tensor, y: Tensor) -> Tensor:
        return x + F.interpolate(y - measure(x), scale_factor=factor, mode="nearest")

    return Operator(measure, impose)


def graying(weights: Tensor | None = None) -> Operator:
    """The weighted sum of the channels, weights (C,), or their mean. Its inverse is colouring."""

    def along(x: Tensor) -> Tensor:
        w = x.new_full((x.shape[1],), 1 / x.shape[1]) if weights is None else weights.to(x)
        return w.view(1, -1, 1, 1)

    def measure(x: Tensor) -> Tensor:
        return (along(x) * x).sum(1, keepdim=True)

    def impose(x: Tensor, y: Tensor) -> Tensor:
        return x + along(x) / along(x).square().sum() * (y - measure(x))

    return Operator(measure, impose)


def projected(denoise: Denoise, operator: Operator, y: Tensor) -> Denoise:
    """x0_hat with the measurement imposed on it (DDNM, Wang et al. 2023): no gradient, but blind to what y implies."""
    return lambda x, level: Denoised(operator.impose(denoise(x, level).x0, y))


def conditioned(denoise: Denoise, operator: Operator, y: Tensor, iterations: int = 1) -> Denoise:
    """The denoiser that knows `y = H·x0` too, by gradients through it (moment matching, Rozet et al. 2024).

    Each iteration takes one gradient, about as much work as two evaluations, and brings the expected picture nearer
    to y. With one it is PiGDM (Song et al. 2023), the spread r_t² fitted to the Jacobian for each picture instead of
    assumed. Last, what is left of the difference is imposed.
    """
    if iterations < 1:
        raise UnblotError(f"conditioning needs 1 iteration or more, not {iterations}")

    @torch.enable_grad()
    def guided(x: Tensor, level: NoiseLevel) -> Denoised:
        x = x.detach().requires_grad_()
        x0 = denoise(x, level).x0
        measured = operator.measure(x0)
        far = level.sigma > FAR * level.alpha  # the Jacobian is all error there
        spread = broadcast(torch.where(far, 0.0, level.sigma**2 / level.alpha), x)
        shift, residual = torch.zeros_like(x), (y - measured).detach()
        for k in range(iterations):
            moved = spread * torch.autograd.grad(measured, x, residual, retain_graph=True)[0]
            image = operator.measure(moved) + FLOOR * residual
            along = _dot(residual, image)
            # The first step is that of conjugate gradients. Their later ones run off, as a network's Jacobian is not
            # quite symmetric; so each makes what is left as small as it can, and the first goes not much further.
            smallest = along / _dot(image, image)
            length = smallest if k > 0 else torch.minimum(_dot(residual, residual) / along, 4 * smallest)
            length = torch.where(along > 0, length, 0)
            shift, residual = shift + length * moved, residual - length * image
        return Denoised(operator.impose(x0.detach() + shift, y))

    return guided


def tilted(denoise: Denoise, operator: Operator, y: Tensor, low: float = LOW, high: float = HIGH) -> Denoise:
    """The denoiser that knows `y = H·x0` too, without gradients: x_t is pushed until the expected picture fits y.

    A push of x_t by `sigma²/alpha·p` multiplies the distribution of what x0 may be by `exp(p·x0)` (exponential
    tilting). With the p along Hᵀ for which `H·x0_hat = y`, x0_hat is the expected picture given y for normal data, and
    for any data that of the distribution nearest to the model's own that has y as its mean. p changes little from one
    noise level to the next: it is kept, and mended in each call by what is left of y, so that a tilted denoiser serves
    one way through the levels. Within [low, high] of sigma/alpha, where most is decided, a second evaluation says how
    x0_hat answers, and so how far to go. H·Hᵀ has to be a multiple of the identity, as it is for all operators here.
    """
    push: Tensor | float = 0.0

    def guided(x: Tensor, level: NoiseLevel) -> Denoised:
        nonlocal push
        ratio = level.sigma / level.alpha
        alpha, twice = broadcast(level.alpha, x), (ratio >= low) & (ratio <= high)
        spread = broadcast(torch.where(ratio > FAR, 0.0, ratio**2), x)
        # what is known goes in without noise, which would only blur it
        x = torch.where(spread > 0, alpha * (operator.impose(x / alpha, y) + spread * push), x)
        x0 = denoise(x, level).x0
        left = operator.impose(x0, y) - x0  # a step of this length does not overshoot, for normal data
        if bool(twice.any()):
            answer = denoise(x + alpha * left, level).x0 - x0
            length = _length(y - operator.measure(x0), operator.measure(answer))
            left = torch.where(broadcast(twice.double(), x) > 0, length * left, left)
            x0 = x0 + broadcast(twice.double(), x) * length * answer
        push = push + torch.where(spread > 0, left / spread, 0)
        return Denoised(operator.impose(x0, y))

    return guided


def _length(residual: Tensor, image: Tensor) -> Tensor:
    """How far to go along a direction, (B, 1, 1, 1), when a step of 1 takes `image` off the residual.

    That of conjugate gradients' first step, but not much further than leaves the least; 0 where it leads away.
    """
    along = _dot(residual, image)
    length = torch.minimum(_dot(residual, residual) / along, 4 * along / _dot(image, image))
    return torch.where(along > 0, length, 0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each picture's values, (B, 1, 1, 1)."""
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)
