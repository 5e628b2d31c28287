"""The evaluation of a run: measured, judged in a sentence for each question, written as report.json and report.html."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unblot._version import __version__
from unblot.config.measuring import DRAWING, EvaluateConfig
from unblot.config.sampling import SampleConfig
from unblot.config.schema import RunConfig
from unblot.data.cache.build import cache_folder
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg, one_line, printable
from unblot.evaluation import measure
from unblot.evaluation.learning import loss_by_level
from unblot.evaluation.measure import Options
from unblot.evaluation.parts import Parts, parts_of
from unblot.evaluation.retrieval import Pairs, caption_agreement
from unblot.losses import WEIGHTINGS
from unblot.process.schedules import SCHEDULES
from unblot.reports.comparison import compare
from unblot.reports.evaluation_page import page
from unblot.reports.given import given_samples
from unblot.reports.samplers import given
from unblot.reports.verdicts import summary, verdicts
from unblot.runs.conditions import as_trained, needs_clusters
from unblot.runs.folder import REPORT, fingerprint
from unblot.runs.metrics import HELD_OUT, mean_loss, of_kind, read_metrics
from unblot.runs.run import Run
from unblot.runs.samples import Samples, network_calls
from unblot.runs.shared import sample_in_shares, shares
from unblot.sampling.loop import Progress
from unblot.specs import build, several
from unblot.system.distributed import Group
from unblot.system.files import write_json, write_text
from unblot.system.stored import read_stored
from unblot.system.turns import decided

JSON, HTML = "report.json", "report.html"
MEASURES_VERSION = 3  # raised where figures of the same samples change: with the judge, or what is compared

Note = Callable[[str], None]


def sampled_and_evaluated(
    run: Run,
    dataset: Dataset,
    config: EvaluateConfig,
    note: Note,
    group: Group,
    report: Note,
    out: Path | None = None,
) -> dict[str, Any]:
    """The report of a run with new samples of it, or with the pictures of `config.samples` in their place.

    All processes of the group draw, and all have the report; the main process measures and writes, see `evaluate_run`.
    `report` gets what is being done.
    """
    features = tuple(several(config.features)) if config.features else ()
    same = {name: getattr(config, name) for name in ("flip", "shift", "likelihood", "ode", "batch_size")}
    options = Options(features, **same, cache=cache_folder() / "features")
    drawn = None if config.samples is not None else _drawn(run, dataset, config, group, report)
    found: dict[str, Any] = {}

    def judge() -> str:
        samples = drawn
        if config.samples is not None:
            report(f"reading the pictures of {config.samples}")
            samples = given_samples(run, config.samples, config.n, note)
        assert samples is not None
        what = (run.path, run.config, run.denoiser, dataset, samples.array)
        found.update(evaluate_run(*what, options, note, samples.provenance, samples.prompts, report, out))
        return "" if group.world == 1 else json.dumps(found)

    told = decided(group, judge)
    return found or json.loads(told)


def _drawn(run: Run, dataset: Dataset, config: EvaluateConfig, group: Group, report: Note) -> Samples | None:
    """New samples, in the main process; None in the others.

    They show what training pictures do, and are none of those by which `tune` and `ema` choose.
    """
    shown = as_trained(run.config.data, dataset, config.seed, config.n)
    chosen = {name: getattr(config, name) for name in DRAWING}
    asked = SampleConfig(n=config.n, **shown, **chosen)
    calls = network_calls(run.sampler(asked), run.config.train.schedule)  # before the work rather than after it
    samples = sample_in_shares(run, group, asked, _drawing(config.n, group, asked.batch_size, report))
    return samples and replace(samples, provenance={**samples.provenance, "nfe": calls})


def _drawing(n: int, group: Group, batch: int, report: Note) -> Callable[[Progress], None]:
    """Tells `report` after each step how far this process is with its share of the n samples, drawn in batches."""
    done, batches = 0, math.ceil(len(shares(n, batch, group.world)[group.rank]) / batch)

    def on_step(step: Progress) -> None:
        nonlocal done
        done += 1
        report(f"drawing {n:,} samples: {done / (batches * step.steps):.0%}")

    return on_step


def evaluate_run(
    folder: Path,
    config: RunConfig,
    denoiser: Denoiser,
    dataset: Dataset,
    samples: np.ndarray,
    options: Options | None = None,
    note: Note = lambda line: None,
    about: dict[str, Any] | None = None,
    prompts: Sequence[str] | None = None,
    report: Note = lambda line: None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The report of a run, which is also written into `out` (`folder`/report): report.json and report.html.

    config, denoiser: of the run, with its averaged weights. dataset: what it was trained on. samples: (N, C, H, W) with
    the data's stored values; about: their provenance, with the place of pictures that were given as `samples`; prompts:
    the text of each, of a captioned run. `note` gets a line for everything that could not be measured, `report` for
    each part that begins.
    Raises UnblotError for samples that do not fit the data.
    """
    options = options or Options(cache=cache_folder() / "features")
    found = evaluate(config, denoiser, dataset, samples, options, note, prompts, report, about)
    found |= {"run": folder.resolve().name, "history": [] if given(found) else history(folder)}
    shown = page(found, dataset, samples)
    target = out or folder / REPORT
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / JSON, found)
    write_text(target / HTML, shown)
    return found


