"""Guided samplers for the tuning of a run: scale, kind and interval of the guidance of a plain sampler.

Autoguidance (Karras et al. 2024) uses the run's own model from early in its training, which is among its snapshots, as
the weaker model. Classifier-free guidance (Ho & Salimans 2022) is the usual one, and smaller ones in the middle of the
levels alone, which lowers the distance to real pictures (Kynkäänniemi et al. 2024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unblot.process.schedules import Schedule
from unblot.runs.choosing import label_guidance
from unblot.runs.folder import SNAPSHOTS
from unblot.runs.run import Run
from unblot.runs.snapshots import steps_kept
from unblot.sampling.settings import SamplerConfig

GUIDED_FROM = (6, 8, 5, 10, 12)  # NFE of the plain samplers that are guided, in the order in which they get time
EARLY, EARLIEST, LATEST = 0.25, 0.1, 0.45  # shares of the run: of the preferred weaker model, and the limits
AUTOGUIDANCE, IN_THE_MIDDLE = (1.5, 2.0), (1.2, 1.5)  # scales; of classifier-free guidance those beside the usual one


def guided_candidates(
    run: Run, plain: Mapping[int, SamplerConfig], schedule: Schedule
) -> dict[int, list[SamplerConfig]]:
    """The guided forms of some of the plain samplers, both by the NFE of the plain one.

    None of a run with captions, whose guidance is not chosen by distance: that does not tell whether a text is obeyed.
    """
    if run.config.data.text is not None:
        return {}
    weak, usual = early_snapshot(run.path), label_guidance(run.config)
    return {nfe: guided_forms(plain[nfe], schedule, weak, usual) for nfe in GUIDED_FROM if nfe in plain}


def early_snapshot(run: Path) -> str | None:
    """The snapshot for autoguidance, as a path inside the run's folder; None where there is none early enough."""
    steps = steps_kept(run)
    fit = [step for step in steps if EARLIEST <= step / steps[-1] <= LATEST]
    if not fit:
        return None
    return f"{SNAPSHOTS}/{min(fit, key=lambda step: abs(step / steps[-1] - EARLY)):08d}.safetensors"


def guided_forms(sampler: SamplerConfig, schedule: Schedule, weak: str | None, usual: float) -> list[SamplerConfig]:
    """The guided forms of a plain sampler, the most promising first.

    weak: path of the weaker model, None for no autoguidance. usual: guidance towards labels or clusters; 1 for none.
    """
    levels = sampler.levels(schedule)
    low, high = middle_interval((levels.sigma / levels.alpha)[:-1].tolist())
    inner = replace(sampler, guidance_low=low, guidance_high=high)
    forms = [(scale, form) for scale in AUTOGUIDANCE for form in (inner, sampler) if weak]
    autoguided = [replace(form, guidance=scale, autoguide=weak) for scale, form in forms]
    if usual == 1:
        return autoguided
    return [replace(sampler, guidance=usual), *autoguided, *(replace(inner, guidance=s) for s in IN_THE_MIDDLE)]


def middle_interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The interval of sigma/alpha that holds the middle half of these ratios, noisiest first."""
    skipped = max(1, len(ratios) // 4)
    inner = ratios[skipped:-skipped] or ratios[len(ratios) // 2 :][:1]
    return float(f"{inner[-1] / 1.001:.6g}"), float(f"{inner[0] * 1.001:.6g}")  # wider, against rounding
