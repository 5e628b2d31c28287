"""What a run will be: every choice decided, checked and written out in full."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from unblot._version import __version__
from unblot.config.presets import resolve
from unblot.config.schema import DataConfig, DataFacts, RunConfig
from unblot.data.augment import AUGMENTATIONS
from unblot.data.clusters import shares
from unblot.data.dataset import Dataset
from unblot.losses import OBJECTIVES, WEIGHTINGS
from unblot.nn import NETWORKS
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.schedules import SCHEDULES
from unblot.sampling.batched import sampling_levels
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS
from unblot.specs import canonical
from unblot.training.averages.ema import EMAS
from unblot.training.batches import COUPLINGS
from unblot.training.learning_rate import DECAYS
from unblot.training.optim import OPTIMIZERS

STD_PICTURES = 4096  # enough to know the data's standard deviation to about one percent
AT_ONCE = 2**24  # values of them that are held in memory: 64 MB, and twice as much as they are summed

SPECS: dict[str, Mapping[str, Callable[..., Any]]] = {  # fields of TrainConfig that choose from a table
    "network": NETWORKS,
    "augment": AUGMENTATIONS,
    "parameterization": PARAMETERIZATIONS,
    "schedule": SCHEDULES,
    "objective": OBJECTIVES,
    "weighting": WEIGHTINGS,
    "decay": DECAYS,
    "coupling": COUPLINGS,
    "optimizer": OPTIMIZERS,
    "ema": EMAS,
    "spacing": SPACINGS,
    "solver": SOLVERS,
}


def plan_run(source: DataConfig, dataset: Dataset, choices: dict[str, Any]) -> RunConfig:
    """The full configuration of a run on this data, every choice decided and written out."""
    facts = facts_of(dataset)
    config = resolve(facts, choices)
    facts = dataclasses.replace(facts, clusters=shares(dataset, config.clusters))
    written: dict[str, Any] = {name: canonical(table, getattr(config, name), name) for name, table in SPECS.items()}
    config = dataclasses.replace(config, **written)
    levels = sampling_levels(config.schedule, config.spacing, config.sampling_steps)
    PARAMETERIZATIONS[config.parameterization](levels.at(0), config.data_std)  # refuses pairs that cannot work
    return RunConfig(source, facts, config, __version__)


@lru_cache(maxsize=1)  # a run with a budget is planned many times
def facts_of(dataset: Dataset) -> DataFacts:
    """What a run must know of its data, all but clusters, which are a choice."""
    channels, height, width = dataset.shape
    return DataFacts(
        name=dataset.name,
        channels=channels,
        height=height,
        width=width,
        classes=dataset.classes,
        values=dataset.values.to_dict(),
        std=round(_std(dataset, dataset.train[:STD_PICTURES]), 4),
        count=len(dataset.train),
        fingerprint=dataset.fingerprint,
    )


def _std(dataset: Dataset, indices: np.ndarray) -> float:
    """Standard deviation of all values of these pictures in the network's range, read AT_ONCE values at a time."""
    each = math.prod(dataset.shape)
    count, total, squares = len(indices) * each, 0.0, 0.0
    for part in np.array_split(indices, -(-len(indices) // max(1, AT_ONCE // each))):
        x = dataset.batch(part)[0].double().flatten()
        total, squares = total + float(x.sum()), squares + float(x @ x)
    return math.sqrt(max(0.0, squares - total**2 / count) / max(1, count - 1))
