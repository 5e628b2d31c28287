"""Choices of a new run that follow from its data and its time budget, where they are not given."""

from collections.abc import Callable
from typing import Any

from unblot.data.audit.advice import COMPARABLE, FEW, TURNS, augmentation_of, safe_turns
from unblot.data.audit.turning import worth_of_turns
from unblot.data.dataset import Dataset
from unblot.errors import arg
from unblot.training.plan import is_default

LEAST_BUDGET = 600.0  # seconds, from which a budget chooses more than sizes and steps
LATENT_SIDE = 64  # pixels of both sides, at least

Report = Callable[[str], None]


def add_defaults(dataset: Dataset, choices: dict[str, Any], budget: float | None, report: Report) -> None:
    """Adds latents and augmentation to the choices of a new run where they draw better within its budget of seconds,
    and says so.

    Only to the default preset: another one is a recipe as it is.
    """
    if (budget or 0) < LEAST_BUDGET or not is_default(choices):
        return
    _add_latents(dataset, choices, report)
    _add_augmentation(dataset, choices, report)


def _add_latents(dataset: Dataset, choices: dict[str, Any], report: Report) -> None:
    """From LATENT_SIDE pixels on, measured in docs/latent.md. A network that is given is meant for pixels."""
    decided = choices.get("pixels") or any(choices.get(name) is not None for name in ("latent", "network"))
    if not decided and min(dataset.shape[1:]) >= LATENT_SIDE:
        choices["latent"] = True
        report(
            f"learns in latents, which draw such pictures better within a budget; {arg('pixels', True)} learns pixels"
        )


def _add_augmentation(dataset: Dataset, choices: dict[str, Any], report: Report) -> None:
    """For a few hundred pictures that may be mirrored or turned, measured in docs/data.md. Captions may say of what is
    left and what is right."""
    decided = choices.get("augment") is not None or dataset.captions is not None or dataset.stream is not None
    if decided or not COMPARABLE <= len(dataset) < FEW:
        return
    worth = worth_of_turns(dataset)
    if safe := safe_turns(worth):
        choices["augment"] = augmentation_of(safe)
        shares = ", ".join(f"{TURNS[turn]} {worth[turn]:.0%}" for turn in safe)
        report(
            f"augments, since turned pictures teach nearly as much as new ones ({shares}); {arg('augment', 'none')} "
            "leaves them as they are"
        )
