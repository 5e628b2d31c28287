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
from unblot.config.schema import TuneConfig
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
from unblot.sampling.settings import Setting, Trial, front, told
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import GRIDS, log_snr, spec_of
from unblot.specs import build, canonical
from unblot.system.files import checksum, write_text
from unblot.tuning.guidance_candidates import guided_forms
from unblot.tuning.learned_spacing import Trajectory, end_error, follow, learned_grid, polished_grid
from unblot.tuning.reference import Yardstick, yardstick

PAGE = "tuning.html"
COUNTS = (10, 8, 6, 5, 12, 4, 15, 20, 30)  # evaluations, in the order in which time is given to them
SURE = ("dpmpp_2m", "dpmpp_3m", "unipc", "unipc:order=3", "deis", "deis:order=2", "ipndm", "heun")
CHANCY = ("dpmpp_2m_sde:eta=0.5", "dpmpp_2m_sde", "dpmpp_3m_sde")  # from CHANCY_FROM evaluations on
GIVEN = ("time", "karras", "log_snr")
CHANCY_FROM, POLISHED_TO, LONG = 8, 12, 20
NOISES, VALUES = 64, 2**18  # at most, of the rough look
KEPT = 3
ROUGH, FINE, GUIDED = 0.25, 0.5, 0.65  # shares of the time by which a look ends


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

    def error(self, count: int) -> Callable[[Setting], float]:
        """How far a setting's way ends from the fine one, for the first `count` noises."""
        denoiser, label = self.run.denoiser, None if self.label is None else self.label[:count]
        unit, target = self.unit[:count], self.trajectory.end[:count]

        def error(setting: Setting) -> float:
            levels = setting.levels(self.schedule)
            x_T = float(norm(levels.at(0), denoiser.data_std)) * unit
            solver = build(SOLVERS, setting.solver, "solver")
            return end_error(labelled(denoiser, label), x_T, target, solver)(levels)

        return error


def tune_run(
    run: Run, dataset: Dataset, config: TuneConfig, cache: Path, report: Callable[[str], None] = lambda line: None
) -> Tuning:
    """Tunes a run on the data that it was trained on; writes its tuning.json, and the page in its report folder."""
    measure = yardstick(dataset, config.features, cache)
    tuning, others = search(run, dataset, measure, config, report)
    write_tuning(run.path, tuning)
    (run.path / REPORT).mkdir(exist_ok=True)
    page = front_page(run.path.resolve().name, tuning.about, tuning.trials, others)
    write_text(run.path / REPORT / PAGE, page)
    return tuning


