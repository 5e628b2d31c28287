"""The choices of a sampling call and of an edit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unblot.config.options import (
    AS_TUNED,
    BY_THE_EDIT,
    SPEC,
    Checked,
    batch_size_option,
    device_option,
    label_option,
    negative_option,
    nfe_option,
    option,
    prompt_option,
    quality_option,
    solver_option,
    spacing_option,
    steps_option,
)
from unblot.errors import UnblotError, arg


class Worded(Checked):
    """A configuration with texts: `prompt`, one or a list, and `negative`, of which an empty one is None; and `label`,
    of which one of NumPy or PyTorch becomes Python's own.

    Raises UnblotError for a prompt that is no text.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        label, prompt, negative = (getattr(self, name) for name in ("label", "prompt", "negative"))
        if prompt is not None and not isinstance(prompt, str):
            prompt = [_text("prompt", one) for one in (prompt if isinstance(prompt, Iterable) else [prompt])]
        object.__setattr__(self, "label", plain_label(label))
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "negative", None if negative is None else _text("negative", negative) or None)


def plain_label(label: Any) -> Any:
    """A label, or a list of several: those of NumPy and PyTorch as Python's own, as a file holds them."""
    label = label.tolist() if hasattr(label, "tolist") else label
    return [plain_label(one) for one in label] if isinstance(label, Iterable) and not isinstance(label, str) else label


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UnblotError(f"{arg(name, value)} is no text; give words")
    return value


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Worded):
    """Every choice of a sampling call. Fields that are None are taken from the run."""

    n: int = option("number of samples", "samples", "N", low=1, default=16)
    label: str | None = label_option("samples", "as often as in the data; with a prompt, none")
    prompt: str | None = prompt_option("samples")
    seed: int = option("sample i follows from the seed and i alone", "samples", "N", low=0, default=0)
    quality: str | None = quality_option("sampling")
    nfe: int | None = nfe_option("sampling")
    steps: int | None = steps_option("sampling", AS_TUNED)
    solver: str | None = solver_option("sampling", AS_TUNED)
    spacing: str | None = spacing_option("sampling", AS_TUNED)
    guidance: float | None = option(
        "strength of guidance towards label and prompt; 1 is none (default: 2 with a prompt, else as tuned, else "
        "1.5 with a label or clusters, and 2 of a run in latents)",
        "guidance",
        "X",
        default=None,
    )
    negative: str | None = negative_option("guidance")
    guidance_low: float = option("no guidance where sigma/alpha is below", "guidance", "X", low=0, default=0.0)
    guidance_high: float | None = option("no guidance where sigma/alpha is above", "guidance", "X", low=0, default=None)
    guidance_rescale: float = option(
        "CFG rescale (Lin et al. 2024): share of the contrast that is restored",
        "guidance",
        "SHARE",
        low=0,
        high=1,
        default=0.0,
    )
    autoguide: str | None = option(
        "guide away from this weaker run, model file or snapshot instead", "guidance", "PATH", default=None
    )
    threshold: str = option("how x0_hat is kept in range", "guidance", SPEC, table="THRESHOLDS", default="none")
    batch_size: int = batch_size_option("run")
    device: str = device_option("run")


@dataclass(frozen=True, kw_only=True)
class FilmConfig(SampleConfig):
    """The choices of a film, which shows fewer samples."""

    n: int = option("number of samples", "samples", "N", low=1, default=4)


@dataclass(frozen=True, kw_only=True)
class EditConfig(Worded):
    """The choices that all edits share. Fields that are None suit the edit, or are taken from the run."""

    n: int = option("number of results for each picture", "results", "N", low=1, default=4)
    label: str | None = label_option("results", "none")
    prompt: str | None = prompt_option("results")
    seed: int = option("result i follows from the seed and i alone", "results", "N", low=0, default=0)
    fit: str = option(
        "bring pictures of another size, colours or depth to the run's: crop, pad or stretch",
        "results",
        "HOW",
        default="",
    )
    steps: int | None = steps_option("sampling", BY_THE_EDIT)
    solver: str | None = solver_option("sampling", BY_THE_EDIT)
    spacing: str | None = spacing_option("sampling", BY_THE_EDIT)
    guidance: float | None = option(
        "strength of guidance towards label and prompt; 1 is none (default: 2 with a prompt, 1.5 with a label, "
        "and 2 of a run in latents; 1 for variations, interpolate and reconstruct)",
        "sampling",
        "X",
        default=None,
    )
    negative: str | None = negative_option("sampling")
    batch_size: int = batch_size_option("run", "results")
    device: str = device_option("run")
