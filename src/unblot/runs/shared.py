"""Samples that several processes draw: each draws its share, in whole batches, and the main one has them all."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from unblot.config.sampling import SampleConfig
from unblot.runs.run import Run
from unblot.runs.samples import Samples
from unblot.sampling.loop import Progress
from unblot.sampling.settings import SamplerConfig
from unblot.system.distributed import Group, gathered_objects


def shares(n: int, batch: int, world: int) -> list[range]:
    """The numbers 0 … n − 1 shared out among `world` processes, in order, cut between batches; some may be empty."""
    each = -(-n // (batch * world)) * batch
    return [range(min(n, rank * each), min(n, (rank + 1) * each)) for rank in range(world)]


def in_shares(
    run: Run,
    group: Group,
    sampler: SamplerConfig,
    config: SampleConfig,
    first: int,
    see: Callable[[Samples], object],
    on_step: Callable[[Progress], None] | None = None,
) -> list:
    """What `see` makes of each process's share of the samples numbered first … first + config.n − 1, in order.

    All processes call it; only the main one gets the list. The pictures are those that one process draws, to the last
    bit, in batches of `config.batch_size`.
    """
    share = shares(config.n, config.batch_size, group.world)[group.rank]
    mine = range(first + share.start, first + share.stop)
    seen = see(run.sample_with(sampler, config, mine, on_step)) if mine else None
    return [part for part in gathered_objects(group, seen) if part is not None]


def sample_in_shares(
    run: Run, group: Group, config: SampleConfig, on_step: Callable[[Progress], None] | None = None
) -> Samples | None:
    """`Run.sample` by all processes together; the samples in the main process, None in the others."""
    parts = in_shares(run, group, run.sampler(config), config, 0, lambda samples: samples, on_step)
    if len(parts) < 2:
        return parts[0] if parts else None  # without a copy
    labels, prompts = (
        None if getattr(parts[0], name) is None else [one for part in parts for one in getattr(part, name)]
        for name in ("labels", "prompts")
    )
    array = np.concatenate([part.array for part in parts])
    return replace(parts[0], array=array, labels=labels, indices=range(config.n), prompts=prompts)
