"""A run as a pipeline of the diffusers library, which loads it without any code of ours.

model_index.json                             the pipeline: DDPMPipeline
unet/config.json                             UNet2DModel
unet/diffusion_pytorch_model.safetensors     its weights
scheduler/scheduler_config.json              DDPMScheduler: the levels, and what the network predicts
unblot.json                                  what the library has no place for: the run's config
"""

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from unblot.config.export import ExportConfig
from unblot.config.schema import RunConfig
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg, note
from unblot.interchange import betas, unet2d
from unblot.interchange.publish import without_paths
from unblot.losses import OBJECTIVES
from unblot.runs.adapter import merged
from unblot.runs.run import Run
from unblot.specs import build
from unblot.system.files import write_json, write_tensors
from unblot.system.folders import begin_folder, claimed, refuse_foreign, removed_on_failure

INDEX, UNET, SCHEDULER, OURS = "model_index.json", "unet", "scheduler", "unblot.json"
CONFIG, WEIGHTS, SCHEDULER_CONFIG = "config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json"
VERSION = "0.42.1"  # of the library, whose formats these are


def export_pipeline(run: Run, choices: ExportConfig, out: Path | None = None, overwrite: bool = False) -> Path:
    """Writes a run as a pipeline of diffusers into a folder, by default a new one, which is returned.

    Raises UnblotError for a run that the library cannot hold, and for choices that a pipeline does not keep.
    """
    for name, value in (("half", choices.half), ("steps", choices.steps), ("spacing", choices.spacing)):
        if value:
            raise UnblotError(f"{arg(name, value)} is not for {arg('to', 'diffusers')}; leave it out")
    run.need_denoiser("export")
    own, denoiser = merged(run.config, run.denoiser)  # the library knows no adapter of ours
    run = dataclasses.replace(run, config=own, denoiser=denoiser)
    config = exported_config(run.config)
    files = described(config)
    with claimed(out, Path(f"{run.path.resolve().name}-diffusers")) as folder:
        parts = {folder: [INDEX, OURS], folder / UNET: [CONFIG, WEIGHTS], folder / SCHEDULER: [SCHEDULER_CONFIG]}
        for part, names in parts.items():
            refuse_foreign(part, names, overwrite)
        for part, names in parts.items():
            begin_folder(part, names, {"to": "diffusers"}, overwrite)
        with removed_on_failure(*reversed(parts)):
            for name, content in files.items():
                write_json(folder / name, content)
            write_json(folder / OURS, config.to_dict())
            write_tensors(folder / UNET / WEIGHTS, weights_of(run, config), {"format": "pt"})
    _say_what_differs(config)
    return folder


def exported_config(config: RunConfig) -> RunConfig:
    """The config of what is exported of a run: without augmentation, which sampling does not use, and without paths.

    Raises UnblotError for a run that diffusers cannot hold.
    """
    config.need_pixels("export")
    train = config.train
    if build(OBJECTIVES, train.objective, "objective").learned_variance:
        raise UnblotError(
            f"diffusers' schedulers take a learned variance in another form; train with {arg('objective', 'simple')}, "
            f"or give {arg('to', 'onnx')}"
        )
    if train.data_std != 1:
        raise UnblotError(
            f"the network takes x_t scaled for data of standard deviation {train.data_std:g}, which diffusers' "
            f"pipelines do not; train with {arg('data_std', 1.0)}, or give {arg('to', 'onnx')}"
        )
    return without_paths(dataclasses.replace(config, train=dataclasses.replace(train, augment="none")))


def described(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The JSON files of the pipeline of a run, by name."""
    data = config.data
    unet = unet2d.unet_of(config.train.network, data.channels, (data.height, data.width), data.num_labels)
    scheduler = dataclasses.asdict(betas.scheduler_of(config.train))
    parts = {SCHEDULER: ["diffusers", betas.WRITTEN], UNET: ["diffusers", unet2d.CLASS]}
    return {
        INDEX: {**_named("DDPMPipeline"), **parts},
        f"{UNET}/{CONFIG}": {**_named(unet2d.CLASS), **unet2d.json_values(unet)},
        f"{SCHEDULER}/{SCHEDULER_CONFIG}": {**_named(betas.WRITTEN), **dict(sorted(scheduler.items()))},
    }


def weights_of(run: Run, config: RunConfig) -> dict[str, Tensor]:
    """The tensors of the network, without the input channels of an augmentation, which are zero in sampling."""
    weights = dict(run.denoiser.network.state_dict())
    weights["conv_in.weight"] = weights["conv_in.weight"][:, : config.data.channels]
    return weights


def _named(name: str) -> dict[str, Any]:
    return {"_class_name": name, "_diffusers_version": VERSION}


def _say_what_differs(config: RunConfig) -> None:
    """Notes on what a pipeline of the library does otherwise than unblot."""
    if not betas.own_levels(config.train):
        note("the network embeds DDPM's indices, so the pipeline visits DDPM's levels; each estimate is the run's")
    if config.data.num_labels:
        note(
            f"the run knows labels, which diffusers' own pipelines do not give to a UNet2DModel; call "
            f"unet(x, t, labels), where {config.data.num_labels} is no label"
        )
    dtype, channels = config.data.values["dtype"], config.data.channels
    if not ValueMap.from_dict(config.data.values).bounded:
        note("the pictures have no limits, and diffusers' pipelines cut at -1 and 1; the values are in unblot.json")
    elif dtype != "uint8":
        note(
            f"the values of the pictures are {dtype}, and diffusers' pipelines make pictures of 8 bits; "
            f"output_type='np' keeps their depth, and how values of the data follow is in unblot.json"
        )
    if channels not in (1, 3, 4):
        note(f"the pictures have {channels} channels, which diffusers' pipelines give with output_type='np' alone")