def search(
    run: Run, dataset: Dataset, yardstick: Yardstick, config: TuneConfig, report: Callable[[str], None]
) -> tuple[Tuning, list[Trial]]:
    """What was found, and all trials whose distance was measured; `report` is told how it goes on."""
    seconds, more = parse_budget(config.budget)
    if more:
        raise UnblotError(f"--budget {config.budget}: a search begins anew; leave out the +")
    clock = Clock(seconds)
    noises = follow_few(run, dataset, config.seed)
    ranked = rough_look(noises, clock, report)
    count = affordable(config.n, seconds, noises.seconds)
    labels = labels_of(run, dataset, config.seed, count) if run.config.data.classes else None

    def see(setting: Setting, first: int, n: int) -> Tensor:
        label = None if labels is None else labels[:n]
        pictures = run.sample(n, first=first, **asdict(setting), label=label, seed=config.seed, batch_size=128)
        return yardstick.see([torch.from_numpy(dataset.values.encode(pictures.array, np.float32))])

    def look(queues: dict[int, list[Setting]], until: float) -> list[Trial]:
        def figure(setting: Setting) -> float:
            return yardstick.distance(see(setting, count, count // 4))

        return fine_look(queues, figure, noises.schedule, clock, until, report)

    seen_first = look({calls: shortlist(calls, settings, noises) for calls, settings in ranked.items()}, FINE)
    plain = {calls: best_of(calls, seen_first, settings) for calls, settings in ranked.items()}
    seen_first += look(guided_forms(run, plain, noises.schedule), GUIDED)
    trials, seen = list[Trial](), list[Tensor]()
    for setting in in_order(plain, [trial.setting for trial in front(seen_first) if trial.setting.guided]):
        if trials and clock.share > 1:
            break
        seen.append(see(setting, 0, count))
        trials.append(Trial(setting, setting.evaluations(noises.schedule), yardstick.distance(seen[-1])))
        report(f"{trials[-1].evaluations:3d} evaluations: {trials[-1].figure:.4g}  {told(setting)}")
    order = sorted(range(len(trials)), key=lambda i: trials[i].figure)
    spreads = frechet_spreads([seen[i] for i in order], yardstick.reference)
    final = [replace(trials[i], spread=spread) for i, spread in zip(order, spreads, strict=True)]
    about = {
        "unblot": __version__,
        "features": yardstick.features.name,
        "reference": f"{yardstick.count} {yardstick.name}",
        "pictures": count,
        "floor": yardstick.floor(count),
        "seed": config.seed,
        "seconds": round(clock.share * clock.seconds, 1),
    }
    guides = {name: checksum(run.path / name) for name in {t.setting.autoguide for t in final} if name is not None}
    final.sort(key=lambda t: (t.evaluations, t.figure))
    return Tuning(fingerprint(run.denoiser), tuple(final), about, guides), seen_first


def follow_few(run: Run, dataset: Dataset, seed: int) -> Noises:
    """The noises of the rough look, followed along a fine way; they belong to no picture that is drawn later."""
    shape = run.config.data.shape
    count = max(8, min(NOISES, VALUES // int(np.prod(shape))))
    device = run.device
    unit = pictures_noise(picture_generators(seed, range(2**31, 2**31 + count)), shape, device)()
    labels = labels_of(run, dataset, seed, count)
    label = None if labels is None else torch.tensor(labels, device=device)
    schedule = build(SCHEDULES, run.config.train.schedule, "schedule")
    top = log_snr()(schedule, 64).at(0)
    start = time.monotonic()
    trajectory = follow(labelled(run.denoiser, label), float(norm(top, run.denoiser.data_std)) * unit, schedule)
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


def in_order(plain: dict[int, Setting], guided: list[Setting]) -> list[Setting]:
    """The settings of the last look in the order in which time is given to them: long ways last."""
    short = [setting for calls, setting in plain.items() if calls <= LONG]
    return short + guided + [setting for calls, setting in plain.items() if calls > LONG]


def rough_look(noises: Noises, clock: Clock, report: Callable[[str], None]) -> dict[int, list[Setting]]:
    """Settings of deterministic solvers for each number of evaluations, those that end nearest to the fine way first.

    Where time runs out, what is left is not looked at: the default solver on a learned grid.
    """
    ranked: dict[int, list[Setting]] = {}
    for calls in COUNTS:
        if clock.share > ROUGH:
            ranked[calls] = [_setting(SURE[0], spec_of(learned_grid(noises.trajectory, calls)), calls)]
            continue
        error = noises.error(len(noises.unit))
        errors = {setting: error(setting) for setting in candidates(noises, calls)}
        ranked[calls] = sorted(errors, key=lambda s: errors[s])
        if calls <= POLISHED_TO:
            polished = polish(noises, next(s for s in ranked[calls] if s.steps == calls))
            for setting in [replace(s, grid=polished) for s in ranked[calls][:KEPT] if s.steps == calls]:
                errors[setting] = error(setting)
            ranked[calls] = sorted(errors, key=lambda s: errors[s])
        report(f"{calls} evaluations: of {len(errors)} ways, {told(ranked[calls][0])} is nearest to a fine one")
    return ranked


def candidates(noises: Noises, calls: int) -> Iterator[Setting]:
    """The deterministic settings that take `calls` evaluations; fewer of them where that is many."""
    for solver in SURE if calls <= LONG else SURE[:3]:
        each = build(SOLVERS, solver, "solver").evaluations
        steps = (calls - 1) // each + 1
        if (steps - 1) * each + 1 == calls:
            learned = spec_of(learned_grid(noises.trajectory, steps))
            for grid in (learned, *GIVEN):
                yield _setting(solver, grid, steps)


def polish(noises: Noises, setting: Setting) -> str:
    """The setting's grid, its levels moved so that the first half of the noises end nearer to the fine way."""
    error = noises.error(len(noises.unit) // 2)
    schedule = noises.schedule

    def of(levels: NoiseLevel) -> float:
        return error(replace(setting, grid=spec_of(levels)))

    return canonical(GRIDS, spec_of(polished_grid(setting.levels(schedule), schedule, of, rounds=3)), "grid")


def fine_look(
    queues: dict[int, list[Setting]],
    figure: Callable[[Setting], float],
    schedule: Schedule,
    clock: Clock,
    until: float,
    report: Callable[[str], None],
) -> list[Trial]:
    """Distances of settings, those of every number of evaluations in turns, while time has not come to `until`."""
    trials: list[Trial] = []
    for rank in range(max(map(len, queues.values()), default=0)):
        for setting in [queue[rank] for queue in queues.values() if rank < len(queue)]:
            if clock.share <= until:
                trials.append(Trial(setting, setting.evaluations(schedule), figure(setting)))
                report(f"{trials[-1].evaluations:3d} evaluations: some {trials[-1].figure:.4g}  {told(setting)}")
    return trials


def shortlist(calls: int, ranked: Sequence[Setting], noises: Noises) -> list[Setting]:
    """The settings that are worth a fine look: no solver twice, then the given default, then stochastic ones."""
    firsts: dict[str, Setting] = {}
    for setting in ranked:
        firsts.setdefault(setting.solver, setting)
    chosen = list(firsts.values())[:KEPT]
    others = [("dpmpp_2m", "karras")]
    if calls >= CHANCY_FROM:
        learned = spec_of(learned_grid(noises.trajectory, calls))
        others += [(solver, grid) for solver in CHANCY for grid in (learned, "karras")]
    for solver, grid in others:
        setting = _setting(solver, grid, calls)
        if setting not in chosen:
            chosen.append(setting)
    return chosen


def best_of(calls: int, trials: Sequence[Trial], ranked: Sequence[Setting]) -> Setting:
    """The best setting of so many evaluations: by its distance, or else by the rough look."""
    measured = [t for t in trials if t.evaluations == calls]
    return min(measured, key=lambda t: t.figure).setting if measured else ranked[0]


def _setting(solver: str, grid: str, steps: int) -> Setting:
    return Setting(canonical(SOLVERS, solver, "solver"), canonical(GRIDS, grid, "grid"), steps)
