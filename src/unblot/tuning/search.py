"""Tuning a run: the solver, grid and guidance that its model samples best with, for each number of evaluations.

Three looks, each at less: how far the end of every deterministic way lies from that of a fine one, from the same few
noises (`rough`); the distance to real pictures, of those that came nearest and of stochastic ways, and then of the best
of them guided, on a quarter of the pictures (`fine`); and of the best for each number of evaluations, and of guided
ways that nothing beat, on as many pictures that are new (`final`). What is reported was therefore not what it was
chosen by.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unblot._version import __version__
from unblot.config.durations import parse_budget
from unblot.config.measuring import TuneConfig
from unblot.data.dataset import Dataset
from unblot.errors import UnblotError
from unblot.evaluation.distances import frechet_spreads
from unblot.process.levels import NoiseLevel, norm
from unblot.process.randomness import epoch_order, labels_for, picture_generators
from unblot.process.schedules import SCHEDULES, Schedule
from unblot.reports.tuning import front_page
from unblot.runs.folder import REPORT, fingerprint
from unblot.runs.run import Run
from unblot.runs.tuning_store import Tuning, write_tuning
from unblot.sampling.guidance import labelled
from unblot.sampling.loop import pictures_noise
from unblot.sampling.settings import Candidate, SamplerConfig, describe_sampler, front
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS, spec_of, uniform_log_snr
from unblot.specs import build, canonical
from unblot.system.files import checksum, write_text
from unblot.tuning.guidance_candidates import guided_forms
from unblot.tuning.learned_spacing import Trajectory, end_error, learned_spacing, refined_spacing, solve_trajectory
from unblot.tuning.reference import ReferenceStatistics, reference_statistics

PAGE = "tuning.html"
COUNTS = (10, 8, 6, 5, 12, 4, 15, 20, 30)  # evaluations, in the order in which time is given to them
DETERMINISTIC = ("dpmpp_2m", "dpmpp_3m", "unipc", "unipc:order=3", "deis", "deis:order=2", "ipndm", "heun")
STOCHASTIC = ("dpmpp_2m_sde:eta=0.5", "dpmpp_2m_sde", "dpmpp_3m_sde")  # from CHANCY_FROM evaluations on
GIVEN = ("time", "karras", "log_snr")
STOCHASTIC_FROM, REFINED_TO, LONG = 8, 12, 20
NOISES, VALUES = 64, 2**18  # at most, of the rough look
KEPT = 3
SCREENING_END, FINE, GUIDED = 0.25, 0.5, 0.65  # shares of the time by which a look ends


@dataclass
class Clock:
    """The time that a search may take, told by `share`: 0 at its start, 1 when it is used up."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> float:
        return (time.monotonic() - self.start) / max(self.seconds, 1e-9)


@dataclass
class Noises:
    """The few noises of the rough look, where a fine way leads from them, and seconds a picture and evaluation."""

    run: Run
    label: Tensor | None
    unit: Tensor
    trajectory: Trajectory
    seconds: float

    @property
    def schedule(self) -> Schedule:
        return build(SCHEDULES, self.run.config.train.schedule, "schedule")

    def error(self, count: int) -> Callable[[SamplerConfig], float]:
        """How far a setting's way ends from the fine one, for the first `count` noises."""
        denoiser, label = self.run.denoiser, None if self.label is None else self.label[:count]
        unit, target = self.unit[:count], self.trajectory.end[:count]

        def error(sampler: SamplerConfig) -> float:
            levels = sampler.levels(self.schedule)
            x_T = float(norm(levels.at(0), denoiser.data_std)) * unit
            solver = build(SOLVERS, sampler.solver, "solver")
            return end_error(labelled(denoiser, label), x_T, target, solver)(levels)

        return error


def tune_run(
    run: Run, dataset: Dataset, config: TuneConfig, cache: Path, report: Callable[[str], None] = lambda line: None
) -> Tuning:
    """Tunes a run on the data that it was trained on; writes its tuning.json, and the page in its report folder."""
    measure = reference_statistics(dataset, config.features, cache)
    tuning, others = search(run, dataset, measure, config, report)
    write_tuning(run.path, tuning)
    (run.path / REPORT).mkdir(exist_ok=True)
    page = front_page(run.path.resolve().name, tuning.about, tuning.candidates, others)
    write_text(run.path / REPORT / PAGE, page)
    return tuning


