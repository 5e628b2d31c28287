"""The contestants of peers.py on pictures of one's own, in colour and with labels: trained apart, measured together.

Each trains on the training part of the pictures, as `unblot train` splits them. `measure` draws --pictures samples from
each in the same way: 20 steps of dpmpp_2m on the karras spacing, no guidance, labels in turns where the contestant
knows any. With each are given:

- frechet: Fréchet distance in the features of EfficientNet-lite0. Of all real pictures, held-out and training ones,
  --pictures chosen at random are set aside, and the others are the reference; the floor is the distance of the former.
  A few hundred samples raise it: it compares only those of one number, against one reference.
- kernel: the kernel distance of the same features with its 95 % interval, which their number does not bias.
- octaves: the power of the samples over that of the reference in each octave, finest first; 1 is right.
- label_agreement: how often a classifier trained on the real training pictures gives the label that was asked for; how
  often it is right about held-out ones stands beside it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contestants import CONTESTANTS, TrainingSet, frame_of, train
from label_classifier import agreement, fitted
from measure import kernel, machine
from stopwatch import Drawable
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.data.output import sheet
from unblot.denoiser import Condition
from unblot.evaluation.distances import frechet_distance
from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.spectrum import power_ratios
from unblot.process.randomness import labels_for
from unblot.process.schedules import SCHEDULES
from unblot.sampling.batched import sample_batches
from unblot.sampling.guidance import Guidance
from unblot.system.files import read_tensors, write_json, write_tensors

STEPS = 20
HOW = ("dpmpp_2m", "", STEPS)  # solver, spacing (the karras one of the schedule), steps
SHEET, COLUMNS = 60, 10  # pictures on a sheet; with ten classes a column is a class


def run(args: argparse.Namespace) -> None:
    """Trains args.only; measures everything that is trained where args.measure is set."""
    dataset = open_data(str(args.data), size=args.size, cache=args.out / "cache")
    if dataset.shape[1] != dataset.shape[2]:
        raise SystemExit(f"the peers need square pictures, these are {dataset.shape}")
    data = TrainingSet(DataConfig(data=str(args.data), size=str(args.size)), dataset)
    if args.only:
        train(args.only, data, args.out / args.only, 60 * args.minutes, 60 * args.minutes)
        print((args.out / args.only / "training.json").read_text())
    if args.measure:
        measure(data, args.out, args.pictures, args.guidance)


def measure(data: TrainingSet, out: Path, count: int, guidance: float) -> None:
    """Writes peers.json, and a sheet of each contestant beside one of real pictures; prints a table.

    guidance: of unblot's contestants; the training of the others hides no labels.
    """
    judge = Judge(data.dataset, count, out)
    result = {"data": data.source.data, "shape": data.dataset.shape, "pictures": count, **judge.about}
    result["guidance of unblot"] = guidance
    contestants: dict[str, Any] = {}
    for name in CONTESTANTS:
        path = out / name / "training.json"
        if not path.exists():
            continue
        metrics = json.loads(path.read_text())
        labels = None
        if data.dataset.classes and CONTESTANTS[name].told_labels:
            labels = labels_for(0, range(count), classes=len(data.dataset.classes))
        strength = guidance if name.startswith("unblot") else 1.0
        pictures = stored(name, metrics, data, labels, count, out, strength)
        contestants[name] = metrics | judge.measure(name, pictures, labels)
        write_json(out / "peers.json", {**result, "contestants": contestants, "machine": machine()})
    print(table(result, contestants))


def stored(
    name: str,
    metrics: dict[str, Any],
    data: TrainingSet,
    labels: Tensor | None,
    count: int,
    out: Path,
    guidance: float,
) -> np.ndarray:
    """Samples (count, C, H, W) with the data's own values; kept on disk, so that they are drawn once."""
    file = metrics["snapshots"][-1]["file"]
    guided = "" if guidance == 1 else f"-guidance{guidance:g}"
    kept = out / name / f"{Path(file).stem}-{count}{guided}.npy"
    if not kept.exists():
        drawable = CONTESTANTS[name].load(out / name / file, data.task)
        x = draw(drawable, count, data.dataset.shape, labels, guidance=guidance)
        np.save(kept, data.dataset.values.decode(x.numpy()))
    return np.load(kept, allow_pickle=False)


def draw(
    drawable: Drawable,
    count: int,
    shape: tuple[int, int, int],
    labels: Tensor | None,
    solver: str = HOW[0],
    spacing: str = HOW[1],
    steps: int = STEPS,
    guidance: float = 1.0,
) -> Tensor:
    """Pictures (count, *shape) in [-1, 1], cut out of their frame; labels: (count,), None where there are none."""
    denoiser, schedule, framed, clusters = drawable
    batches = sample_batches(
        denoiser,
        framed,
        range(count),
        schedule=schedule,
        spacing=spacing or karras_of(schedule),
        solver=solver,
        steps=steps,
        condition=Condition(labels_for(0, range(count), clusters=clusters) if labels is None else labels),
        guidance=Guidance(guidance),
        batch_size=100 if shape[1] <= 32 else 25,
    )
    found = torch.cat([denoiser.pictures(x0, shape[1:]) for x0 in batches])
    frame = frame_of(shape) if found.shape[1:] != shape else 0
    return found[..., frame : frame + shape[1], frame : frame + shape[2]]


