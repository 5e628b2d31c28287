"""Linear measurements of a picture, and denoisers conditioned on one: inpainting, super-resolution, colorization.

A linear operator H measures y = H·x0: the known pixels, a small version, the gray version. For normal q(x0 | x_t),
`E[x0 | x_t, y] = x0_hat + V·Hᵀ·(H·V·Hᵀ)⁻¹·(y − H·x0_hat)`, with the covariance `V = sigma²/alpha · ∂x0_hat/∂x_t`, which
follows from the denoiser itself (Tweedie's second-order formula).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unblot.denoiser import Denoised
from unblot.errors import UnblotError, arg
from unblot.process.levels import NoiseLevel, broadcast
from unblot.sampling.loop import Denoise

MOST_TURNS, CLOSE = 200, 1e-4  # of imposing measurement and limits; the difference that is left, of a range of 2
FLOOR = 1e-8  # variance of a measurement's noise: where that of x0_hat is smaller and contradicts y, x0_hat stays
FAR = 100.0  # above this sigma/alpha x_t has no usable information on x0
LOW, HIGH = 0.15, 10.0  # the interval of sigma/alpha in which most of a picture is decided


class Operator(NamedTuple):
    """A linear measurement of pictures (B, C, H, W).

    measure: `H·x`; impose: the picture nearest to x with measurement y, as `impose(x, y)`.
    """

    measure: Callable[[Tensor], Tensor]
    impose: Callable[[Tensor, Tensor], Tensor]


def masking(mask: Tensor) -> Operator:
    """The known pixels; mask: true (or 1) where a pixel is known, in a shape that broadcasts to (B, C, H, W)."""
    known = mask.bool()
    return Operator(lambda x: x * known, lambda x, y: torch.where(known, y, x))


def averaging(factor: int) -> Operator:
    """Means over factor × factor pixels, whose inverse problem is super-resolution; factor: at least 1."""
    if factor < 1:
        raise UnblotError(f"{arg('factor', factor)} must be 1 or more")

    def measure(x: Tensor) -> Tensor:
        if x.shape[-1] % factor or x.shape[-2] % factor:
            raise UnblotError(f"pictures of {x.shape[-2]}x{x.shape[-1]} do not divide by {factor}")
        return F.avg_pool2d(x, factor)

    def impose(x: Tensor, y: Tensor) -> Tensor:
        return x + F.interpolate(y - measure(x), scale_factor=factor, mode="nearest")

    return Operator(measure, impose)


def graying(weights: Tensor | None = None) -> Operator:
    """The weighted sum of the channels, weights (C,), or their mean; its inverse problem is colorization."""

    def along(x: Tensor) -> Tensor:
        w = x.new_full((x.shape[1],), 1 / x.shape[1]) if weights is None else weights.to(x)
        return w.view(1, -1, 1, 1)

    def measure(x: Tensor) -> Tensor:
        return (along(x) * x).sum(1, keepdim=True)

    def impose(x: Tensor, y: Tensor) -> Tensor:
        return x + along(x) / along(x).square().sum() * (y - measure(x))

    return Operator(measure, impose)


def imposed_within(operator: Operator, x: Tensor, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A picture near x with measurement y whose values lie from low to high, by imposing both in turns (Bregman 1965).

    low, high: (C, 1, 1). What is stored is cut off at these limits, which would change the measurement.
    """
    x = x.clamp(low, high)
    for _ in range(MOST_TURNS):
        far = (operator.measure(x) - y).abs().amax((1, 2, 3), keepdim=True) >= CLOSE
        if not bool(far.any()):
            break
        x = torch.where(far, operator.impose(x, y).clamp(low, high), x)  # each as if it were alone
    return x


