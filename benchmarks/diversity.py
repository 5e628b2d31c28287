"""Is a diffusion model more varied and more dependable than a GAN and a VAE? Stability and mode coverage beside both.

    python benchmarks/diversity.py --seconds 60 --seeds 5 --out diversity.json

Each model gets the same data, the same number of trained parameters (±20 %, printed) and the same seconds. The
rivals' one knob (R1's gamma, the VAE's beta) is tuned beforehand on a seed of its own, with as many seconds for every
value; this package's recipe is its default at a smaller width. Data: 25 Gaussians in the plane (25 modes), the
built-in digits (10), and stacked digits, three digits as colour channels (1,000; Metz et al. 2017).

modes: those reached by the samples; KL: divergence of the modes' shares from the data's, nats (Metz et al. 2017);
quality: of points, the share within 3 standard deviations of a mode; of pictures, the precision (random features)
against held-out ones; Fréchet: distance to held-out pictures (random features; of points: pixels). A run has failed
when it reaches fewer than 90 % of the modes, or has less than half of the quality, of as many real ones ("real").
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from unblot.evaluation.classifier import train_classifier
from unblot.evaluation.coverage import class_counts, covering
from unblot.evaluation.distances import frechet_distance
from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.memorization import nearness
from unblot.lessons.rivals import Trained, gan, ours, vae

FIGURES = ("modes", "kl", "quality", "frechet", "copies")


class Task(NamedTuple):
    """Training and held-out pictures; `judge` gives each picture's mode, and whether it is a good one (or None)."""

    name: str
    training: Tensor
    held_out: Tensor
    modes: int
    truth: Tensor
    judge: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    network: str
    samples: int


def gaussians(samples: int, width: int) -> Task:
    """25 Gaussians of standard deviation 0.05 on the grid {-2 … 2}²."""
    rng = np.random.default_rng(0)
    centres = torch.tensor([[x, y] for x in range(-2, 3) for y in range(-2, 3)]).float()
    mode = torch.from_numpy(rng.integers(25, size=20_000))
    points = centres[mode] + 0.05 * torch.from_numpy(rng.standard_normal((20_000, 2))).float()
    points = points.view(-1, 2, 1, 1)

    def judge(found: Tensor) -> tuple[Tensor, Tensor | None]:
        distance, nearest = torch.cdist(found.flatten(1), centres).min(1)
        return nearest, distance < 0.15

    truth = torch.ones(25)
    return Task("25 Gaussians", points[:10_000], points[10_000:], 25, truth, judge, f"mlp:width={width}", samples)


def digits(samples: int, width: int) -> Task:
    """The built-in digits, 8x8."""
    (training, labels), (held_out, _) = _digits()
    judge = _classifier(training, labels)
    truth = class_counts(labels, 10).double()
    network = f"unet:width={width},multipliers=1,patch=2"
    return Task("digits", training, held_out, 10, truth, lambda x: (judge(x), None), network, samples)


def stacked(samples: int, width: int) -> Task:
    """Three digits as colour channels: 20,000 triples sampled at random, 1,000 modes."""
    (training, labels), (held_out, _) = _digits()
    judge = _classifier(training, labels)
    rng = np.random.default_rng(0)

    def triples(single: Tensor, n: int) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(rng.integers(len(single), size=(n, 3)))
        return single[:, 0][chosen], chosen

    pictures, chosen = triples(training, 20_000)
    modes = labels[chosen] @ torch.tensor([100, 10, 1])
    truth = class_counts(modes, 1000).double().clamp_min(1)

    def judge_triples(x: Tensor) -> tuple[Tensor, Tensor | None]:
        each = [judge(x[:, channel : channel + 1]) for channel in range(3)]
        return each[0] * 100 + each[1] * 10 + each[2], None

    network = f"unet:width={width},multipliers=1,patch=2"
    return Task("stacked digits", pictures, triples(held_out, 5000)[0], 1000, truth, judge_triples, network, samples)


