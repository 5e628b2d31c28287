"""A training that leaves the weights of a run as they are, and learns a low-rank addition to them for other pictures.

Recipe, value range and labels are those of the run. Where the new pictures have the same classes they are learned by
class, else without a label.
"""

import dataclasses
from pathlib import Path
from typing import Any

from unblot._version import __version__
from unblot.config.presets import resolve
from unblot.config.schema import DataConfig, RunConfig, TextFacts
from unblot.config.transfer import AdapterFacts, Origin
from unblot.data.dataset import Dataset
from unblot.data.image_spec import colour_of
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg, counted
from unblot.runs.folder import MODEL, build_denoiser, create, fingerprint, load_model, save_model
from unblot.runs.run import Run
from unblot.runs.run_data import fits, line_printer, open_dataset, with_values_of
from unblot.system.distributed import join_group
from unblot.system.folders import claimed
from unblot.text.words import commonest
from unblot.training.budget_controller import BudgetController
from unblot.training.session import train_to_end
from unblot.training.task import DenoisingTask
from unblot.training.trainer import Trainer
from unblot.training.transfer import OWN, Pretrained, tensors_of

RATE = 4e-3


def train_adapter(
    pretrained: Pretrained,
    data: DataConfig,
    dataset: Dataset,
    choices: dict[str, Any],
    *,
    folder: Path | None,
    overwrite: bool,
    quiet: bool,
) -> Run:
    """Trains an adapter of the rank that is asked for, on this data, and returns its run."""
    config, dataset = adapter_config(pretrained, data, dataset, choices, quiet)
    task = DenoisingTask(config, dataset)
    put_below(task.denoiser, pretrained)
    trainer = Trainer(config, task)
    with claimed(folder, Path("runs") / dataset.name, trainer.group) as claim:
        if trainer.group.is_main_process:
            create(claim, config, overwrite)
            save_model(claim / MODEL, config, trainer.denoiser.state_dict())  # a resume needs no other run
        return train_to_end(claim, trainer, BudgetController(), None, quiet)


def resumed_adapter(folder: Path, config: RunConfig, dataset: Dataset) -> Trainer:
    """The trainer of an adapter's run that goes on, with the weights below the additions from its own folder."""
    task = DenoisingTask(config, dataset)
    task.denoiser.load_state_dict(load_model(folder)[1].state_dict())
    return Trainer(config, task)


def fitting_data(pretrained: Pretrained, data: DataConfig, dataset: Dataset, quiet: bool) -> tuple[DataConfig, Dataset]:
    """The data as the run of the adapter sees it: without labels or captions that the pretrained run does not know, its
    values mapped as in that run.

    Raises UnblotError for pictures of another shape or type than that run's.
    """
    own = pretrained.config.data
    if not fits(dataset, own):
        there, here = ValueMap.from_dict(own.values), dataset.values
        raise UnblotError(
            f"pictures {_kind(dataset.shape, here)} do not fit {pretrained.path!r}, which is of pictures "
            f"{_kind(own.shape, there)}; bring them there with {' and '.join(_ways(dataset, own.shape, there))}"
        )
    if own.clusters:
        raise UnblotError(
            f"{pretrained.path!r} learned clusters of its own pictures as labels, which others do not have; give a run "
            f"with classes, with captions, or one that was trained with {arg('clusters', 0)}"
        )
    report = line_printer(quiet or not join_group().is_main_process)
    if dataset.classes and dataset.classes != own.classes:
        report(f"note: labels are not read: their classes are not those of {pretrained.path!r}")
    if dataset.captions is not None and own.text is None:
        report(f"note: captions are not read: {pretrained.path!r} learned from none")
    unlabelled = data.unlabelled or dataset.classes != own.classes
    data = dataclasses.replace(data, unlabelled=unlabelled, uncaptioned=data.uncaptioned or own.text is None)
    return data, with_values_of(open_dataset(data, quiet), own)


def _kind(shape: tuple[int, int, int], values: ValueMap) -> str:
    """What pictures (C, H, W) with these values are, in words."""
    return f"of {shape[1]}x{shape[2]} with {_channels(shape, values)} of {values.dtype}"


def _ways(dataset: Dataset, shape: tuple[int, int, int], values: ValueMap) -> list[str]:
    """What would bring the pictures of a data set to this shape (C, H, W) and to the type of these values."""
    ways, (channels, height, width) = [], shape
    if dataset.shape[1:] != (height, width):
        ways.append(arg("size", f"{height}x{width}"))
    if (dataset.shape[0], dataset.values.alpha) != (channels, values.alpha):
        colour = colour_of(channels) if values.alpha == (channels == 4) else ""
        ways.append(arg("colour", colour) if colour else f"{_channels(shape, values)} in the files")
    if dataset.values.dtype != values.dtype:
        ways.append(f"values of type {values.dtype} in the files")
    return ways


def _channels(shape: tuple[int, int, int], values: ValueMap) -> str:
    return counted(shape[0], "channel") + (" (the last is opacity)" if values.alpha else "")


def adapter_config(
    pretrained: Pretrained, data: DataConfig, dataset: Dataset, choices: dict[str, Any], quiet: bool
) -> tuple[RunConfig, Dataset]:
    """The configuration of an adapter's run, and its data. Raises UnblotError for data that does not fit."""
    data, dataset = fitting_data(pretrained, data, dataset, quiet)
    train = pretrained.config.train
    taken = {n: v for n, v in dataclasses.asdict(train).items() if n not in OWN or n == "batch_size"}
    decided = {"steps": max(1, train.steps // 2), "learning_rate": RATE, "optimizer": "adamw", "shard": "off"}
    known = ("latent", "pixels")  # an adapter is of pixels in any case
    given = {name: value for name, value in choices.items() if value is not None and name not in known}
    model = build_denoiser(pretrained.config)
    model.load_state_dict(pretrained.weights)
    facts = dataclasses.replace(
        pretrained.config.data,
        name=dataset.name,
        count=dataset.training_count,
        fingerprint=dataset.fingerprint,
        shares=dataset.label_shares(len(dataset.classes)),
        text=text_of(pretrained.config.data.text, model, dataset),
    )
    config = dataclasses.replace(
        pretrained.config,
        source=data,
        data=facts,
        train=resolve(facts, {**taken, **decided, **given}),
        version=__version__,
        origin=Origin(pretrained.path, pretrained.sha256, 1.0, (), ()),
        adapter=AdapterFacts(pretrained.rank, fingerprint(model), data.unlabelled),
    )
    return config, dataset


def text_of(text: TextFacts | None, denoiser: Denoiser, dataset: Dataset) -> TextFacts | None:
    """What the run of an adapter must know of its captions, which are read as the pretrained run's were; its words
    and numbers are those of the new data, but the words of that run where the data has no captions."""
    if text is None or denoiser.text_encoder is None:
        return text
    captions = [] if dataset.captions is None else [dataset.captions[i] for i in dataset.train.tolist()]
    texts = [one for several in captions for one in several]
    cut = sum(size > text.length for size in denoiser.text_encoder.tokenizer.sizes(texts))
    words = " ".join(commonest(texts)) if texts else text.words
    return dataclasses.replace(text, words=words, pictures=sum(map(bool, captions)), cut=cut)


def put_below(denoiser: Denoiser, pretrained: Pretrained) -> None:
    """Puts the pretrained weights and buffers below the additions of a denoiser."""
    marked = {
        name.replace(".parametrizations.weight.original", ".weight"): t for name, t in tensors_of(denoiser).items()
    }
    for name, weight in pretrained.weights.items():
        marked[name].copy_(weight)
