"""A pipeline of the diffusers library, or its UNet2DModel alone, as a run; see `to_diffusers` for the files.

What the library does not write is said in the run as unknown: the pictures that the network learned from, their number
and their names of classes. A pipeline that unblot exported says all that in its unblot.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.errors import UnblotError, arg
from unblot.interchange import betas, unet2d
from unblot.interchange.betas import SchedulerConfig
from unblot.interchange.imported import LABELS, Imported, Known, config_of_known, importing
from unblot.interchange.pickled import read_pickled, state_dict
from unblot.interchange.strangers import WAY_OUT, refuse_file
from unblot.interchange.to_diffusers import (
    CONFIG,
    INDEX,
    OURS,
    SCHEDULER,
    SCHEDULER_CONFIG,
    UNET,
    WEIGHTS,
    described,
)
from unblot.interchange.unet2d import UNetConfig
from unblot.system.files import read_tensors
from unblot.system.stored import convert_stored, read_stored

T = TypeVar("T")

PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
PICKLED = "diffusion_pytorch_model.bin"
NOT_OURS = "it is no config of diffusers"


class Place(NamedTuple):
    """Where the parts of a model lie; None for a part that is not there."""

    unet: Path
    scheduler: Path | None
    ours: Path | None
    class_of_scheduler: str = ""


def read_folder(source: Path) -> Imported:
    """The run that a folder of diffusers becomes.

    Raises UnblotError for anything else, and for a model that no network here holds.
    """
    place = find(source)
    weights, path = read_weights(place.unet)
    with importing(source):
        config, line = read_config(place, source, weights)
    return Imported(config, weights, path, (line,) if line else ())


def find(folder: Path) -> Place:
    """The parts of a model in a folder: a pipeline, its parts in subfolders or beside one another, or a UNet2DModel.

    Raises UnblotError where there is none, or another one.
    """
    if not folder.is_dir():
        raise UnblotError(f"there is no folder or file {str(folder)!r}; {WAY_OUT}")
    if not (folder / INDEX).is_file():
        if not (folder / CONFIG).is_file():
            for path in sorted(folder.glob("*.safetensors")):
                refuse_file(path)
            raise UnblotError(f"{str(folder)!r} has neither {INDEX} nor {CONFIG}; {WAY_OUT}")
        near = [folder, folder / SCHEDULER, *([folder.parent / SCHEDULER] if folder.name == UNET else [])]
        return Place(folder, next((p / SCHEDULER_CONFIG for p in near if (p / SCHEDULER_CONFIG).is_file()), None), None)
    index = read_stored(folder / INDEX, dict[str, Any], NOT_OURS)
    if (name := index.get("_class_name")) not in PIPELINES:
        raise UnblotError(
            f"{str(folder)!r} is a pipeline of another kind, {str(name)[:80]!r}: of latents, texts or other networks; "
            f"unblot imports {', '.join(PIPELINES)}"
        )
    unet, scheduler = (folder / part if (folder / part).is_dir() else folder for part in (UNET, SCHEDULER))
    ours = folder / OURS
    named = index.get(SCHEDULER)
    return Place(
        unet,
        scheduler / SCHEDULER_CONFIG,
        ours if ours.is_file() else None,
        str(named[1])[:80] if isinstance(named, list) and len(named) == 2 else "",
    )


def read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The tensors of a UNet2DModel by their names of today, and their file."""
    if (path := folder / WEIGHTS).is_file():
        return unet2d.renamed(read_tensors(path)[0]), path
    if (path := folder / PICKLED).is_file():
        return unet2d.renamed(state_dict(read_pickled(path), path)), path
    raise UnblotError(f"{str(folder)!r} has no weights: neither {WEIGHTS} nor {PICKLED}, whole in one file")


def read_config(place: Place, source: Path, weights: Mapping[str, Tensor]) -> tuple[RunConfig, str]:
    """The config of the run that a model becomes, and what the user should know of it.

    Raises UnblotError where no run can hold the model.
    """
    unet = _read(place.unet / CONFIG, UNetConfig, (unet2d.CLASS,), strict=True)
    scheduler = SchedulerConfig()
    if place.scheduler is not None:
        wanted = (place.class_of_scheduler,) if place.class_of_scheduler in betas.READ else betas.READ
        scheduler = _read(place.scheduler, SchedulerConfig, wanted, strict=False)
    if (unet.num_class_embeds or 0) != (rows := _labels(weights)):
        raise UnblotError(f"its num_class_embeds is {unet.num_class_embeds}, and its weights are for {rows} labels")
    if place.ours is not None:
        return _recorded(place.ours, unet, scheduler), ""
    config = config_of(unet, scheduler, (source if source.name != UNET else source.parent).resolve().name or "imported")
    if place.scheduler is None:
        return config, f"there is no {SCHEDULER_CONFIG}; the model is taken to predict eps on DDPM's 1000 linear betas"
    if scheduler.clip_sample or scheduler.thresholding:
        kind = "dynamic" if scheduler.thresholding else "static"
        return config, f"its scheduler keeps x0_hat in range; sample with {arg('threshold', kind)} to do the same"
    return config, ""


def config_of(unet: UNetConfig, scheduler: SchedulerConfig, name: str) -> RunConfig:
    """The config of a run of a network and a scheduler, of pictures that are not known. Raises as `read_config`."""
    schedule = betas.schedule_of(scheduler)
    return config_of_known(
        Known(
            name=name,
            network=unet2d.network_of(unet, betas.index_of(schedule)),
            schedule=schedule,
            parameterization=betas.parameterization_of(scheduler),
            solver=betas.solver_of(scheduler),
            channels=unet.in_channels,
            size=unet.size,
            labels=unet.num_class_embeds or 0,
        )
    )


def _labels(weights: Mapping[str, Tensor]) -> int:
    """The number of labels that the weights are for."""
    return weights[LABELS].shape[0] if LABELS in weights and weights[LABELS].ndim == 2 else 0


def _recorded(path: Path, unet: UNetConfig, scheduler: SchedulerConfig) -> RunConfig:
    """The config that unblot wrote beside a pipeline. Raises UnblotError where that is of another network."""
    config = read_stored(path, RunConfig)
    files = described(config)
    parts = ((UNET, CONFIG, unet), (SCHEDULER, SCHEDULER_CONFIG, scheduler))
    for part, name, found in parts:
        written = {key: value for key, value in files[f"{part}/{name}"].items() if not key.startswith("_")}
        if convert_stored(written, type(found), str(path)) != found:
            raise UnblotError(f"{OURS} and {part}/{name} are of different models; remove {OURS} to import without it")
    return config


def _read(path: Path, kind: type[T], classes: tuple[str, ...], strict: bool) -> T:
    """A config of diffusers. Raises UnblotError for one of another class, and for an option that is not known."""
    raw = read_stored(path, dict[str, Any], NOT_OURS)
    if (name := raw.get("_class_name")) not in classes:
        raise UnblotError(f"its {path.name} is of {str(name)[:80]!r}, and unblot takes {', '.join(classes)} there")
    own = betas.DEFAULTS.get(name, {}) | {key: value for key, value in raw.items() if not key.startswith("_")}
    return convert_stored(own, kind, repr(path.name), NOT_OURS, extra=not strict)
