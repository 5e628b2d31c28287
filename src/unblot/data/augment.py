"""Augmentation: training pictures mirrored, rotated, scaled and shifted at random.

Plain augmentation changes the distribution that is learnt: a model trained on mirrored pictures samples mirrored ones,
which is right for most photographs and wrong for text. Non-leaking augmentation also gives the network what was done
as a vector of conditions; sampling with all conditions 0 gives pictures of the original distribution (Karras et al.
2022, appendix F.2, after Karras et al. 2020, "Training generative adversarial networks with limited data"). It helps
small sets.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from unblot.errors import UnblotError

OVERSAMPLING = 2  # samples per pixel and axis in a warp, averaged, so that shrinking does not alias


class Augmentation(NamedTuple):
    """A random augmentation of a batch.

    apply(x, generator): the augmented pictures (B, C, H, W) of x, and conditions (B, K), all 0 for a picture that was
    not changed. All random numbers are from the generator, on its device. conditions: K, 0 where the network is not
    conditioned on the augmentation.
    """

    apply: Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
    conditions: int


def none() -> Augmentation:
    """No augmentation: the pictures themselves."""
    return Augmentation(lambda x, generator: (x, x.new_zeros(len(x), 0)), 0)


def plain(*, flip: bool = False, flip_vertical: bool = False, quarter: bool = False, shift: int = 0) -> Augmentation:
    """Each picture mirrored left to right and top to bottom with probability ½, rotated by 0 to 3 quarters, shifted.

    shift: at most this many pixels in each direction, the edge repeated. Raises UnblotError for quarter turns of
    pictures that are not square.
    """
    if shift < 0:
        raise UnblotError(f"the shift of {shift} pixels is negative; give shift=0 or more")

    def apply(x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        n = len(x)
        if flip:
            x = _flipped(x, _chance(n, 0.5, generator), -1)
        if flip_vertical:
            x = _flipped(x, _chance(n, 0.5, generator), -2)
        if quarter:
            x = _turned(x, torch.randint(4, (n,), generator=generator, device=generator.device))
        if shift:
            moves = torch.randint(-shift, shift + 1, (2, n), generator=generator, device=generator.device)
            x = _shifted(x, moves[0], moves[1])
        return x, x.new_zeros(n, 0)

    return Augmentation(apply, 0)


def non_leaking(
    *,
    probability: float = 0.12,
    flip: bool = True,
    flip_vertical: bool = True,
    scale: float = 0.2,
    rotate: bool = True,
    stretch: float = 0.2,
    shift: float = 0.125,
) -> Augmentation:
    """Mirrored, scaled, rotated, stretched and shifted pictures, with the transformation as 9 conditions.

    Each transformation has this probability, but left-right mirroring ½ (EDM's settings). scale, stretch: standard
    deviation of the binary logarithm of the factor; shift: standard deviation of the displacement, as a share of height
    and width. Conditions: mirrored left to right, mirrored top to bottom, scale, cos(angle) − 1, sin(angle), stretch
    along two axes, shift in x and y; scale, stretch and shift in standard deviations. Pixels outside are reflected.
    """
    if not 0 <= probability <= 1:
        raise UnblotError(f"the augmentation probability {probability} is out of range; give probability= from 0 to 1")

    def apply(x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        n = len(x)
        mirrored = _chance(n, 0.5 * flip, generator), _chance(n, probability * flip_vertical, generator)
        size = _sometimes(n, 1, probability * (scale > 0), generator)[:, 0]
        angle = _angle(n, generator) * _chance(n, probability * rotate, generator)
        strength = _sometimes(n, 1, probability * (stretch > 0), generator)[:, 0]
        axis = _angle(n, generator)
        move = _sometimes(n, 2, probability * (shift > 0), generator)
        parts = (*mirrored, size, angle.cos() - 1, angle.sin(), strength * axis.cos(), strength * axis.sin(), *move.T)
        conditions = torch.stack([part.double() for part in parts], dim=1).to(x.device)
        x = _flipped(_flipped(x, mirrored[0], -1), mirrored[1], -2)
        linear = _stretch(axis / 2, stretch * strength) @ _rotation(angle) * torch.exp2(scale * size)[:, None, None]
        displacement = shift * move * torch.tensor([x.shape[3], x.shape[2]], device=move.device)
        warped = (conditions[:, 2:] != 0).any(dim=1)
        if warped.any():
            x = x.clone()
            x[warped] = _warp(x[warped], linear.to(x.device)[warped], displacement.to(x.device)[warped])
        return x, conditions.to(x.dtype)

    return Augmentation(apply, 9)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {"none": none, "plain": plain, "non_leaking": non_leaking}


def _chance(n: int, probability: float, generator: Generator) -> Tensor:
    """Independent truth values (n,) of this probability."""
    return torch.rand(n, generator=generator, device=generator.device) < probability


def _sometimes(n: int, columns: int, probability: float, generator: Generator) -> Tensor:
    """Standard normal numbers (n, columns) float64, kept with this probability in each row, else 0."""
    normal = torch.randn(n, columns, generator=generator, device=generator.device, dtype=torch.float64)
    return normal * _chance(n, probability, generator)[:, None]


def _angle(n: int, generator: Generator) -> Tensor:
    """Angles (n,) float64 in radians, uniform in −π…π."""
    return (torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64) * 2 - 1) * math.pi


def _flipped(x: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """The chosen (B,) pictures mirrored along an axis."""
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(axis), x)


def _turned(x: Tensor, quarters: Tensor) -> Tensor:
    """Each picture rotated counter-clockwise by a number of quarters (B,). Raises UnblotError unless square."""
    if x.shape[2] != x.shape[3]:
        raise UnblotError(f"quarter turns need square pictures, these are {x.shape[2]}x{x.shape[3]}; leave quarter out")
    turns = torch.stack([x.rot90(k, (2, 3)) for k in range(4)])
    return turns[quarters.to(x.device), torch.arange(len(x), device=x.device)]


def _shifted(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each picture shifted by whole pixels (B,), its edge repeated."""
    rows = (torch.arange(x.shape[2]) - down.cpu()[:, None]).clamp(0, x.shape[2] - 1).to(x.device)
    columns = (torch.arange(x.shape[3]) - right.cpu()[:, None]).clamp(0, x.shape[3] - 1).to(x.device)
    n = torch.arange(len(x), device=x.device)[:, None, None]
    return x[n, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _rotation(angle: Tensor) -> Tensor:
    """Rotation matrices (B, 2, 2) of angles (B,) in radians."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _stretch(axis: Tensor, strength: Tensor) -> Tensor:
    """Matrices (B, 2, 2) that scale by 2**strength along an axis at this angle and by 2**−strength across it."""
    factors = torch.stack([torch.exp2(strength), torch.exp2(-strength)], -1)
    return _rotation(axis) @ torch.diag_embed(factors) @ _rotation(-axis)


def _warp(x: Tensor, linear: Tensor, displacement: Tensor) -> Tensor:
    """Pictures (B, C, H, W) under x → linear·x + displacement about their centre; bicubic, reflected at the edges.

    linear: (B, 2, 2), displacement: (B, 2) in pixels, both in the order (x, y).
    """
    height, width = x.shape[2:]
    half = torch.tensor([width / 2, height / 2], dtype=linear.dtype, device=x.device)
    y = (torch.arange(OVERSAMPLING * height, device=x.device) + 0.5) / OVERSAMPLING - half[1]
    z = (torch.arange(OVERSAMPLING * width, device=x.device) + 0.5) / OVERSAMPLING - half[0]
    target = torch.stack(torch.meshgrid(z, y, indexing="xy"), -1).reshape(1, -1, 2)  # pixel centres, (x, y)
    source = (target - displacement[:, None]) @ torch.linalg.inv(linear).mT / half
    grid = source.reshape(len(x), OVERSAMPLING * height, OVERSAMPLING * width, 2).to(x.dtype)
    fine = grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return avg_pool2d(fine, OVERSAMPLING)
