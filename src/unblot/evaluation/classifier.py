"""A small network trained on the data's own labels, whose last hidden layer gives features."""

from itertools import pairwise
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unblot.evaluation.fitting import fit
from unblot.evaluation.image_set import ImageSet, shrink
from unblot.process.randomness import seeded
from unblot.system.files import write_whole

DIMS = 64
STEPS, EPOCHS, BATCH = 800, 12, 128
"""The steps of EPOCHS passes over the data, but at least 100 and at most STEPS. More steps hardly improve accuracy;
they pull the training pictures of a class together, so that held-out pictures seem far from them: on digits the
precision of real held-out pictures was 0.84 after 100 steps and 0.58 after 800."""
VERSION = 1
"""Part of the cache's key. Raise it when a change here changes the weights."""


class Classifier(nn.Module):
    """Three convolutions and a linear layer give `features` (B, 64); `head` maps them to class scores.

    shape: (C, H, W) of the pictures. Larger pictures are first averaged down to 64 pixels a side.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        widths = [shape[0], 16, 32, 64]
        first = 2 if min(shape[1:]) > 16 else 1
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, 2 if i else first, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], DIMS))
        self.head = nn.Linear(DIMS, classes)

    def features(self, pictures: Tensor) -> Tensor:
        """Features (B, 64) of pictures (B, C, H, W) in the network's range."""
        return self.trunk(shrink(pictures, 64)).relu()

    def forward(self, pictures: Tensor) -> Tensor:
        """Class scores (B, classes)."""
        return self.head(self.features(pictures))


def train_classifier(pictures: ImageSet, labels: Tensor, classes: int, cache: Path | None = None) -> Classifier:
    """A classifier of the pictures, trained on `labels` (N,) of 0 … classes − 1 from a fixed seed, in eval mode.

    Stored in the folder `cache` under a hash of the data, and loaded from there the next time.
    """
    kept = None
    if cache is not None:
        seen = float(pictures[:1].double().sum())  # the same stored values may be mapped to another range
        kept = cache / f"classifier-{VERSION}-{classes}-{pictures.hash([*labels.tolist(), seen])}.safetensors"
    with seeded(0):
        network = Classifier(pictures.shape, classes)
        if kept is not None and _load(network, kept):
            return network.eval()
        _train(network, pictures, labels)
    if kept is not None:
        _save(network, kept)
    return network


def _train(network: Classifier, pictures: ImageSet, labels: Tensor) -> None:
    batch = min(BATCH, len(pictures))
    steps = min(STEPS, max(100, EPOCHS * len(pictures) // batch))

    def loss(chosen: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(pictures[chosen.numpy()]), labels[chosen])

    fit(network, loss, len(pictures), batch=batch, steps=steps)


def _load(network: Classifier, path: Path) -> bool:
    """Whether the weights at `path` could be loaded; where not (missing, damaged), they are trained again."""
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):
        return False
    return True


def _save(network: Classifier, path: Path) -> None:
    write_whole(path, lambda unfinished: save_file(network.state_dict(), unfinished))
