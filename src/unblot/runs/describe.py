"""What a run is, or is about to be, in words: its data, network, process, training and losses."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from unblot.runs.budget_plan import describe_plan
from unblot.runs.folder import METRICS, PLAN, fingerprint, load_model
from unblot.runs.metrics import HELD_OUT, STEP, mean_loss, of_kind, read_metrics
from unblot.runs.tuning_store import DEFAULT, Tuning, lost_guides, read_tuning, usable
from unblot.sampling.settings import choose, describe_sampler

LOSSES = 5  # shown from a run's metrics
SIDES = {"averaged": "training", "held-out": "held_out"}  # the losses of the averaged weights


def describe(path: Path) -> str:
    """A page of text about the run in a folder, or the model in a file. Raises UnblotError where there is none."""
    config, denoiser = load_model(path)
    data, train = config.data, config.train
    parameters = sum(p.numel() for p in denoiser.parameters())
    instead = (
        f"none; {len(data.clusters)} clusters of alike pictures are learned as labels" if data.clusters else "none"
    )
    rows = [
        ("data", f"{data.name}: {data.count} training {data.kind}, {data.height} x {data.width} x {data.channels}, "
                 f"{data.values['dtype']}, standard deviation {data.std:.3f} in the network's range"),
        ("classes", ", ".join(data.classes) or instead),
        ("network", f"{train.network} ({parameters / 1e6:.2f} M parameters)"),
        ("process", f"{train.parameterization}-prediction, schedule {train.schedule}, times {train.times}, "
                    f"weighting {train.weighting}, augmentation {train.augment}"),
        ("training", f"{train.steps} steps of {train.batch_size}, learning rate {train.learning_rate:g} "
                     f"(warm-up {train.warmup:g}, decay {train.decay}), ema {train.ema}, seed {train.seed}"),
        ("sampling", f"{train.solver}, {train.sampling_steps} steps on grid {train.spacing}"),
        ("preset", f"{train.preset}, unblot {config.version}"),
    ]  # fmt: skip
    if config.distill is not None:
        about = config.distill
        rows.append(
            (
                "distilled",
                f"from {about.teacher}, for {about.nfe} evaluations a picture, guidance {about.guidance:g}",
            )
        )
    if path.is_dir() and (tuning := read_tuning(path)) is not None:
        rows.append(("tuned", _tuned(path, tuning, fingerprint(denoiser), bool(data.clusters))))
    if (path / PLAN).is_file():
        rows.append(("plan", _plan(json.loads((path / PLAN).read_text()))))
    metrics = read_metrics(path) if path.is_dir() else []
    if metrics:
        rows.append(("reached", f"step {metrics[-1]['step']} of {train.steps} ({METRICS})"))
        rows.append(("loss", _losses(of_kind(metrics, STEP))))
    if measured := of_kind(metrics, HELD_OUT):
        rows += [(side, _measured(measured, key)) for side, key in SIDES.items() if measured[-1][key]]
    return "\n".join(f"{name:<10}{text}" for name, text in rows)


def _tuned(path: Path, tuning: Tuning, model: str, labels: bool) -> str:
    """What a draw that asks for nothing takes since the run was tuned."""
    if tuning.model != model:
        return "for the model as it was before it was trained on; tune it again"
    left = usable(tuning, path, labels=labels)
    if left is None:
        return "nothing that can still be drawn by; tune it again"
    found = choose(left.candidates, DEFAULT)
    lost = "; the model that it was best pushed away from is gone" if lost_guides(tuning, path) else ""
    return f"{describe_sampler(found.sampler)} ({found.nfe} network calls; quality {DEFAULT}){lost}"


def _plan(kept: dict[str, Any]) -> str:
    """What was planned for the budget, and what became of it."""
    describe_sampler = describe_plan(kept["plan"]).replace("\n", "\n" + " " * 10)
    if "came" in kept:
        came = kept["came"]
        describe_sampler += (
            f"\n{'':10}came to {came['steps']:,} steps, {came['pictures']:,} pictures in {came['seconds']:.0f} s"
        )
    return describe_sampler


def _losses(metrics: list[dict[str, Any]]) -> str:
    """The mean loss in a few equal parts of the run, which single steps are too noisy to show."""
    parts = np.array_split(np.arange(len(metrics)), min(LOSSES, len(metrics)))
    finite = [[metrics[i]["loss"] for i in part if metrics[i]["loss"] is not None] for part in parts]
    means = [np.mean(losses) if losses else np.nan for losses in finite]
    return ", ".join(f"{mean:.4f} to step {metrics[part[-1]]['step']}" for mean, part in zip(means, parts, strict=True))


def _measured(metrics: list[dict[str, Any]], side: str) -> str:
    """The measured loss at a few steps of the run."""
    chosen = np.unique(np.linspace(0, len(metrics) - 1, LOSSES).round().astype(int))
    describe_sampler = [(mean_loss(metrics[i], side), metrics[i]["step"]) for i in chosen]
    return ", ".join(
        f"{'not finite' if loss is None else format(loss, '.4f')} at step {step}" for loss, step in describe_sampler
    )
