"""The training engine: all the state of a run in training, and the step that changes it."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.data.augment import AUGMENTATIONS
from unblot.data.clusters import clustered
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.distillation.distill import MATCHED_FROM, Distillation
from unblot.errors import UnblotError
from unblot.losses import OBJECTIVES, WEIGHTINGS, bound_loss, training_loss
from unblot.runs.folder import build_denoiser
from unblot.specs import build
from unblot.system.compiling import compile_where_it_pays
from unblot.system.device import available_device, mixed_precision
from unblot.system.distributed import join_group, sum_gradients, sum_over
from unblot.system.sharding import gathered, like, shard, wants_shards, whole
from unblot.training.adaptive_times import Adaptive
from unblot.training.averages.ema import Ema
from unblot.training.batches import COUPLINGS, RNG_CHUNK, Batch, BatchDraw, BatchSampler, training_schedule
from unblot.training.learning_rate import Switch, learning_rate
from unblot.training.optim import Optimizer
from unblot.training.prefetch import Prefetcher
from unblot.vlb import decoder_of, reverse_step


class StepResult(NamedTuple):
    """What a step did, on the device, so that nobody waits for it who does not read it.

    The mean loss of its batch, the norm of the gradient before clipping, and how many steps in a row up to this one
    were skipped because their gradient was not finite.
    """

    loss: Tensor
    grad_norm: Tensor
    skipped_steps: Tensor


class Trainer:
    """All the state of a run in training: what learns, average, optimisers, steps taken, and a factor on the rate."""

    def __init__(self, config: RunConfig, dataset: Dataset, teacher: Denoiser | None = None):
        """teacher: what a distilled run starts as and learns from."""
        train = config.train
        self.config = config
        self.group = join_group()
        self.device = available_device(train.device)
        clusters = len(config.data.clusters)
        self.dataset = dataset = clustered(dataset, clusters) if clusters else dataset
        self.denoiser = build_denoiser(config).to(self.device)
        self.distilling = None
        if teacher is not None:
            self.denoiser.load_state_dict(teacher.state_dict())
            self.distilling = Distillation(teacher.to(self.device), config)
        spread = train.shard, self.group, self.denoiser, train.optimizer, self.device
        self.sharded = teacher is None and wants_shards(*spread)
        if self.sharded:
            shard(self.denoiser.network, self.group, self.device)
        self.ema = Ema(self.denoiser, train.ema)
        self.learners = {"": self.denoiser} | ({"critic_": self.distilling.critic} if self.distilling else {})
        self.optimizers = {k: Optimizer(m, train.optimizer, train.weight_decay) for k, m in self.learners.items()}
        self.batch_sampler = BatchSampler(
            train.seed,
            train.batch_size,
            len(dataset.train),
            config.data.shape,
            training_schedule(train),
            train.times,
            train.label_dropout,
        )
        self.adaptive = Adaptive(self.device) if train.times == "adaptive" else None
        self.coupling = build(COUPLINGS, train.coupling, "coupling")
        # What a teacher was taught with changed pictures, it knows: its student sees them as they are.
        self.augment = build(AUGMENTATIONS, train.augment if teacher is None else "none", "augmentation")
        self.objective = build(OBJECTIVES, train.objective, "objective")
        self.decoder = decoder_of(dataset.values, self.device)
        self.weighting = build(WEIGHTINGS, train.weighting, "weighting")
        mixed_precision(train.precision, self.device)  # refuses what the device has not
        self.prefetcher = Prefetcher(self._share, self.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        self.step = 0
        self.rate_scale = 1.0
        self.switch: Switch | None = None
        self.skipped_steps = torch.zeros((), device=self.device)
        self.micro_batch = train.batch_size  # pictures that go through the network at a time

    def take_step(self) -> StepResult:
        """One step of the optimiser and of the average; a gradient that is not finite leaves the weights as they are.

        Without a wait for the device. Raises UnblotError where not even one picture fits into its memory.
        """
        self.denoiser.train()
        rate = self.rate_scale * learning_rate(self.config.train, self.step, self.switch)
        if self.adaptive is not None:
            self.adaptive.refresh(self.step)
        batch = self.timed(self.prefetcher.at(self.step)).to(self.device)
        losses = self._gradients(batch)
        loss = self._share_of_mean(losses, batch.t)
        learning = list(self.learners) if self._matches else [""]
        norms = [self._clip(self.learners[name]) for name in learning]
        sum_over(self.group, loss)
        bad = ~(torch.isfinite(torch.stack(norms)).all() & torch.isfinite(loss))
        if self.adaptive is not None:
            self.adaptive.learn(losses, batch.t, bad, self.group)
        for name in learning:
            self.optimizers[name].step(rate, bad)
        self.skipped_steps = torch.where(bad, self.skipped_steps + 1, 0)
        self.step += 1
        self.ema.update(self.denoiser, self.step)
        return StepResult(loss, norms[0], self.skipped_steps)

    @property
    def _matches(self) -> bool:
        return self.distilling is not None and self.step >= MATCHED_FROM * self.config.train.steps

    def _clip(self, module: torch.nn.Module) -> Tensor:
        """Sums the gradients over all processes and clips them; their norm before that."""
        if not self.sharded:  # which sums them on its own
            sum_gradients(self.group, module.parameters())
        return whole(torch.nn.utils.clip_grad_norm_(module.parameters(), self.config.train.clip_norm))

    def compile(self, note: Callable[[str], None]) -> None:
        """Lets the network run through torch.compile, where that is asked for or pays; not where it is spread out."""
        if self.sharded:
            return
        left = self.config.train.steps - self.step
        batch = self.prefetcher.at(self.step).to(self.device)
        self.denoiser.train()
        try:
            mode, network = self.config.train.compile, self.denoiser.network
            compile_where_it_pays(network, mode, self.device, lambda: self._gradients(batch), left, note)
        finally:
            self._forget_gradients()

    def _gradients(self, batch: Batch) -> Tensor:
        """Adds this process's share of the gradients of the batch's mean loss; returns its losses, (n,).

        Where memory runs out, half as many pictures go through the network at a time, from then on.
        """
        while True:
            try:
                return self._passes(batch)
            except torch.OutOfMemoryError:
                if self.micro_batch == 1:
                    raise UnblotError("one picture does not fit into the memory; use a smaller --network") from None
                if self.sharded:  # the other processes are in the middle of this pass
                    raise UnblotError("out of memory; use a smaller --batch-size, or more processes") from None
            # Out here the failed pass has let go of its memory, which the error held.
            self.micro_batch = -(-min(self.micro_batch, len(batch.x0)) // 2)
            self._forget_gradients()
            torch.cuda.empty_cache()

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _passes(self, batch: Batch) -> Tensor:
        """Forward and backward, as many pictures at a time as fit."""
        parts = []
        for first in range(0, len(batch.x0), self.micro_batch):
            rows = slice(first, first + self.micro_batch)
            losses = self.losses(batch, rows)
            loss = self._share_of_mean(losses, batch.t[rows])
            (loss * self.group.world if self.sharded else loss).backward()  # FSDP takes the mean over processes
            parts.append(losses.detach())
        return torch.cat(parts)

    def _share_of_mean(self, losses: Tensor, t: Tensor) -> Tensor:
        """What these losses (n,), of times t, add to the mean loss of the batch over uniform times."""
        losses = losses if self.adaptive is None else self.adaptive.weighted(losses, t)
        return losses.sum() / self.config.train.batch_size

    def timed(self, batch: Batch) -> Batch:
        """The batch at the times of the present step: those it was made with, or adaptive ones in their place.

        Not in the feed, which makes batches ahead, when their density is not known yet.
        """
        return batch if self.adaptive is None else batch._replace(t=self.adaptive.times(batch.t))

    def _share(self, step: int) -> Batch:
        """This process's share of the batch of a step, for `Feed`."""
        batch = self.batch(self.batch_sampler.at(step, self.group.rank, self.group.world))
        return batch.pinned() if self.device.type == "cuda" else batch

    def batch(self, draw: BatchDraw) -> Batch:
        """The pictures of a draw, augmented, with their noise and labels, on the CPU."""
        x0, label = self.dataset.batch(self.dataset.train[draw.pictures.numpy()])
        chunks = zip(x0.split(RNG_CHUNK), draw.generators, strict=True)
        x0, conditions = (torch.cat(c) for c in zip(*(self.augment.apply(x, g) for x, g in chunks), strict=True))
        eps = self.coupling(x0, draw.eps)
        if label is not None:
            label = torch.where(draw.hidden, self.denoiser.num_classes, label)
        second_noise = x0.new_empty(len(x0), 0)
        if self.distilling is not None:
            pairs = zip(x0.split(RNG_CHUNK), draw.generators, strict=True)
            second_noise = torch.cat([torch.randn(x.shape, generator=g) for x, g in pairs])
        x0, eps = (x.contiguous(memory_format=torch.channels_last) for x in (x0, eps))
        return Batch(x0, draw.t, eps, label, conditions, second_noise)

    def losses(self, batch: Batch, rows: slice) -> Tensor:
        """The loss that training lowers, weighted, of each of these pictures of the batch, (B,)."""
        x0, t, eps, label, conditions, second_noise = batch
        x0, t, eps, conditions = x0[rows], t[rows], eps[rows], conditions[rows]
        label = None if label is None else label[rows]
        with mixed_precision(self.config.train.precision, self.device):
            if self.distilling is not None:
                return self.distilling.losses(self.denoiser, x0, t, eps, second_noise[rows], label, self._matches)
            level = self.batch_sampler.schedule(t)
            weight = self.weighting(level, self.denoiser)
            if self.objective.steps:
                steps = reverse_step(self.batch_sampler.schedule, t, self.objective.steps)
                taught = self.objective, self.decoder
                return bound_loss(self.denoiser, x0, steps, eps, *taught, label, weight, conditions)
            return training_loss(self.denoiser, x0, level, eps, label, weight, conditions)

    def change_steps(self, steps: int) -> None:
        """From now on the run has so many steps in all; the learning rate goes over to theirs without a jump."""
        self.switch = Switch(self.step, learning_rate(self.config.train, self.step, self.switch))
        self.set_steps(steps)

    def set_steps(self, steps: int) -> None:
        """Says how many steps the run has in all, as a checkpoint knew it."""
        self.config = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, steps=steps))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the denoiser carries the averaged weights."""
        live = {name: p.detach().clone() for name, p in self.denoiser.named_parameters()}
        _assign(self.denoiser, self.ema.weights)
        self.denoiser.eval()
        try:
            with torch.compiler.set_stance("force_eager"):  # each other size of batch would compile anew
                yield
        finally:
            _assign(self.denoiser, live)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold, by name."""
        adaptive = {} if self.adaptive is None else self.adaptive.tensors()
        return {
            **{f"{k}weights/{name}": p for k, module in self.learners.items() for name, p in module.named_parameters()},
            **self.ema.tensors(),
            **{f"{k}optimizer/{name}": v for k, made in self.optimizers.items() for name, v in made.tensors().items()},
            **{f"times/{name}": value for name, value in adaptive.items()},
        }

    def for_leader(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """These tensors, whole, in the process that writes, and none in others; all must call it at once."""
        return gathered(self.group, tensors)

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Takes up the state that `tensors` gave after step `step`."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        for kind, module in self.learners.items():
            _assign(module, parts[f"{kind}weights"])
            self.optimizers[kind].load(parts[f"{kind}optimizer"])
        self.ema.load(tensors)
        if self.adaptive is not None:
            self.adaptive.load(parts["times"])
        self.step = step
        self.skipped_steps = torch.zeros_like(self.skipped_steps)


@torch.no_grad()
def _assign(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.copy_(like(weights[name], parameter))
