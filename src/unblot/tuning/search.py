"""Tuning a run: the solver, spacing and guidance with which its model samples best, for each NFE.

Three stages, each with fewer candidates and more work for each:

1. Screening: the error of deterministic samplers against a fine trajectory, from the same few noises.
2. Evaluation: the distance to real pictures, with a quarter of the samples, of the best screened, of stochastic
   samplers, and then of the best of these with guidance.
3. Confirmation: the distance, with all samples, of the best for each NFE and of guided ones on the front. These samples
   are new, so that no reported distance was also used for the choice.
"""

from collections.abc import Callable, Mapping, Sequence
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
from unblot.evaluation.distances import frechet_spreads
from unblot.process.schedules import Schedule
from unblot.reports.tuning import front_page
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
from unblot.tuning.reference import ReferenceStatistics, reference_statistics
from unblot.tuning.screening import LONG, NFES, Clock, reference_trajectories, screen, shortlist

PAGE = "tuning.html"
EVALUATION_END, GUIDANCE_END = 0.5, 0.65  # shares of the time budget at which a stage ends


@dataclass(frozen=True)
class SampleFeatures:
    """The features in which a run's samples are compared with real pictures.

    shown: the choices `label` and `prompt` of the samples. helpers: the processes that draw them together.
    """

    run: Run
    reference: ReferenceStatistics
    shown: Mapping[str, Any]
    seed: int
    helpers: Helpers

    def extract(self, sampler: SamplerConfig, first: int, n: int) -> Tensor:
        """Features (n, d) of the samples numbered first … first + n − 1."""
        shown: dict[str, Any] = {name: None if values is None else values[:n] for name, values in self.shown.items()}
        config = SampleConfig(n=n, **shown, seed=self.seed)
        return self.helpers.features(self.run, self.reference, sampler, config, first)

    def distance(self, features: Tensor) -> float:
        """Fréchet distance of features (n, d) to the reference."""
        return self.reference.distance(features)


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
    group = group or Group()
    reference = one_a_node_first(group, lambda: reference_statistics(dataset, config.features, cache))
    helpers = Helpers(group)
    if not group.is_main_process:
        helpers.help(run, reference)
        tuning = read_tuning(run.path, run.denoiser)
        assert tuning is not None
        return tuning
    with helpers:
        return _tuned(run, dataset, reference, config, report, helpers)


def _tuned(
    run: Run,
    dataset: Dataset,
    reference: ReferenceStatistics,
    config: TuneConfig,
    report: Callable[[str], None],
    helpers: Helpers,
) -> Tuning:
    tuning, others = search(run, dataset, reference, config, report, helpers)
    write_tuning(run.path, tuning)
    (run.path / REPORT).mkdir(exist_ok=True)
    page = front_page(run.path.resolve().name, tuning.about, tuning.candidates, others)
    write_text(run.path / REPORT / PAGE, page)
    return tuning


def search(
    run: Run,
    dataset: Dataset,
    reference: ReferenceStatistics,
    config: TuneConfig,
    report: Callable[[str], None],
    helpers: Helpers = ALONE,
) -> tuple[Tuning, list[Candidate]]:
    """The tuning, and all candidates of the evaluation stage; `report` is called with lines on the progress."""
    seconds, more = parse_budget(config.budget)
    if more:
        raise UnblotError(f"{arg('budget', config.budget)}: a search cannot be continued; leave out the +")
    clock = Clock(seconds)
    screening = reference_trajectories(run, dataset, config.seed)
    schedule, ranked = screening.schedule, screen(screening, clock, report)
    count = affordable(config.n, seconds, screening.seconds / helpers.group.world)
    shown = as_trained(run.config.data, dataset, config.seed, count)
    samples = SampleFeatures(run, reference, shown, config.seed, helpers)

    def evaluate(queues: dict[int, list[SamplerConfig]], until: float) -> list[Candidate]:
        def distance(sampler: SamplerConfig) -> float:
            return samples.distance(samples.extract(sampler, count, count // 4))

        return evaluate_candidates(queues, distance, schedule, clock, until, report)

    evaluated = evaluate({nfe: shortlist(nfe, best, screening) for nfe, best in ranked.items()}, EVALUATION_END)
    plain = {nfe: best_of(nfe, evaluated, best) for nfe, best in ranked.items()}
    evaluated += evaluate(guided_candidates(run, plain, schedule), GUIDANCE_END)
    finalists = in_order(plain, [candidate.sampler for candidate in front(evaluated) if candidate.sampler.guided])
    final = confirm(samples, finalists, count, schedule, clock, report)
    about = {
        "unblot": __version__,
        "features": reference.features.name,
        "reference": f"{reference.count} {reference.name}",
        "pictures": count,
        "floor": reference.floor(count),
        "seed": config.seed,
        "seconds": round(clock.share * clock.seconds, 1),
    }
    guides = {name: checksum(run.path / name) for name in {c.sampler.autoguide for c in final} if name is not None}
    return Tuning(fingerprint(run.denoiser), tuple(final), about, guides), evaluated


def affordable(most: int, seconds: float, each: float) -> int:
    """The number of samples per candidate that the confirmation has time for, from 100 to `most`.

    each: seconds per picture and denoiser call. Guided candidates are assumed to take a third of the plain ones' time.
    """
    return max(100, min(most, int((1 - GUIDANCE_END) * seconds / (each * sum(NFES) * 4 / 3))))


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
    count: int,
    schedule: Schedule,
    clock: Clock,
    report: Callable[[str], None],
) -> list[Candidate]:
    """The samplers measured with `count` samples each, one at least, while there is time; lowest NFE first."""
    candidates, seen = list[Candidate](), list[Tensor]()
    for sampler in samplers:
        if candidates and clock.share > 1:
            break
        seen.append(samples.extract(sampler, 0, count))
        candidates.append(Candidate(sampler, sampler.nfe(schedule), samples.distance(seen[-1])))
        report(f"{candidates[-1].nfe:3d} NFE: {candidates[-1].distance:.4g}  {describe_sampler(sampler)}")
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].distance)
    spreads = frechet_spreads([seen[i] for i in order], samples.reference.reference)
    final = [replace(candidates[i], spread=spread) for i, spread in zip(order, spreads, strict=True)]
    return sorted(final, key=lambda c: (c.nfe, c.distance))