def search(
    run: Run,
    dataset: Dataset,
    reference_statistics: ReferenceStatistics,
    config: TuneConfig,
    report: Callable[[str], None],
) -> tuple[Tuning, list[Candidate]]:
    """What was found, and all trials whose distance was measured; `report` is told how it goes on."""
    seconds, more = parse_budget(config.budget)
    if more:
        raise UnblotError(f"--budget {config.budget}: a search begins anew; leave out the +")
    clock = Clock(seconds)
    noises = reference_trajectories(run, dataset, config.seed)
    ranked = screen(noises, clock, report)
    count = affordable(config.n, seconds, noises.seconds)
    labels = labels_of(run, dataset, config.seed, count) if run.config.data.classes else None

    def see(sampler: SamplerConfig, first: int, n: int) -> Tensor:
        label = None if labels is None else labels[:n]
        pictures = run.sample(n, first=first, **asdict(sampler), label=label, seed=config.seed, batch_size=128)
        return reference_statistics.see([torch.from_numpy(dataset.values.encode(pictures.array, np.float32))])

    def look(queues: dict[int, list[SamplerConfig]], until: float) -> list[Candidate]:
        def figure(sampler: SamplerConfig) -> float:
            return reference_statistics.distance(see(sampler, count, count // 4))

        return evaluate_candidates(queues, figure, noises.schedule, clock, until, report)

    seen_first = look({calls: shortlist(calls, settings, noises) for calls, settings in ranked.items()}, FINE)
    plain = {calls: best_of(calls, seen_first, settings) for calls, settings in ranked.items()}
    seen_first += look(guided_forms(run, plain, noises.schedule), GUIDED)
    candidates, seen = list[Candidate](), list[Tensor]()
    for sampler in in_order(plain, [candidate.sampler for candidate in front(seen_first) if candidate.sampler.guided]):
        if candidates and clock.share > 1:
            break
        seen.append(see(sampler, 0, count))
        candidates.append(Candidate(sampler, sampler.nfe(noises.schedule), reference_statistics.distance(seen[-1])))
        report(f"{candidates[-1].nfe:3d} evaluations: {candidates[-1].figure:.4g}  {describe_sampler(sampler)}")
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].figure)
    spreads = frechet_spreads([seen[i] for i in order], reference_statistics.reference)
    final = [replace(candidates[i], spread=spread) for i, spread in zip(order, spreads, strict=True)]
    about = {
        "unblot": __version__,
        "features": reference_statistics.features.name,
        "reference": f"{reference_statistics.count} {reference_statistics.name}",
        "pictures": count,
        "floor": reference_statistics.floor(count),
        "seed": config.seed,
        "seconds": round(clock.share * clock.seconds, 1),
    }
    guides = {name: checksum(run.path / name) for name in {t.sampler.autoguide for t in final} if name is not None}
    final.sort(key=lambda t: (t.nfe, t.figure))
    return Tuning(fingerprint(run.denoiser), tuple(final), about, guides), seen_first


