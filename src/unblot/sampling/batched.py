"""Sampling in batches: everything between a trained denoiser and a tensor of pictures."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Generator, Tensor

from unblot.denoiser import Condition, Denoiser
from unblot.process.levels import NoiseLevel
from unblot.process.prior import Prior
from unblot.process.randomness import picture_generators
from unblot.process.schedules import SCHEDULES
from unblot.sampling.guidance import Guidance, guided
from unblot.sampling.loop import Denoise, Noise, Progress, Solver, pictures_noise, sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import spaced_levels
from unblot.specs import build


class SamplingBatch(NamedTuple):
    """What one batch of pictures is sampled with.

    part: the slice of the call's pictures that it holds. denoise: the denoiser, with condition and guidance bound in.
    levels: (N + 1,), noisiest first. noise: from each picture's own generator. prior: of x_T.
    """

    part: slice
    denoise: Denoise
    levels: NoiseLevel
    solver: Solver
    noise: Noise
    prior: Prior

    def x_T(self) -> Tensor:
        """x at the first level (B, C, H, W), independent of any picture."""
        return self.prior.draw(self.noise())


def split_batches(
    denoiser: Denoiser,
    shape: Sequence[int],
    indices: Sequence[int],
    levels: NoiseLevel,
    solver: Solver,
    *,
    seed: int,
    condition: Condition | None = None,
    guidance: Guidance | None = None,
    batch_size: int = 64,
) -> Iterator[SamplingBatch]:
    """The batches in which the pictures numbered `indices`, each of `shape` (C, H, W), are sampled.

    condition: of len(indices) pictures, or None. guidance: with one scale, or one per picture (len(indices),).
    """
    for first in range(0, len(indices), batch_size):
        part = slice(first, first + batch_size)
        generators = picture_generators(seed, indices[part])
        given, how = (condition or Condition()).rows(part), (guidance or Guidance()).at(part)
        yield batch_of(denoiser, shape, generators, levels, solver, given, how)._replace(part=part)


def batch_of(
    denoiser: Denoiser,
    shape: Sequence[int],
    generators: Sequence[Generator],
    levels: NoiseLevel,
    solver: Solver,
    condition: Condition,
    guidance: Guidance,
) -> SamplingBatch:
    """The batch of one picture of `shape` (C, H, W) for each generator; condition and guidance: of as many pictures."""
    device = next(denoiser.parameters()).device
    denoise = guided(denoiser, condition.to(device), guidance)
    noise = pictures_noise(generators, shape, device)
    return SamplingBatch(slice(0, len(generators)), denoise, levels, solver, noise, denoiser.prior(levels.at(0)))


def sample_batches(
    denoiser: Denoiser,
    shape: Sequence[int],
    indices: Sequence[int],
    *,
    schedule: str,
    spacing: str,
    solver: str,
    steps: int,
    seed: int = 0,
    condition: Condition | None = None,
    guidance: Guidance | None = None,
    batch_size: int = 64,
    on_step: Callable[[Progress], None] | None = None,
) -> Iterator[Tensor]:
    """Samples in batches (b, *shape), in the network's range, on the denoiser's device.

    schedule, spacing, solver: specs into SCHEDULES, SPACINGS and SOLVERS. The other arguments: see `split_batches`.
    Picture i is a function of (seed, i), its label, its text and its guidance scale. Raises UnblotError for a bad spec.
    """
    levels, rule = sampling_levels(schedule, spacing, steps), build(SOLVERS, solver, "solver")
    batches = split_batches(
        denoiser, shape, indices, levels, rule, seed=seed, condition=condition, guidance=guidance, batch_size=batch_size
    )
    for batch in batches:
        yield sample(batch.denoise, batch.x_T(), levels, rule, batch.noise, on_step)


def sampling_levels(schedule: str, spacing: str, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) of a spacing on a schedule (specs), noisiest first. Raises UnblotError for a bad spec."""
    return spaced_levels(build(SCHEDULES, schedule, "schedule"), spacing, steps)
