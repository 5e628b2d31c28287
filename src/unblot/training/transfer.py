"""A run that begins with the averaged weights of another, as far as they fit: `unblot train DATA --from RUN`.

Nothing else is taken: data_std and the spectrum are those of the new data, and optimizer and averages begin anew.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unblot.config.schema import RunConfig, TrainConfig
from unblot.config.transfer import Origin, Taken, TransferConfig
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.nn.own import networks_for
from unblot.runs.adapter import without_adapter
from unblot.runs.folder import CONFIG, MODEL, SNAPSHOTS, buffers, build_denoiser, load_model, model_file, read_config
from unblot.runs.hub import local_run
from unblot.runs.snapshots import at_snapshot
from unblot.specs import parse
from unblot.system.files import checksum
from unblot.system.folders import user_path
from unblot.text.encoder import TEXT_ENCODERS
from unblot.training.matching import LABELS, Match, fill, match, side_of

RECIPE = (  # what gives input and output of a network their meaning
    *("parameterization", "objective", "weighting", "schedule", "times", "spectrum"),
    *("spacing", "solver", "sampling_steps"),
)
MEANING = {"preset", "parameterization", "objective"}  # with one of these the recipe is another
OWN = {  # choices that the training of an adapter has of its own: the recipe is that of the pretrained run
    f.name for f in dataclasses.fields(TrainConfig) if f.metadata["group"] in ("optimisation", "run")
}
CLOSED = ("budget", "optimizer", "shard")  # ... but these
PLACES = {
    "unet": ("multipliers", "blocks", "paired"),
    "ddpm_unet": ("multipliers", "blocks", "scale_shift"),
}  # options that move layers
LAST_BIAS = re.compile(r"network\.(embed_noise|time_embedding)\..*bias")  # the last of these adds to every label


class Pretrained(NamedTuple):
    """Weights to begin with: as they were named, the file's checksum, the run's configuration, and the weights.

    rank: of an adapter to train on them, 0 where they are trained themselves.
    """

    path: str
    sha256: str
    config: RunConfig
    weights: dict[str, Tensor]
    rank: int = 0


def pretrained_of(choices: dict[str, Any]) -> Pretrained | None:
    """The pretrained weights that the choices name, which are taken out of them; None where they name none.

    Raises UnblotError for weights that cannot be read, or that cannot begin such a training.
    """
    config = TransferConfig(from_=choices.pop("from_", None), adapter=choices.pop("adapter", None) or 0)
    path = config.from_
    if path is None and config.adapter:
        raise UnblotError(f"{arg('adapter', config.adapter)} adds to the weights of a run; name it with {arg('from_')}")
    if path is None:
        return None
    for name in (f.name for f in dataclasses.fields(TrainConfig) if f.name not in OWN or f.name in CLOSED):
        if config.adapter and choices.get(name) is not None:
            raise UnblotError(
                f"an adapter has the recipe of the run that it adds to; leave out {arg(name, choices[name])}"
            )
    pretrained = read_pretrained(path)._replace(rank=config.adapter)
    if pretrained.config.latent is not None or choices.get("latent"):
        raise UnblotError(
            f"{arg('from_', path)} and latents do not go together: the latents of one autoencoder mean nothing to "
            f"another; leave out {arg('from_')}, or begin with a run of pixels without {arg('latent')}"
        )
    if pretrained.config.distill is not None:
        raise UnblotError(
            f"{path!r} was distilled and knows its own noise levels alone; begin with its teacher, "
            f"{arg('from_', pretrained.config.distill.teacher)}"
        )
    if choices.get("network"):
        check_network(pretrained, choices["network"])
    return pretrained


def read_pretrained(path: str) -> Pretrained:
    """The averaged weights of a run, of a model file, or of a snapshot in a run. Raises UnblotError for others."""
    place = local_run(user_path(path))
    if place.parent.name == SNAPSHOTS and (place.parent.parent / CONFIG).is_file():
        config = read_config(place.parent.parent)
        file, denoiser = place, at_snapshot(place, config)
    else:
        file = model_file(place)
        config, denoiser = load_model(place)
    if config.adapter is not None:
        config, denoiser = dataclasses.replace(config, adapter=None), without_adapter(denoiser)
    return Pretrained(path, checksum(file), config, tensors_of(denoiser))


def tensors_of(denoiser: Denoiser) -> dict[str, Tensor]:
    """The parameters and the buffers of a denoiser, without those of an autoencoder, to read or to write into."""
    return {name: p.detach() for name, p in denoiser.named_parameters()} | buffers(denoiser)


def own_pretrained(folder: Path, config: RunConfig) -> Pretrained | None:
    """The weights that a run began with, from its own folder: for one that has no checkpoint yet.

    None for a run that began with new weights. Raises UnblotError where it was stopped before it had taken them.
    """
    if config.origin is None:
        return None
    if not (folder / MODEL).exists():
        raise UnblotError(
            f"run {str(folder)!r} was stopped before it had the weights of {config.origin.path!r}; train it again with "
            f"{arg('from_', config.origin.path)} and {arg('overwrite', True)}"
        )
    return read_pretrained(str(folder))


def check_network(pretrained: Pretrained, network: str) -> None:
    """Raises UnblotError for a network in which the pretrained layers have no place."""
    (there, own), (here, options) = (
        parse(networks_for(spec), spec, "network") for spec in (pretrained.config.train.network, network)
    )
    way_out = f"leave out {arg('network')} to take the source's, or leave out {arg('from_')}"
    if here != there:
        raise UnblotError(
            f"{arg('network', network)} is another kind of network than that of {pretrained.path!r}, which is {there}; "
            f"{way_out}"
        )
    for name in PLACES.get(here, ()):
        if options[name] != own[name]:
            raise UnblotError(
                f"{arg('network', network)} has {name}={options[name]}, and that of {pretrained.path!r} {own[name]}, "
                f"so that its layers stand in other places; {way_out}"
            )


def inherit_choices(pretrained: Pretrained | None, dataset: Dataset, choices: dict[str, Any]) -> tuple[str, ...]:
    """Adds to the choices of a training on this data those that the pretrained run decides; returns their names.

    The network, so that the most fits, and with captions the text encoder. Where what it predicts is not chosen, also
    all of the recipe that is not, since a network's output means what it was trained to predict.
    """
    if pretrained is None:
        return ()
    train = pretrained.config.train
    names = ["network"]
    if dataset.captions is not None and pretrained.config.data.text is not None:
        names.append("text_encoder")
    if not MEANING & {name for name, value in choices.items() if value is not None}:
        names += ["preset", *RECIPE]
        if dataset.shape == (2, 1, 1):  # points have no spectrum
            names.remove("spectrum")
    taken = [name for name in names if choices.get(name) is None]
    choices.update({name: getattr(train, name) for name in taken})
    return tuple(taken)


def with_origin(config: RunConfig, pretrained: Pretrained | None, choices: tuple[str, ...] = ()) -> RunConfig:
    """The configuration with what is taken from the pretrained run in its record; as it is without one."""
    if pretrained is None:
        return config
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in tensors_of(build_denoiser(config)).items()}
    weights = converted_weights(pretrained, config, shapes)
    matches = matched(pretrained, weights, config, shapes)
    parts, share = _table(matches, shapes, {name: w.shape for name, w in weights.items()})
    return dataclasses.replace(config, origin=Origin(pretrained.path, pretrained.sha256, share, choices, parts))


@torch.no_grad()
def load_pretrained(denoiser: Denoiser, pretrained: Pretrained, config: RunConfig) -> None:
    """Puts the pretrained weights into the denoiser of a run, as far as they fit."""
    new = tensors_of(denoiser)
    shapes = {name: t.shape for name, t in new.items()}
    weights = converted_weights(pretrained, config, shapes)
    for name, found in matched(pretrained, weights, config, shapes).items():
        if found.axes is not None:
            fill(new[name], weights[name], found.axes)


def matched(
    pretrained: Pretrained, weights: Mapping[str, Tensor], config: RunConfig, shapes: Mapping[str, torch.Size]
) -> dict[str, Match]:
    """What each tensor of the run's network, of these shapes, takes from the pretrained weights."""
    there = side_of(pretrained.config, {name: w.shape for name, w in weights.items()})
    here = side_of(config, shapes)
    return {name: match(name, there, here) for name in shapes}


