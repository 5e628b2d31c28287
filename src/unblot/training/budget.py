"""The plan of a run with a time budget: trial steps on this machine decide the network, batch and number of steps.

`choose` makes the plan before a run, `budget_controller.py` holds the run to its budget while it trains. The constants
of the rule, and the networks that it chooses among, are in `config/presets.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from unblot.config.durations import format_seconds
from unblot.config.presets import ENOUGH_STEPS, FREE_BATCH, LEAST_PASS, MOST_BATCH, ladder
from unblot.config.schema import DataConfig, RunConfig
from unblot.data.dataset import Dataset
from unblot.errors import UnblotError, arg
from unblot.runs.budget_plan import BudgetPlan
from unblot.runs.folder import PLAN
from unblot.system.device import available_device
from unblot.system.distributed import join_group
from unblot.system.files import write_json
from unblot.system.memory import peak_of_process
from unblot.training.adversarial import reserved_seconds
from unblot.training.batches import check_processes
from unblot.training.budget_controller import FINE_TUNING, BudgetController, occasions
from unblot.training.diagnostics.held_out import PASSES, pictures_a_side
from unblot.training.plan import plan_run
from unblot.training.timing import least_seconds, preview_time, step_times
from unblot.training.trainer import Trainer, denoising_trainer

LEAST_STEPS = 20  # that a budget must allow
TRIAL_SHARE, TRIAL_SECONDS = 0.05, 10.0  # trials take at most this share of the budget, and about this many seconds
CHOICE_SHARE, CHOICE_SECONDS = 0.02, 120.0  # ... or, to choose among networks for a long run, this share and seconds
GROWTH = 2.5  # about how much slower the next network of a ladder is, while it has not been tried
SAVING_RATE = 2e8  # bytes/s of a checkpoint, written, flushed and read again, until the run has measured it
OVERHEAD_SHARE = 0.05  # share of the budget that previews take at most; the same for checkpoints


class Trial(NamedTuple):
    """The measurements of a few steps of a configuration. Times in seconds, memory in bytes, None where unknown."""

    config: RunConfig
    parameters: int
    step_seconds: float  # the mean, which predicts
    fastest: float  # which compares: other work on the machine can only slow a step down
    steps: int
    preview: float
    checkpoint: float
    memory: int | None
    fine_tuning: float = 0.0

    @property
    def overhead(self) -> dict[str, float]:
        """Seconds of each kind of overhead."""
        train, data = self.config.train, self.config.x0_facts
        passes = 2 * pictures_a_side(train, data) / (PASSES * train.batch_size)  # in steps, held-out and training
        return {
            "previews": self.preview,
            "checkpoints": self.checkpoint,
            "measurements": passes * self.step_seconds,
            FINE_TUNING: self.fine_tuning,
        }

    def steps_in(self, seconds: float) -> int:
        """The number of steps that fit into this time."""
        return max(0, int(seconds / self.step_seconds))


def try_out(
    config: RunConfig, dataset: Dataset, clock: Callable[[], float], until: float = 0.0, preview: bool = False
) -> Trial:
    """Takes a few steps with a trainer that is then discarded, and more of them up to the time `until` on the clock.

    preview: whether a preview is tried too.
    """
    device = available_device(config.train.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = denoising_trainer(config, dataset)
    trainer.take_step().loss.item()
    preview_seconds = preview_time(trainer, clock) if preview else 0.0
    times = step_times(trainer, clock, until)
    trainer.prefetcher.close()  # with what it has made ahead, before the next trial
    saved = sum(t.numel() * t.element_size() for t in trainer.tensors().values()) * 4 / 3  # the model is saved as well
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    return Trial(
        config=config,
        parameters=parameters,
        step_seconds=fmean(times),
        fastest=min(times),
        steps=len(times),
        preview=preview_seconds,
        checkpoint=saved / SAVING_RATE,
        memory=peak_memory(device),
    )


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: of a GPU since the last reset, else of this process; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_of_process()


def training_seconds(trial: Trial) -> float:
    """About how many seconds a whole training takes on this machine, previews and checkpoints included."""
    train = trial.config.train
    return train.steps * trial.step_seconds + _overhead(trial, 0)


def planned(
    source: DataConfig, dataset: Dataset, choices: dict[str, Any], budget: float | None, controller: BudgetController
) -> tuple[RunConfig, BudgetPlan | None]:
    """The configuration of a run on this data, and with a budget its plan.

    Raises UnblotError where there are more processes than its batch can be shared out among, and as `choose` does.
    """
    if budget is None:
        config = plan_run(source, dataset, choices)
        check_processes(config.train.batch_size, join_group().world)  # before the first stage of a run in latents
        return config, None
    return choose(lambda **own: plan_run(source, dataset, {**own, **choices}), choices, dataset, controller)


def choose(
    configure: Callable[..., RunConfig], choices: Mapping[str, Any], dataset: Dataset, controller: BudgetController
) -> tuple[RunConfig, BudgetPlan]:
    """The configuration that makes the best use of the budget on this machine, and its plan.

    configure: the full configuration for some decisions (network, batch_size, steps, ...) besides what was given.
    choices: what was given, and is not decided here.
    Raises UnblotError where the budget does not even allow a few steps.
    """
    assert controller.budget is not None
    start = controller.clock()
    until = start + min(TRIAL_SECONDS, TRIAL_SHARE * controller.budget)
    choosing = max(until, start + min(CHOICE_SECONDS, CHOICE_SHARE * controller.budget))
    first = configure()
    networks = (first.train.network,) if "network" in choices else ladder(first.x0_facts, first.train.preset)
    free_batch = "batch_size" not in choices and first.train.preset == "default"
    chosen = configure(network=networks[0])
    if len(networks) > 1 or free_batch:
        trial = _network(configure, networks, dataset, controller, choosing)
        chosen = (_batch(configure, trial, dataset, controller, choosing) if free_batch else trial).config
    trial = _with_end(try_out(chosen, dataset, controller.clock, until, preview=True), controller)
    steps = trial.steps_in(controller.budget - controller.used())
    if steps < LEAST_STEPS:
        least = math.ceil((controller.used() + LEAST_STEPS * trial.step_seconds) * 1.2)
        # The smallest network that is known to work is tried already, unless another was given.
        smaller = arg("network" if "network" in choices else "batch_size")
        raise UnblotError(
            f"{arg('budget', format_seconds(controller.budget))} is too short: a step of {trial.config.train.network} "
            f"takes {trial.step_seconds:.1f} seconds here; give at least {least}s, or a smaller {smaller}"
        )
    decided = {"network": chosen.train.network, "batch_size": chosen.train.batch_size}
    every = _intervals(trial, steps, controller.budget)
    config = configure(**decided, **every, steps=steps)
    steps = max(
        LEAST_STEPS, trial.steps_in(controller.budget - controller.used() - _overhead(trial._replace(config=config), 0))
    )
    config = configure(**decided, **every, steps=steps)
    return config, _plan(trial._replace(config=config), 0, steps, controller)


def go_on(config: RunConfig, first: int, dataset: Dataset, controller: BudgetController) -> BudgetPlan:
    """The plan of a run that goes on after step `first` for the rest of its budget."""
    assert controller.budget is not None
    left = controller.budget - controller.used()
    trial = try_out(
        config, dataset, controller.clock, controller.clock() + min(TRIAL_SECONDS, TRIAL_SHARE * left), preview=True
    )
    trial = _with_end(trial, controller)
    steps = trial.steps_in(controller.budget - controller.used())
    train = dataclasses.replace(config.train, steps=first + steps)
    trial = trial._replace(config=dataclasses.replace(config, train=train))
    steps = trial.steps_in(controller.budget - controller.used() - _overhead(trial, first))
    return _plan(trial, first, steps, controller)


def _with_end(trial: Trial, controller: BudgetController) -> Trial:
    """The trial with the time that is kept for the end of its run."""
    assert controller.budget is not None
    left = controller.budget - controller.used()
    return trial._replace(fine_tuning=reserved_seconds(trial.config, controller.budget, left))


def _plan(trial: Trial, first: int, steps: int, controller: BudgetController) -> BudgetPlan:
    """The plan of `steps` steps after step `first`; also gives the trial's measurements to the controller."""
    assert controller.budget is not None
    controller.step_seconds = controller.planned_step_seconds = trial.step_seconds
    controller.expected = trial.overhead
    config, train, used = trial.config, trial.config.train, controller.used()
    left = controller.budget - used
    return BudgetPlan(
        budget=controller.budget,
        used=used,
        first=first,
        network=train.network,
        parameters=trial.parameters,
        batch_size=train.batch_size,
        steps=steps,
        pictures=steps * train.batch_size,
        passes=steps * train.batch_size / config.data.count,
        pictures_per_second=train.batch_size / trial.step_seconds,
        memory=trial.memory,
        overhead_share=min(1.0, (_overhead(trial, first) - trial.overhead[FINE_TUNING]) / max(left, 1e-9)),
        step_seconds=trial.step_seconds,
        trial_steps=trial.steps,
        ends=(datetime.now() + timedelta(seconds=left)).isoformat(timespec="seconds"),
    )