def karras_of(schedule: str) -> str:
    """The karras spacing down to the least noise of the schedule in training: index 1 of 1000, if it has indices."""
    if schedule.split(":")[0] not in ("linear", "sigmoid"):
        return "karras"
    level = SCHEDULES[schedule.split(":")[0]]()(torch.tensor([1e-3], dtype=torch.float64))
    return f"karras:low={float(level.sigma / level.alpha):.6f}"


class Judge:
    """What all contestants are measured with."""

    def __init__(self, dataset: Dataset, count: int, out: Path):
        def encode(stored: np.ndarray) -> np.ndarray:
            return dataset.values.encode(stored, np.float32)

        self.dataset, self.out, self.encode = dataset, out, encode
        order = np.random.default_rng(0).permutation(len(dataset))
        aside, self.real = (ImageSet(dataset.pictures, encode, rows) for rows in (order[:count], order[count:]))
        self.features = build_features("efficientnet", FeatureData(self.real, alpha=dataset.values.alpha))
        kept = out / f"reference-{count}.safetensors"
        if not kept.exists():
            write_tensors(kept, {n: self.of(p) for n, p in (("aside", aside), ("reference", self.real))}, {})
        found = read_tensors(kept)[0]
        self.reference = found["reference"]
        held_out = len(np.intersect1d(order[count:], dataset.held_out))
        self.about: dict[str, Any] = {
            "reference": f"{len(self.real)} real pictures, {held_out} of them held out",
            "floor": round(frechet_distance(found["aside"], self.reference), 2),
            "kernel_floor": kernel(found["aside"], self.reference),
        }
        if dataset.classes:
            self.classifier = fitted(
                *dataset.batch(dataset.train), len(dataset.classes), out / "classifier.safetensors"
            )
            right = agreement(self.classifier, *dataset.batch(dataset.held_out))
            self.about["classifier_held_out_accuracy"] = round(right, 4)
        sheet(dataset.pictures[order[:SHEET]], dataset.values, columns=COLUMNS).save(out / "real.png")

    def of(self, pictures: ImageSet) -> Tensor:
        """Features (N, 1280)."""
        return extract(self.features, pictures.chunks())

    def measure(self, name: str, stored: np.ndarray, labels: Tensor | None) -> dict[str, Any]:
        """The figures of samples (N, C, H, W), stored values; labels: those asked for, (N,) or None."""
        sheet(stored[:SHEET], self.dataset.values, columns=COLUMNS).save(self.out / f"{name}.png")
        samples = ImageSet(stored, self.encode)
        octaves = power_ratios(samples.chunks(), self.real.chunks())
        seen = self.of(samples)
        return {
            "frechet": round(frechet_distance(seen, self.reference), 2),
            "kernel": kernel(seen, self.reference),
            "octaves": [o.ratio and round(o.ratio, 3) for o in octaves],
            "label_agreement": None if labels is None else round(agreement(self.classifier, samples[:], labels), 4),
        }


def table(result: dict[str, Any], contestants: dict[str, Any]) -> str:
    """The figures as a table, a line for each contestant."""
    heads = (
        "",
        "Fréchet",
        "kernel distance",
        "octaves, finest first",
        "labels right",
        "steps",
        "pictures seen",
        "s",
        "CPU s",
        "parameters",
    )
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, f in contestants.items():
        agreed = "not told labels" if f["label_agreement"] is None else f"{f['label_agreement']:.1%}"
        octaves = ", ".join("–" if ratio is None else f"{ratio:.2f}" for ratio in f["octaves"])
        distances = (f["frechet"], _interval(f["kernel"]))
        cells = (name, *distances, octaves, agreed, f["steps"], f["pictures_seen"], f["seconds"], f["cpu_seconds"])
        lines.append("| " + " | ".join(map(str, cells)) + f" | {f['parameters'] / 1e6:.2f} M |")
    if result["guidance of unblot"] != 1:
        lines.append(f"unblot's with guidance {result['guidance of unblot']:g}, two calls of the network a step")
    floors = f"floors {result['floor']} and {_interval(result['kernel_floor'])}"
    lines.append(f"{floors}; against {result['reference']}; {result['pictures']} samples of each")
    if "classifier_held_out_accuracy" in result:
        lines.append(f"the classifier is right about {result['classifier_held_out_accuracy']:.1%} of held-out pictures")
    peers = [f["frechet"] for name, f in contestants.items() if not name.startswith("unblot")]
    for name in (name for name in contestants if name.startswith("unblot") and peers):
        lines.append(f"the better peer over {name}: {min(peers) / contestants[name]['frechet']:.2f}")
    return "\n".join(lines)


def _interval(kernel: list[float]) -> str:
    value, low, high = kernel
    return f"{value:g} ({low:g} to {high:g})"
