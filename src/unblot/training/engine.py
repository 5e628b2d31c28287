"""The training engine: a trainer that takes steps, and the loop that runs it, shows it, saves it and stops it well."""

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unblot.config import RunConfig, TrainConfig
from unblot.data.batches import Dataset
from unblot.data.output import grid, scatter
from unblot.errors import UnblotError
from unblot.losses import WEIGHTINGS, training_loss
from unblot.process.schedules import SCHEDULES
from unblot.run import METRICS, MODEL, SAMPLES, build_denoiser, save_model
from unblot.sampling.draw import available_device, draw
from unblot.specs import build
from unblot.training import checkpoint
from unblot.training.draws import Draws
from unblot.training.ema import Ema
from unblot.training.monitor import Monitor

PREVIEW_PICTURES, PREVIEW_STEPS = 40, 20
LOST_STEPS = 20  # steps in a row whose gradient is not finite, after which a run stops


class Outcome(NamedTuple):
    """What a step did: the mean loss of its batch and the norm of the gradient before clipping."""

    loss: float
    grad_norm: float


class Trainer:
    """All the state of a run in training: denoiser, average, optimiser, and the number of steps taken."""

    def __init__(self, config: RunConfig, dataset: Dataset):
        train = config.train
        self.config, self.dataset = config, dataset
        self.device = available_device(train.device)
        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
            torch.manual_seed(train.seed)
            self.denoiser = build_denoiser(config).to(self.device)
        self.ema = Ema(self.denoiser, train.ema)
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            lr=train.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=train.weight_decay,
            fused=True,
        )
        self.draws = Draws(
            train.seed,
            train.batch_size,
            len(dataset.train),
            config.data.shape,
            build(SCHEDULES, train.schedule, "schedule"),
            train.times,
            train.label_dropout,
        )
        self.weighting = build(WEIGHTINGS, train.weighting, "weighting")
        self.autocast = wants_bf16(train.precision, self.device)
        self.step = 0
        self.lost = 0  # steps in a row that were skipped

    def take_step(self) -> Outcome:
        """One step of the optimiser and of the average. A gradient that is not finite is skipped.

        Raises UnblotError after LOST_STEPS such steps in a row.
        """
        self.denoiser.train()
        rate = learning_rate(self.config.train, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.config.train.clip_norm)
        outcome = Outcome(loss.item(), norm.item())
        if math.isfinite(outcome.loss) and math.isfinite(outcome.grad_norm):
            self.optimizer.step()
            self.lost = 0
        else:
            self.lost += 1
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.denoiser, self.step)
        if self.lost >= LOST_STEPS:
            raise UnblotError(
                f"the loss was not finite for {LOST_STEPS} steps up to step {self.step}, at learning rate {rate:.2g}; "
                "try a lower --learning-rate"
            )
        return outcome

    def _loss(self) -> Tensor:
        pictures, level, eps, hidden = self.draws.at(self.step)
        x0, label = self.dataset.batch(self.dataset.train[pictures.numpy()])
        x0, eps = (x.to(self.device, memory_format=torch.channels_last) for x in (x0, eps))
        if label is not None:
            label = torch.where(hidden, self.denoiser.num_classes, label).to(self.device)
        weight = self.weighting(level, self.denoiser)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return training_loss(self.denoiser, x0, level, eps, label, weight).mean()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the denoiser carries the averaged weights."""
        live = {name: p.detach().clone() for name, p in self.denoiser.named_parameters()}
        _assign(self.denoiser, self.ema.weights)
        self.denoiser.eval()
        try:
            yield
        finally:
            _assign(self.denoiser, live)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold, by name."""
        moments = self.optimizer.state_dict()["state"]
        return {
            **{f"weights/{name}": p for name, p in self.denoiser.named_parameters()},
            **{f"ema/{name}": p for name, p in self.ema.weights.items()},
            **{f"optimizer/{i}/{key}": value for i, state in moments.items() for key, value in state.items()},
        }

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Takes up the state that `tensors` gave after step `step`."""
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        _assign(self.denoiser, parts["weights"])
        self.ema.load(parts["ema"])
        parameters = list(self.denoiser.parameters())
        state: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(parameters))}
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition("/")
            parameter = parameters[int(index)]
            # Moments must lie in memory as their weights do: the fused optimiser goes through both in memory order.
            moment = tensor.shape == parameter.shape
            state[int(index)][key] = torch.empty_like(parameter).copy_(tensor) if moment else tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step = step


def run_training(folder: Path, trainer: Trainer, monitor: Monitor, resume: bool = False) -> bool:
    """Trains to the run's last step, keeping the run folder up to date. True when it came to the end.

    Ctrl-C finishes the step, saves and returns False. `resume` goes on from the newest whole checkpoint.
    """
    train = trainer.config.train
    metrics = folder / METRICS
    if resume:
        tensors, state = checkpoint.load_newest(folder, monitor.note)
        trainer.restore(tensors, state["step"])
        os.truncate(metrics, state["metrics_bytes"])  # lines after the checkpoint are about to be written again
    else:
        metrics.write_text("")
    with metrics.open("a") as lines, monitor, _interruptible() as interrupted:
        while trainer.step < train.steps and not interrupted():
            outcome = trainer.take_step()
            monitor.step(trainer.step, outcome.loss, learning_rate(train, trainer.step - 1), train.batch_size)
            if trainer.step % train.log_every == 0 or trainer.step == train.steps:
                line = {"step": trainer.step, **outcome._asdict()}
                lines.write(json.dumps(line) + "\n")
            if train.preview_every and trainer.step % train.preview_every == 0:
                monitor.note(f"preview: {_preview(folder, trainer)}")
            if trainer.step % train.checkpoint_every == 0:
                _save(folder, trainer, lines)
        _save(folder, trainer, lines)
    return trainer.step >= train.steps


def learning_rate(train: TrainConfig, step: int) -> float:
    """The learning rate of step 0, 1, …: a linear rise over the warm-up, then the decay to zero at the last step."""
    rise = max(1, round(train.warmup * train.steps))
    if step < rise:
        return train.learning_rate * (step + 1) / rise
    done = (step - rise) / max(1, train.steps - rise)
    return train.learning_rate * DECAYS[train.decay](done)


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
    "linear": lambda done: 1 - done,
    "none": lambda done: 1.0,
}


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16. Never on a CPU, where it was measured to be 400 times slower than float32."""
    if precision not in ("auto", "fp32", "bf16"):
        raise UnblotError(f"unknown precision {precision!r}; choose auto, fp32 or bf16")
    if precision == "bf16" and device.type != "cuda":
        raise UnblotError(f"precision bf16 needs a CUDA device, not {device.type}; use --precision fp32")
    return precision != "fp32" and device.type == "cuda" and torch.cuda.is_bf16_supported()


