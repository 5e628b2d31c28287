"""Presets: every choice that the user did not make, as a function of the data.

`ddpm` is Ho et al. 2020 to the letter; `default` is the best recipe found by measurements (docs/recipe.md).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from unblot.config.options import check_values
from unblot.config.schema import DataFacts, TrainConfig
from unblot.errors import UnblotError

SMALL = 40  # pixels: up to this longer side batches are larger, and gray pictures have no spectrum
TINY = 12  # pixels: pictures with no longer side take a network with one level
FROM_THE_DATA = {  # what a preset looks at to decide a field
    "network": "the size of the pictures, and the captions",
    "clusters": "the labels, the captions and the number of pictures",
    "text_encoder": "the captions",
    "label_dropout": "the captions",
    "optimizer": "the size of the pictures",
    "batch_size": "the kind and the size of the data, and the captions",
    "learning_rate": "the kind and the size of the data, and the captions",
    "schedule": "the size and the contrast of the pictures, and the captions",
    "data_std": "the pictures, measured",
    "spectrum": "the size and the colours of the pictures",
}
FROM_THE_STEPS = {  # what decides the fields that follow from others
    "preview_every": "a fifth of the steps",
    "checkpoint_every": "a fifth of the steps, at most 1000",
    "held_out_every": "steps and batch size: about 30 measurements",
}


def default(data: DataFacts) -> dict[str, Any]:
    """The best quality in a given time, as measured on two cores."""
    if data.kind == "points":
        network, steps, batch_size, learning_rate = "mlp", 3000, 512, 2e-3
    else:
        network, steps, learning_rate = _unet_for(data), 3000, 8e-3 if data.text else 4e-3
        batch_size = 128 if data.text and _side(data) <= SMALL else _batch_for(data)
    return {
        "network": network,
        "clusters": _clusters_for(data),
        "text_encoder": "transformer:kernel=3,layout=8" if data.text and data.kind == "pictures" else "none",
        "label_dropout": 0.05 if data.text else 0.15,
        "parameterization": "edm",
        "schedule": _levels_for(data),
        "times": "stratified",
        "weighting": "balanced",
        "data_std": data.std,
        "spectrum": "data" if _with_spectrum(data) else "none",
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": 0.05,
        "decay": "cosine",
        "optimizer": _optimizer_for(data),
        "ema": "power:std=0.05+power:std=0.1",
        "spacing": "karras",
        "solver": "dpmpp_2m",
        "sampling_steps": 20,
    }


def ddpm(data: DataFacts) -> dict[str, Any]:
    """Ho et al. 2020: linear betas, T = 1000, uniform indices, eps-prediction, plain MSE, ancestral sampling."""
    small = max(data.height, data.width) <= 8
    return {
        "network": "mlp" if data.kind == "points" else f"ddpm_unet:width=32,multipliers={'1-2' if small else '1-2-2'}",
        "parameterization": "eps",
        "schedule": "linear",
        "times": "index",
        "weighting": "none",
        "clusters": 0,
        "text_encoder": "none",
        "optimizer": "adamw",
        "data_std": 1.0,
        "steps": 3000,
        "batch_size": 128,
        "learning_rate": 2e-4,
        "warmup": 0.05,
        "decay": "none",
        "ema": "decay:rate=0.9999",
        "spacing": "time",
        "solver": "ddpm",
        "sampling_steps": 1000,
    }


def in_latents(data: DataFacts) -> dict[str, Any]:
    """What the default preset decides otherwise than for pixels, as measured; data: the latents."""
    return {
        "schedule": "edm:mean=0.3,std=1",  # the levels of EDM2 (Karras et al. 2024), for twice the deviation
        "learning_rate": 8e-3,
        "batch_size": 64 if _side(data) <= 20 * _patch_for(data) else 32,  # by the map of the network
    }


PRESETS: dict[str, Callable[[DataFacts], dict[str, Any]]] = {"default": default, "ddpm": ddpm}
ADAMW_RATE = 4e-3  # higher rates were measured with Muon


def resolve(data: DataFacts, choices: Mapping[str, Any], latents: bool = False) -> TrainConfig:
    """The configuration for this data: the given choices, and for the rest those of the preset.

    latents: whether the data is latents. Raises UnblotError for an unknown preset, an unknown choice, or a value out of
    its range.
    """
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown := sorted(set(choices) - known):
        raise UnblotError(f"unknown choice {unknown[0]!r}; choose among {', '.join(sorted(known))}")
    check_values(TrainConfig, choices)
    preset = choices.get("preset", "default")
    if preset not in PRESETS:
        raise UnblotError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    decided = {**PRESETS[preset](data), **(in_latents(data) if latents and preset == "default" else {}), **choices}
    if decided["optimizer"].partition(":")[0] == "adamw":
        decided["learning_rate"] = choices.get("learning_rate", min(decided["learning_rate"], ADAMW_RATE))
    if decided["parameterization"] != "edm":  # the preset decided for edm
        decided |= {name: choices.get(name, "none") for name in ("spectrum", "weighting")}
    if decided.get("times") == "adaptive":  # which has weights of its own
        decided["weighting"] = choices.get("weighting", "none")
    fifth = max(1, decided["steps"] // 5)
    decided = {"preview_every": fifth, "checkpoint_every": min(1000, fifth), **decided}
    if decided.get("held_out_every") is None:
        decided["held_out_every"] = measurements_every(decided["steps"], decided["batch_size"])
    return TrainConfig(**decided)


def reasons(data: DataFacts, choices: Mapping[str, Any]) -> dict[str, str]:
    """What decides each field of the configuration that `resolve` makes: given, preset, data, or default."""
    preset = choices.get("preset", "default")
    by_preset = PRESETS[preset](data)
    found = {}
    for f in dataclasses.fields(TrainConfig):
        found[f.name] = "default"
        if choices.get(f.name) is not None:
            found[f.name] = "given"
        elif f.name in FROM_THE_STEPS:
            found[f.name] = FROM_THE_STEPS[f.name]
        elif f.name in by_preset:
            from_data = preset == "default" or f.name == "network"
            about = f", from {FROM_THE_DATA[f.name]}" if from_data and f.name in FROM_THE_DATA else ""
            found[f.name] = f"preset {preset}{about}"
    return found


def measurements_every(steps: int, batch_size: int) -> int:
    """Steps between two measurements of the held-out loss: about thirty in a run; fewer for small batches, where the
    smallest measurement would take more than about 2 % of the time."""
    return max(1, steps // 30, 1800 // batch_size)


def _optimizer_for(data: DataFacts) -> str:
    """Muon, except for very small pictures, where a step of AdamW takes half the time."""
    return "adamw" if data.kind == "points" or _side(data) <= TINY else "muon"


def _clusters_for(data: DataFacts) -> int:
    """Number of clusters for pictures without labels and captions: some 25 pictures in each, or more of large sets, as
    measured; see docs/recipe.md, "How many clusters"."""
    count = min(128, data.count // 25)
    return 0 if data.classes or data.text or data.kind == "points" or count < 2 else count


# --- What a run with a budget chooses from trial steps on the machine: all numbers of the rule

ENOUGH_STEPS = 2000  # steps that the chosen network, the largest such of the ladder, must reach in the whole budget
FREE_BATCH = 1.2  # the batch is doubled while a step takes at most this many times as long: the device has room
MOST_BATCH, LEAST_PASS = 1024, 16  # ... up to this many pictures, and with at least this many batches in an epoch
WIDTHS_TINY = 32, 64  # of the U-Nets for pictures of up to TINY pixels
WIDTHS = 16, 24, 32, 48, 64, 96, 128, 192, 256  # for larger ones


def ladder(data: DataFacts, preset: str) -> tuple[str, ...]:
    """The networks among which a run with a budget chooses, the smallest first."""
    network = PRESETS[preset](data)["network"]
    if preset != "default" or data.kind == "points":
        return (network,)
    return tuple(_unet_for(data, width) for width in (WIDTHS_TINY if _side(data) <= TINY else WIDTHS))


def found_by_trial_steps(data: DataFacts, train: TrainConfig) -> set[str]:
    """The fields that a run with a budget decides only when its training starts, where they are not given."""
    free_batch = {"batch_size"} if train.preset == "default" else set()
    free_network = {"network"} if len(ladder(data, train.preset)) > 1 else set()
    return {"steps", *FROM_THE_STEPS, *free_batch, *free_network}


def _side(data: DataFacts) -> int:
    return max(data.height, data.width)


def _batch_for(data: DataFacts) -> int:
    return 64 if _side(data) <= SMALL else 32


def _levels_for(data: DataFacts) -> str:
    """EDM's training levels, log sigma ~ N(mean, std²), down to the same cleanest ones for all data without captions.

    What a picture shows is decided at higher noise where its contrast is stronger, and where it is larger: its coarsest
    waves rise above the noise sooner. Captions say what pictures show: with them the band is narrow, about where that
    is decided. As measured; see docs/recipe.md, "Noise levels".
    """
    mean = -0.8
    if _with_spectrum(data):
        mean = max(mean, math.log(data.std) + 0.5 * math.log(_side(data) / 64) + 0.1)
        if data.text:
            return f"edm:mean={round(max(mean, -0.3), 2):g},std=0.75"
    return f"edm:mean={round(mean, 2):g},std={round((mean + 3.8) / 2.5, 2):g}"


def _with_spectrum(data: DataFacts) -> bool:
    """Whether the denoiser is told the power of each frequency of the pictures, as measured: in colour above TINY
    pixels, in gray above SMALL."""
    return _side(data) > (SMALL if data.channels < 3 else TINY)


def _unet_for(data: DataFacts, width: int | None = None) -> str:
    """The U-Net that suits the pictures, down to a map of at most 10; see docs/recipe.md, "One pair of blocks a level".

    Each level has one block down and its partner up. The join lets all of the folded input through, however narrow the
    network is; up to TINY, where 2x2 pixels are folded, it stands only where a folded square has no fewer values than
    the network has channels.
    """
    side = _side(data)
    if side <= TINY:
        width = width or 64
        joined = ",join=true" if 4 * data.channels >= width else ""
        return f"unet:width={width},multipliers=1,patch=2,attention={joined}"
    patch, usual = _patch_for(data), 32 if data.text is None else 48
    coarser = max(1, math.ceil(math.log2(side / patch / 10)))  # levels below the first
    multipliers = "-".join(["1", *coarser * ["2"]])
    shape = f"width={width or usual},multipliers={multipliers},blocks=1,paired=true,patch={patch}"
    waves = ",waves=true" if patch > 1 else ""
    added = f"{waves},join=true" if _with_spectrum(data) else ""
    return f"unet:{shape},attention={coarser}{added}"


def _patch_for(data: DataFacts) -> int:
    """Side of the square of pixels that a network for pictures above TINY folds, at most 8: its map has at most 40, for
    sound outlines; with captions 20, which leaves time for the steps that words want. See docs/recipe.md, "The finest
    map"."""
    largest = 40 if data.text is None else 20
    return min(8, 2 ** max(0, math.ceil(math.log2(_side(data) / largest))))
