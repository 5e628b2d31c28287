"""What an evaluation measures of samples and of a model: metrics, power spectrum, originality, likelihood."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unblot.config.schema import RunConfig, TrainConfig
from unblot.data.dataset import Dataset
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.evaluation.distances import mean_and_half
from unblot.evaluation.features import FEATURES, Features, choose_features, extract
from unblot.evaluation.image_set import MOST_PICTURES, at_once, seen_by
from unblot.evaluation.likelihood import ode_log_likelihood, variational_bound
from unblot.evaluation.memorization import (
    Nearness,
    cells_of,
    copying_z,
    nearness,
    percentiles,
    share_interval,
    variants_of,
)
from unblot.evaluation.metrics import class_metrics, compare_features
from unblot.evaluation.parts import Parts, feature_data
from unblot.evaluation.spectrum import power_ratios, texture
from unblot.process.levels import NoiseLevel
from unblot.process.prior import Prior
from unblot.runs.conditions import needs_clusters
from unblot.sampling.batched import sampling_levels
from unblot.sampling.guidance import bind
from unblot.sampling.loop import Denoise
from unblot.specs import parse
from unblot.vlb import VARIANCES, bin_width, decoder_of

PAIRS = 24
"""Nearest pairs that are shown: the samples with the smallest ratios."""

BOUND_STEPS, BOUND_NFE, ODE_STEPS = 1000, 20, 64


@dataclass(frozen=True)
class Options:
    """What to measure. Raises UnblotError for unknown features, and for a likelihood of one picture.

    `features`: specs into FEATURES; the default for the data where empty. `flip`, `shift`: mirrored copies, and copies
    moved by up to `shift` pixels, count as copies. `likelihood`, `ode`: how many held-out and how many training
    pictures have their variational bound, and their likelihood along the ODE, computed (0: none; else at least 2).
    `batch_size`: pictures that go through the network together, at most. `cache`: a folder.
    """

    features: tuple[str, ...] = ()
    flip: bool = False
    shift: int = 0
    likelihood: int = 64
    ode: int = 0
    batch_size: int = 64
    cache: Path | None = None

    def __post_init__(self) -> None:
        for spec in self.features:
            parse(FEATURES, spec, "features")
        for name, count in (("likelihood", self.likelihood), ("ode", self.ode)):
            if count == 1:
                raise UnblotError(f"{arg(name, 1)}: a mean with its interval needs 2 pictures; give 2 or more, or 0")


# --- is it good, is it varied


def metrics(parts: Parts, dataset: Dataset, options: Options, note: Callable[[str], None]) -> dict[str, Any]:
    """Every metric of the samples against training and against held-out pictures, and the floor.

    The floor is the metric of training pictures against the held-out pictures: what a perfect model would reach. It and
    the samples are compared with these in equal numbers. Plain values: `features`, `rows` and, with labels,
    `class_counts`. `note` gets a line where features cannot be computed, and where samples are left out.
    """
    source = feature_data(dataset, options.cache)
    rows: list[dict[str, Any]] = []
    names, classes = [], {}
    count = min(len(parts.samples), len(parts.training))
    if count < len(parts.samples) and len(parts.held_out):
        note(f"{count:,} of the samples are compared with held-out pictures: the floor has no more training pictures")
    for features in choose_features(source, options.features, note):
        names.append(features.name)
        found = [extract(features, features.first(part).chunks()) if len(part) else torch.empty(0, 1) for part in parts]
        samples, training, held_out = found
        for against, x, y in (
            ("training", samples, training),
            ("held-out", samples[:count], held_out),
            ("floor", training[:count], held_out),
        ):
            if not len(y):
                continue
            reference = parts.training if against == "training" else parts.held_out
            name = f"{'training' if against == 'training' else 'held-out'} {reference.hash()}"
            compared = compare_features(features.name, x, y, name)
            if features.logits is not None:
                compared += class_metrics(
                    features.name, _classes(features, x), _classes(features, y), len(dataset.classes), name
                )
            rows += [{"against": against, **metric.to_dict()} for metric in compared]
        if features.logits is not None:
            classes = {
                name: torch.bincount(_classes(features, x), minlength=len(dataset.classes)).tolist()
                for name, x in zip(Parts._fields, found)
                if len(x)
            }
    return {"features": names, "rows": rows, "class_counts": classes}


@torch.no_grad()
def _classes(features: Features, found: Tensor) -> Tensor:
    assert features.logits is not None
    return features.logits(found).argmax(1)


def spectrum(parts: Parts) -> dict[str, Any] | None:
    """Power of the samples over that of training pictures by octave, finest first, and the verdict on fine detail.

    Of at most MOST_PICTURES pictures of either set. None for points in the plane.
    """
    samples, training = (part.sample(MOST_PICTURES).chunks() for part in (parts.samples, parts.training))
    octaves = power_ratios(samples, training)
    return {"octaves": [octave._asdict() for octave in octaves], "texture": texture(octaves)} if octaves else None


# --- is it new


def originality(parts: Parts, options: Options, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The share of copies with its interval, the samples' distances among those of held-out pictures, nearest pairs.

    None, and a note, where copies mean nothing: for points in the plane, and with one distinct training picture.
    """
    if parts.samples.shape == (2, 1, 1):
        note("copies are not searched among points in the plane: any two points of one place are alike")
        return None
    if len(parts.training.distinct()) < 2:
        note("copies are not searched: that needs at least 2 different training pictures")
        return None
    variants = variants_of(options.flip, options.shift)
    found = nearness(parts.samples, parts.training, variants)
    nearest = found.ratio.argsort(stable=True)[:PAIRS].tolist()
    values = math.prod(parts.samples.shape)
    result: dict[str, Any] = {
        "flip": options.flip,
        "shift": options.shift,
        "samples": _copies(found),
        "pairs": [
            {
                "sample": int(parts.samples.indices[i]),
                "training": int(parts.training.indices[found.position[i]]),
                "ratio": float(found.ratio[i]),
                "rms_percent": 50 * float(found.distance[i]) / math.sqrt(values),
                "copy": bool(found.copies()[i]),
            }
            for i in nearest
        ],
    }
    if len(parts.held_out):
        real = nearness(parts.held_out, parts.training, variants)
        cells = cells_of(parts.training, [parts.samples, parts.held_out], max(1, min(20, len(parts.held_out) // 50)))
        result |= {
            "held_out": _copies(real),
            "median_percentile": float(percentiles(found.distance, real.distance).median()),
            "copying_z": copying_z(found.distance, real.distance, (cells[0], cells[1])),
        }
    return result


def _copies(found: Nearness) -> dict[str, Any]:
    count, total = int(found.copies().sum()), len(found.distance)
    low, high = share_interval(count, total)
    return {"copies": count, "count": total, "share": count / total, "low": low, "high": high}


# --- how probable


def likelihood(config: RunConfig, denoiser: Denoiser, dataset: Dataset, options: Options) -> dict[str, Any] | None:
    """Bits per dimension of held-out and of training pictures, given what they show: means, intervals, each picture's.

    `bound` with its terms; `ode` along the probability-flow ODE, for whole numbers with uniform noise of one step.
    None for a distilled run, which is no denoiser, for one in latents, whose density is not that of pictures, for one
    that needs clusters, and where none is asked for.
    """
    if config.distill is not None or config.latent is not None or needs_clusters(config):
        return None
    if not (options.likelihood or options.ode):
        return None
    discrete = dataset.values.bounded
    result: dict[str, Any] = {"discrete": discrete, "steps": BOUND_STEPS, "nfe": BOUND_NFE, "ode_steps": ODE_STEPS}
    for name, indices in (("training", dataset.train), ("held_out", dataset.held_out)):
        order = np.random.default_rng(0).permutation(indices)
        result[name] = {
            "bound": _in_batches(_bound, order[: options.likelihood], config, denoiser, dataset, options.batch_size),
            "ode": _in_batches(_ode, order[: options.ode], config, denoiser, dataset, options.batch_size),
        }
    return result


Terms = dict[str, Tensor]
PriorAt = Callable[[NoiseLevel], Prior]  # what x_T is drawn from, at a level


def _in_batches(
    measure: Callable[..., Terms],
    pictures: np.ndarray,
    config: RunConfig,
    denoiser: Denoiser,
    dataset: Dataset,
    batch_size: int,
) -> dict[str, Any] | None:
    """Mean and 95 % interval of each term of `measure`, in bits per dimension, and the total of each picture."""
    if len(pictures) < 2:
        return None
    size = min(batch_size, at_once(dataset.shape))
    parts = [
        measure(bind(denoiser, condition), x0, config.train, denoiser.prior, dataset.values, generators)
        for x0, condition, generators in seen_by(denoiser, dataset, pictures, size, seed=0)
    ]
    terms = {name: torch.cat([part[name] for part in parts]) / math.log(2) for name in parts[0]}
    means = {}
    for name, values in terms.items():
        mean, half = mean_and_half(values)
        means[name] = {"value": mean, "low": mean - half, "high": mean + half}
    return {"terms": means, "count": len(pictures), "pictures": pictures.tolist(), "each": terms["total"].tolist()}


def _levels(train: TrainConfig, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) of the run's spacing; of "time" where that has not so many, as a list has not."""
    try:
        return sampling_levels(train.schedule, train.spacing, steps)
    except UnblotError:
        return sampling_levels(train.schedule, "time", steps)


def _bound(
    denoise: Denoise, x0: Tensor, train: TrainConfig, prior: PriorAt, values: ValueMap, generators: Any
) -> Terms:
    levels = _levels(train, BOUND_STEPS)
    with torch.no_grad():
        learned = denoise(x0, levels.at(0)).variance_interpolation is not None
    decoder = decoder_of(values)
    variance = VARIANCES["learned" if learned else "beta"]
    found = variational_bound(denoise, x0, levels, variance, decoder, generators, BOUND_NFE, prior(levels.at(0)))
    return {**found._asdict(), "total": found.total}


def _ode(denoise: Denoise, x0: Tensor, train: TrainConfig, prior: PriorAt, values: ValueMap, generators: Any) -> Terms:
    levels = _levels(train, ODE_STEPS)
    levels = levels.at(levels.alpha > 0)
    log_width = torch.zeros(())
    if values.bounded:
        width = bin_width(values)
        spread = torch.stack([torch.rand(x0.shape[1:], generator=g) - 0.5 for g in generators])
        x0, log_width = x0 + (width * spread).to(x0), width.log().mean()
    return {"total": -ode_log_likelihood(denoise, x0, levels, generators, prior(levels.at(0))) - log_width}