def converted_weights(pretrained: Pretrained, config: RunConfig, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The pretrained weights for a network with labels or without, whichever they are of; it does the same.

    Without labels the row for "no label" becomes part of the bias that it was added to. With labels "no label" is 0
    where the pretrained network had no labels. Weights of another text encoder are left out.
    """
    weights = dict(pretrained.weights)
    if _reader(pretrained.config) != _reader(config):
        weights = {name: w for name, w in weights.items() if not name.startswith(("text_encoder.", "layout."))}
    bias = max((name for name in weights if LAST_BIAS.fullmatch(name)), default="")
    for name in LABELS:
        if name in weights and name not in shapes and bias:
            weights[bias] = weights[bias] + weights[name][-1]
        elif name in shapes and name not in weights and bias in weights:
            weights[name] = torch.zeros(1, len(weights[bias]))
    return weights


def _table(
    matches: Mapping[str, Match], shapes: Mapping[str, torch.Size], there: Mapping[str, torch.Size]
) -> tuple[tuple[Taken, ...], float]:
    """The rows of the record, in the order of the network, and the share of its weights that are not new."""
    rows: dict[tuple[str, str, str], list[tuple[int, int]]] = {}  # entries in all, and those taken, of each tensor
    for name, found in matches.items():
        size = shapes[name].numel()
        count = 0 if found.axes is None else torch.Size([len(here) for _, here in found.axes]).numel()
        taken = "new" if not count else "in part" if found.why else "whole"
        rows.setdefault((_part(name), taken, found.why), []).append((size, count))
    for name in sorted(there.keys() - shapes.keys()):
        why = "added to a bias" if name in LABELS else "it has no place here"
        rows.setdefault((_part(name), "left", why), []).append((there[name].numel(), 0))
    parts = [
        Taken(part, taken, len(sizes), sum(count for _, count in sizes) / max(1, sum(size for size, _ in sizes)), why)
        for (part, taken, why), sizes in rows.items()
    ]
    kept = [pair for (_, taken, _), sizes in rows.items() if taken != "left" for pair in sizes]
    return tuple(parts), sum(count for _, count in kept) / max(1, sum(size for size, _ in kept))


def _reader(config: RunConfig) -> tuple[str, str]:
    """The kind of a run's text encoder, and of a frozen one the model that it is."""
    kind, options = parse(TEXT_ENCODERS, config.train.text_encoder, "text encoder")
    return kind, options.get("sha256", "")


def _part(name: str) -> str:
    """The part of a network that a tensor belongs to: `network.enter`."""
    return ".".join(name.split(".")[:2])
