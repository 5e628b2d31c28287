"""A run in words: its data, network, process, training, sampling and losses."""

from pathlib import Path
from typing import Any

import numpy as np

from unblot.config.schema import DataFacts, RunConfig
from unblot.denoiser import Denoiser
from unblot.runs.budget_plan import StoredPlan
from unblot.runs.conditions import describe_text
from unblot.runs.folder import CONFIG, METRICS, MODEL, PLAN, fingerprint, load_model, read_config
from unblot.runs.metrics import HELD_OUT, STEP, mean_loss, of_kind, read_metrics
from unblot.runs.origin import describe_origin
from unblot.runs.tuning_store import DEFAULT, Tuning, lost_guides, read_tuning, usable
from unblot.sampling.settings import choose, describe_sampler
from unblot.system.stored import read_stored

LOSSES = 5  # that are shown of a run
SIDES = {"averaged": "training", "held-out": "held_out"}  # the losses of the averaged weights


def describe(path: Path) -> str:
    """A page of text about the run in a folder, or the model in a file. Raises UnblotError where there is none."""
    if (path / CONFIG).is_file() and not (
        path / MODEL
    ).exists():  # in training, or stopped, before its first checkpoint
        config, denoiser, size = read_config(path), None, "no model saved yet"
    else:
        config, denoiser = load_model(path)
        size = f"{sum(p.numel() for p in denoiser.parameters()) / 1e6:.2f} M parameters"
    data, train = config.data, config.train
    unlabelled = f"none; {len(data.clusters)} clusters are learned as labels" if data.clusters else "none"
    classes = ", ".join(data.classes) or unlabelled
    if data.classes and not config.draws_labels:
        classes += " (of the run that it was made from; itself it learned without labels)"
    rows = [
        ("data", _data(data)),
        ("classes", classes),
        *([("captions", describe_text(data.text))] if data.text else []),
        ("network", f"{train.network} ({size})"),
        ("process", f"{train.parameterization}-prediction, schedule {train.schedule}, times {train.times}, "
                    f"weighting {train.weighting}, augmentation {train.augment}"),
        ("training", f"{train.steps} steps of {train.batch_size}, learning rate {train.learning_rate:g} "
                     f"(warm-up {train.warmup:g}, decay {train.decay}), ema {train.ema}, seed {train.seed}"
                     if data.fingerprint else "elsewhere: the run was imported"),
        ("sampling", f"{train.solver}, {train.sampling_steps} steps, spacing {train.spacing}"),
        *([("latents", latent_words(config))] if config.latent is not None else []),
        ("preset", f"{train.preset}, unblot {config.version}"),
    ]  # fmt: skip
    if config.distill is not None:
        about = config.distill
        text = f"from {about.teacher}, NFE {about.nfe}, guidance {about.guidance:g}"
        rows.append(("distilled", text))
    if config.origin is not None:
        rows.append(("origin", describe_origin(config.origin).replace("\n", "\n" + " " * 10)))
    if path.is_dir():
        rows += _folder_rows(path, config, denoiser)
    return "\n".join(f"{name:<10}{text}" for name, text in rows)


def _data(data: DataFacts) -> str:
    """What a run learned from, in words."""
    shape = f"{data.height} x {data.width} x {data.channels}, {data.values['dtype']}"
    if not data.fingerprint:
        return f"{data.name}: {data.kind} that are not known, {shape}"
    return (
        f"{data.name}: {data.count} training {data.kind}, {shape}, standard deviation {data.std:.3f} in the network's "
        f"range"
    )


def latent_words(config: RunConfig) -> str:
    """What the denoiser of a run in latents learns."""
    assert config.latent is not None
    (channels, height, width), chosen = config.shape, config.latent
    text = f"{height} x {width} x {channels}, of an own autoencoder: factor {chosen.latent_factor}, "
    known = chosen.latent_steps or (None if config.train.budget else config.train.steps)
    steps = "as many steps as fit" if known is None else f"{known} steps"
    return f"{text}width {chosen.latent_width}, trained with noise of {chosen.latent_noise:g} for {steps}"


def _folder_rows(path: Path, config: RunConfig, denoiser: Denoiser | None) -> list[tuple[str, str]]:
    """What the other files of a run folder say: tuning, plan and metrics, as far as they are there."""
    rows = []
    if denoiser is not None and (tuning := read_tuning(path)) is not None:
        rows.append(("tuned", _tuned(path, tuning, fingerprint(denoiser), config.data.text is None)))
    if (path / PLAN).is_file():
        rows.append(("plan", _plan(read_stored(path / PLAN, StoredPlan, "it is damaged; remove it"))))
    metrics = read_metrics(path)
    if metrics:
        rows.append(("reached", f"step {metrics[-1]['step']} of {config.train.steps} ({METRICS})"))
    if steps := of_kind(metrics, STEP):
        rows.append(("loss", _losses(steps)))
    if measured := of_kind(metrics, HELD_OUT):
        rows += [(side, _measured(measured, key)) for side, key in SIDES.items() if measured[-1][key]]
    return rows


def _tuned(path: Path, tuning: Tuning, model: str, guided: bool) -> str:
    """The sampler that a call without choices takes since the run was tuned."""
    if tuning.model != model:
        return "for the model before it was trained on; tune it again"
    left = usable(tuning, path, guided=guided)
    if left is None:
        return "no sampler that can still be used; tune it again"
    found = choose(left.candidates, DEFAULT)
    lost = "; the weaker model of its best guidance is gone" if lost_guides(tuning, path) else ""
    return f"{describe_sampler(found.sampler)} ({found.nfe} network calls; quality {DEFAULT}){lost}"


def _plan(kept: StoredPlan) -> str:
    """The plan for the time budget, and the result."""
    text, came = str(kept.plan).replace("\n", "\n" + " " * 10), kept.came
    if came is not None:
        text += f"\n{'':10}came to {came.steps:,} steps, {came.pictures:,} pictures in {came.seconds:.0f} s"
    return text


def _losses(metrics: list[dict[str, Any]]) -> str:
    """The mean loss in up to LOSSES equal parts of the run; the loss of single steps is too noisy."""
    parts = np.array_split(np.arange(len(metrics)), min(LOSSES, len(metrics)))
    finite = [[metrics[i]["loss"] for i in part if metrics[i]["loss"] is not None] for part in parts]
    means = [np.mean(losses) if losses else np.nan for losses in finite]
    return ", ".join(f"{mean:.4f} to step {metrics[part[-1]]['step']}" for mean, part in zip(means, parts, strict=True))


def _measured(metrics: list[dict[str, Any]], side: str) -> str:
    """The measured loss at up to LOSSES steps of the run."""
    chosen = np.unique(np.linspace(0, len(metrics) - 1, LOSSES).round().astype(int))
    losses = [(mean_loss(metrics[i], side), metrics[i]["step"]) for i in chosen]
    return ", ".join(f"{'not finite' if loss is None else format(loss, '.4f')} at step {step}" for loss, step in losses)
