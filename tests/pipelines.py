"""Small runs that diffusers can hold, and small networks of that library."""

from pathlib import Path

import torch

from helpers import shaken
from unblot.config.export import ExportConfig
from unblot.config.presets import resolve
from unblot.config.schema import DataConfig, DataFacts, RunConfig
from unblot.interchange.to_diffusers import export_pipeline
from unblot.runs.folder import build_denoiser, create, save_model
from unblot.runs.run import Run, load

NETWORK = "ddpm_unet:width=16,multipliers=1-2,blocks=1,attention=1"
KINDS = {  # choices of a run, and the levels of its pipeline
    "eps": {"network": f"{NETWORK},index=schedule", "schedule": "linear:steps=40"},
    "v": {"network": f"{NETWORK},index=schedule", "schedule": "linear_zero_snr", "parameterization": "v"},
    "x0": {"network": f"{NETWORK},index=schedule", "schedule": "sigmoid:steps=50", "parameterization": "x0"},
    "ddpm": {"network": NETWORK, "schedule": "cosine", "parameterization": "v"},
}


def run_of(folder: Path, channels: int = 3, classes: tuple[str, ...] = (), **choices) -> Run:
    """A run of 8x8 pictures of 8 bits, with small numbers as its weights, that was never trained."""
    values = {"dtype": "uint8", "offset": [127.5] * channels, "scale": [127.5] * channels, "alpha": False}
    facts = DataFacts("small", channels, 8, 8, classes, values, 0.5, 100, "some pictures")
    train = resolve(facts, {"preset": "ddpm", **choices})
    config = RunConfig(DataConfig(data="small"), facts, train, "1.0")
    create(folder, config)
    save_model(folder / "model.safetensors", config, build_denoiser(config).state_dict())
    run = shaken(load(folder))
    save_model(folder / "model.safetensors", config, run.denoiser.state_dict())
    return run


def exported(run: Run, folder: Path) -> Path:
    return export_pipeline(run, ExportConfig(to="diffusers"), folder)


LIBRARYS = {  # options of UNet2DModel
    "ho": {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "attention_head_dim": None,
           "norm_eps": 1e-6},
    "scale_shift": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "defaults": {},
    "mixed": {"attention_head_dim": 4, "downsample_padding": 0, "block_out_channels": (16, 24)},
    "labels": {"num_class_embeds": 3, "in_channels": 1, "out_channels": 1, "sample_size": (8, 16)},
}  # fmt: skip


def librarys(name: str, **options):
    """A small UNet2DModel with random weights."""
    import diffusers

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    small = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4, **blocks}
    return diffusers.UNet2DModel(**{**small, **LIBRARYS[name], **options}).eval()
