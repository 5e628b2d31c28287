"""What one training step is made of: which pictures, at which times, with which noise.

A batch is cut into RNG chunks of RNG_CHUNK pictures. All that is random in a chunk comes from its own generator, from
(seed, step, chunk), so that a batch is the same on any number of processes, and after a resume.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.config.schema import RunConfig, TrainConfig
from unblot.data.augment import AUGMENTATIONS
from unblot.data.clusters import clustered_again
from unblot.data.dataset import Dataset
from unblot.denoiser import Condition
from unblot.errors import UnblotError, arg
from unblot.latent.latents import encoded, latents_of
from unblot.process.levels import per_picture
from unblot.process.randomness import chunk_generator, epoch_order, stratified_uniform, uniform_indices
from unblot.process.schedules import SCHEDULES, Schedule, only_at
from unblot.sampling.batched import sampling_levels
from unblot.specs import build
from unblot.text.encoder import tokenizer_of
from unblot.text.tokenizer import captions_of

RNG_CHUNK = 16  # pictures
DDPM_STEPS = 1000  # DDPM's T
CAPTION, LABEL, BOTH = 0, 1, 2  # what stays of a picture's label and caption, where they are not hidden
TIMES = ("stratified", "index", "adaptive", "spacing")


class BatchDraw(NamedTuple):
    """The random part of a step for B pictures: positions among the training pictures (B,), the epoch that each
    belongs to (B,), times (B,), noise (B, C, H, W), whether label and caption are hidden (B,) bool, which of the
    two stays of a picture that has both (B,), see CAPTION, and the generator of each RNG chunk, for what is drawn
    later. Adaptive times are made from these times by `loss_by_time.times_of`."""

    pictures: Tensor
    epochs: Tensor
    t: Tensor
    eps: Tensor
    hidden: Tensor
    kept: Tensor
    generators: list[torch.Generator]


class Batch(NamedTuple):
    """The input of a step: pictures and noise (B, C, H, W) and times (B,), on the CPU as all levels are.

    label: (B,) int64. tokens: (B, L) int64, of the captions. augmentation: (B, K), how each picture was augmented.
    second_noise: (B, C, H, W), for distillation. weight: (B,) on the CPU, what each loss is multiplied by. balance:
    (B,) on the CPU, what the loss that is logged is multiplied by in the gradient alone. Each is None where there is
    none.
    """

    x0: Tensor
    t: Tensor
    eps: Tensor
    label: Tensor | None = None
    tokens: Tensor | None = None
    augmentation: Tensor | None = None
    second_noise: Tensor | None = None
    weight: Tensor | None = None
    balance: Tensor | None = None

    @property
    def condition(self) -> Condition:
        """The labels and captions."""
        return Condition(self.label, self.tokens)

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device; on CUDA, where nothing reads a copy before it is there, without a wait for it."""
        return self._each(lambda x: x.to(device, non_blocking=device.type == "cuda"))

    def pinned(self) -> "Batch":
        """The batch in page-locked memory, which a GPU reads by itself."""
        return self._each(Tensor.pin_memory)

    def rows(self, part: slice) -> "Batch":
        """Some pictures of the batch."""
        return Batch(*(None if x is None else x[part] for x in self))  # type: ignore[arg-type]

    def weighted(self, losses: Tensor) -> Tensor:
        """The losses (B,) of these pictures, multiplied by `weight`."""
        return _multiplied(losses, self.weight)

    def balanced(self, losses: Tensor) -> Tensor:
        """The losses (B,) of these pictures, multiplied by `balance`."""
        return _multiplied(losses, self.balance)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        names = "x0", "eps", "label", "tokens", "augmentation", "second_noise"
        return self._replace(**{n: change(x) for n in names if (x := getattr(self, n)) is not None})


def _multiplied(losses: Tensor, factor: Tensor | None) -> Tensor:
    return losses if factor is None else losses * per_picture(factor, losses)


