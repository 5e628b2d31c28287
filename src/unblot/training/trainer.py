"""The training engine: the state of a run in training, and the step that changes it."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg, is_out_of_memory
from unblot.nn.recomputing import recompute
from unblot.process.randomness import DROPOUT, generator, seeded
from unblot.runs.folder import buffers
from unblot.system.compiling import compile_where_it_pays, is_compiled
from unblot.system.device import available_device, give_memory_back
from unblot.system.distributed import Group, join_group, sum_gradients, sum_over
from unblot.system.files import under
from unblot.system.sharding import forget_gathered, gathered, like, shard, wants_shards, whole
from unblot.training.averages.ema import Ema
from unblot.training.batches import Batch, BatchMaker, check_processes
from unblot.training.learning_rate import Switch, learning_rate
from unblot.training.memory import pictures_at_a_time
from unblot.training.optim import Optimizer
from unblot.training.prefetch import Prefetcher
from unblot.training.task import DenoisingTask, Task
from unblot.training.transfer import Pretrained, load_pretrained


class StepResult(NamedTuple):
    """What a step did, as tensors () on the device: only reading them waits for it.

    The mean loss of its batch, the norm of the model's gradient before clipping, and how many steps in a row, up to
    this one, were skipped because their loss or gradient was not finite.
    """

    loss: Tensor
    grad_norm: Tensor
    skipped_steps: Tensor


class Trainer:
    """The state of a run in training: a task, its optimizers, the weight average, and the position in the run.

    step: steps taken. rate_scale: a factor on the learning rate. switch: where the number of steps was last changed.
    micro_batch: pictures that go through the network at a time. recomputes: whether blocks of the network are computed
    again in the backward pass, to save memory. sharded: whether the network is spread over processes.
    """

    def __init__(self, config: RunConfig, task: Task):
        train = config.train
        self.config, self.task = config, task
        self.group, self.device = join_group(), available_device(train.device)
        check_processes(train.batch_size, self.group.world)
        networks = [learner.network for learner in task.learners.values() if isinstance(learner, Denoiser)]
        able = len(networks) == len(task.learners) and task.denoiser.text_encoder is None
        self.sharded = able and wants_shards(train.shard, self.group, networks, self.device)
        for network in networks if self.sharded else ():
            shard(network, self.group, self.device, gathered_once=len(networks) > 1)
        self.ema = Ema(task.denoiser, train.ema)
        self.optimizers = {k: Optimizer(m, train.optimizer, train.weight_decay) for k, m in task.learners.items()}
        self.prefetcher = Prefetcher(partial(share_of_batch, task.batches, self.group, self.device), self.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        self.step = 0
        self.rate_scale = 1.0
        self.switch: Switch | None = None
        self.skipped_steps = torch.zeros((), device=self.device)
        fitting = pictures_at_a_time(config, task.denoiser, self.device)
        self.micro_batch, self.recomputes = max(1, fitting), not fitting
        for module in task.learners.values() if self.recomputes else ():
            recompute(module)

    @property
    def denoiser(self) -> Denoiser:
        """The model of the run."""
        return self.task.denoiser

    # --- a step

    def take_step(self) -> StepResult:
        """One step of the optimizers and of the average. A gradient that is not finite leaves the weights as they are.

        Waits for no device but Apple's GPUs. Raises UnblotError where not even one picture fits into its memory.
        """
        self.denoiser.train()
        rate = self.learning_rate(self.step)
        batch = self.task.prepare(self.prefetcher.at(self.step), self.step).to(self.device)
        losses = self._gradients(batch)
        logged = next(iter(losses.values()))
        loss = self._share_of_mean(logged, batch)
        trained = [name for name in self.task.learners if name in losses]
        norms = [self._clip(self.task.learners[name]) for name in trained]
        sum_over(self.group, loss)
        bad = ~(torch.isfinite(torch.stack(norms)).all() & torch.isfinite(loss))
        self.task.learn(logged, batch.t, bad, self.group)
        for name in trained:
            self.optimizers[name].step(rate, bad)
        self.skipped_steps = torch.where(bad, self.skipped_steps + 1, 0)
        self.step += 1
        self.ema.update(self.denoiser, self.step)
        return StepResult(loss, norms[0], self.skipped_steps)

    def learning_rate(self, step: int) -> float:
        """The learning rate of step 0, 1, …, as the run is planned now."""
        return self.rate_scale * learning_rate(self.config.train, step, self.switch)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's losses of these pictures at the present step, by name, each (B,)."""
        return self.task.losses(batch, self.step / self.config.train.steps)

    def compile(self, note: Callable[[str], None]) -> None:
        """Lets the network run through torch.compile, where that is asked for or pays; not where it is sharded."""
        if self.sharded:
            return
        train, network, fitting = self.config.train, self.denoiser.network, self.micro_batch
        batch = self.prefetcher.at(self.step).to(self.device)
        self.denoiser.train()

        def one_pass() -> None:
            nonlocal fitting
            self._gradients(batch)
            fitting = fitting if is_compiled(network) else self.micro_batch

        with _undone(self):
            if not compile_where_it_pays(network, train.compile, self.device, one_pass, train.steps - self.step, note):
                self.micro_batch = fitting  # what fits without it

    def last_losses(self) -> tuple[Tensor, Tensor]:
        """The whole batch of the step just taken: positions among the training pictures (B,), and losses (B,).

        On the CPU, with the present weights.
        """
        step, maker = self.step - 1, self.task.batches
        with torch.no_grad():
            batch = self.task.prepare(maker.at(step), step).to(self.device)
            losses = torch.cat([next(iter(self.losses(part).values())) for part in self._parts(batch)])
        return maker.sampler.at(step).pictures, losses.cpu()

    def _clip(self, module: torch.nn.Module) -> Tensor:
        """Sums the gradients over all processes and clips them; returns their norm before that."""
        if not self.sharded:  # sharded gradients are summed already
            sum_gradients(self.group, module.parameters())
        return whole(torch.nn.utils.clip_grad_norm_(module.parameters(), self.config.train.clip_norm))

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Adds this process's share of the gradients of the batch's mean losses; returns the losses, each (n,).

        Where memory runs out, half as many pictures go through the network at a time, from then on. Dropout follows
        from the seed, the step, the process, and how many pictures go through at a time.
        """
        seed = generator(self.config.train.seed, DROPOUT, self.step, self.group.rank).initial_seed()
        while True:
            try:
                with seeded(seed, self.device):
                    return self._passes(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.micro_batch == 1:
                    way_out = f"use a smaller {arg('size')}, {arg('latent', True)}, or less width in {arg('network')}"
                    raise UnblotError(f"one picture does not fit into memory; {way_out}") from None
                if self.sharded:  # the other processes are in the middle of this pass
                    raise UnblotError(f"out of memory; use a smaller {arg('batch_size')}, or more processes") from None
            # Outside of the except clause the error, and with it the memory of the failed pass, has been freed.
            self.micro_batch = -(-min(self.micro_batch, len(batch.x0)) // 2)
            self.forget_gradients()
            give_memory_back(self.device)

    def forget_gradients(self) -> None:
        """Drops the gradients that passes have added up."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _passes(self, batch: Batch) -> dict[str, Tensor]:
        """Forward and backward passes, one for each micro-batch; the losses by name, each (n,)."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        for part in self._parts(batch):
            losses = self.losses(part)
            logged, *others = losses.values()
            total = torch.stack([self._share_of_mean(x, part) for x in (part.balanced(logged), *others)]).sum()
            (total * self.group.world if self.sharded else total).backward()  # FSDP averages over processes
            for name, loss in losses.items():
                found[name].append(loss.detach())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _parts(self, batch: Batch) -> list[Batch]:
        firsts = range(0, len(batch.x0), self.micro_batch)
        return [batch.rows(slice(first, first + self.micro_batch)) for first in firsts]

    def _share_of_mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """What the losses (n,) of these pictures contribute to the mean loss of the whole batch."""
        return batch.weighted(losses).sum() / self.config.train.batch_size

    # --- the position in the run

    def change_steps(self, steps: int) -> None:
        """Gives the run another number of steps in all; the learning rate goes over to theirs without a jump."""
        self.switch = Switch(self.step, learning_rate(self.config.train, self.step, self.switch))
        self.set_steps(steps)

    def set_steps(self, steps: int) -> None:
        """Sets the number of steps in all, as a checkpoint knew it."""
        self.config = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, steps=steps))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the denoiser has the averaged weights."""
        forget_gathered(self.denoiser)
        live = {name: p.detach().clone() for name, p in self.denoiser.named_parameters()}
        _assign(self.denoiser, self.ema.weights)
        self.denoiser.eval()
        try:
            with torch.compiler.set_stance("force_eager"):  # each other batch size would be compiled again
                yield
        finally:
            _assign(self.denoiser, live)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, by name."""
        parts: dict[str, Mapping[str, Tensor]] = {
            **{f"weights/{name}": dict(module.named_parameters()) for name, module in self.task.learners.items()},
            **{f"buffers/{name}": buffers(module) for name, module in self.task.learners.items()},
            **{f"optimizer/{name}": optimizer.tensors() for name, optimizer in self.optimizers.items()},
            "task": self.task.tensors(),
        }
        return self.ema.tensors() | {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}

    def for_main_process(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """These tensors, whole, in the process that writes, and none in others; all must call it at once."""
        return gathered(self.group, tensors)

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Restores the state that `tensors` gave after step `step`."""
        for name, module in self.task.learners.items():
            _restore(name, module, tensors)
            self.optimizers[name].load(under(f"optimizer/{name}/", tensors))
        self.ema.load(tensors)
        self.task.load(under("task/", tensors))
        self.step = step
        self.skipped_steps = torch.zeros_like(self.skipped_steps)