def keep(folder: Path, plan: BudgetPlan, trainer: Trainer, seconds: float | None = None) -> None:
    """Writes the plan into the run folder, and after the run, which has then used `seconds`, what it came to."""
    kept: dict[str, Any] = {"plan": plan.to_dict()}
    if seconds is not None:
        steps, memory = trainer.step - plan.first, peak_memory(trainer.device)
        pictures = steps * plan.batch_size
        kept["came"] = {"seconds": seconds - plan.used, "steps": steps, "pictures": pictures, "memory": memory}
    if trainer.group.is_main_process:
        write_json(folder / PLAN, kept)


def _network(
    configure: Callable[..., RunConfig],
    networks: Sequence[str],
    dataset: Dataset,
    controller: BudgetController,
    until: float,
) -> Trial:
    """The largest of the networks that takes enough steps in the budget, or the smallest."""
    assert controller.budget is not None
    chosen = None
    for network in networks:
        if chosen and controller.clock() + _least_seconds(chosen, GROWTH) > until:
            break  # no time left to try it
        trial = try_out(configure(network=network), dataset, controller.clock)
        if chosen and controller.budget / trial.fastest < ENOUGH_STEPS:
            break
        chosen = trial
        if controller.budget / chosen.fastest < ENOUGH_STEPS:
            break
    assert chosen is not None
    return chosen