def evaluate(
    config: RunConfig,
    denoiser: Denoiser,
    dataset: Dataset,
    samples: np.ndarray,
    options: Options,
    note: Note,
    prompts: Sequence[str] | None = None,
    report: Note = lambda line: None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All measurements as plain values, each part with the seconds it took, and a verdict on each question."""
    seconds: dict[str, float] = {}
    notes: list[str] = []

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        report(f"measuring {len(samples):,} samples: {name}")
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 2)

    def noted(line: str) -> None:
        notes.append(line)
        note(printable(line))

    parts = parts_of(dataset, samples)
    if dataset.stream is not None:
        compared = f"{len(dataset.train):,} of {dataset.training_count:,} training pictures"
        noted(f"compared with {compared}, a sample: the others stay in their shards, and copies of them are not found")
    found: dict[str, Any] = {"unblot": __version__, **_about(config, denoiser, dataset), "count": len(samples)}
    found |= {"sampled_with": about or {}, "measures": MEASURES_VERSION}
    with timed("metrics"):
        found["metrics"] = measure.metrics(parts, dataset, options, noted)
    with timed("spectrum"):
        found["spectrum"] = measure.spectrum(parts)
    with timed("originality"):
        found["originality"] = measure.originality(parts, options, noted)
    with timed("captions"):
        found["captions"] = _captions(parts, dataset, prompts, noted)
    if given(found) is not None:
        noted("likelihood and loss by noise level are left out: they are the model's, and these pictures were given")
    with timed("likelihood"):
        found["likelihood"] = None if given(found) else measure.likelihood(config, denoiser, dataset, options)
    with timed("learning"):
        found["learning"] = None if given(found) else _learning(config, denoiser, dataset, options, noted)
    found |= {"notes": notes, "seconds": seconds}
    return found | {"verdicts": verdicts(found)}


def _about(config: RunConfig, denoiser: Denoiser, dataset: Dataset) -> dict[str, Any]:
    """What was evaluated, and on what data."""
    return {
        "data": {
            "name": dataset.name,
            "kind": config.data.kind,
            "training": len(dataset.train),
            "held_out": len(dataset.held_out),
            "shape": list(dataset.shape),
            "classes": list(dataset.classes),
            "fingerprint": dataset.fingerprint,
        },
        "model": {
            "network": config.train.network,
            "parameters": sum(p.numel() for p in denoiser.parameters()),
            "steps": config.train.steps,
            "preset": config.train.preset,
            "distilled": config.distill is not None,
            "needs_clusters": needs_clusters(config),
            "fingerprint": fingerprint(denoiser),
        },
    }


def _learning(
    config: RunConfig, denoiser: Denoiser, dataset: Dataset, options: Options, note: Note
) -> dict[str, Any] | None:
    """The loss by noise level; None, and a note, where it cannot be measured."""
    if config.distill is not None:
        note("a distilled run is no denoiser: it has no likelihood and no loss by noise level; its teacher has")
        return None
    if needs_clusters(config):
        note(
            f"this run never saw pictures without a cluster ({arg('label_dropout', 0.0)}), and those that are measured "
            f"have none: it has no likelihood and no loss by noise level"
        )
        return None
    if config.latent is not None:
        note("a run in latents has no likelihood of pictures: the density of latents is not theirs")
    if min(len(dataset.held_out), len(dataset.train)) < 2:
        few = f"{len(dataset.held_out)} held-out and {len(dataset.train)} training {config.data.kind}"
        note(f"the loss by noise level needs at least 2 held-out and 2 training {config.data.kind}; there are {few}")
        return None
    schedule = build(SCHEDULES, config.train.schedule, "schedule")
    weighting = build(WEIGHTINGS, config.train.weighting, "weighting")
    return loss_by_level(denoiser, dataset, schedule, weighting, batch_size=options.batch_size).to_dict()


def _captions(parts: Parts, dataset: Dataset, prompts: Sequence[str] | None, note: Note) -> dict[str, Any] | None:
    """How the captions of samples rank, beside those of real pictures; None, and a note, where nothing can be said."""
    if dataset.captions is None:
        return None
    if prompts is None:
        note("whether samples obey their captions is not known: they have none")
        return None
    texts = dataset.captions
    training, held_out = (Pairs(part, [texts[i] for i in part.indices]) for part in (parts.training, parts.held_out))
    samples = Pairs(parts.samples, [(prompts[i],) for i in parts.samples.indices])
    found = caption_agreement(training, held_out, samples)
    if isinstance(found, str):
        note(f"whether samples obey their captions is not known: {found}")
        return None
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """Training and held-out loss as measured during the training: step, training, held_out (or None)."""
    lines = of_kind(read_metrics(folder), HELD_OUT)
    return [
        {"step": line["step"]} | {side: mean_loss(line, side) for side in ("training", "held_out")} for line in lines
    ]


def read_report(folder: Path) -> dict[str, Any]:
    """The report.json of a run folder, or in the folder that it was written into.

    Raises UnblotError where there is none, or the file is damaged.
    """
    path = folder / REPORT / JSON
    anew = f"make a new one with: unblot evaluate {folder}"
    if not path.exists() and (folder / JSON).exists():
        path, anew = folder / JSON, f"make a new one with: unblot evaluate RUN --out {folder}"
    if not path.exists():
        raise UnblotError(f"no report in {str(folder)!r}; {anew}")
    report = read_stored(path, dict[str, Any], f"it is damaged; {anew}")
    try:
        summary(report), compare([report])  # whatever is read of it is there, and of the right type
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise UnblotError(f"{str(path)!r} is damaged ({reason}); {anew}") from None
    return report
