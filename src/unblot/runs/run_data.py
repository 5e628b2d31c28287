"""The data that a run learns from, or was trained on."""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from unblot.config.schema import DataConfig, DataFacts, RunConfig
from unblot.data.audit.audit import quick_check
from unblot.data.dataset import Dataset, open_data
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg, escaped
from unblot.system.distributed import join_group
from unblot.system.progress import progress_bar
from unblot.system.turns import one_a_node_first


def open_dataset(source: DataConfig, quiet: bool = False) -> Dataset:
    """The data set of a configuration, cached if it is not yet; shows the progress of that.

    Of several processes one on each node caches it, and the others wait.
    """
    choices = dataclasses.asdict(source)
    choices |= {"labels": not choices.pop("unlabelled"), "captions": not choices.pop("uncaptioned")}
    group = join_group()
    quiet = quiet or not group.is_main_process
    with progress_bar("reading", quiet=quiet) as bar:
        opened = partial(open_data, choices.pop("data"), **choices, report=line_printer(quiet), progress=bar.update)
        return one_a_node_first(group, opened)


def data_of_choices(data: str | Path, choices: dict[str, Any], quiet: bool) -> tuple[DataConfig, Dataset]:
    """The data of a new run, whose choices are taken out of `choices`."""
    reading = {f.name: choices.pop(f.name) for f in dataclasses.fields(DataConfig) if f.name in choices}
    source = DataConfig(data=str(data), **reading)
    dataset = open_dataset(source, quiet)
    for warning in quick_check(dataset):
        if not quiet and join_group().is_main_process:
            print(f"note: {escaped(warning)}")
    return source, dataset


def data_of_run(
    config: RunConfig, run: Path, moved: str | Path | None, quiet: bool, *, movable: bool = True
) -> tuple[Dataset, RunConfig]:
    """The data that a run was trained on, and the configuration that says where it is. moved: its place now.

    movable: whether the command can be told another place. The values of the data are mapped as the run maps them.
    Raises UnblotError where it is missing, or not what it was.
    """
    if not config.data.fingerprint:
        return _data_of_import(config, run, moved, quiet, movable)
    source = config.source if moved is None else dataclasses.replace(config.source, data=str(moved))
    told = f", say where it is now with {arg('data', 'PATH')}," if movable else ""
    way_out = f"put it back as it was{told} or train a new run"
    try:
        dataset = open_dataset(source, quiet)
    except UnblotError as e:
        if moved is not None:
            raise
        where = "" if Path(source.data).is_absolute() else ", a path relative to where the run was started"
        raise UnblotError(f"{e}; run {str(run)!r} was trained on {source.data!r}{where}; {way_out}") from None
    if dataset.fingerprint != config.data.fingerprint:
        raise UnblotError(f"the data {source.data!r} is not what run {str(run)!r} was trained on; {way_out}")
    return with_values_of(dataset, config.data), dataclasses.replace(config, source=source)


def fits(dataset: Dataset, facts: DataFacts) -> bool:
    """Whether a model of pictures of these facts can see those of the data set: they have its shape and its type."""
    own = ValueMap.from_dict(facts.values)
    return (dataset.shape, dataset.values.dtype, dataset.values.alpha) == (facts.shape, own.dtype, own.alpha)


def with_values_of(dataset: Dataset, facts: DataFacts) -> Dataset:
    """A data set that fits, its values mapped to the network's range as in a run of these facts.

    The map of 16 bits and of floats follows from the pictures that it was fitted to, and a model knows only its own.
    """
    values = ValueMap.from_dict(facts.values)
    stream = None if dataset.stream is None else dataclasses.replace(dataset.stream, values=values)
    return dataclasses.replace(dataset, values=values, stream=stream)


def _data_of_import(
    config: RunConfig, run: Path, moved: str | Path | None, quiet: bool, movable: bool
) -> tuple[Dataset, RunConfig]:
    """`data_of_run` of an imported run, of which no data is known: what is given, where its model fits that."""
    if moved is None:
        way_out = f"name pictures with {arg('data', 'PATH')}" if movable else "give pictures, or another run"
        raise UnblotError(f"run {str(run)!r} was imported without the pictures that it learned from; {way_out}")
    source, facts = dataclasses.replace(config.source, data=str(moved)), config.data
    dataset = open_dataset(source, quiet)
    if not fits(dataset, facts):
        raise UnblotError(
            f"{str(moved)!r} holds pictures of another kind than run {str(run)!r} draws, which are of "
            f"{facts.height}x{facts.width} with {facts.channels} channels of 8 bits; give such pictures"
        )
    if facts.classes and len(dataset.classes) not in (0, len(facts.classes)):
        raise UnblotError(
            f"{str(moved)!r} has {len(dataset.classes)} classes and run {str(run)!r} {len(facts.classes)}; give "
            f"pictures with as many, or without labels"
        )
    source = dataclasses.replace(source, unlabelled=not dataset.classes)  # what is made of it
    known = dataclasses.replace(facts, count=dataset.training_count, fingerprint=dataset.fingerprint)
    return with_values_of(dataset, facts), dataclasses.replace(config, source=source, data=known)


def line_printer(quiet: bool) -> Callable[[str], None]:
    """Prints a line on the standard error, or nothing."""
    return (lambda line: None) if quiet else lambda line: print(escaped(line), file=sys.stderr)
