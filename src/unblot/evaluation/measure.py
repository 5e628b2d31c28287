"""The four questions, measured: is it good, is it varied, is it new, is it still learning?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unblot.config.schema import RunConfig, TrainConfig
from unblot.data.dataset import Dataset
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.evaluation.distances import Z95
from unblot.evaluation.features import FeatureData, Features, build_features, default_features, extract
from unblot.evaluation.image_set import CHUNK, ImageSet, seen_by
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
from unblot.process.levels import norm
from unblot.sampling.batched import sampling_levels
from unblot.sampling.guidance import labelled
from unblot.sampling.loop import Denoise
from unblot.vlb import VARIANCES, bin_width, decoder_of

PAIRS = 24
"""Nearest pairs that are shown: the samples with the smallest ratios."""

BOUND_STEPS, BOUND_CALLS, ODE_STEPS = 1000, 20, 64


@dataclass(frozen=True)
class Options:
    """What to measure. `features`: specs into FEATURES, the default for the data where empty.

    `flip`, `shift`: mirrored copies, and copies moved by up to so many pixels, count as copies. `likelihood`, `ode`:
    held-out and training pictures of each whose bound, and whose likelihood along the ODE, is computed (0: none).
    """

    features: tuple[str, ...] = ()
    flip: bool = False
    shift: int = 0
    likelihood: int = 64
    ode: int = 0
    cache: Path | None = None


class Parts(NamedTuple):
    """What is compared: drawn, training and held-out pictures, all in random order."""

    samples: ImageSet
    training: ImageSet
    held_out: ImageSet


def parts_of(dataset: Dataset, samples: np.ndarray) -> Parts:
    """The pictures of a data set beside drawn ones (N, C, H, W), stored values of the data set's type."""
    if samples.shape[1:] != dataset.pictures.shape[1:]:
        raise UnblotError(
            f"samples of shape {samples.shape[1:]} do not fit pictures of shape {dataset.pictures.shape[1:]};"
            " draw them from a run that was trained on this data"
        )

    def encode(stored: np.ndarray) -> np.ndarray:
        return dataset.values.encode(stored, np.float32)

    rng = np.random.default_rng(0)
    return Parts(
        ImageSet(samples, encode, rng.permutation(len(samples))),
        ImageSet(dataset.pictures, encode, rng.permutation(dataset.train)),
        ImageSet(dataset.pictures, encode, rng.permutation(dataset.held_out)),
    )


# --- is it good, is it varied


def metrics(parts: Parts, dataset: Dataset, options: Options, note: Callable[[str], None]) -> dict[str, Any]:
    """Every figure of the samples against training and against held-out pictures, and the floor.

    The floor is the figure of as many training pictures as there are samples, against the held-out ones: what a
    perfect generator would reach. Plain values: `features`, `rows` and, with labels, `classes`.
    """
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[parts.training.indices])
    source = FeatureData(parts.training, labels, len(dataset.classes), options.cache)
    rows: list[dict[str, Any]] = []
    names, classes = [], {}
    for features in _features(source, options.features, note):
        names.append(features.name)
        found = [extract(features, part.chunks()) if len(part) else torch.empty(0, 1) for part in parts]
        samples, training, held_out = found
        for against, x, y in (
            ("training", samples, training),
            ("held-out", samples, held_out),
            ("floor", training[: len(samples)], held_out),
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


def _features(source: FeatureData, specs: Sequence[str], note: Callable[[str], None]) -> list[Features]:
    """The features asked for; the default serves, and a line says so, where none of them can be had."""
    found = []
    for spec in specs or [default_features(source)]:
        try:
            found.append(build_features(spec, source))
        except UnblotError as error:
            note(f"{error}")
    if not found:
        default = default_features(source)
        note(f"going on with the default features, {default}")
        found.append(build_features(default, source))
    return found


@torch.no_grad()
def _classes(features: Features, found: Tensor) -> Tensor:
    assert features.logits is not None
    return features.logits(found).argmax(1)


# --- is it new


def originality(parts: Parts, options: Options) -> dict[str, Any]:
    """The share of copies with its interval, how near samples come compared with held-out pictures, nearest pairs."""
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


def likelihood(config: RunConfig, denoiser: Denoiser, dataset: Dataset, options: Options) -> dict[str, Any]:
    """Bits per dimension of held-out and of training pictures, given their labels: means, intervals, and each one's.

    `bound` with its terms; `ode` along the probability-flow ODE, for whole numbers with uniform noise of one step.
    """
    discrete = dataset.values.bounded
    result: dict[str, Any] = {"discrete": discrete, "steps": BOUND_STEPS, "calls": BOUND_CALLS, "ode_steps": ODE_STEPS}
    for name, indices in (("training", dataset.train), ("held_out", dataset.held_out)):
        order = np.random.default_rng(0).permutation(indices)
        result[name] = {
            "bound": _in_batches(_bound, order[: options.likelihood], config, denoiser, dataset),
            "ode": _in_batches(_ode, order[: options.ode], config, denoiser, dataset),
        }
    return result


Terms = dict[str, Tensor]


def _in_batches(
    measure: Callable[..., Terms], pictures: np.ndarray, config: RunConfig, denoiser: Denoiser, dataset: Dataset
) -> dict[str, Any] | None:
    """Means and intervals of what `measure` gives for each picture, in bits per dimension, and each one's total."""
    if len(pictures) < 2:
        return None
    parts = [
        measure(labelled(denoiser, label), x0, config.train, denoiser.data_std, dataset.values, generators)
        for x0, label, generators in seen_by(denoiser, dataset, pictures, CHUNK, seed=0)
    ]
    terms = {name: torch.cat([part[name] for part in parts]) / math.log(2) for name in parts[0]}
    means = {}
    for name, values in terms.items():
        mean, half = float(values.mean()), Z95 * float(values.std()) / math.sqrt(len(values))
        means[name] = {"value": mean, "low": mean - half, "high": mean + half}
    return {"terms": means, "count": len(pictures), "pictures": pictures.tolist(), "each": terms["total"].tolist()}


def _bound(
    denoise: Denoise, x0: Tensor, train: TrainConfig, data_std: float, values: ValueMap, generators: Any
) -> Terms:
    levels = sampling_levels(train.schedule, train.spacing, BOUND_STEPS)
    with torch.no_grad():
        learned = denoise(x0, levels.at(0)).variance_interpolation is not None
    decoder = decoder_of(values, x0.device)
    variance = VARIANCES["learned" if learned else "beta"]
    prior_std = norm(levels.at(0), data_std)
    found = variational_bound(denoise, x0, levels, variance, decoder, generators, BOUND_CALLS, prior_std)
    return {**found._asdict(), "total": found.total}


def _ode(denoise: Denoise, x0: Tensor, train: TrainConfig, data_std: float, values: ValueMap, generators: Any) -> Terms:
    levels = sampling_levels(train.schedule, train.spacing, ODE_STEPS)
    levels = levels.at(levels.alpha > 0)
    prior_std = norm(levels.at(0), data_std)
    if not values.bounded:
        return {"total": -ode_log_likelihood(denoise, x0, levels, generators, prior_std)}
    width = bin_width(values)
    spread = torch.stack([torch.rand(x0.shape[1:], generator=g) - 0.5 for g in generators])
    x0 = x0 + (width * spread).to(x0)
    return {"total": -ode_log_likelihood(denoise, x0, levels, generators, prior_std) - width.log().mean()}
