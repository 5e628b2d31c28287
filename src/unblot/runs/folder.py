"""The run folder, the one artefact of training, and the model file in it.

    config.json          every choice, and what the data is
    model.safetensors    the averaged weights; its header repeats the config, so that it is enough to sample from
    autoencoder.safetensors  of a run in latents: its first stage, to go on from
    adapter.safetensors  of a run that trained one: the addition alone, for the run that it began with
    teacher.safetensors  of a distilled run: the model that it was made from
    metrics.jsonl        one JSON object a line; without times, so that a repetition writes the same
    plan.json            with a budget: the plan from trial steps, and how it ended
    training.log         the messages of training, with times
    wandb.id             with `--log-to wandb`: which run of the service this is
    tuning.json          how this model samples best, where `unblot tune` has measured that
    checkpoints/         everything needed to go on
    snapshots/           averages of the weights on the way, from which others are rebuilt
    .launch              of a run under torchrun: which torchrun began it
    samples/  report/    samples, also those from during training; the evaluation
    card/                the model card, with a picture

Files are written under another name and then renamed, so that a reader never sees half of one.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unblot.config.schema import OTHER_VERSION, RunConfig
from unblot.data.augment import AUGMENTATIONS
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg, note, one_line, typed
from unblot.latent.latents import build_autoencoder
from unblot.losses import OBJECTIVES
from unblot.nn.autoencoder import frozen
from unblot.nn.low_rank import add_low_rank
from unblot.nn.own import networks_for, version_of
from unblot.process.randomness import seeded
from unblot.process.schedules import INDEX_EMBEDDINGS
from unblot.process.spectrum import Spectrum
from unblot.specs import build
from unblot.system.files import read_tensors, write_json, write_tensors
from unblot.system.folders import LOCK, remove_recorded, shortened, user_path
from unblot.system.launch import LAUNCH, note_launch
from unblot.system.stored import convert_stored, parse_stored, read_stored
from unblot.text.encoder import TEXT_ENCODERS
from unblot.text.layout import layout_for

CONFIG, MODEL, METRICS, TEACHER = "config.json", "model.safetensors", "metrics.jsonl", "teacher.safetensors"
PLAN = "plan.json"
CHECKPOINTS, SAMPLES, REPORT, SNAPSHOTS = "checkpoints", "samples", "report", "snapshots"
CARD = "card"
TUNING = "tuning.json"
BEST, LOG, WANDB_ID = "best.safetensors", "training.log", "wandb.id"

OURS = re.compile(  # every file that unblot writes into a run folder, besides those that a manifest in samples/ lists
    r"(config|plan|tuning)\.json|(model|teacher|best|autoencoder|adapter)\.safetensors|metrics\.jsonl|training\.log|wandb\.id"
    r"|\.launch"
    r"|samples/step_\d{8}\.png|report/(report\.(html|json)|tuning\.html)|card/(README\.md|samples\.png)"
    r"|snapshots/\d{8}\.safetensors"
    r"|checkpoints/\d{8}(\.part)?/state\.(json|safetensors)|tensorboard/events\.out\.tfevents\..*"
)
TEMPORARY = re.compile(r"^(.*/|)\.?([^/]+?)(\.\d+)?\.part$")  # of a file: what a killed process leaves


def build_denoiser(config: RunConfig) -> Denoiser:
    """The run's denoiser with fresh weights, which follow from the run's seed, in channels_last."""
    train, data = config.train, config.x0_facts
    augmentations = build(AUGMENTATIONS, train.augment, "augmentation").conditions
    learned = build(OBJECTIVES, train.objective, "objective").learned_variance
    with seeded(train.seed):
        size = (data.height, data.width)
        outputs = 2 * data.channels if learned else data.channels
        encoder = build(TEXT_ENCODERS, train.text_encoder, "text encoder", data.text) if data.text else None
        layout = layout_for(encoder.width, encoder.squares, data.shape) if encoder else None
        inputs = data.channels + augmentations + (data.channels if layout else 0)
        named = (inputs, outputs, size, data.num_labels)
        network = build(
            networks_for(train.network), train.network, "network", *named, *([encoder.width] if encoder else [])
        )
        if config.adapter is not None:
            nn.ModuleList(filter(None, (encoder, layout))).requires_grad_(False)
            add_low_rank(network, config.adapter.rank)
    known = train.spectrum == "data" and data.spectrum  # that of latents is not, before they are there
    spectrum = Spectrum.read(data.spectrum) if known else None
    index = INDEX_EMBEDDINGS.get(getattr(network, "embeds", ""), INDEX_EMBEDDINGS["ddpm_index"])(train.schedule)
    seen = (train.parameterization, train.data_std, data.num_labels, augmentations, learned)
    denoiser = Denoiser(network, *seen, spectrum, encoder, index, layout)
    return denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_model(config: RunConfig) -> Denoiser:
    """`build_denoiser`'s, with the frozen autoencoder of a run in latents, whose weights are those of a model file."""
    denoiser = build_denoiser(config)
    if config.latent is not None:
        denoiser.autoencoder = frozen(build_autoencoder(config))
    return denoiser


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """What a module keeps beside its parameters, by name, such as the statistics of batch norm: its persistent buffers.

    Only networks of one's own have any. Those of a frozen autoencoder are left out.
    """
    kept = module.state_dict().keys()
    return {n: b for n, b in module.named_buffers() if n in kept and not n.startswith("autoencoder.")}