def conditioned(denoise: Denoise, operator: Operator, y: Tensor, iterations: int = 1) -> Denoise:
    """E[x0 | x_t, y = H·x0] by gradients through the denoiser (moment matching, Rozet et al. 2024).

    Each iteration takes one gradient, the work of about two denoiser calls, and brings H·x0_hat nearer to y. With one
    it is PiGDM (Song et al. 2023) whose r_t² is fitted to the Jacobian of each picture. At the end y is imposed.
    """
    if iterations < 1:
        raise UnblotError(f"conditioning needs 1 iteration or more, not {iterations}")

    @torch.enable_grad()
    def guided(x: Tensor, level: NoiseLevel) -> Denoised:
        x = x.detach().requires_grad_()
        x0, variance = denoise(x, level)
        measured = operator.measure(x0)
        far = level.sigma > FAR * level.alpha  # the Jacobian has no correct digit there
        spread = broadcast(torch.where(far, 0.0, level.sigma**2 / level.alpha), x)
        shift, residual = torch.zeros_like(x), (y - measured).detach()
        for k in range(iterations):
            moved = spread * torch.autograd.grad(measured, x, residual, retain_graph=True)[0]
            image = operator.measure(moved) + FLOOR * residual
            along = _dot(residual, image)
            # The first step is that of conjugate gradients. Their later ones diverge, as a network's Jacobian is not
            # exactly symmetric; so each step minimises the residual, and the first is at most 4 times as long.
            smallest = along / _dot(image, image)
            length = smallest if k > 0 else torch.minimum(_dot(residual, residual) / along, 4 * smallest)
            length = torch.where(along > 0, length, 0)
            shift, residual = shift + length * moved, residual - length * image
        return Denoised(operator.impose(x0.detach() + shift, y), None if variance is None else variance.detach())

    return guided


def tilted(denoise: Denoise, operator: Operator, y: Tensor, low: float = LOW, high: float = HIGH) -> Denoise:
    """E[x0 | x_t, y = H·x0] without gradients, by exponential tilting: x_t is shifted until H·x0_hat = y.

    A shift of x_t by `sigma²/alpha·p` multiplies q(x0 | x_t) by `exp(p·x0)`. With the p in the range of Hᵀ for which
    `H·x0_hat = y`, x0_hat is E[x0 | x_t, y] for normal data, and for any data the mean of the distribution nearest to
    q(x0 | x_t), in Kullback-Leibler divergence, whose mean measures y.

    p changes little between noise levels: it is kept between calls and updated by the residual of each, so that a
    tilted denoiser serves one trajectory. For sigma/alpha in [low, high], where most is decided, a second denoiser call
    measures the response of x0_hat, and so the length of the update. H·Hᵀ has to be a multiple of the identity, as for
    all operators here.
    """
    p: Tensor | float = 0.0

    def guided(x: Tensor, level: NoiseLevel) -> Denoised:
        nonlocal p
        ratio = level.sigma / level.alpha
        alpha, twice = broadcast(level.alpha, x), (ratio >= low) & (ratio <= high)
        spread = broadcast(torch.where(ratio > FAR, 0.0, ratio**2), x)
        # y is imposed on x_t without noise: the noise would only blur it
        x = torch.where(spread > 0, alpha * (operator.impose(x / alpha, y) + spread * p), x)
        x0, variance = denoise(x, level)
        left = operator.impose(x0, y) - x0  # for normal data a step of this length does not overshoot
        if bool(twice.any()):
            response = denoise(x + alpha * left, level).x0 - x0
            length = _length(y - operator.measure(x0), operator.measure(response))
            left = torch.where(broadcast(twice.double(), x) > 0, length * left, left)
            x0 = x0 + broadcast(twice.double(), x) * length * response
        p = p + torch.where(spread > 0, left / spread, 0)
        return Denoised(operator.impose(x0, y), variance)

    return guided


def _length(residual: Tensor, image: Tensor) -> Tensor:
    """Step length (B, 1, 1, 1) along a direction of which a unit step reduces the residual by `image`.

    That of the first step of conjugate gradients, at most 4 times that of least residual; 0 for a direction of ascent.
    """
    along = _dot(residual, image)
    length = torch.minimum(_dot(residual, residual) / along, 4 * along / _dot(image, image))
    return torch.where(along > 0, length, 0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each picture's values, (B, 1, 1, 1)."""
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)
