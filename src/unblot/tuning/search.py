"""Tuning a run: the solver, spacing and guidance with which its model samples best, for each NFE.

Three stages, each with fewer candidates and more work for each:

1. Screening: the error of deterministic samplers against a fine trajectory, from the same few noises.
2. Evaluation: the distance to real pictures, with a quarter of the samples, of the best screened, of stochastic
   samplers, and then of the best of these with guidance.
3. Confirmation: the distance, with all samples, of the best for each NFE and of guided ones on the front. These samples
   are new: no candidate was chosen by them. A quality is, so that its distance may be a little too low.

No sample is one of `evaluate`. A run with captions is drawn with the usual guidance towards them in all stages, and is
tuned no other: the distance does not tell whether a text is obeyed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unblot._version import __version__
from unblot.config.durations import parse_budget
from unblot.config.measuring import TuneConfig
from unblot.config.sampling import SampleConfig
from unblot.data.dataset import Dataset
from unblot.errors import UnblotError, arg
from unblot.process.randomness import OF_TUNING
from unblot.process.schedules import Schedule
from unblot.reports.tuning import front_page
from unblot.runs.choosing import text_guidance
from unblot.runs.conditions import as_trained
from unblot.runs.folder import REPORT, fingerprint
from unblot.runs.run import Run
from unblot.runs.tuning_store import Tuning, read_tuning, write_tuning
from unblot.sampling.settings import Candidate, SamplerConfig, describe_sampler, front
from unblot.system.distributed import Group
from unblot.system.files import checksum, write_text
from unblot.system.turns import one_a_node_first
from unblot.tuning.guidance_candidates import guided_candidates
from unblot.tuning.helpers import ALONE, Helpers
from unblot.tuning.reference import Reference, reference_of
from unblot.tuning.screening import LONG, NFES, Clock, reference_trajectories, screen, shortlist

PAGE = "tuning.html"
REFERENCE_SHARE = 0.1  # of the time budget, for the features of real pictures
EVALUATION_END, GUIDANCE_END = 0.5, 0.65  # shares of the time budget at which a stage ends


@dataclass(frozen=True)
class SampleFeatures:
    """The features in which a run's samples are compared with real pictures.

    drawn: the choices of all samples: how many, what they show, the seed. helpers: the processes that draw them
    together.
    """

    run: Run
    reference: Reference
    drawn: SampleConfig
    helpers: Helpers

    def extract(self, sampler: SamplerConfig, first: int, n: int) -> Tensor:
        """Features (n, d) of the samples numbered first … first + n − 1 of the tuning."""
        label, prompt = (None if shown is None else shown[:n] for shown in (self.drawn.label, self.drawn.prompt))
        config = replace(self.drawn, n=n, label=label, prompt=prompt)
        if self.run.config.data.text is not None:
            sampler = replace(sampler, guidance=text_guidance(self.run.config))
        return self.helpers.features(self.run, self.reference, sampler, config, OF_TUNING + first)


def tune_run(
    run: Run,
    dataset: Dataset,
    config: TuneConfig,
    cache: Path,
    report: Callable[[str], None] = lambda line: None,
    group: Group | None = None,
) -> Tuning:
    """Tunes a run with its own data; writes tuning.json and the page in its report folder, and returns the tuning.

    group: the processes that draw together, all of which call this. The main one searches, and the others draw.
    """
    group, clock = group or Group(), clock_of(config)
    seconds = REFERENCE_SHARE * clock.seconds
    reference = one_a_node_first(group, lambda: reference_of(dataset, config.features, cache, seconds))
    helpers = Helpers(group)
    if not group.is_main_process:
        helpers.help(run, reference)
        tuning = read_tuning(run.path, run.denoiser)
        assert tuning is not None
        return tuning
    with helpers:
        tuning, others = search(run, dataset, reference, config, report, helpers, clock)
        write_tuning(run.path, tuning)
        (run.path / REPORT).mkdir(exist_ok=True)
        page = front_page(run.path.resolve().name, tuning.about, tuning.candidates, others)
        write_text(run.path / REPORT / PAGE, page)
        return tuning


def clock_of(config: TuneConfig) -> Clock:
    """The clock of a search, which starts now. Raises UnblotError for a budget that adds to another."""
    seconds, more = parse_budget(config.budget)
    if more:
        raise UnblotError(f"{arg('budget', config.budget)}: a search cannot be continued; leave out the +")
    return Clock(seconds)


def search(
    run: Run,
    dataset: Dataset,
    reference: Reference,
    config: TuneConfig,
    report: Callable[[str], None],
    helpers: Helpers = ALONE,
    clock: Clock | None = None,
) -> tuple[Tuning, list[Candidate]]:
    """The tuning, and all candidates of the evaluation stage; `report` is called with lines on the progress."""
    clock = clock or clock_of(config)
    screening = reference_trajectories(run, dataset, config.seed, config.batch_size)
    schedule, ranked = screening.schedule, screen(screening, clock, report)
    world = helpers.group.world
    count = affordable(config.n, clock.seconds, screening.seconds / world, reference.seconds / world)
    shown = as_trained(run.config.data, dataset, OF_TUNING + config.seed, count)
    drawn = SampleConfig(n=count, **shown, seed=config.seed, batch_size=config.batch_size)
    samples = SampleFeatures(run, reference, drawn, helpers)

    def evaluate(queues: dict[int, list[SamplerConfig]], until: float) -> list[Candidate]:
        def distance(sampler: SamplerConfig) -> float:
            return reference.distance(samples.extract(sampler, count, count // 4))

        return evaluate_candidates(queues, distance, schedule, clock, until, report)

    evaluated = evaluate({nfe: shortlist(nfe, best, screening) for nfe, best in ranked.items()}, EVALUATION_END)
    plain = {nfe: best_of(nfe, evaluated, best) for nfe, best in ranked.items()}
    evaluated += evaluate(guided_candidates(run, plain, schedule), GUIDANCE_END)
    finalists = in_order(plain, [candidate.sampler for candidate in front(evaluated) if candidate.sampler.guided])
    final = confirm(samples, finalists, schedule, clock, report)
    about = {**about_search(samples), "seconds": round(clock.share * clock.seconds, 1)}
    guides = {name: checksum(run.path / name) for name in {c.sampler.autoguide for c in final} if name is not None}
    return Tuning(fingerprint(run.denoiser), tuple(final), about, guides), evaluated


def about_search(samples: SampleFeatures) -> dict[str, Any]:
    """How the reported distances were measured. distance, evaluated_by: what that of all samples, and of the quarter,
    is called. guidance: of all samples; 1 where each candidate has its own."""
    reference, count = samples.reference, samples.drawn.n
    return {
        "unblot": __version__,
        "features": reference.features.name,
        "reference": f"{reference.count} {reference.name}",
        "pictures": count,
        "distance": reference.distance.name(count),
        "evaluated_by": reference.distance.name(count // 4),
        "guidance": text_guidance(samples.run.config),
        "floor": reference.floor(count),
        "seed": samples.drawn.seed,
    }


def affordable(most: int, seconds: float, each: float, seeing: float) -> int:
    """The number of samples per candidate that the confirmation has time for, from 100 to `most`.

    each: seconds per picture and estimate. seeing: seconds for the features of a picture. Guided candidates are assumed
    to take a third of the plain ones' time.
    """
    return max(100, min(most, int((1 - GUIDANCE_END) * seconds / ((each * sum(NFES) + seeing * len(NFES)) * 4 / 3))))


def in_order(plain: dict[int, SamplerConfig], guided: list[SamplerConfig]) -> list[SamplerConfig]:
    """The candidates of the confirmation in the order in which they get time: those of high NFE last."""
    short = [sampler for nfe, sampler in plain.items() if nfe <= LONG]
    return short + guided + [sampler for nfe, sampler in plain.items() if nfe > LONG]


def evaluate_candidates(
    queues: dict[int, list[SamplerConfig]],
    distance: Callable[[SamplerConfig], float],
    schedule: Schedule,
    clock: Clock,
    until: float,
    report: Callable[[str], None],
) -> list[Candidate]:
    """The measured samplers of all queues, the first of each NFE before any second, up to the share `until` of time."""
    candidates: list[Candidate] = []
    for rank in range(max(map(len, queues.values()), default=0)):
        for sampler in [queue[rank] for queue in queues.values() if rank < len(queue)]:
            if clock.share <= until:
                candidates.append(Candidate(sampler, sampler.nfe(schedule), distance(sampler)))
                report(f"{candidates[-1].nfe:3d} NFE: about {candidates[-1].distance:.4g}  {describe_sampler(sampler)}")
    return candidates


def best_of(nfe: int, candidates: Sequence[Candidate], ranked: Sequence[SamplerConfig]) -> SamplerConfig:
    """The best sampler with `nfe` calls: by its distance, or by screening where none was measured."""
    measured = [c for c in candidates if c.nfe == nfe]
    return min(measured, key=lambda c: c.distance).sampler if measured else ranked[0]


def confirm(
    samples: SampleFeatures,
    samplers: Sequence[SamplerConfig],
    schedule: Schedule,
    clock: Clock,
    report: Callable[[str], None],
) -> list[Candidate]:
    """The samplers measured with all samples each, one at least, while there is time; lowest NFE first."""
    found, distance = list[tuple[Candidate, Tensor]](), samples.reference.distance
    for sampler in samplers:
        if found and clock.share > 1:
            break
        seen = samples.extract(sampler, 0, samples.drawn.n)
        candidate = Candidate(sampler, sampler.nfe(schedule), distance(seen))
        found.append((candidate, distance.resampled(seen)))
        report(f"{candidate.nfe:3d} NFE: {candidate.distance:.4g}  {describe_sampler(sampler)}")
    _, least = min(found, key=lambda pair: pair[0].distance)
    final = [replace(candidate, spread=float((resampled - least).std())) for candidate, resampled in found]
    return sorted(final, key=lambda c: (c.nfe, c.distance))
