"""Which network and which recipe give the best samples after the same seconds of one core? One JSON line a candidate.

Every candidate trains for --minutes of the process's CPU time, measuring not counted, on the same pictures with the
same seed; the number of steps follows from its first steps and is corrected during training, so that the learning rate
has decayed at the end. Then, with the averaged weights:

- held_out: the squared error of x0_hat on held-out pictures, weighted as EDM weights it, at ten levels that are the
  same for all candidates, so that all can be compared; by_level: at each, cleanest first.
- octaves: the power of samples over that of real pictures in each octave of the spectrum, finest first; 1 is right.
- flat: the power of the finest detail in the flattest quarter of the pictures, over that of real ones: grain.
- frechet: the Fréchet distance of --pictures samples to REFERENCE real pictures in the features of EfficientNet-lite0;
  floor: that of as many other real pictures. So few samples raise it: it compares only those of one number.
- kernel: the kernel distance of the same features with its 95 % interval, which their number does not bias;
  kernel_floor: that of the other real pictures.

Candidates are written NAME=CHOICE;CHOICE, as in 'joined=network=unet:patch=4,join=true;batch_size=32'.
With --latents RUN they are second stages in the latents of that run, whose autoencoder is not trained again.
Usage: python recipe.py --data DIR --size 64 --minutes 8 --out DIR CANDIDATE ...
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from measure import kernel
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.data.output import sheet
from unblot.denoiser import Condition
from unblot.evaluation.distances import frechet_distance
from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.latent.latents import latents_of, with_latents
from unblot.process.levels import NoiseLevel, corrupt, norm
from unblot.process.octaves import octave_powers
from unblot.process.randomness import labels_for
from unblot.process.schedules import edm
from unblot.runs.folder import load_model
from unblot.sampling.batched import sample_batches
from unblot.sampling.guidance import Guidance
from unblot.system.files import read_tensors, write_tensors
from unblot.training.budget_controller import BudgetController
from unblot.training.plan import plan_run
from unblot.training.trainer import Trainer, denoising_trainer

REFERENCE = 1024  # real pictures that samples ones are compared with, or half of all where there are fewer
LEVELS = 10  # of the held-out loss: the middles of equal shares of EDM's training levels
SHEET = 48  # pictures on a sheet


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    source = DataConfig(data=str(args.data), size=args.size, unlabelled=args.unlabelled)
    dataset = open_data(str(args.data), size=args.size, labels=not args.unlabelled)
    judge = Judge(dataset, args)
    latent: dict = {}
    if args.latents:
        config, denoiser = load_model(args.latents)
        dataset, latent = with_latents(dataset, denoiser.autoencoder), vars(config.latent)
    for candidate in args.candidates:
        name, choices = read(candidate)
        line = {"name": name, "data": args.data.name, "size": args.size, "seed": args.seed, "guidance": args.guidance}
        line |= choices
        trainer, training = trained(source, dataset, {**latent, **numbers(choices)}, args)
        line |= training | judge.measure(trainer, dataset, f"{name}-{args.size}-{args.minutes:g}m-seed{args.seed}")
        with open(args.out / "recipe.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", default="64")
    parser.add_argument("--unlabelled", action="store_true")
    parser.add_argument("--minutes", type=float, default=8, help="CPU time of one core, each candidate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=256, help="samples of each; 0 for the held-out loss alone")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the samples, towards labels or clusters")
    parser.add_argument("--latents", type=Path, metavar="RUN", help="learn in the latents of this run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("candidates", nargs="+", help="NAME=CHOICE;CHOICE")
    return parser.parse_args()


def read(candidate: str) -> tuple[str, dict[str, str]]:
    """The name and the choices of NAME=CHOICE;CHOICE."""
    name, _, written = candidate.partition("=")
    return name, dict(part.split("=", 1) for part in written.split(";") if part)


def numbers(choices: dict[str, str]) -> dict:
    """Choices of the command line with the types that a configuration wants."""
    types = {"batch_size": int, "learning_rate": float, "label_dropout": float, "clusters": int, "steps": int}
    return {key: types.get(key, str)(value) for key, value in choices.items()}


def trained(source: DataConfig, dataset: Dataset, choices: dict, args: argparse.Namespace) -> tuple[Trainer, dict]:
    """The candidate after its minutes, and what these were filled with."""
    budget = 60 * args.minutes
    quiet = {"device": "cpu", "held_out_every": 0, "preview_every": 0, "checkpoint_every": 10**9}
    choices = {"seed": args.seed, **quiet, **choices}
    trial = denoising_trainer(plan_run(source, dataset, {"steps": 10**5, **choices}), dataset)
    trial.take_step()
    start, tries = time.process_time(), 0
    while tries < 2 or time.process_time() - start < 0.02 * budget:
        trial.take_step()
        tries += 1
    seconds = (time.process_time() - start) / tries
    config = plan_run(source, dataset, {"steps": max(2, int(budget / seconds)), **choices})
    trainer = denoising_trainer(config, dataset)
    controller = BudgetController(budget, time.process_time)
    wall = time.monotonic()
    while trainer.step < trainer.config.train.steps:
        trainer.take_step()
        steps = controller.wanted_steps(trainer.config.train, trainer.step)
        if steps is not None:
            trainer.change_steps(steps)
    pictures = trainer.step * config.train.batch_size
    return trainer, {
        "network": config.train.network,
        "parameters": sum(p.numel() for p in trainer.denoiser.parameters()),
        "cpu_seconds": round(controller.used(), 1),
        "wall_seconds": round(time.monotonic() - wall, 1),
        "steps": trainer.step,
        "batch": config.train.batch_size,
        "pictures_per_second": round(pictures / controller.used(), 1),
        "passes": round(pictures / len(dataset.train), 1),
    }


class Judge:
    """What all candidates are measured with."""

    def __init__(self, dataset: Dataset, args: argparse.Namespace):
        self.dataset, self.args = dataset, args
        if not args.pictures:
            return
        self.lite = build_features("efficientnet", FeatureData(ImageSet(dataset.pictures), alpha=dataset.values.alpha))
        order = np.random.default_rng(0).permutation(len(dataset))
        self.chosen = order[: args.pictures]
        rest = order[args.pictures : args.pictures + REFERENCE]
        real = dataset.batch(self.chosen)[0]
        self.power, self.grain = octave_powers(real).mean(0), grain(real)
        kept = args.out / f"reference-{args.data.name}-{args.size}-{args.pictures}.safetensors"
        if not kept.exists():
            found = {"some": self.features(real), "reference": self.features(dataset.batch(rest)[0])}
            write_tensors(kept, found, {})
        some, self.reference = (read_tensors(kept)[0][name] for name in ("some", "reference"))
        floor = round(frechet_distance(some, self.reference), 1)
        self.floors = {"floor": floor, "kernel_floor": kernel(some, self.reference)}
        sheet(dataset.pictures[self.chosen[:SHEET]], dataset.values, columns=8).save(
            args.out / f"real-{args.data.name}-{args.size}.png"
        )

    def measure(self, trainer: Trainer, dataset: Dataset, name: str) -> dict:
        """The figures of a candidate trained on this data set; its sheet is written."""
        start = time.process_time()
        with trainer.averaged(), torch.no_grad():
            losses = held_out(trainer, latents_of(dataset))
            found = {"held_out": round(float(losses.mean()), 4), "by_level": [round(x, 3) for x in losses.tolist()]}
            if not self.args.pictures:
                return found
            labels = self.dataset.labels
            clusters = trainer.config.data.clusters
            if clusters:
                labels = labels_for(0, range(self.args.pictures), clusters=clusters)
            elif labels is not None:
                labels = torch.from_numpy(np.asarray(labels[self.chosen]))
            train = trainer.config.train
            parts = sample_batches(
                trainer.denoiser, trainer.config.shape, range(self.args.pictures), schedule=train.schedule,
                spacing="karras", solver="dpmpp_2m", steps=20, condition=Condition(labels), batch_size=32,
                guidance=Guidance(self.args.guidance),
            )  # fmt: skip
            samples = torch.cat([trainer.denoiser.pictures(x0, self.dataset.shape[1:]) for x0 in parts])
        stored = self.dataset.values.decode(samples.numpy())
        image = sheet(stored[:SHEET], self.dataset.values, columns=8)
        image.save(self.args.out / f"{name}.png")
        np.save(self.args.out / f"{name}.npy", stored)
        samples = torch.from_numpy(self.dataset.values.encode(stored, np.float32))  # as a person gets them: clipped
        found["octaves"] = [round(x, 2) for x in (octave_powers(samples).mean(0) / self.power).tolist()]
        found["flat"] = round(float(grain(samples) / self.grain), 2)
        seen = self.features(samples)
        found |= {"frechet": round(frechet_distance(seen, self.reference), 1), "kernel": kernel(seen, self.reference)}
        return found | self.floors | {"measuring_seconds": round(time.process_time() - start, 1)}

    def features(self, x: Tensor) -> Tensor:
        """Features (N, 1280) of pictures in the network's range; transparent ones are laid over white."""
        return extract(self.lite, [torch.as_tensor(x)])


