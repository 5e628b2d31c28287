"""What tuning found out about a run, kept in its tuning.json, and the setting that a draw takes because of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from unblot.config.schema import SampleConfig, TrainConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.process.schedules import SCHEDULES
from unblot.runs.folder import TUNING, fingerprint
from unblot.sampling.settings import Candidate, SamplerConfig, choose, sampler_for, within
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS
from unblot.specs import build, canonical
from unblot.system.files import checksum, write_json

DEFAULT = "good"  # the quality of a draw that asks for nothing


@dataclass(frozen=True)
class Tuning:
    """The trials of a run's tuning, one for each number of evaluations, and what they were measured on.

    model: the fingerprint of the weights that they hold for; guides: the checksum of each weaker model among them, a
    file in the run's folder.
    """

    model: str
    candidates: tuple[Candidate, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    guides: Mapping[str, str] = field(default_factory=dict)


def write_tuning(folder: Path, tuning: Tuning) -> None:
    """Keeps a tuning in the run's folder, in the place of an earlier one."""
    candidates = [{**asdict(candidate.sampler), **asdict(candidate)} for candidate in tuning.candidates]
    for candidate in candidates:
        candidate.pop("sampler")
    kept = {"model": tuning.model, "about": dict(tuning.about), "guides": dict(tuning.guides), "candidates": candidates}
    write_json(folder / TUNING, kept)


def read_tuning(folder: Path, denoiser: Denoiser | None = None) -> Tuning | None:
    """The tuning of the run in a folder; None where there is none, or where it was of other weights.

    Raises UnblotError where the file is damaged.
    """
    path = folder / TUNING
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text())
        names = {f.name for f in fields(SamplerConfig)}
        candidates = tuple(
            Candidate(SamplerConfig(**{k: t.pop(k) for k in names & set(t)}), **t) for t in map(dict, raw["candidates"])
        )
        tuning = Tuning(raw["model"], candidates, raw["about"], raw.get("guides", {}))
    except (ValueError, TypeError, KeyError) as e:
        raise UnblotError(f"{str(path)!r} is damaged ({e}); make it anew with: unblot tune {folder}") from None
    return tuning if denoiser is None or tuning.model == fingerprint(denoiser) else None


def usable(tuning: Tuning | None, folder: Path, *, labels: bool, guided: bool = True) -> Tuning | None:
    """The tuning with those of its trials that the run in this folder can draw by now; None where there are none.

    Left out is what pushes away from a file that is gone or another by now, what pushes towards labels without
    `labels`, and without `guided` all that pushes.
    """
    if tuning is None:
        return None
    lost = lost_guides(tuning, folder) if guided else set()

    def can(sampler: SamplerConfig) -> bool:
        towards = labels if sampler.autoguide is None else sampler.autoguide not in lost
        return not sampler.guided or (guided and towards)

    candidates = tuple(candidate for candidate in tuning.candidates if can(candidate.sampler))
    return replace(tuning, candidates=candidates) if candidates else None


def lost_guides(tuning: Tuning, folder: Path) -> set[str]:
    """The weaker models of a tuning that are not in the folder any more as they were."""
    wanted = {candidate.sampler.autoguide for candidate in tuning.candidates if candidate.sampler.autoguide is not None}
    return {
        name for name in wanted if not (folder / name).is_file() or checksum(folder / name) != tuning.guides.get(name)
    }


def choose_sampler(
    train: TrainConfig,
    tuning: Tuning | None,
    *,
    quality: str | None = None,
    nfe: int | None = None,
    steps: int | None = None,
    solver: str | None = None,
    spacing: str | None = None,
) -> SamplerConfig:
    """How to draw: what is asked for; else what tuning found best; else what the run's training says.

    quality: draft, good or best, of a tuned run, whose default is good. evaluations: the best that takes no more of
    them. steps, solver, grid: put tuning aside. Raises UnblotError for what cannot be had, or not together.
    """
    SampleConfig(nfe=nfe, steps=steps)  # holds the numbers to their ranges
    given = {k: v for k, v in {"steps": steps, "solver": solver, "spacing": spacing}.items() if v is not None}
    if quality is not None:
        if rival := next(iter(given), "nfe" if nfe is not None else None):
            raise UnblotError(f"--quality chooses solver, grid and steps; leave out --{rival}, or --quality")
        if tuning is None:
            raise UnblotError(f"--quality {quality} needs a run that was tuned as it is now: unblot tune RUN")
    if nfe is not None and steps is not None:
        raise UnblotError("--nfe chooses the number of steps; leave out --steps, or --nfe")
    if tuning is not None and not given:
        candidate = choose(tuning.candidates, quality or DEFAULT) if nfe is None else within(tuning.candidates, nfe)
        return candidate.sampler
    solver, spacing = solver or train.solver, spacing or train.spacing
    if nfe is not None:
        schedule = build(SCHEDULES, train.schedule, "schedule")
        found = sampler_for(solver, spacing, nfe, schedule)
        if found is None:
            raise UnblotError(f"solver {solver!r} cannot keep to --nfe {nfe}; choose another --solver")
        solver, spacing, steps = found.solver, found.spacing, found.steps
    return SamplerConfig(
        canonical(SOLVERS, solver, "solver"),
        canonical(SPACINGS, spacing, "spacing"),
        train.sampling_steps if steps is None else steps,
    )
