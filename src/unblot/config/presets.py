"""Presets: what is decided where the user did not decide, as a function of the data.

`ddpm` is Ho et al. 2020 to the letter; `default` is the best recipe found by measuring (docs/recipe.md).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from unblot.config.schema import DataFacts, TrainConfig, check_values
from unblot.errors import UnblotError

TINY = 12  # pixels: the longer side of pictures that want a network of one level


def default(data: DataFacts) -> dict[str, Any]:
    """The best quality in a given time, as measured on two cores."""
    if data.kind == "points":
        network, steps, batch_size, learning_rate = "mlp", 3000, 512, 2e-3
    else:
        network, steps, batch_size, learning_rate = _unet_for(data), 3000, 64, 4e-3
    return {
        "network": network,
        "clusters": _clusters_for(data),
        "parameterization": "edm",
        "schedule": "edm:mean=-0.8,std=1.2",
        "times": "stratified",
        "weighting": "none",
        "data_std": data.std,
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


PRESETS: dict[str, Callable[[DataFacts], dict[str, Any]]] = {"default": default, "ddpm": ddpm}


def resolve(data: DataFacts, choices: Mapping[str, Any]) -> TrainConfig:
    """The configuration for this data: what was chosen, and for the rest what the preset decides.

    Raises UnblotError for an unknown preset or an unknown choice.
    """
    preset = choices.get("preset", "default")
    if preset not in PRESETS:
        raise UnblotError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown := sorted(set(choices) - known):
        raise UnblotError(f"unknown choice {unknown[0]!r}; choose among {', '.join(sorted(known))}")
    check_values(TrainConfig, choices)
    decided = {**PRESETS[preset](data), **choices}
    fifth = max(1, decided["steps"] // 5)
    decided = {"preview_every": fifth, "checkpoint_every": min(1000, fifth), **decided}
    if decided.get("held_out_every") is None:
        decided["held_out_every"] = measurements_every(decided["steps"], decided["batch_size"])
    return TrainConfig(**decided)


def measurements_every(steps: int, batch_size: int) -> int:
    """Steps between two measurements of the held-out loss: some thirty in a run, fewer where a step is so small that
    the least of them would take more than some 2 % of the time."""
    return max(1, steps // 30, 1800 // batch_size)


def _optimizer_for(data: DataFacts) -> str:
    """Muon, but for data so small that a step of AdamW takes half the time: there its matrices are most of the work."""
    return "adamw" if data.kind == "points" or _side(data) <= TINY else "muon"


def _clusters_for(data: DataFacts) -> int:
    """The number of clusters for pictures without labels: some hundreds of pictures in each, as measured on MNIST."""
    count = min(128, data.count // 100)
    return 0 if data.classes or data.kind == "points" or count < 2 else count


# --- What a run with a budget chooses, by what trial steps on the machine measure. All numbers of the rule stand here.

ENOUGH_STEPS = 2000  # the largest network of the ladder that takes so many steps in the budget; else the smallest
FREE_BATCH = 1.2  # the batch is doubled while a step then takes at most so many times as long: the device had room
MOST_BATCH, LEAST_PASS = 1024, 16  # ... up to so many pictures, and to so many batches in a pass over the data
WIDTHS_TINY = 32, 64  # of the U-Nets for pictures of up to TINY pixels
WIDTHS = 32, 48, 64, 96, 128, 192, 256  # for larger ones


def ladder(data: DataFacts, preset: str) -> tuple[str, ...]:
    """The networks that a run with a budget chooses among, the smallest first."""
    network = PRESETS[preset](data)["network"]
    if preset != "default" or data.kind == "points":
        return (network,)
    return tuple(_unet_for(data, width) for width in (WIDTHS_TINY if _side(data) <= TINY else WIDTHS))


def _side(data: DataFacts) -> int:
    return max(data.height, data.width)


def _unet_for(data: DataFacts, width: int | None = None) -> str:
    """The U-Net that suits the size of the pictures: folded until the map is at most 20 wide, as measured to 32."""
    side = _side(data)
    if side <= TINY:
        return f"unet:width={width or 64},multipliers=1,patch=2,attention="
    if side <= 40:
        return f"unet:width={width or 48},multipliers=1-2,patch=2"
    patch = 2 ** math.ceil(math.log2(side / 20))
    return f"unet:width={width or 96},multipliers=1-2,patch={patch}"