def _batch(
    configure: Callable[..., RunConfig], trial: Trial, dataset: Dataset, controller: BudgetController, until: float
) -> Trial:
    """The trial with its batch doubled as long as a step then hardly takes longer."""
    network, count = trial.config.train.network, trial.config.data.count
    while True:
        double = 2 * trial.config.train.batch_size
        late = controller.clock() + _least_seconds(trial, 2) > until
        if late or double > MOST_BATCH or double * LEAST_PASS > count:
            return trial
        larger = try_out(configure(network=network, batch_size=double), dataset, controller.clock)
        if larger.fastest > FREE_BATCH * trial.fastest:
            return trial
        trial = larger


def _least_seconds(trial: Trial, slower: float) -> float:
    """About how many seconds a trial takes whose step is so many times as slow as that of this one."""
    return least_seconds(slower * trial.fastest, available_device(trial.config.train.device))


def _overhead(trial: Trial, first: int) -> float:
    """Seconds of all overhead after step `first`."""
    return sum(count * trial.overhead[kind] for kind, count in occasions(trial.config.train, first).items())


def _intervals(trial: Trial, steps: int, budget: float) -> dict[str, int]:
    """Steps between logs, previews and checkpoints: as without a budget, but more where they would take too long."""
    fifth = max(1, steps // 5)
    previews, checkpoints = (
        max(1.0, OVERHEAD_SHARE * budget / max(s, 1e-9)) for s in (trial.preview, trial.checkpoint)
    )
    return {
        "log_every": min(10, max(1, steps // 50)),
        "preview_every": max(fifth, math.ceil(steps / previews)),
        "checkpoint_every": max(min(1000, fifth), math.ceil(steps / checkpoints)),
    }
