"""The plan of a run: every choice decided, checked and written out in full."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from unblot._version import __version__
from unblot.config.durations import budget_of
from unblot.config.latent import LatentConfig
from unblot.config.options import check_values
from unblot.config.presets import PRESETS, resolve
from unblot.config.schema import DataConfig, DataFacts, RunConfig, TrainConfig, latent_facts
from unblot.data.augment import AUGMENTATIONS
from unblot.data.clusters import shares
from unblot.data.dataset import Dataset
from unblot.data.subset import spread
from unblot.errors import UnblotError, arg, printable
from unblot.latent.latents import latents_of
from unblot.losses import OBJECTIVES, WEIGHTINGS
from unblot.nn import NETWORKS
from unblot.nn.own import networks_for, version_of
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.schedules import SCHEDULES
from unblot.process.spectrum import Moments
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS
from unblot.specs import build, canonical, parse, several
from unblot.system import compiling, sharding
from unblot.system.device import available_device, mixed_precision
from unblot.text.encoder import TEXT_ENCODERS
from unblot.text.frozen import Frozen, FrozenTokenizer, digest
from unblot.text.tokenizer import LONGEST, learn
from unblot.training.averages.ema import EMAS
from unblot.training.batches import COUPLINGS, check_times
from unblot.training.diagnostics.loggers import services
from unblot.training.learning_rate import DECAYS
from unblot.training.levels import check_levels
from unblot.training.optim import OPTIMIZERS, check_optimizer

STD_PICTURES = 4096  # enough for the data's standard deviation to about one percent
SPECTRUM_VALUES = 2**25  # values of them, at least, where there are as many, from which the spectrum is taken
AT_ONCE = 2**24  # values of them held in memory at a time: 64 MB, and twice as much while they are summed

SPECTRA = ("none", "data")  # preconditioning: EDM's, or EDM's for each frequency by its power in the data
SPECS: dict[str, Mapping[str, Callable[..., Any]]] = {  # fields of TrainConfig that choose from a table
    "network": NETWORKS,
    "text_encoder": TEXT_ENCODERS,
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
BUILT = ("augment", "schedule", "objective", "weighting", "coupling", "spacing", "solver")  # ... without more arguments


def check_choices(choices: Mapping[str, Any]) -> None:
    """Checks all choices of a new run that can be checked without its data, before that is read.

    choices: fields of DataConfig, TrainConfig and LatentConfig. Raises UnblotError for the first that cannot be.
    """
    fields = {f.name for config in (DataConfig, TrainConfig, LatentConfig) for f in dataclasses.fields(config)}
    if unknown := sorted(set(choices) - fields):
        raise UnblotError(f"unknown choice {unknown[0]!r}; choose among {', '.join(sorted(fields))}")
    for config in (DataConfig, TrainConfig, LatentConfig):
        check_values(config, choices)
    latent_of(choices)
    budget_of(dict(choices))
    if (preset := choices.get("preset", "default")) not in PRESETS:
        raise UnblotError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    check_specs(choices)
    check_machine(choices)


def latent_of(choices: Mapping[str, Any]) -> LatentConfig | None:
    """The autoencoder that these choices ask for, None for pixels. Raises UnblotError for its options without it."""
    given = {f.name: choices[f.name] for f in dataclasses.fields(LatentConfig) if f.name in choices}
    pixels = given.pop("pixels", False)
    if given.get("latent"):
        if pixels:
            raise UnblotError(f"{arg('latent', True)} and {arg('pixels', True)} exclude each other; give one of them")
        return LatentConfig(**given)
    if options := sorted(given.keys() - {"latent"}):
        raise UnblotError(f"{arg(options[0])} is of an autoencoder; give {arg('latent', True)} as well")
    return None


def is_default(choices: Mapping[str, Any]) -> bool:
    """Whether the preset is the default one."""
    return bool(choices.get("preset", "default") == "default")


def check_specs(choices: Mapping[str, Any]) -> None:
    """Raises UnblotError for a choice from a table that is not there, or whose options are out of their ranges."""
    for name in (name for name in SPECS if name in choices):
        canonical(table_of(name, choices[name]), choices[name], name)
        if name in BUILT:
            build(SPECS[name], choices[name], name)
    if choices.get("augment") == "plain":
        raise UnblotError(f"{arg('augment', 'plain')} alone changes nothing; say what it does: plain:flip=true,shift=2")
    for spec in several(choices.get("ema", "power")):
        build(EMAS, spec, "ema")
    check_optimizer(choices.get("optimizer", "adamw"))
    check_times(choices.get("times", "stratified"))
    if choices.get("times") == "adaptive" and choices.get("weighting") == "balanced":
        raise UnblotError(
            f"times adaptive and weighting balanced do not go together: one draws more of the large losses, the other "
            f"makes them count less; use {arg('weighting', 'none')}"
        )


def table_of(name: str, spec: str) -> Mapping[str, Callable[..., Any]]:
    """The table that a spec of a field of TrainConfig is read with; see `networks_for`."""
    return networks_for(spec) if name == "network" else SPECS[name]


def check_machine(choices: Mapping[str, Any]) -> None:
    """Raises UnblotError for a device, precision or service that is not there, or an unknown mode."""
    device = available_device(choices.get("device", "auto"))
    mixed_precision(choices.get("precision", "auto"), device)
    compiling.check_mode(choices.get("compile", "auto"))
    sharding.check_mode(choices.get("shard", "auto"))
    services(choices.get("log_to", ""))


def plan_run(source: DataConfig, dataset: Dataset, choices: dict[str, Any]) -> RunConfig:
    """The full configuration of a run on this data, every choice decided and written out.

    Raises UnblotError for choices that do not go together.
    """
    latent, facts = latent_of(choices), facts_of(dataset)
    choices = {name: value for name, value in choices.items() if name not in vars(LatentConfig())}
    config = resolve(_seen(facts, latent), choices, latent is not None)
    if facts.text is not None and not reads_captions(config):
        facts = dataclasses.replace(facts, text=None)
        config = resolve(_seen(facts, latent), choices, latent is not None)
    if facts.text is not None and config.text_encoder.startswith("transformers"):
        facts, config = with_frozen_encoder(facts, config, dataset)
    check_specs(vars(config))
    check_text(facts, config)
    check_spectrum(facts, config)
    facts = dataclasses.replace(facts, clusters=shares(dataset, config.clusters))
    config = written_out(config)
    return RunConfig(source, facts, config, __version__, latent=latent, code=version_of(config.network))


def written_out(config: TrainConfig) -> TrainConfig:
    """The choices with every option of their specs, whose noise levels go together. Raises UnblotError for others."""
    specs = {name: getattr(config, name) for name in SPECS}
    written: dict[str, Any] = {name: canonical(table_of(name, spec), spec, name) for name, spec in specs.items()}
    config = dataclasses.replace(config, **written)
    check_levels(config)
    return config


def _seen(facts: DataFacts, latent: LatentConfig | None) -> DataFacts:
    """What the denoiser will learn: the pictures of the data, or their latents."""
    return facts if latent is None else latent_facts(facts, latent)


def check_spectrum(facts: DataFacts, config: TrainConfig) -> None:
    """Raises UnblotError for an unknown spectrum, or one that does not go with the data or with other choices."""
    if config.spectrum == "data" and facts.kind == "points":
        raise UnblotError(f"{arg('spectrum', 'data')} is of pictures, and {facts.name} holds points; leave it out")
    if config.spectrum not in SPECTRA or (config.spectrum == "data" and config.parameterization != "edm"):
        raise UnblotError(
            f"{arg('spectrum', config.spectrum)} cannot be used; choose none, or data with "
            f"{arg('parameterization', 'edm')}"
        )


def with_frozen_encoder(facts: DataFacts, config: TrainConfig, dataset: Dataset) -> tuple[DataFacts, TrainConfig]:
    """The facts and the choices of a run whose text encoder is one of transformers: what it is, and what it reads.

    Raises UnblotError where it cannot be used.
    """
    assert facts.text is not None
    _, options = parse(TEXT_ENCODERS, config.text_encoder, "text encoder")
    place = str(Path(options["model"]).resolve()) if Path(options["model"]).is_dir() else options["model"]
    if not options["model"] or set(place) & set(",+"):
        raise UnblotError(
            f"{arg('text_encoder', config.text_encoder)} names no encoder; give "
            f"{arg('text_encoder', 'transformers:FOLDER')}, a folder without + and , in its path"
        )
    if dataset.stream is not None:
        raise UnblotError(
            f"{arg('text_encoder', config.text_encoder)} computes the hidden states of all captions beforehand, and "
            f"these stay in their shards; give {arg('text_encoder', 'transformer')}, or the pictures themselves"
        )
    frozen = Frozen(place)
    options |= {"model": place, "size": frozen.channels(), "sha256": digest(frozen.folder)}
    length, cut = _sizes(dataset, place, options["sha256"])
    text = dataclasses.replace(facts.text, merges="", length=length, cut=cut)
    spec = "transformers:" + ",".join(f"{k}={v}" for k, v in options.items())
    return dataclasses.replace(facts, text=text), dataclasses.replace(config, text_encoder=spec)


@lru_cache(maxsize=1)
def _sizes(dataset: Dataset, place: str, sha256: str) -> tuple[int, int]:
    """How many tokens of this encoder a caption has at most, up to LONGEST, and how many captions have more."""
    texts = [text for i in dataset.train.tolist() for text in (dataset.captions or ())[i]]
    sizes = FrozenTokenizer(Frozen(place, sha256), LONGEST).sizes(["", *texts])
    return max(2, min(LONGEST, max(sizes))), sum(size > LONGEST for size in sizes)


def reads_captions(config: TrainConfig) -> bool:
    """Whether a run of these choices reads the captions of its data."""
    return parse(TEXT_ENCODERS, config.text_encoder, "text encoder")[0] != "none"


def check_text(facts: DataFacts, config: TrainConfig) -> None:
    """Raises UnblotError where captions are to be read and there are none, or other choices do not allow it.

    facts: without text where captions are not read.
    """
    if not reads_captions(config):
        return
    unread = f"leave the captions unread with {arg('uncaptioned', True)}"
    if facts.text is None:
        raise UnblotError(f"{printable(facts.name)!r} has no captions for {arg('text_encoder', config.text_encoder)}")
    networks = networks_for(config.network)
    network = parse(networks, config.network, "network")[0]
    if not getattr(networks[network], "reads_text", False):
        able = " or ".join(name for name, made in NETWORKS.items() if made.reads_text)  # type: ignore[attr-defined]
        raise UnblotError(f"network {network!r} cannot read captions; choose {able}, or {unread}")
    if config.shard == "on":
        raise UnblotError(f"a text encoder is whole in every process; leave out {arg('shard', 'on')}, or {unread}")
    if config.clusters:
        raise UnblotError(f"{arg('clusters', config.clusters)} is for data without captions; leave it out, or {unread}")


@lru_cache(maxsize=1)  # a run with a budget is planned many times
def facts_of(dataset: Dataset) -> DataFacts:
    """What a run must know of its data, except for clusters, which are a choice."""
    channels, height, width = dataset.shape
    std, spectrum = _measured(dataset, spread(dataset.train, STD_PICTURES))
    return DataFacts(
        name=dataset.name,
        channels=channels,
        height=height,
        width=width,
        classes=dataset.classes,
        values=dataset.values.to_dict(),
        std=round(std, 4),
        count=dataset.training_count,
        fingerprint=dataset.fingerprint,
        spectrum=spectrum,
        shares=dataset.label_shares(len(dataset.classes)),
        latent_spectrum="" if dataset.latents is None else latent_spectrum(dataset),
        text=None if dataset.captions is None else learn([dataset.captions[i] for i in dataset.train.tolist()]),
    )


def latent_spectrum(dataset: Dataset) -> str:
    """The spectrum of the latents of training pictures, as text."""
    return _measured(latents_of(dataset), spread(dataset.train, STD_PICTURES))[1]


def _measured(dataset: Dataset, indices: np.ndarray) -> tuple[float, str]:
    """Standard deviation of all values of these pictures in the network's range, read AT_ONCE values at a time, and
    their spectrum, from about SPECTRUM_VALUES of them, evenly spread; empty for points."""
    each = math.prod(dataset.shape)
    count, total, squares = len(indices) * each, 0.0, 0.0
    moments, every = Moments(), max(1, count // SPECTRUM_VALUES)
    for part in np.array_split(np.arange(len(indices)), -(-len(indices) // max(1, AT_ONCE // each))):
        pictures = dataset.batch(indices[part])[0]
        x = pictures.double().flatten()
        total, squares = total + float(x.sum()), squares + float(x @ x)
        if len(chosen := np.flatnonzero(part % every == 0)):
            moments.add(pictures[chosen])
    std = math.sqrt(max(0.0, squares - total**2 / count) / max(1, count - 1))
    return std, "" if dataset.shape == (2, 1, 1) else str(moments.spectrum())
