"""Drawing pictures: everything between a trained denoiser and a tensor of pictures, batch by batch."""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from unblot.denoiser import Denoiser
from unblot.process.levels import NoiseLevel, broadcast, norm
from unblot.process.randomness import picture_generators
from unblot.process.schedules import SCHEDULES
from unblot.sampling.guidance import Guidance, guided
from unblot.sampling.loop import Progress, pictures_noise, sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS
from unblot.specs import build


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
    labels: Tensor | None = None,
    guidance: Guidance | None = None,
    batch_size: int = 64,
    on_step: Callable[[Progress], None] | None = None,
) -> Iterator[Tensor]:
    """Batches (b, *shape) of the pictures numbered `indices`, in the network's range, on the denoiser's device.

    schedule, grid, solver: specs into SCHEDULES, GRIDS and SOLVERS; labels: (len(indices),) int64 on the CPU or None;
    guidance: with one scale for all, or one for each of the pictures. Picture i follows from (seed, i), its label and
    its scale alone. Raises UnblotError for a bad spec.
    """
    levels = sampling_levels(schedule, spacing, steps)
    rule = build(SOLVERS, solver, "solver")
    device = next(denoiser.parameters()).device
    prior_std = norm(levels.at(0), denoiser.data_std)
    for first in range(0, len(indices), batch_size):
        part = slice(first, first + batch_size)
        noise = pictures_noise(picture_generators(seed, indices[part]), shape, device)
        label = None if labels is None else labels[part].to(device)
        denoise = guided(denoiser, label, (guidance or Guidance()).at(part))
        x_T = noise()
        yield sample(denoise, broadcast(prior_std, x_T) * x_T, levels, rule, noise, on_step)


def sampling_levels(schedule: str, spacing: str, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) that a grid chooses of a schedule, noisiest first. Raises UnblotError for a bad spec."""
    return build(SPACINGS, spacing, "spacing")(build(SCHEDULES, schedule, "schedule"), steps)
