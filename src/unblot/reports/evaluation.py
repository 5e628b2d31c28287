"""The evaluation of a run: measured, judged in a sentence each, and written as report.json and report.html."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unblot._version import __version__
from unblot.config.schema import RunConfig
from unblot.data.cache.build import cache_folder
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.evaluation import measure
from unblot.evaluation.learning import loss_by_level
from unblot.evaluation.measure import Options
from unblot.losses import WEIGHTINGS
from unblot.process.schedules import SCHEDULES
from unblot.reports.evaluation_page import page
from unblot.reports.verdicts import verdicts
from unblot.runs.folder import REPORT
from unblot.runs.metrics import HELD_OUT, mean_loss, of_kind, read_metrics
from unblot.specs import build
from unblot.system.files import write_json

JSON, HTML = "report.json", "report.html"

Note = Callable[[str], None]


def evaluate_run(
    folder: Path,
    config: RunConfig,
    denoiser: Denoiser,
    dataset: Dataset,
    samples: np.ndarray,
    options: Options | None = None,
    note: Note = lambda line: None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The report of a run, which it also writes into `folder`/report: report.json and report.html.

    config, denoiser: of the run, with its averaged weights. dataset: what it was trained on. samples: drawn pictures
    (N, C, H, W) with the data's stored values; about: how they were drawn (their provenance). `note` gets a line
    where something could not be had. Raises UnblotError for samples that do not fit the data.
    """
    report = evaluate(config, denoiser, dataset, samples, options or Options(cache=cache_folder() / "features"), note)
    report |= {"run": folder.resolve().name, "sampled_with": about or {}, "history": history(folder)}
    target = folder / REPORT
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / JSON, report)
    temporary = target / f".{HTML}.{os.getpid()}"
    temporary.write_text(page(report, dataset, samples))
    os.replace(temporary, target / HTML)
    return report


def evaluate(
    config: RunConfig, denoiser: Denoiser, dataset: Dataset, samples: np.ndarray, options: Options, note: Note
) -> dict[str, Any]:
    """All measurements as plain values, each part with the seconds it took, and a sentence on each question."""
    seconds: dict[str, float] = {}
    notes: list[str] = []

    def timed(name: str, measured: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = measured()
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    def noted(line: str) -> None:
        notes.append(line)
        note(line)

    parts = measure.parts_of(dataset, samples)
    schedule = build(SCHEDULES, config.train.schedule, "schedule")
    weighting = build(WEIGHTINGS, config.train.weighting, "weighting")
    report: dict[str, Any] = {
        "unblot": __version__,
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
        },
        "count": len(samples),
        "metrics": timed("metrics", lambda: measure.metrics(parts, dataset, options, noted)),
        "originality": None,
        "likelihood": None,
        "learning": None,
    }
    if config.data.kind == "pictures":
        report["originality"] = timed("originality", lambda: measure.originality(parts, options))
    else:
        noted("copies are not looked for among points in the plane: any two points of one place are alike")
    if config.distill is None and (options.likelihood or options.ode):
        found = timed("likelihood", lambda: measure.likelihood(config, denoiser, dataset, options))
        report["likelihood"] = found
    if config.distill is not None:
        noted("a distilled run is no denoiser: it has no likelihood and no loss by noise level; its teacher has")
    elif len(dataset.held_out) > 1:
        learning = timed("learning", lambda: loss_by_level(denoiser, dataset, schedule, weighting))
        report["learning"] = learning.to_dict()
    else:
        noted("no held-out pictures: whether the model is still learning, and the floor of every figure, are unknown")
    report |= {"notes": notes, "seconds": seconds}
    return report | {"verdicts": verdicts(report)}


def history(folder: Path) -> list[dict[str, Any]]:
    """Training and held-out loss as they were measured while the run trained: step, training, held_out (or None)."""
    lines = of_kind(read_metrics(folder), HELD_OUT)
    return [
        {"step": line["step"]} | {side: mean_loss(line, side) for side in ("training", "held_out")} for line in lines
    ]


def read_report(folder: Path) -> dict[str, Any]:
    """The report.json of a run folder. Raises UnblotError where the run was not evaluated."""
    path = folder / REPORT / JSON
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UnblotError(f"no report in {str(folder)!r}; make one with: unblot evaluate {folder}") from None
    except ValueError as error:
        raise UnblotError(f"{str(path)!r} is damaged ({error}); make it anew with: unblot evaluate {folder}") from None
