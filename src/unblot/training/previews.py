"""Previews: samples of a run in training, always from the same noise and of the same labels and captions."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unblot.config.schema import DataFacts
from unblot.data.output import save_sheet, sheet
from unblot.denoiser import Condition
from unblot.process.randomness import ADVERSARIAL, generator, labels_for, training_order
from unblot.runs.choosing import guidance_as_trained
from unblot.sampling.batched import sample_batches
from unblot.sampling.guidance import Guidance
from unblot.text.tokenizer import captions_of
from unblot.training.trainer import Trainer

PREVIEW_PICTURES, PREVIEW_STEPS = 40, 20
PREVIEW_PIXELS = PREVIEW_PICTURES * 2**16  # of all of them: fewer pictures where they are larger than 256x256
PREVIEW_VALUES = 2**22  # of the pictures that are sampled at a time


def preview_count(data: DataFacts) -> int:
    """The number of samples in a preview, at least 1."""
    if data.kind == "points":
        return 25 * PREVIEW_PICTURES
    return min(PREVIEW_PICTURES, max(1, PREVIEW_PIXELS // (data.height * data.width)))


def preview_pictures(trainer: Trainer, steps: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The samples of a preview, (N, C, H, W) in the network's range, in `steps` steps, and their labels."""
    x0, labels = preview_samples(trainer, steps)
    return preview_decoded(trainer, x0), labels


def write_preview(trainer: Trainer, path: Path) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Writes a preview as a grid; what `preview_pictures` gave, and None in a process that does not write."""
    if not (trainer.group.is_main_process or trainer.sharded):  # sampling a sharded network needs all processes
        return None
    pictures, labels = preview_pictures(trainer, PREVIEW_STEPS)
    if not trainer.group.is_main_process:
        return None
    values = trainer.task.batches.dataset.values
    captions = preview_prompts(trainer, len(pictures))
    shown = sheet(values.decode(pictures.numpy()), values, columns=10, captions=captions)
    save_sheet(path, shown, {} if captions is None else {"captions": captions})
    return pictures, labels


def preview_samples(trainer: Trainer, steps: int) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """The x0 of a preview in batches (n, c, h, w): pictures, or latents to decode; and the labels (N,)."""
    config = trainer.config
    data, seed = config.data, config.train.seed
    indices = range(preview_count(data))
    unlabelled = trainer.task.batches.dataset.labels is None  # also of an adapter for a run with classes
    labels = labels_for(seed, indices, classes=0 if unlabelled else len(data.classes), clusters=data.clusters)
    condition = trainer.denoiser.condition(labels, preview_prompts(trainer, len(indices)))
    with trainer.averaged(), trainer.task.autocast():
        return list(_samples(trainer, indices, steps, seed, condition)), labels


def preview_decoded(trainer: Trainer, x0: Iterable[torch.Tensor]) -> torch.Tensor:
    """The pictures (N, C, H, W) of batches of x0, on the CPU."""
    return torch.cat([trainer.denoiser.pictures(part, trainer.config.data.shape[1:]).cpu() for part in x0])


def drawn_latents(trainer: Trainer, count: int, stopped: Callable[[], bool]) -> torch.Tensor:
    """Latents that the averaged weights draw, (n, c, h, w) on the CPU: with the labels and captions of training
    pictures in random order, of noise that no call of `sample` begins with. n: `count`, fewer where it is `stopped`.
    """
    config, dataset = trainer.config, trainer.task.batches.dataset
    seed = int(generator(config.train.seed, ADVERSARIAL, 0).initial_seed())
    chosen = dataset.train[training_order(len(dataset.train), seed, count).numpy()]
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[chosen])
    prompts = None if config.data.text is None else captions_of(dataset.captions, chosen.tolist())
    guidance = Guidance(scale=guidance_as_trained(config))
    found = []
    with trainer.averaged(), trainer.task.autocast():
        condition = trainer.denoiser.condition(labels, prompts)
        for x0 in _samples(trainer, range(count), PREVIEW_STEPS, seed, condition, guidance):
            found.append(x0.cpu())
            if stopped():
                break
    return torch.cat(found)


def _samples(
    trainer: Trainer,
    indices: Sequence[int],
    steps: int,
    seed: int,
    condition: Condition,
    guidance: Guidance | None = None,
) -> Iterator[torch.Tensor]:
    """What the weights as they are draw, in batches."""
    config = trainer.config
    how: dict[str, Any] = {"spacing": "karras", "solver": "dpmpp_2m", "steps": steps}
    if config.distill is not None:  # a student samples well only in its own steps
        how = {"spacing": config.train.spacing, "solver": config.train.solver, "steps": config.train.sampling_steps}
    trained = min(trainer.micro_batch, -(-config.train.batch_size // trainer.group.world))  # pictures at a time
    return sample_batches(
        trainer.denoiser,
        config.shape,
        indices,
        schedule=config.train.schedule,
        **how,
        seed=seed,
        condition=condition,
        guidance=guidance,
        batch_size=max(1, min(64, trained, PREVIEW_VALUES // math.prod(config.data.shape))),
    )


def preview_prompts(trainer: Trainer, count: int) -> list[str] | None:
    """The texts of a preview: captions of held-out pictures, or of training pictures where there are too few; None
    where the run reads none."""
    if trainer.config.data.text is None:
        return None
    dataset = trainer.task.batches.dataset
    chosen = np.concatenate([dataset.held_out, dataset.train])
    return captions_of(dataset.captions, np.resize(chosen, count).tolist())