def frozen_weights(denoiser: Denoiser) -> dict[str, Tensor]:
    """The tensors of a model that are not trained with it, but saved: those of its autoencoder, and its buffers."""
    trained = dict(denoiser.named_parameters())
    return {name: w.detach().cpu().contiguous() for name, w in denoiser.state_dict().items() if name not in trained}


def fingerprint(denoiser: Denoiser) -> str:
    """A hash of a model's weights, to recognise results made with other weights."""
    digest = hashlib.sha256()
    for _, weight in sorted(denoiser.state_dict().items()):
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def is_run(folder: Path) -> bool:
    """Whether the folder's config.json was written by unblot, also by another version or for a run that never began."""
    with suppress(UnblotError):
        return {"source", "data", "train", "version"} <= set(read_stored(folder / CONFIG, dict[str, Any]))
    return False


def refuse_run(folder: Path, overwrite: bool = False) -> None:
    """Raises UnblotError where a new run cannot be written into the folder without loss of what is there."""
    if folder.exists() and not folder.is_dir():
        raise UnblotError(f"{str(folder)!r} is a file; choose another {arg('out')}")
    there = {path.name for path in folder.iterdir()} - {LOCK, LAUNCH} if folder.is_dir() else set()
    if not there or (overwrite and is_run(folder)):
        return
    if is_run(folder):
        raise UnblotError(
            f"{str(folder)!r} holds a run; go on with it by unblot train --resume {typed(folder)}, choose another "
            f"{arg('out')}, or replace it with {arg('overwrite', True)}"
        )
    raise UnblotError(
        f"{str(folder)!r} holds files that are not of a run ({shortened(there)}); choose another {arg('out')}"
    )


def create(folder: Path, config: RunConfig, overwrite: bool = False) -> None:
    """A new run folder with its config.json; with `overwrite` without the files of the run that is there.

    Files that unblot did not write stay. Raises UnblotError as `refuse_run` does.
    """
    refuse_run(folder, overwrite)
    remove_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note_launch(folder)
    write_run_config(folder, config)


def write_run_config(folder: Path, config: RunConfig) -> None:
    """Writes the config.json of a run, which makes the folder a run, and the folders in it that are missing."""
    write_json(folder / CONFIG, config.to_dict())
    for part in (SAMPLES, CHECKPOINTS):
        (folder / part).mkdir(exist_ok=True)


def remove_run(folder: Path) -> None:
    """Removes the files that unblot wrote into a run folder, and the folders that are empty then."""
    touched = {folder / name for name in (CHECKPOINTS, SAMPLES, REPORT, SNAPSHOTS, CARD)}
    for path in sorted(folder.rglob("*"), key=lambda path: path.name == CONFIG):  # as long as it stands, this is a run
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if path.parent == folder / CHECKPOINTS and OURS.fullmatch(f"{name}/state.json"):
                touched.add(path)
            elif path.parent == folder / SAMPLES:
                with suppress(UnblotError):  # a damaged manifest says nothing: its folder stays
                    remove_recorded(path)
                    touched.add(path)
        elif OURS.fullmatch(name) or OURS.fullmatch(TEMPORARY.sub(r"\1\2", name)):
            path.unlink()
            touched.add(path.parent)
    for part in sorted(touched - {folder}, reverse=True):
        with suppress(OSError):  # it holds other files, or is not there
            part.rmdir()


