"""The weaker model of autoguidance: one whose estimates mean what the run's own do."""

from pathlib import Path

import torch

from unblot.config.schema import RunConfig
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.nn.autoencoder import Autoencoder
from unblot.runs.conditions import tokens_of
from unblot.runs.folder import SNAPSHOTS, load_model
from unblot.runs.hub import local_run
from unblot.runs.snapshots import at_snapshot
from unblot.system.folders import user_path


def weaker_model(path: str, folder: Path, config: RunConfig, autoencoder: Autoencoder | None) -> Denoiser:
    """The model at `path`, on the CPU, to guide the run in a folder away from; the folder is looked in first.

    path: may be of the hub. config, autoencoder: the run's. Raises UnblotError where an x0 or a label of the model
    means something else.
    """
    _check_distilled("this run", config)
    inside = folder / path
    place = inside if inside.exists() else local_run(user_path(path))
    if place.resolve().parent == (folder / SNAPSHOTS).resolve():
        return at_snapshot(place, config)
    other, denoiser = load_model(place)
    _check_pictures(path, config, other)
    _check_labels(path, config, other)
    _check_autoencoder(path, autoencoder, denoiser.autoencoder)
    return denoiser


def _check_pictures(path: str, mine: RunConfig, other: RunConfig) -> None:
    """Raises UnblotError where the pictures of two models, or the estimates of them, are not of one kind."""
    shapes, labels = [c.shape for c in (mine, other)], [c.data.num_labels for c in (mine, other)]
    if shapes[0] != shapes[1] or labels[0] != labels[1]:
        raise UnblotError(
            f"{arg('autoguide', path)} has pictures of shape {shapes[1]} and {labels[1]} labels, this run {shapes[0]} "
            f"and {labels[0]}; give a model of the same data"
        )
    if ValueMap.from_dict(mine.data.values) != ValueMap.from_dict(other.data.values):
        raise UnblotError(
            f"{arg('autoguide', path)} has another range of values in its data than this run has; give a model of the "
            f"same data"
        )
    _check_distilled(arg("autoguide", path), other)


def _check_distilled(whose: str, config: RunConfig) -> None:
    """Raises UnblotError for a distilled model, named `whose`."""
    if config.distill is not None:
        raise UnblotError(
            f"{whose} was distilled, and its estimates are no means, as {arg('autoguide')} needs them of both models; "
            f"use its teacher, {config.distill.teacher!r}"
        )


def _check_labels(path: str, mine: RunConfig, other: RunConfig) -> None:
    """Raises UnblotError where a label or a text means something else to the other of two models."""
    if tokens_of(other) != tokens_of(mine):
        raise UnblotError(f"{arg('autoguide', path)} does not read captions as this run does; give another")
    pairs = enumerate(zip(mine.data.classes, other.data.classes, strict=False))
    different = next(((i, a, b) for i, (a, b) in pairs if a != b), None)
    if different is not None:
        i, a, b = different
        raise UnblotError(
            f"{arg('autoguide', path)} knows label {i} as {b!r}, this run as {a!r}; give a model of the same classes"
        )
    if (mine.data.classes, mine.data.clusters) != (other.data.classes, other.data.clusters):
        raise UnblotError(
            f"{arg('autoguide', path)} has other clusters as labels than this run has; give a snapshot of this run"
        )


def _check_autoencoder(path: str, mine: Autoencoder | None, other: Autoencoder | None) -> None:
    """Raises UnblotError unless both models learned pixels, or latents of one encoder; decoders may be fine-tuned."""
    if mine is None and other is None:
        return
    if mine is not None and other is not None:
        weights, others = (
            {n: w.cpu() for n, w in network.state_dict().items() if not n.startswith("decoder.")}
            for network in (mine, other)
        )
        if weights.keys() == others.keys() and all(torch.equal(w, others[name]) for name, w in weights.items()):
            return
    raise UnblotError(
        f"{arg('autoguide', path)} and this run have not one autoencoder, and the latents of two mean different "
        f"things; give a snapshot of this run"
    )
