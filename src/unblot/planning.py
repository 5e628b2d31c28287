"""What a run will be: every choice decided, checked and written out in full."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import unblot
from unblot.config import DataConfig, DataFacts, RunConfig
from unblot.data.augment import AUGMENTATIONS
from unblot.data.batches import Dataset
from unblot.data.clusters import shares
from unblot.losses import OBJECTIVES, WEIGHTINGS
from unblot.nn import NETWORKS
from unblot.presets import resolve
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.schedules import SCHEDULES
from unblot.sampling.draw import sampling_levels
from unblot.sampling.grids import GRIDS
from unblot.sampling.solvers import SOLVERS
from unblot.specs import canonical
from unblot.training.draws import NOISES
from unblot.training.ema import EMAS
from unblot.training.optimizers import OPTIMIZERS
from unblot.training.rates import DECAYS

STD_PICTURES = 4096  # enough to know the data's standard deviation to about one percent

SPECS: dict[str, Mapping[str, Callable[..., Any]]] = {  # fields of TrainConfig that choose from a table
    "network": NETWORKS,
    "augment": AUGMENTATIONS,
    "parameterization": PARAMETERIZATIONS,
    "schedule": SCHEDULES,
    "objective": OBJECTIVES,
    "weighting": WEIGHTINGS,
    "decay": DECAYS,
    "noise": NOISES,
    "optimizer": OPTIMIZERS,
    "ema": EMAS,
    "grid": GRIDS,
    "solver": SOLVERS,
}


def plan(source: DataConfig, dataset: Dataset, choices: dict[str, Any]) -> RunConfig:
    """The full configuration of a run on this data, every choice decided and written out."""
    sample, _ = dataset.batch(dataset.train[:STD_PICTURES])
    facts = DataFacts(
        name=dataset.name,
        channels=sample.shape[1],
        height=sample.shape[2],
        width=sample.shape[3],
        classes=dataset.classes,
        values=dataset.values.to_dict(),
        std=round(float(sample.double().std()), 4),
        count=len(dataset.train),
        fingerprint=dataset.fingerprint,
    )
    config = resolve(facts, choices)
    facts = dataclasses.replace(facts, clusters=shares(dataset, config.clusters))
    written: dict[str, Any] = {name: canonical(table, getattr(config, name), name) for name, table in SPECS.items()}
    config = dataclasses.replace(config, **written)
    levels = sampling_levels(config.schedule, config.grid, config.sampling_steps)
    PARAMETERIZATIONS[config.parameterization](levels.at(0), config.data_std)  # refuses pairs that cannot work
    return RunConfig(source, facts, config, unblot.__version__)