def _digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    pictures, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pictures))
    x = torch.from_numpy(pictures[order]).float().view(-1, 1, 8, 8) / 8 - 1
    y = torch.from_numpy(labels[order]).long()
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def _classifier(training: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    network = train_classifier(ImageSet(training), labels, 10)

    @torch.no_grad()
    def classes(x: Tensor) -> Tensor:
        return torch.cat([network(part).argmax(1) for part in x.split(1000)])

    return classes


class Judge:
    """The measurements of one task's samples."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.points = task.training.shape[2] == 1
        source = FeatureData(ImageSet(task.training))
        self.features = build_features("pixels" if self.points else "random:dims=64", source)
        self.reference = extract(self.features, task.held_out.split(1000))

    def measure(self, pictures: Tensor) -> dict[str, Any]:
        """FIGURES of the samples. Values that are not finite count as 0, which is where a broken model ends up."""
        task = self.task
        if not self.points:
            pictures = pictures.clamp(-1, 1)
        pictures = torch.nan_to_num(pictures, nan=0.0, posinf=0.0, neginf=0.0)
        modes, good = task.judge(pictures)
        counts = class_counts(modes if good is None else modes[good], task.modes)
        found = extract(self.features, pictures.split(1000))
        if good is None:
            k = min(len(found), len(self.reference))
            quality = float(covering(found[:k], self.reference[:k]).precision.mean())
            copies = float(nearness(ImageSet(pictures[:1000]), ImageSet(task.training)).copies().double().mean())
        else:
            quality, copies = float(good.double().mean()), None
        return {
            "modes": int((counts > 0).sum()),
            "kl": share_divergence(counts, task.truth) if counts.sum() else math.log(task.modes),
            "quality": quality,
            "frechet": frechet_distance(found, self.reference),
            "copies": copies,
        }

    def real(self) -> dict[str, Any]:
        """The same of as many real pictures that were not trained on, as far as there are so many."""
        held_out = self.task.held_out
        half = held_out[: min(self.task.samples, len(held_out))]
        with_themselves = self.measure(half)
        # Compared with themselves pictures are too good: quality and distance are taken from the training pictures.
        training = self.task.training[: self.task.samples]
        apart = self.measure(training)
        return {**apart, "copies": with_themselves["copies"]}


MODELS: dict[str, Callable[..., Trained]] = {"gan": gan, "vae": vae}
STRENGTHS = {"gan": (0.01, 0.1, 1.0, 10.0), "vae": (0.1, 0.3, 1.0, 3.0)}
TASKS: dict[str, tuple[Callable[[int, int], Task], int, int]] = {  # how to make it, samples, width of our network
    "gaussians": (gaussians, 2500, 64),
    "digits": (digits, 2500, 32),
    "stacked": (stacked, 5000, 32),
}


def share_divergence(counts: Tensor, reference: Tensor) -> float:
    """KL divergence of the shares of modes from the reference's, in nats: `sum p·log(p/q)` (Metz et al. 2017).

    counts, reference: (modes,). Infinite where a mode occurs that the reference has not.
    """
    p, q = counts.double() / counts.sum(), reference.double() / reference.sum()
    return max(0.0, float(torch.special.xlogy(p, p).sum() - torch.special.xlogy(p, q).sum()))


def failed(metrics: dict[str, Any], real: dict[str, Any]) -> bool:
    """Fewer than 90 % of the modes, or less than half of the quality, that real ones show."""
    return metrics["modes"] < 0.9 * real["modes"] or metrics["quality"] < 0.5 * real["quality"]


def tuned(name: str, task: Task, judge: Judge, seconds: float, parameters: int) -> float:
    """The best strength, from one run each on a seed of its own: by Fréchet distance, or for points by their modes."""
    scores = {}
    for strength in STRENGTHS[name]:
        trained = MODELS[name](task.training, seconds, 1000, parameters, strength)
        metrics = judge.measure(trained.sample(task.samples))
        scores[strength] = metrics["kl"] - metrics["quality"] if judge.points else metrics["frechet"]
        print(f"  tuning {name}, {strength:g}: {_line(metrics)}", flush=True)
    return min(scores, key=scores.__getitem__)


def contest(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One task: every model on every seed."""
    make, samples, width = TASKS[name]
    task = make(args.samples or samples, args.width or width)
    judge = Judge(task)
    result: dict[str, Any] = {"task": task.name, "samples": task.samples, "real": judge.real(), "models": {}}
    print(f"{task.name}: real {_line(result['real'])}", flush=True)
    runs = [
        _measured(ours(task.training, args.seconds, s, task.network), task, judge, result["real"]) for s in _seeds(args)
    ]
    result["models"]["unblot"] = {"knob": task.network, "runs": runs}
    for rival in MODELS:
        strength = args.strength or tuned(rival, task, judge, args.seconds, runs[0]["parameters"])
        rivals = []
        for seed in _seeds(args):
            trained = MODELS[rival](task.training, args.seconds, seed, runs[0]["parameters"], strength)
            rivals.append(_measured(trained, task, judge, result["real"]))
            if abs(trained.parameters / runs[0]["parameters"] - 1) > 0.2:
                raise SystemExit(
                    f"{rival} has {trained.parameters} parameters, ours {runs[0]['parameters']}: not within 20 %"
                )
        result["models"][rival] = {"knob": strength, "runs": rivals}
    for model, found in result["models"].items():
        for run in found["runs"]:
            print(f"  {model}: {_line(run)}, {run['steps']} steps in {run['seconds']:.0f} s", flush=True)
    return result


def _seeds(args: argparse.Namespace) -> range:
    return range(args.first_seed, args.first_seed + args.seeds)


def _measured(trained: Trained, task: Task, judge: Judge, real: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    sampled = trained.sample(task.samples)
    metrics = judge.measure(sampled)
    about = {"parameters": trained.parameters, "seconds": round(trained.seconds, 1), "steps": trained.steps}
    return {
        **metrics,
        "failed": failed(metrics, real),
        **about,
        "sampling_seconds": round(time.perf_counter() - start, 1),
    }


def _line(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in FIGURES if metrics[name] is not None)


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table: medians over the seeds, with the lowest and highest value."""
    lines = [
        "| data | model | parameters | modes | KL | quality | Fréchet | copies | failed runs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        real = result["real"]
        cells = [f"{real['modes']}", *("–" if real[name] is None else f"{real[name]:.3g}" for name in FIGURES[1:])]
        lines.append(f"| {result['task']} | real | – | {' | '.join(cells)} | – |")
        for model, found in result["models"].items():
            runs = found["runs"]
            cells = []
            for name in FIGURES:
                cells.append(_spread([run[name] for run in runs if run[name] is not None]))
            broken = f"{sum(run['failed'] for run in runs)} of {len(runs)}"
            size = f"{runs[0]['parameters'] / 1e3:.0f} k"
            lines.append(f"| {result['task']} | {model} ({found['knob']}) | {size} | {' | '.join(cells)} | {broken} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="gaussians,digits,stacked", help="which, separated by commas")
    parser.add_argument("--seconds", type=float, default=60, help="training time of each model")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=0, help="sampled from each model (default: as suits the task)")
    parser.add_argument("--width", type=int, default=0, help="of our network (default: as suits the task)")
    parser.add_argument("--strength", type=float, default=0, help="of every rival's knob, instead of tuning it")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    results = [contest(name, args) for name in args.tasks.split(",")]
    print(table(results))
    about = {
        "seconds_per_model": args.seconds,
        "seeds": list(_seeds(args)),
        "seconds": round(time.perf_counter() - start),
        "machine": f"{platform.processor() or platform.machine()}, {args.threads} threads of {os.cpu_count()} cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(about, indent=1) + "\n")
    else:
        print(json.dumps(about))


if __name__ == "__main__":
    main()
