"""Augmentation: pictures mirrored, turned and shifted on their way into training.

Plain augmentation changes what is learnt: a model trained on mirrored pictures draws mirrored pictures, which is
welcome for photographs and wrong for text. The non-leaking kind also tells the network what was done, as a vector of
conditions; sampling with all conditions 0 draws pictures as they were (Karras et al. 2022, appendix F.2, after Karras
et al. 2020, "Training generative adversarial networks with limited data"). It helps small sets.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from unblot.errors import UnblotError

FINER = 2  # samples per pixel and axis in a warp, averaged, so that what shrinks does not alias


class Augmentation(NamedTuple):
    """A way of augmenting.

    apply(x, generator): the augmented pictures for x (B, C, H, W), and conditions (B, K), which are all 0 for a picture
    that was left as it is. Draws from the generator alone, on the generator's device. conditions: K, 0 if the network
    need not know.
    """

    apply: Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
    conditions: int


def none() -> Augmentation:
    """Pictures as they are."""
    return Augmentation(lambda x, generator: (x, x.new_zeros(len(x), 0)), 0)


def plain(*, flip: bool = False, flip_vertical: bool = False, quarter: bool = False, shift: int = 0) -> Augmentation:
    """Each picture mirrored left to right and top to bottom with probability ½, turned by 0 to 3 quarters, shifted.

    shift: up to so many pixels either way, the edge repeated. Raises UnblotError when quarter turns are asked for and
    pictures are not square.
    """
    if shift < 0:
        raise UnblotError(f"a shift of {shift} pixels makes no sense; give 0 or more")

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
    """Mirrored, scaled, rotated, stretched and shifted pictures, with what was done as 9 conditions.

    Each with this probability, but left-right mirroring with ½ (EDM's settings). scale, stretch: standard deviations
    of the binary logarithm of the factor; shift: of the way, as a share of height and width. The conditions: mirrored
    left to right, top to bottom, scale, cos(angle) − 1, sin(angle), stretch along two axes, shift in x and y, the
    last five and the scale in standard deviations. What lies outside is mirrored in.
    """
    if not 0 <= probability <= 1:
        raise UnblotError(f"an augmentation probability of {probability} makes no sense; give 0 to 1")

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
        way = shift * move * torch.tensor([x.shape[3], x.shape[2]], device=move.device)
        warped = (conditions[:, 2:] != 0).any(dim=1)
        if warped.any():
            x = x.clone()
            x[warped] = _warp(x[warped], linear.to(x.device)[warped], way.to(x.device)[warped])
        return x, conditions.to(x.dtype)

    return Augmentation(apply, 9)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {"none": none, "plain": plain, "non_leaking": non_leaking}


def _chance(n: int, probability: float, generator: Generator) -> Tensor:
    """(n,) bool, true with this probability."""
    return torch.rand(n, generator=generator, device=generator.device) < probability


def _sometimes(n: int, columns: int, probability: float, generator: Generator) -> Tensor:
    """Normal numbers (n, columns) float64, rows of 0 but with this probability."""
    drawn = torch.randn(n, columns, generator=generator, device=generator.device, dtype=torch.float64)
    return drawn * _chance(n, probability, generator)[:, None]


def _angle(n: int, generator: Generator) -> Tensor:
    """Angles (n,) float64, uniform in −π…π."""
    return (torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64) * 2 - 1) * math.pi


def _flipped(x: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """The chosen (B,) pictures mirrored along an axis."""
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(axis), x)


def _turned(x: Tensor, quarters: Tensor) -> Tensor:
    """Each picture turned by so many quarters (B,) against the clock."""
    if x.shape[2] != x.shape[3]:
        raise UnblotError(f"quarter turns need square pictures, these are {x.shape[2]}x{x.shape[3]}; leave quarter out")
    turns = torch.stack([x.rot90(k, (2, 3)) for k in range(4)])
    return turns[quarters.to(x.device), torch.arange(len(x), device=x.device)]


def _shifted(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each picture moved by whole pixels (B,), its edge repeated."""
    rows = (torch.arange(x.shape[2]) - down.cpu()[:, None]).clamp(0, x.shape[2] - 1).to(x.device)
    columns = (torch.arange(x.shape[3]) - right.cpu()[:, None]).clamp(0, x.shape[3] - 1).to(x.device)
    n = torch.arange(len(x), device=x.device)[:, None, None]
    return x[n, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 2, 2) that turn by an angle (B,)."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _stretch(axis: Tensor, strength: Tensor) -> Tensor:
    """Matrices (B, 2, 2) that stretch by 2**strength along an axis at this angle and shrink by it across."""
    factors = torch.stack([torch.exp2(strength), torch.exp2(-strength)], -1)
    return _rotation(axis) @ torch.diag_embed(factors) @ _rotation(-axis)


def _warp(x: Tensor, linear: Tensor, way: Tensor) -> Tensor:
    """Pictures (B, C, H, W) under x → linear·x + way about their middle, in pixels; bicubic, mirrored at the edges.

    linear: (B, 2, 2), way: (B, 2), both (x, y).
    """
    height, width = x.shape[2:]
    half = torch.tensor([width / 2, height / 2], dtype=linear.dtype, device=x.device)
    y = (torch.arange(FINER * height, device=x.device) + 0.5) / FINER - half[1]
    z = (torch.arange(FINER * width, device=x.device) + 0.5) / FINER - half[0]
    target = torch.stack(torch.meshgrid(z, y, indexing="xy"), -1).reshape(1, -1, 2)  # pixel centres, (x, y)
    source = (target - way[:, None]) @ torch.linalg.inv(linear).mT / half
    grid = source.reshape(len(x), FINER * height, FINER * width, 2).to(x.dtype)
    fine = grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return avg_pool2d(fine, FINER)