@dataclass
class BatchSampler:
    """The random part of every step of a run. Every pass over the `count` training pictures takes each of them once.

    times: "stratified" spreads the times of a batch evenly over [0, 1]; "index" draws DDPM's i/1000 uniformly;
    "spacing" is stratified, over a schedule that `only_at` made of the levels that sampling visits; "adaptive" is
    stratified too: quantiles of a density that is learned during training and so is not known here.
    order: gives the pictures of a pass from (seed, pass, start, stop), all of them or the first few; None for
    `epoch_order`.
    """

    seed: int
    batch_size: int
    count: int
    shape: tuple[int, ...]
    times: str
    label_dropout: float
    order: Callable[[int, int, int, int], Tensor] | None = None

    def __post_init__(self) -> None:
        check_times(self.times)

    def at(self, step: int, rank: int = 0, world: int = 1) -> BatchDraw:
        """The random part of step 0, 1, …; of several processes each takes every `world`-th RNG chunk.

        Raises UnblotError where there are more processes than chunks.
        """
        check_processes(self.batch_size, world)
        numbers = range(-(-self.batch_size // RNG_CHUNK))[rank::world]
        generators = [chunk_generator(self.seed, step, chunk) for chunk in numbers]
        chunks = [self._chunk(chunk, g) for chunk, g in zip(numbers, generators, strict=True)]
        t, eps, hidden, kept = (torch.cat(column) for column in zip(*chunks, strict=True))
        pictures, epochs = (
            torch.cat([whole.split(RNG_CHUNK)[chunk] for chunk in numbers]) for whole in self._pictures(step)
        )
        return BatchDraw(pictures, epochs, t, eps, hidden, kept, generators)

    def _chunk(self, chunk: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = chunk * RNG_CHUNK
        n = min(RNG_CHUNK, self.batch_size - first)
        if self.times == "index":
            t = uniform_indices(n, DDPM_STEPS, g).double() / DDPM_STEPS
        else:
            t = stratified_uniform(n, self.batch_size, first, g)
        eps = torch.randn(n, *self.shape, generator=g)
        u, share = torch.rand(n, generator=g), self.label_dropout
        alone = min(share, (1 - share) / 3)  # the share of pictures that keep a caption alone, and a label alone
        kept = torch.bucketize(u, torch.tensor([share + alone, share + 2 * alone]), right=True)
        return t, eps, u < share, kept

    def _pictures(self, step: int) -> tuple[Tensor, Tensor]:
        """The pictures of a batch (B,), and the epoch that each belongs to (B,)."""
        start, parts, epochs, missing = step * self.batch_size, [], [], self.batch_size
        while missing:
            epoch, offset = divmod(start, self.count)
            part = self._part(epoch, offset, min(offset + missing, self.count))
            parts.append(part)
            epochs.append(torch.full_like(part, epoch))
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts), torch.cat(epochs)

    def _part(self, epoch: int, start: int, stop: int) -> Tensor:
        """The pictures at positions start … stop − 1 of a pass, or the first few of them."""
        if self.order is not None:
            return self.order(self.seed, epoch, start, stop)
        return epoch_order(self.seed, epoch, self.count)[start:stop]


def check_processes(batch_size: int, world: int) -> None:
    """Raises UnblotError where there are more processes than RNG chunks in a batch."""
    if world > -(-batch_size // RNG_CHUNK):
        raise UnblotError(
            f"a batch of {batch_size} pictures cannot be shared out among {world} processes; give "
            f"{arg('batch_size', RNG_CHUNK * world)} or more"
        )


class BatchMaker:
    """The batches of a run, on the CPU: pictures, augmented, with their times, noise, labels or clusters, and captions.

    augment: a spec in AUGMENTATIONS. second_noise: whether each picture gets another noise, independent of the first.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, augment: str, second_noise: bool = False):
        train, text = config.train, config.data.text
        self.tokenizer = None if text is None else tokenizer_of(train.text_encoder, text)
        dataset = clustered_again(dataset, config.data.clusters)
        self.dataset, self.second_noise = dataset, second_noise
        self.x0_dataset = latents_of(dataset)  # the pictures, or their latents
        stream = self.stream = dataset.stream
        at_hand = augment == "none" and stream is None  # what is augmented, or comes from shards, is encoded afterwards
        self.encode = None if at_hand else dataset.autoencoder
        self.no_label = config.data.num_labels  # the label that stands for a hidden one
        self.sampler = BatchSampler(
            train.seed,
            train.batch_size,
            dataset.training_count,
            config.shape,
            train.times,
            train.label_dropout,
            None if stream is None else stream.order,
        )
        self.augment = build(AUGMENTATIONS, augment, "augmentation")
        self.coupling = build(COUPLINGS, train.coupling, "coupling")

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step, or one process's share of it."""
        draw = self.sampler.at(step, rank, world)
        x0, label, captions = self._read(draw)
        chunks = zip(x0.split(RNG_CHUNK), draw.generators, strict=True)
        x0, augmented = (torch.cat(c) for c in zip(*(self.augment.apply(x, g) for x, g in chunks), strict=True))
        if self.encode is not None:
            x0 = encoded(self.encode, x0)
        eps = self.coupling(x0, draw.eps)
        tokens = None if self.tokenizer is None or captions is None else self.tokenizer(captions)
        label, tokens = self._hidden(draw, label, tokens, captions or [])
        second_noise = None
        if self.second_noise:
            pairs = zip(x0.split(RNG_CHUNK), draw.generators, strict=True)
            second_noise = torch.cat([torch.randn(x.shape, generator=g) for x, g in pairs])
        x0, eps = (x.contiguous(memory_format=torch.channels_last) for x in (x0, eps))
        return Batch(x0, draw.t, eps, label, tokens, augmented if self.augment.conditions else None, second_noise)

    def _read(self, draw: BatchDraw) -> tuple[Tensor, Tensor | None, list[str] | None]:
        """The pictures (B, C, H, W) of a draw, or their latents, labels (B,), and the captions whose turn it is."""
        positions, turns = draw.pictures.numpy(), draw.epochs.tolist()
        if self.stream is not None:
            captions = self.stream.captions_of(positions)
            return *self.stream.batch(positions), captions_of(captions, range(len(positions)), turns)
        indices = self.dataset.train[positions]
        x0, label = (self.x0_dataset if self.encode is None else self.dataset).batch(indices)
        return x0, label, captions_of(self.dataset.captions, indices.tolist(), turns)

    def _hidden(
        self, draw: BatchDraw, label: Tensor | None, tokens: Tensor | None, captions: list[str]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The labels and tokens without those that this step hides; a picture with caption "" has a label alone."""
        both = torch.zeros_like(draw.hidden)
        if label is not None and tokens is not None:
            both = torch.tensor([text != "" for text in captions])
        if label is not None:
            label = torch.where(draw.hidden | (draw.kept == CAPTION) & both, self.no_label, label)
        if tokens is not None and self.tokenizer is not None:
            hidden = draw.hidden | (draw.kept == LABEL) & both
            tokens = torch.where(hidden[:, None], self.tokenizer([""]), tokens)
        return label, tokens


# --- which noise goes to which picture


def independent() -> Callable[[Tensor, Tensor], Tensor]:
    """Noise that is independent of its picture."""
    return lambda x0, eps: eps


def ot() -> Callable[[Tensor, Tensor], Tensor]:
    """Optimal-transport coupling: the noise of each RNG chunk is permuted so that the sum of squared distances between
    pictures and noise is least.

    Immiscible diffusion (Li et al. 2024), minibatch optimal transport (Pooladian et al. 2023), with minibatches of one
    chunk. Each noise is still normal, but no longer independent of its picture.
    """
    from scipy.optimize import linear_sum_assignment

    def assign(x0: Tensor, eps: Tensor) -> Tensor:
        """x0, eps: (B, C, H, W), in RNG chunks; returns eps in another order within each chunk, on the CPU."""
        parts = []
        for pictures, noise in zip(x0.cpu().split(RNG_CHUNK), eps.split(RNG_CHUNK), strict=True):
            _, order = linear_sum_assignment(-(pictures.flatten(1) @ noise.flatten(1).T).numpy())
            parts.append(noise[torch.from_numpy(order)])
        return torch.cat(parts)

    return assign


COUPLINGS: dict[str, Callable[..., Callable[[Tensor, Tensor], Tensor]]] = {
    "independent": independent,
    "ot": ot,
}


def check_times(times: str) -> None:
    """Raises UnblotError for times that are not in TIMES."""
    if times not in TIMES:
        raise UnblotError(f"unknown times {times!r}; choose one of {', '.join(TIMES)}")


def training_schedule(train: TrainConfig) -> Schedule:
    """The schedule of the training levels: the run's own, or for times "spacing" the levels that sampling visits."""
    if train.times == "spacing":
        return only_at(sampling_levels(train.schedule, train.spacing, train.sampling_steps))
    return build(SCHEDULES, train.schedule, "schedule")