def held_out(trainer: Trainer, data: Dataset, at_most: int = 128) -> Tensor:
    """EDM's loss on held-out pictures at LEVELS levels, cleanest first, (LEVELS,)."""
    sd = trainer.config.train.data_std
    x0, label = data.batch(data.held_out[:at_most])
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    levels = edm(mean=-0.8, std=1.2)((torch.arange(LEVELS) + 0.5) / LEVELS)
    losses = []
    for k in range(LEVELS):
        level = levels.at(k)
        weight = float((norm(level, sd) / (level.sigma * sd)) ** 2)
        total = 0.0
        for i in range(0, len(x0), 32):
            rows = slice(i, i + 32)
            n = len(x0[rows])
            at = NoiseLevel(level.alpha.expand(n), level.sigma.expand(n))
            x0_hat = trainer.denoiser(corrupt(x0[rows], at, eps[rows]), at, Condition(label).rows(rows)).x0
            total += weight * float((x0_hat - x0[rows]).square().mean((1, 2, 3)).sum())
        losses.append(total / len(x0))
    return torch.tensor(losses)


def grain(x: Tensor) -> Tensor:
    """The power that 2x2 averages leave out, in the flat parts of pictures (N, C, H, W): a quarter of all 8x8 squares
    have less. Where a picture is flat, grain is seen first."""
    x = torch.as_tensor(x)
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)
    fine = (x[..., : coarse.shape[-2], : coarse.shape[-1]] - coarse).square()
    return F.avg_pool2d(fine, 8).flatten().quantile(0.25)


if __name__ == "__main__":
    main()
