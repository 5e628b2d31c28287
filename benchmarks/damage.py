"""Which metric notices which damage: real held-out pictures pose as samples, damaged at five strengths.

    python benchmarks/damage.py --data mnist --out damage.json

Prints, for each kind of features, the weakest strength at which a metric tells damaged from undamaged pictures
(their value lies outside the damaged pictures' 95 % interval, and stays there), and writes every value as JSON.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.memorization import nearness
from unblot.evaluation.metrics import Metric, class_metrics, compare_features

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


class Labelled(NamedTuple):
    """Pictures (N, C, H, W) in [-1, 1] and their labels (N,)."""

    pictures: Tensor
    labels: Tensor


Damage = Callable[[Labelled, Labelled, float], Tensor]  # samples, further real pictures, strength in (0, 1] -> pictures


def blur(samples: Labelled, more: Labelled, strength: float) -> Tensor:
    """Up to wholly the picture under a Gaussian blur of a twentieth of its side, at least one pixel."""
    std = max(1.0, samples.pictures.shape[-1] / 20)
    reach = max(1, round(3 * std))
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * std**2))
    kernel = kernel / kernel.sum()
    n, channels, height, width = samples.pictures.shape
    flat = pad(samples.pictures.reshape(n * channels, 1, height, width), [reach] * 4, mode="replicate")
    blurred = conv2d(conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return torch.lerp(samples.pictures, blurred.view_as(samples.pictures), strength)


def noise(samples: Labelled, more: Labelled, strength: float) -> Tensor:
    """Normal noise of up to 40 of 255 grey levels."""
    noise = torch.randn(samples.pictures.shape, generator=torch.Generator().manual_seed(0))
    return (samples.pictures + strength * 40 / 127.5 * noise).clamp(-1, 1)


def class_left_out(samples: Labelled, more: Labelled, strength: float) -> Tensor:
    """Up to all pictures of class 3 replaced by further ones of other classes."""
    (chosen,) = torch.where(samples.labels == 3)
    chosen = chosen[: round(strength * len(chosen))]
    pictures = samples.pictures.clone()
    pictures[chosen] = more.pictures[more.labels != 3][: len(chosen)]
    return pictures


def class_doubled(samples: Labelled, more: Labelled, strength: float) -> Tensor:
    """Up to twice as many pictures of class 3, real ones, in the place of others."""
    extra = round(strength * int((samples.labels == 3).sum()))
    others = torch.where(samples.labels != 3)[0][:extra]
    pictures = samples.pictures.clone()
    pictures[others] = more.pictures[more.labels == 3][:extra]
    return pictures


def copies_of_one(samples: Labelled, more: Labelled, strength: float) -> Tensor:
    """Up to half of the pictures replaced by copies of one."""
    pictures = samples.pictures.clone()
    pictures[: round(strength * len(pictures) / 2)] = samples.pictures[-1]
    return pictures


def copies_of_training(samples: Labelled, training: Labelled, strength: float) -> Tensor:
    """Up to half of the pictures replaced by pictures of the training set."""
    count = round(strength * len(samples.pictures) / 2)
    return torch.cat([training.pictures[:count], samples.pictures[count:]])


DAMAGES: dict[str, Damage] = {
    "blur": blur,
    "noise": noise,
    "class_left_out": class_left_out,
    "class_doubled": class_doubled,
    "copies_of_one": copies_of_one,
    "copies_of_training": copies_of_training,
}


class Bench:
    """Real pictures in the parts that the benchmark needs, and the measurements of one set of them."""

    def __init__(self, training: Labelled, held_out: Labelled, count: int, features: list[str]) -> None:
        self.training = training
        self.samples = Labelled(held_out.pictures[:count], held_out.labels[:count])
        self.more = Labelled(held_out.pictures[count:], held_out.labels[count:])
        classes = int(training.labels.max()) + 1
        self.classes = classes
        source = FeatureData(ImageSet(training.pictures), training.labels, classes)
        self.features = {name: build_features(name, source) for name in features}
        self.reference = {n: extract(f, source.pictures.chunks()) for n, f in self.features.items()}

    def damaged(self, damage: str, strength: float) -> Tensor:
        """The samples with this damage; with strength 0 as they are. In random order."""
        if not strength:
            return self.samples.pictures
        more = self.training if damage == "copies_of_training" else self.more
        pictures = DAMAGES[damage](self.samples, more, strength)
        return pictures[torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))]

    def measure(self, pictures: Tensor, name: str) -> list[Metric]:
        """Every metric of these pictures against the training set, for one kind of features."""
        features = self.features[name]
        found, reference = extract(features, [pictures]), self.reference[name]
        metrics = compare_features(features.name, found, reference, "training")
        if features.logits is not None:
            with torch.no_grad():
                classes = features.logits(found).argmax(1), features.logits(reference).argmax(1)
            metrics += class_metrics(features.name, *classes, self.classes, "training")
        return metrics

    def copies(self, pictures: Tensor) -> float:
        """The share of pictures called copies of training pictures."""
        return float(nearness(ImageSet(pictures), ImageSet(self.training.pictures)).copies().double().mean())


def weakest_noticed(values: dict[float, Metric]) -> float | None:
    """The least strength from which on the undamaged value lies outside the damaged one's interval; None if never."""
    sound, found = values[0.0].value, None
    for strength in reversed(STRENGTHS):
        metric = values[strength]
        if sound is None or metric.low is None or metric.high is None or metric.low <= sound <= metric.high:
            break
        found = strength
    return found


