"""A run in latents before its second stage: its autoencoder trained, or read back, and its pictures encoded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.latent.latents import with_latents
from unblot.runs.folder import write_run_config
from unblot.system.device import available_device
from unblot.system.distributed import join_group
from unblot.system.turns import decided
from unblot.training.budget_controller import BudgetController
from unblot.training.first_stage import SHARE, Share, of_steps, planned_steps, trained_autoencoder
from unblot.training.plan import latent_spectrum


def first_stage(
    folder: Path, config: RunConfig, dataset: Dataset, controller: BudgetController, note: Callable[[str], None]
) -> tuple[int, Dataset]:
    """The number of the autoencoder's steps, and the data set with its latents.

    A first stage that was stopped goes on; one that is done is read back. Other processes wait for the main one, and
    read what it wrote: all have the same autoencoder, to the last bit. With a budget it keeps to its share of the time,
    also where the machine gets slower or faster; one that goes on has the steps that were planned when it was stopped.
    """
    assert config.latent is not None
    given = config.latent.latent_steps is not None
    device, budget = available_device(config.train.device), controller.budget

    def trained() -> str:
        share = None if budget is None or given else Share(SHARE * budget)
        planned = of_steps(config, planned_steps(config, dataset, device, budget))
        write_run_config(folder, planned)
        return str(trained_autoencoder(folder, planned, dataset, device, note, share)[1])

    steps = int(decided(join_group(), trained))
    autoencoder, _ = trained_autoencoder(folder, of_steps(config, steps), dataset, device, note)
    return steps, with_latents(dataset, autoencoder)


def with_first_stage(
    folder: Path, config: RunConfig, dataset: Dataset, controller: BudgetController, note: Callable[[str], None]
) -> tuple[RunConfig, Dataset]:
    """The configuration and the data set of a run that goes on, with its latents; those of pixels as they are."""
    if config.latent is None:
        return config, dataset
    steps, dataset = first_stage(folder, config, dataset, controller, note)
    data = config.data
    if config.train.spectrum == "data" and not data.latent_spectrum:  # it was stopped before there were latents
        data = replace(data, latent_spectrum=latent_spectrum(dataset))
    return replace(config, data=data, latent=replace(config.latent, latent_steps=steps)), dataset