def share_of_batch(batches: BatchMaker, group: Group, device: torch.device, step: int) -> Batch:
    """This process's share of the batch of a step, for a GPU in page-locked memory."""
    batch = batches.at(step, group.rank, group.world)
    return batch.pinned() if device.type == "cuda" else batch


def denoising_trainer(config: RunConfig, dataset: Dataset, pretrained: Pretrained | None = None) -> Trainer:
    """The trainer of an ordinary run, before its first step, with the weights that the run begins with."""
    task = DenoisingTask(config, dataset)
    if pretrained is not None:
        load_pretrained(task.denoiser, pretrained, config)
    return Trainer(config, task)


def any_process(trainer: Trainer, flag: bool) -> bool:
    """Whether the flag is set in any process, so that all stop after the same step; asked every few steps."""
    if trainer.group.world == 1:
        return flag
    if trainer.step % trainer.config.train.log_every:
        return False  # asking waits for the device
    raised = torch.tensor(float(flag), device=trainer.device)
    sum_over(trainer.group, raised)
    return bool(raised)


@torch.no_grad()
def _assign(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    forget_gathered(module)
    for name, parameter in module.named_parameters():
        parameter.copy_(like(weights[name], parameter))


@torch.no_grad()
def _restore(name: str, module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts weights and buffers of a learner back; older checkpoints have no buffers, which then stay as they are."""
    _assign(module, under(f"weights/{name}/", tensors))
    kept = under(f"buffers/{name}/", tensors)
    for key, buffer in buffers(module).items():
        buffer.copy_(kept.get(key, buffer))


@contextmanager
def _undone(trainer: Trainer) -> Iterator[None]:
    """Within it passes are tried: afterwards there are no gradients, and buffers are as before."""
    before = [(buffer, buffer.clone()) for m in trainer.task.learners.values() for buffer in buffers(m).values()]
    try:
        yield
    finally:
        trainer.forget_gradients()
        for buffer, was in before:
            buffer.copy_(was)