def _preview(folder: Path, trainer: Trainer) -> Path:
    """A grid of pictures from the averaged weights, always from the same noise; returns where it was written."""
    config = trainer.config
    classes = len(config.data.classes)
    indices = range(PREVIEW_PICTURES if config.data.kind == "pictures" else 25 * PREVIEW_PICTURES)
    labels = torch.tensor(indices) % classes if classes else None
    with trainer.averaged():
        drawn = draw(
            trainer.denoiser,
            config.data.shape,
            indices,
            levels=config.train.levels,
            solver="dpmpp_2m",
            steps=PREVIEW_STEPS,
            seed=config.train.seed,
            labels=labels,
        )
        array = torch.cat(list(drawn)).cpu().numpy()
    stored = trainer.dataset.values.decode(array)
    image = scatter(stored) if config.data.kind == "points" else grid(stored, trainer.dataset.values, columns=10)
    path = folder / SAMPLES / f"step_{trainer.step:08d}.png"
    image.save(path)
    return path


def _save(folder: Path, trainer: Trainer, lines: Any) -> None:
    lines.flush()
    os.fsync(lines.fileno())
    save_model(folder / MODEL, trainer.config, trainer.ema.weights)
    checkpoint.save(folder, trainer.step, trainer.tensors(), {"metrics_bytes": lines.tell()})


@torch.no_grad()
def _assign(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.copy_(weights[name])


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within it Ctrl-C only sets a flag, which the yielded function reads; a second Ctrl-C stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def on_interrupt(signum: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