def load(data: str) -> tuple[Labelled, Labelled]:
    """Training and held-out pictures: scikit-learn's digits, or MNIST from the folder UNBLOT_DATA."""
    if data == "digits":
        from sklearn.datasets import load_digits

        pictures, labels = load_digits(return_X_y=True)
        pictures = torch.tensor(pictures).float().view(-1, 1, 8, 8) / 8 - 1
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(pictures)))
        pictures, labels = pictures[order], torch.tensor(labels)[order]
        return Labelled(pictures[:1000], labels[:1000]), Labelled(pictures[1000:], labels[1000:])
    folder = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    with np.load(folder / "mnist.npz", allow_pickle=False) as file:
        parts = {name: torch.from_numpy(file[name]) for name in file.files}
    training, held_out = (_chosen(parts[f"x_{name}"], parts[f"y_{name}"], 10_000) for name in ("train", "test"))
    return training, held_out


def _chosen(pictures: Tensor, labels: Tensor, count: int) -> Labelled:
    """`count` of the pictures in random order; the files may be sorted."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(pictures)))[:count]
    return Labelled(pictures[order][:, None].float() / 127.5 - 1, labels[order].long())


def run(bench: Bench) -> dict[str, Any]:
    """Every metric at every strength of every damage, for every kind of features, and what it noticed."""
    values: dict[str, Any] = {}
    for damage in DAMAGES:
        values[damage] = {"copies": [bench.copies(bench.damaged(damage, s)) for s in (0.0, *STRENGTHS)]}
        for name in bench.features:
            at = {s: {f.name: f for f in bench.measure(bench.damaged(damage, s), name)} for s in (0.0, *STRENGTHS)}
            values[damage][name] = {
                metric: {
                    "values": [at[s][metric].value for s in at],
                    "weakest_noticed": weakest_noticed({s: at[s][metric] for s in at}),
                }
                for metric in at[0.0]
                if at[0.0][metric].value is not None and at[0.0][metric].low is not None
            }
    return values


def table(values: dict[str, Any]) -> str:
    """A Markdown table: for each kind of features and metric, the weakest strength noticed of each damage."""
    damages = list(values)
    lines = ["| features | metric | " + " | ".join(d.replace("_", " ") for d in damages) + " |"]
    lines.append("|---|---|" + "---|" * len(damages))
    features = [name for name in values[damages[0]] if name != "copies"]
    for name in features:
        for metric in values[damages[0]][name]:
            cells = [values[d][name][metric]["weakest_noticed"] for d in damages]
            lines.append(f"| {name} | {metric} | " + " | ".join("–" if c is None else f"{c:g}" for c in cells) + " |")
    cells = [f"{values[d]['copies'][-1]:.1%}" for d in damages]
    lines.append("| – | share called copies, at strength 1 | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "mnist"), default="mnist")
    parser.add_argument("--samples", type=int, default=4000, help="held-out pictures that pose as samples")
    parser.add_argument("--features", default="pixels,random,classifier")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args()
    start = time.perf_counter()
    training, held_out = load(args.data)
    bench = Bench(training, held_out, min(args.samples, 2 * len(held_out.pictures) // 5), args.features.split(","))
    values = run(bench)
    print(table(values))
    about = {
        "data": args.data,
        "samples": len(bench.samples.pictures),
        "reference": len(training.pictures),
        "strengths": [0.0, *STRENGTHS],
        "seconds": round(time.perf_counter() - start, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    result = json.dumps({**about, "damages": values}, indent=1)
    if args.out:
        args.out.write_text(result + "\n")
    else:
        print(result)


if __name__ == "__main__":
    main()