def reference_trajectories(run: Run, dataset: Dataset, seed: int) -> Noises:
    """The noises of the rough look, followed along a fine way; they belong to no picture that is drawn later."""
    shape = run.config.data.shape
    count = max(8, min(NOISES, VALUES // int(np.prod(shape))))
    device = run.device
    unit = pictures_noise(picture_generators(seed, range(2**31, 2**31 + count)), shape, device)()
    labels = labels_of(run, dataset, seed, count)
    label = None if labels is None else torch.tensor(labels, device=device)
    schedule = build(SCHEDULES, run.config.train.schedule, "schedule")
    top = uniform_log_snr()(schedule, 64).at(0)
    start = time.monotonic()
    trajectory = solve_trajectory(
        labelled(run.denoiser, label), float(norm(top, run.denoiser.data_std)) * unit, schedule
    )
    return Noises(run, label, unit, trajectory, (time.monotonic() - start) / (127 * count))


def labels_of(run: Run, dataset: Dataset, seed: int, count: int) -> list[int] | None:
    """The labels that so many pictures are drawn with: of training pictures at random, or clusters; None without."""
    if dataset.labels is None or not run.config.data.classes:
        clusters = labels_for(seed, range(count), clusters=run.config.data.clusters)
        return None if clusters is None else clusters.tolist()
    chosen = epoch_order(seed, 0, len(dataset.train)).repeat(-(-count // len(dataset.train)))[:count]
    return dataset.labels[dataset.train[chosen.numpy()]].tolist()


def affordable(most: int, seconds: float, each: float) -> int:
    """As many pictures as the last look can draw in its share of the time; at most `most`.

    each: seconds of a picture and evaluation. Guided ways are taken to need a third of what all plain ones do.
    """
    return max(100, min(most, int((1 - GUIDED) * seconds / (each * sum(COUNTS) * 4 / 3))))


def in_order(plain: dict[int, SamplerConfig], guided: list[SamplerConfig]) -> list[SamplerConfig]:
    """The settings of the last look in the order in which time is given to them: long ways last."""
    short = [sampler for calls, sampler in plain.items() if calls <= LONG]
    return short + guided + [sampler for calls, sampler in plain.items() if calls > LONG]


def screen(noises: Noises, clock: Clock, report: Callable[[str], None]) -> dict[int, list[SamplerConfig]]:
    """Settings of deterministic solvers for each number of evaluations, those that end nearest to the fine way first.

    Where time runs out, what is left is not looked at: the default solver on a learned grid.
    """
    ranked: dict[int, list[SamplerConfig]] = {}
    for calls in COUNTS:
        if clock.share > SCREENING_END:
            ranked[calls] = [_setting(DETERMINISTIC[0], spec_of(learned_spacing(noises.trajectory, calls)), calls)]
            continue
        error = noises.error(len(noises.unit))
        errors = {sampler: error(sampler) for sampler in candidates(noises, calls)}
        ranked[calls] = sorted(errors, key=lambda s: errors[s])
        if calls <= REFINED_TO:
            refined = refine(noises, next(s for s in ranked[calls] if s.steps == calls))
            for sampler in [replace(s, spacing=refined) for s in ranked[calls][:KEPT] if s.steps == calls]:
                errors[sampler] = error(sampler)
            ranked[calls] = sorted(errors, key=lambda s: errors[s])
        report(
            f"{calls} evaluations: of {len(errors)} ways, {describe_sampler(ranked[calls][0])} is nearest to a fine one"
        )
    return ranked


def candidates(noises: Noises, calls: int) -> Iterator[SamplerConfig]:
    """The deterministic settings that take `calls` evaluations; fewer of them where that is many."""
    for solver in DETERMINISTIC if calls <= LONG else DETERMINISTIC[:3]:
        each = build(SOLVERS, solver, "solver").nfe
        steps = (calls - 1) // each + 1
        if (steps - 1) * each + 1 == calls:
            learned = spec_of(learned_spacing(noises.trajectory, steps))
            for spacing in (learned, *GIVEN):
                yield _setting(solver, spacing, steps)


def refine(noises: Noises, sampler: SamplerConfig) -> str:
    """The setting's grid, its levels moved so that the first half of the noises end nearer to the fine way."""
    error = noises.error(len(noises.unit) // 2)
    schedule = noises.schedule

    def of(levels: NoiseLevel) -> float:
        return error(replace(sampler, spacing=spec_of(levels)))

    return canonical(SPACINGS, spec_of(refined_spacing(sampler.levels(schedule), schedule, of, rounds=3)), "spacing")


def evaluate_candidates(
    queues: dict[int, list[SamplerConfig]],
    figure: Callable[[SamplerConfig], float],
    schedule: Schedule,
    clock: Clock,
    until: float,
    report: Callable[[str], None],
) -> list[Candidate]:
    """Distances of settings, those of every number of evaluations in turns, while time has not come to `until`."""
    candidates: list[Candidate] = []
    for rank in range(max(map(len, queues.values()), default=0)):
        for sampler in [queue[rank] for queue in queues.values() if rank < len(queue)]:
            if clock.share <= until:
                candidates.append(Candidate(sampler, sampler.nfe(schedule), figure(sampler)))
                report(f"{candidates[-1].nfe:3d} NFE: about {candidates[-1].figure:.4g}  {describe_sampler(sampler)}")
    return candidates


def shortlist(calls: int, ranked: Sequence[SamplerConfig], noises: Noises) -> list[SamplerConfig]:
    """The settings that are worth a fine look: no solver twice, then the given default, then stochastic ones."""
    firsts: dict[str, SamplerConfig] = {}
    for sampler in ranked:
        firsts.setdefault(sampler.solver, sampler)
    chosen = list(firsts.values())[:KEPT]
    others = [("dpmpp_2m", "karras")]
    if calls >= STOCHASTIC_FROM:
        learned = spec_of(learned_spacing(noises.trajectory, calls))
        others += [(solver, spacing) for solver in STOCHASTIC for spacing in (learned, "karras")]
    for solver, spacing in others:
        sampler = _setting(solver, spacing, calls)
        if sampler not in chosen:
            chosen.append(sampler)
    return chosen


def best_of(calls: int, candidates: Sequence[Candidate], ranked: Sequence[SamplerConfig]) -> SamplerConfig:
    """The best setting of so many evaluations: by its distance, or else by the rough look."""
    measured = [t for t in candidates if t.nfe == calls]
    return min(measured, key=lambda t: t.figure).sampler if measured else ranked[0]


def _setting(solver: str, spacing: str, steps: int) -> SamplerConfig:
    return SamplerConfig(canonical(SOLVERS, solver, "solver"), canonical(SPACINGS, spacing, "spacing"), steps)
