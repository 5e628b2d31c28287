"""A run in latents before its second stage: its autoencoder trained, or read back, and its pictures encoded."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.latent.latents import with_latents
from unblot.runs.budget_plan import BudgetPlan
from unblot.runs.folder import write_run_config
from unblot.system.device import available_device
from unblot.system.distributed import join_group
from unblot.system.turns import decided
from unblot.training.budget import go_on, planned
from unblot.training.budget_controller import BudgetController
from unblot.training.first_stage import (
    FILE,
    SHARE,
    FirstStage,
    kept_about,
    of_steps,
    planned_steps,
    trained_autoencoder,
)
from unblot.training.plan import latent_spectrum


def first_stage(
    folder: Path,
    config: RunConfig,
    dataset: Dataset,
    controller: BudgetController,
    note: Callable[[str], None],
    choices: dict[str, Any] | None = None,
) -> tuple[int, Dataset]:
    """The number of the autoencoder's steps, and the data set with its latents.

    A first stage that was stopped goes on; one that is done is read back. Other processes wait for the main one, and
    read what it wrote: all have the same autoencoder, to the last bit. With a budget it keeps to its share of the time,
    also where the machine gets slower or faster. choices: those of the run, by default as kept when it was stopped.
    """
    assert config.latent is not None
    device = available_device(config.train.device)
    known = kept_about(folder).get("choices") if choices is None else choices
    budget, used, start = controller.budget, controller.used(), time.monotonic()  # a clock that all read together

    def about() -> dict[str, Any]:
        seconds = {"seconds": used + time.monotonic() - start}
        return seconds if known is None else {**seconds, "choices": known}

    def trained() -> str:
        if not (folder / FILE).exists():
            FirstStage(config, dataset, device).save(folder, about())  # what a run that is stopped from here on needs
        free = known is not None and known.get("latent_steps") is None
        share = BudgetController(SHARE * budget, before=used) if budget is not None and free else None
        wanted = planned_steps(config, dataset, device, budget)
        whole = of_steps(config, wanted)
        if kept_about(folder)["step"] < wanted:
            write_run_config(folder, whole)
        return str(trained_autoencoder(folder, whole, dataset, device, note, share, about)[1])

    steps = int(decided(join_group(), trained))
    autoencoder, _ = trained_autoencoder(folder, of_steps(config, steps), dataset, device, note)
    return steps, with_latents(dataset, autoencoder)


def used_before(folder: Path, state: Mapping[str, Any]) -> float:
    """Seconds of its budget that a run had used when it was last saved; state: of its newest checkpoint, or empty."""
    return float(state.get("seconds", kept_about(folder).get("seconds", 0.0)))


def planned_on(
    folder: Path, config: RunConfig, dataset: Dataset, controller: BudgetController, state: Mapping[str, Any]
) -> tuple[RunConfig, BudgetPlan | None]:
    """The configuration of a run that goes on, and the plan of the rest of its budget; None where nothing is planned.

    dataset: with latents, of a run in latents. One that was stopped in its first stage is planned only now, as if it
    had not been stopped. state: of its newest checkpoint, or empty.
    """
    if controller.budget is None:
        return config, None
    if state:
        more = state["step"] < state.get("steps", 0) or state.get("budget") != controller.budget
        return config, go_on(config, state["step"], dataset, controller) if more else None
    choices = kept_about(folder).get("choices")
    if config.latent is None or choices is None:
        return config, None
    choices = {name: value for name, value in choices.items() if name != "steps"}  # of a run without a budget at first
    now = {"latent_steps": config.latent.latent_steps, "budget": config.train.budget, "device": config.train.device}
    return planned(config.source, dataset, {**choices, **now}, controller.budget, controller)


def with_first_stage(
    folder: Path, config: RunConfig, dataset: Dataset, controller: BudgetController, note: Callable[[str], None]
) -> tuple[RunConfig, Dataset]:
    """The configuration and the data set of a run that goes on, with its latents; those of pixels as they are."""
    if config.latent is None:
        return config, dataset
    steps, dataset = first_stage(folder, config, dataset, controller, note)
    data = config.data
    if not data.latent_spectrum:  # it was stopped before there were latents
        data = replace(data, latent_spectrum=latent_spectrum(dataset))
    return of_steps(replace(config, data=data), steps), dataset
