"""The guided ways of sampling a run that its tuning tries: what a plain setting is pushed by, how hard, and where.

Autoguidance (Karras et al. 2024) pushes away from the run's own model as it was early in training, which is kept among
its snapshots. Classifier-free guidance pushes towards the labels that pictures are drawn with: a little, and in the
middle of the way alone, as Kynkäänniemi et al. 2024 found that it serves the distance to real pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unblot.process.schedules import Schedule
from unblot.runs.folder import SNAPSHOTS
from unblot.runs.run import Run
from unblot.runs.snapshots import steps_kept
from unblot.sampling.settings import SamplerConfig

GUIDED_FROM = (6, 8, 5, 10, 12)  # evaluations of the plain ways that are guided, in the order of the time given
EARLY, EARLIEST, LATEST = 0.25, 0.1, 0.45  # shares of the run: where the weaker model had best be, and must
AWAY, TOWARDS = (1.5, 2.0), (1.2, 1.5)  # scales: away from the weaker model, towards the label


def guided_forms(run: Run, plain: Mapping[int, SamplerConfig], schedule: Schedule) -> dict[int, list[SamplerConfig]]:
    """The guided forms of some of the plain settings, by the evaluations of these."""
    weak, labels = early_snapshot(run.path), bool(run.config.data.num_labels)
    return {calls: guided_ways(plain[calls], schedule, weak, labels) for calls in GUIDED_FROM if calls in plain}


def early_snapshot(run: Path) -> str | None:
    """The snapshot that a run is best pushed away from, as a path inside its folder; None where there is none."""
    steps = steps_kept(run)
    fit = [step for step in steps if EARLIEST <= step / steps[-1] <= LATEST]
    if not fit:
        return None
    return f"{SNAPSHOTS}/{min(fit, key=lambda step: abs(step / steps[-1] - EARLY)):08d}.safetensors"


def guided_ways(sampler: SamplerConfig, schedule: Schedule, weak: str | None, labels: bool) -> list[SamplerConfig]:
    """The guided forms of a plain setting, the most promising first.

    weak: a model to push away from, all the way or in the middle of it; labels: whether there are any to push towards.
    """
    levels = sampler.levels(schedule)
    low, high = middle((levels.sigma / levels.alpha)[:-1].tolist())
    inner = replace(sampler, guidance_low=low, guidance_high=high)
    away = [replace(way, guidance=scale, autoguide=weak) for scale in AWAY for way in (inner, sampler) if weak]
    return away + [replace(inner, guidance=scale) for scale in TOWARDS if labels]


def middle(ratios: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest sigma/alpha of the middle half of the levels of a way, noisiest first."""
    skipped = max(1, len(ratios) // 4)
    inner = ratios[skipped:-skipped] or ratios[len(ratios) // 2 :][:1]
    return float(f"{inner[-1] / 1.001:.6g}"), float(f"{inner[0] * 1.001:.6g}")  # safe from rounding
