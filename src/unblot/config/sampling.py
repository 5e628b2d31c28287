"""The choices of a sampling call and of an edit."""

from dataclasses import dataclass

from unblot.config.options import (
    SPEC,
    Checked,
    device_option,
    label_option,
    negative_option,
    option,
    prompt_option,
    solver_option,
    spacing_option,
    steps_option,
)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Checked):
    """Every choice of a sampling call. Fields that are None are taken from the run."""

    n: int = option("number of samples", "samples", "N", low=1, default=16)
    label: str | None = label_option("samples")
    prompt: str | None = prompt_option("samples")
    seed: int = option("sample i follows from the seed and i alone", "samples", "N", low=0, default=0)
    quality: str | None = option(
        "a sampler that `unblot tune` found (default: good, where the run was tuned)",
        "sampling",
        "NAME",
        table="QUALITIES",
        default=None,
    )
    nfe: int | None = option("network calls that a sample may take", "sampling", "N", low=1, default=None)
    steps: int | None = steps_option("sampling")
    solver: str | None = solver_option("sampling")
    spacing: str | None = spacing_option("sampling")
    guidance: float | None = option(
        "strength of guidance towards label and prompt; 1 is none (default: as tuned, or 2 with a prompt, else 1)",
        "guidance",
        "X",
        default=None,
    )
    negative: str | None = negative_option("guidance")
    guidance_low: float = option("no guidance where sigma/alpha is below", "guidance", "X", low=0, default=0.0)
    guidance_high: float | None = option("no guidance where sigma/alpha is above", "guidance", "X", low=0, default=None)
    guidance_rescale: float = option(
        "share of the contrast that is restored", "guidance", "SHARE", low=0, high=1, default=0.0
    )
    autoguide: str | None = option(
        "guide away from this weaker run, model file or snapshot instead", "guidance", "PATH", default=None
    )
    threshold: str = option("how x0_hat is kept in range", "guidance", SPEC, table="THRESHOLDS", default="none")
    batch_size: int = option("samples made at a time", "run", "N", low=1, default=64)
    device: str = device_option("run")


@dataclass(frozen=True, kw_only=True)
class EditConfig(Checked):
    """The choices that all edits share. Fields that are None suit the edit, or are taken from the run."""

    n: int = option("number of results for each picture", "results", "N", low=1, default=4)
    label: str | None = label_option("results")
    prompt: str | None = prompt_option("results")
    seed: int = option("result i follows from the seed and i alone", "results", "N", low=0, default=0)
    fit: str = option(
        "bring pictures of another size, colours or depth to the run's: crop, pad or stretch",
        "results",
        "HOW",
        default="",
    )
    steps: int | None = steps_option("sampling")
    solver: str | None = solver_option("sampling")
    spacing: str | None = spacing_option("sampling")
    guidance: float | None = option(
        "strength of guidance towards label and prompt; 1 is none (default: 2 with a prompt, else 1)",
        "sampling",
        "X",
        default=None,
    )
    negative: str | None = negative_option("sampling")
    batch_size: int = option("results made at a time", "run", "N", low=1, default=64)
    device: str = device_option("run")