def save_model(path: Path, config: RunConfig, weights: Mapping[str, Tensor]) -> None:
    """model.safetensors: the weights, with the whole config in the header."""
    write_tensors(path, weights, {"unblot": json.dumps(config.to_dict())})


def load_model(path: Path) -> tuple[RunConfig, Denoiser]:
    """The config and the trained denoiser of a model file or of a run folder, on the CPU.

    Raises UnblotError for a missing, truncated or foreign file, or one whose weights do not fit its config. The
    network is built only after that is known: memory is bounded by the size of the file.
    """
    path = model_file(path)
    weights, header = read_tensors(path)
    if "unblot" not in header:
        if path.parent.name == SNAPSHOTS and is_run(path.parents[1]):
            way = f"draw with weights averaged from it by unblot ema {typed(path.parents[1])}"
            raise UnblotError(f"{str(path)!r} is a snapshot, which is no whole model; {way}")
        raise UnblotError(f"{str(path)!r} was not written by unblot: its header has no config")
    config = parse_stored(header["unblot"], RunConfig, f"the header of {str(path)!r}", OTHER_VERSION)
    note_other_code(config, path)
    networks_for(config.train.network)
    return config, fitted(config, weights, path)


def note_other_code(config: RunConfig, path: Path) -> None:
    """Notes where the code of the network of one's own is not what a run, or a model file, was trained with.

    Raises UnblotError where its module may not be imported.
    """
    if config.code and version_of(config.train.network) != config.code:
        note(f"{config.train.network} is another version than {str(path)!r} was trained with, {config.code}")


def fitted(config: RunConfig, weights: Mapping[str, Tensor], path: Path) -> Denoiser:
    """The denoiser of a config with the weights that were read from a file, on the CPU, in eval mode.

    Raises UnblotError where they do not fit. The network is built only after that is known.
    """
    try:
        convert_stored(config.data.values, ValueMap, "values of the data")
        with _at_most(len(weights) * (2 if config.adapter else 1)), torch.device("meta"):
            expected = build_model(config).state_dict()
        _compare({name: w.shape for name, w in expected.items()}, {name: w.shape for name, w in weights.items()})
        denoiser = build_model(config)
        denoiser.load_state_dict(weights)
    except (UnblotError, ValueError, TypeError, KeyError, RuntimeError, ArithmeticError, MemoryError) as e:
        reason = one_line(e)
        raise UnblotError(f"{str(path)!r} is damaged: weights and config do not fit ({reason})") from None
    return denoiser.eval()


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Within it networks of more parameters than a file has tensors are refused while they are built."""
    left = tensors

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= parameter is not None
        if left < 0:
            raise UnblotError(f"the config describes a network of more than the {tensors} tensors of the file")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _compare(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> None:
    """Raises UnblotError at the first tensor whose name or shape is another."""
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            shapes = [str(tuple(s[name])) if name in s else "missing" for s in (found, expected)]
            raise UnblotError(
                f"tensor {name!r} is {shapes[0]} in the file, and {shapes[1]} in the network of the config"
            )


def model_file(path: Path) -> Path:
    """The model file of a run folder, or the file itself. Raises UnblotError where there is none."""
    path = user_path(path)
    place = path / MODEL if path.is_dir() else path
    if path.is_dir() and not place.exists() and is_run(path):
        raise UnblotError(
            f"run {str(path)!r} has no model yet; start its training by unblot train --resume {typed(path)}"
        )
    if not place.is_file():
        raise UnblotError(f"no model at {str(place)!r}; give a run folder or a {MODEL}")
    return place


def read_config(folder: Path) -> RunConfig:
    """The config of a run folder. Raises UnblotError where there is none or it cannot be read."""
    path = folder / CONFIG
    if not path.exists():
        raise UnblotError(f"no run at {str(folder)!r}: it has no {CONFIG}")
    return read_stored(path, RunConfig)
