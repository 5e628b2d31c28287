"""A model from elsewhere on its way to a run: what is known of it, and what is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from unblot._version import __version__
from unblot.config.options import MOST_STEPS
from unblot.config.presets import resolve
from unblot.config.schema import DataConfig, DataFacts, RunConfig
from unblot.data.image_spec import colour_of
from unblot.errors import UnblotError, one_line
from unblot.process.schedules import SCHEDULES
from unblot.specs import parse
from unblot.training.plan import written_out

STD = 0.5  # of pictures in -1 … 1, where nothing is known of them
LABELS = "class_embedding.weight"


class Imported(NamedTuple):
    """A model as a run: its config, the weights of its network by their names here, their file, and what to tell."""

    config: RunConfig
    weights: dict[str, Tensor]
    path: Path
    lines: tuple[str, ...] = ()


class Known(NamedTuple):
    """What is known of a model: specs of its network, schedule and solver, what it predicts, its pictures and labels.

    schedule: one with a table.
    """

    name: str
    network: str
    schedule: str
    parameterization: str
    solver: str
    channels: int
    size: tuple[int, int]
    labels: int


def config_of_known(known: Known) -> RunConfig:
    """The config of a run of a model that learned from pictures of 8 bits of which nothing else is known."""
    channels = known.channels
    values = {"dtype": "uint8", "offset": [127.5] * channels, "scale": [127.5] * channels, "alpha": channels == 4}
    height, width = known.size
    facts = DataFacts(
        name=known.name,
        channels=channels,
        height=height,
        width=width,
        classes=tuple(map(str, range(known.labels))),
        values=values,
        std=STD,
        count=0,
        fingerprint="",
    )
    _, options = parse(SCHEDULES, known.schedule, "schedule")
    choices = {
        "preset": "ddpm",
        "network": known.network,
        "parameterization": known.parameterization,
        "schedule": known.schedule,
        "times": "stratified",
        "label_dropout": 0.0,
        "solver": known.solver,
        "sampling_steps": min(options["steps"], MOST_STEPS),
    }
    train = written_out(resolve(facts, choices))
    source = DataConfig(
        data=known.name,
        size=f"{height}x{width}",
        colour=colour_of(channels),
        unlabelled=not known.labels,
        uncaptioned=True,
    )
    return RunConfig(source, facts, train, __version__)


@contextmanager
def importing(source: Path) -> Iterator[None]:
    """Within it an error says which source it is that cannot be imported."""
    try:
        yield
    except UnblotError as e:
        raise UnblotError(f"{str(source)!r} cannot be imported: {one_line(e, 400)}") from None
