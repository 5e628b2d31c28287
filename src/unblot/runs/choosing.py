"""The sampler of a call: what the call asks for, else what tuning found, else what the run was trained with."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from unblot.config.sampling import EditConfig, SampleConfig
from unblot.config.schema import RunConfig, TrainConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.process.schedules import SCHEDULES
from unblot.runs.conditions import labels_by_share
from unblot.runs.tuning_store import DEFAULT, Tuning, read_tuning, usable
from unblot.sampling.settings import SamplerConfig, choose, sampler_for, within
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS
from unblot.specs import build, canonical

# Where none is given, as measured
TEXT_GUIDANCE = 2.0  # towards a prompt: docs/captions.md
LABEL_GUIDANCE, IN_LATENTS = 1.5, 2.0  # towards a label or a cluster: docs/recipe.md, "Guidance towards labels"


def sampler_of(folder: Path, run: RunConfig, denoiser: Denoiser, config: SampleConfig) -> SamplerConfig:
    """The sampler that the choices of a call lead to, of the run in a folder.

    Raises UnblotError for choices that do not go together, and for a distilled run that is asked for other steps.
    """
    found = _sampler_of(folder, run, denoiser, config)
    if config.guidance_rescale > 0 and config.guidance is None and config.autoguide is None and not found.guided:
        raise UnblotError(
            f"{arg('guidance_rescale', config.guidance_rescale)} rescales a guidance; give {arg('guidance', 2.0)} or "
            f"another scale with it"
        )
    return found


def _sampler_of(folder: Path, run: RunConfig, denoiser: Denoiser, config: SampleConfig) -> SamplerConfig:
    scale = config.guidance
    if scale is None:
        scale = usual_guidance(run, config) if config.autoguide is None else 1.0
    limited = config.guidance_low > 0 or config.guidance_high is not None
    untold = config.guidance is None and config.autoguide is None
    if untold and limited and scale == 1:
        raise UnblotError(
            f"{arg('guidance_low')} and {arg('guidance_high')} limit a guidance; give {arg('guidance', 2.0)} or "
            f"another scale with them"
        )
    if run.distill is not None:
        found = _distilled(run, config)
    else:
        as_found = untold and not limited and run.data.text is None  # tuning does not measure whether texts are obeyed
        tuning = _tuning(folder, denoiser, config, guided=as_found)
        if tuning is not None and as_found:
            return _tuned_or_plain(run.train, tuning, config)
        found = _tuned_or_plain(run.train, tuning, config, calls=1 if scale == 1 else 2)
    return replace(
        found,
        guidance=scale,
        guidance_low=config.guidance_low,
        guidance_high=config.guidance_high,
        autoguide=None if config.autoguide is None else str(config.autoguide),
    )


def untuned_sampler(run: RunConfig, config: SampleConfig | EditConfig) -> SamplerConfig:
    """The sampler of a call for which no tuning counts: what it asks for, else what the run was trained with.

    Of edits, since a tuned sampler is tuned to begin from noise, and of weights that were not tuned.
    """
    guidance = usual_guidance(run, config) if config.guidance is None else config.guidance
    return replace(_plain_sampler(run.train, config.steps, config.solver, config.spacing), guidance=guidance)


def usual_guidance(run: RunConfig, config: SampleConfig | EditConfig) -> float:
    """The guidance of a call that gives none: `text_guidance` towards (or away from) words, else `label_guidance`
    towards a label that is asked for, or drawn by its share; else 1, which is none."""
    if _says(config.prompt) or _says(config.negative):
        return text_guidance(run)
    return label_guidance(run) if config.label is not None or labels_by_share(run, config) else 1.0


def guidance_as_trained(run: RunConfig) -> float:
    """The guidance of samples with the captions, labels or clusters of training pictures, where none is given."""
    if run.data.text is not None:
        return text_guidance(run)
    return label_guidance(run) if run.label_shares else 1.0


def text_guidance(run: RunConfig) -> float:
    """The guidance towards a text where none is given, TEXT_GUIDANCE.

    1, which is none, for a run that cannot be guided so: it learned no texts, never saw pictures without theirs, or is
    distilled.
    """
    return TEXT_GUIDANCE if run.data.text is not None and can_be_guided(run) else 1.0


def label_guidance(run: RunConfig) -> float:
    """The guidance towards a label or a cluster where none is given, LABEL_GUIDANCE or that of runs IN_LATENTS; 1 where
    the run has none, as in `text_guidance`."""
    if not run.data.num_labels or not can_be_guided(run):
        return 1.0
    return LABEL_GUIDANCE if run.latent is None else IN_LATENTS


def can_be_guided(run: RunConfig) -> bool:
    """Whether the model learned labels, clusters or texts, also knows pictures without them, and is not distilled."""
    return bool(run.data.num_labels or run.data.text) and run.train.label_dropout > 0 and run.distill is None


def _says(prompt: str | Iterable[str] | None) -> bool:
    """Whether a prompt, or one of several, has words."""
    return prompt is not None and any([prompt] if isinstance(prompt, str) else map(bool, prompt))


def _tuning(folder: Path, denoiser: Denoiser, config: SampleConfig, guided: bool) -> Tuning | None:
    """What tuning found that this call can use, with its guidance where `guided`; None for a call with a sampler of
    its own."""
    if any(choice is not None for choice in (config.steps, config.solver, config.spacing)):
        return None
    return usable(read_tuning(folder, denoiser), folder, guided=guided)


def _distilled(run: RunConfig, config: SampleConfig) -> SamplerConfig:
    """The only sampler of a distilled run. Raises UnblotError where another is asked for."""
    assert run.distill is not None
    own = _plain_sampler(run.train)
    options = {**asdict(own), "nfe": own.steps, "quality": None}
    if any(getattr(config, k) not in (None, options[k]) for k in ("steps", "solver", "spacing", "nfe", "quality")):
        names = ", ".join(arg(name) for name in ("steps", "solver", "spacing", "nfe"))
        raise UnblotError(
            f"this run was distilled for {arg('steps', own.steps)} at its own levels; leave out {names} and "
            f"{arg('quality')}, or sample its teacher, {run.distill.teacher}"
        )
    return own


def _tuned_or_plain(train: TrainConfig, tuning: Tuning | None, config: SampleConfig, calls: int = 1) -> SamplerConfig:
    """The sampler of a call: what it asks for, else what tuning found best, else what the run was trained with.

    quality: draft, good or best, of a tuned run; its default is good. nfe: the best with at most as many network calls.
    steps, solver, spacing: sample without tuning. Raises UnblotError for choices that exclude each other, and for a
    quality of a run that is not tuned. Guidance is left to the caller; calls: of the network for each estimate with it.
    """
    asked = next((k for k in ("steps", "solver", "spacing") if getattr(config, k) is not None), None)
    if config.quality is not None:
        if rival := asked or ("nfe" if config.nfe is not None else None):
            raise UnblotError(
                f"{arg('quality')} chooses solver, spacing and steps; leave out {arg(rival)} or {arg('quality')}"
            )
        if tuning is None:
            raise UnblotError(
                f"{arg('quality', config.quality)} needs a run that was tuned with its present weights: unblot tune RUN"
            )
    if config.nfe is not None and config.steps is not None:
        raise UnblotError(f"{arg('nfe')} chooses the number of steps; leave out {arg('steps')} or {arg('nfe')}")
    if tuning is not None and asked is None:
        candidates = tuning.candidates
        quality = config.quality or DEFAULT
        return (choose(candidates, quality) if config.nfe is None else within(candidates, config.nfe, calls)).sampler
    found = _plain_sampler(train, config.steps, config.solver, config.spacing)
    if config.nfe is None:
        return found
    schedule = build(SCHEDULES, train.schedule, "schedule")
    found_within = sampler_for(found.solver, found.spacing, config.nfe // calls, schedule)
    if found_within is None:
        plain = f", or {arg('guidance', 1.0)}, which takes half as many" if calls > 1 else ""
        raise UnblotError(
            f"solver {found.solver!r} cannot keep to {arg('nfe', config.nfe)}; choose another {arg('solver')}{plain}"
        )
    return found_within


def _plain_sampler(
    train: TrainConfig, steps: int | None = None, solver: str | None = None, spacing: str | None = None
) -> SamplerConfig:
    """The sampler without tuning and guidance: what is given, else what the run was trained with."""
    return SamplerConfig(
        canonical(SOLVERS, solver or train.solver, "solver"),
        canonical(SPACINGS, spacing or train.spacing, "spacing"),
        train.sampling_steps if steps is None else steps,
    )
