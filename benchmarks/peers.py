"""unblot and its peers on MNIST: same pictures, same machine, same seconds, one after another; whose samples are best?

Each contestant trains for --minutes without labels, in a process of its own, and keeps its averaged weights every
--every minutes; making snapshots is not counted. Then every snapshot is sampled in the same way: 20 steps of
dpmpp_2m on the karras spacing, of the schedule that the network was trained on, since the 1000 steps of the peers' own
sampling take hours; a check with 100 steps of DDIM stands beside it. Judged is the Fréchet distance to the 10,000 test
pictures, in the features of a classifier trained on the training pictures; the floor is that of
as many real training pictures. The learning rate of unblot falls to the end of its plan: its metrics before the end are
those of the average at that time, as it is.

What is done is kept in --out: run the same command again to go on after a stop. The environment is that of
peers-requirements.txt; the data: mnist.npz in $UNBLOT_DATA, by default ../shared/data.
Usage: python benchmarks/peers.py --out DIR [--minutes 10] [--every 2] [--pictures 2000] [--measure-only]

With --data, on pictures of one's own instead, labels included: one contestant a call, so that each can have a core to
itself, and then all of them measured (photographs.py says what).
Usage: python benchmarks/peers.py --out DIR --data PICTURES --size 64 --minutes 30 --only NAME
       python benchmarks/peers.py --out DIR --data PICTURES --size 64 --measure [--pictures 500]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import photographs
from contestants import CONTESTANTS, Task, TrainingSet, frame_of, train
from measure import machine, matrix_product, seconds, summary
from peers_table import save_chart, table
from speed import equal_networks
from unblot.config.schema import DataConfig
from unblot.data.dataset import open_data
from unblot.errors import UnblotError
from unblot.evaluation.distances import frechet_distance
from unblot.evaluation.features import FeatureData, Features, build_features, extract
from unblot.evaluation.image_set import ImageSet

DATA = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mnist.npz"
CHECK_STEPS = 100
MNIST = [name for name in CONTESTANTS if name != "unblot-latents"]  # which needs larger pictures


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data:
        photographs.run(args)
        return
    mnist = np.load(DATA)
    if args.train:
        torch.manual_seed(0)
        data = digits(mnist["x_train"], args.out)
        train(args.train, data, args.out / args.train, 60 * args.minutes, 60 * args.every)
        return
    names = args.contestants.split(",")
    print(plan_run(args, names), flush=True)
    if not args.measure_only:
        for name in names:
            run_training(name, args)
    trained = {name: args.out / name / "training.json" for name in names}
    report = {name: json.loads(path.read_text()) for name, path in trained.items() if path.exists()}
    rate = product_rate()
    result = {"minutes": args.minutes, "matrix_product_gflops": round(rate, 1), "contestants": report}
    for metrics in report.values():
        metrics["share_of_matrix_product_rate"] = round(metrics["gflops"] / metrics.get("product_gflops", rate), 3)
    print(measuring_plan(args, report), flush=True)
    judge = Judge(mnist)
    result["floor"] = {n: judge.floor(n) for n in sorted({args.pictures, args.between, args.check} - {0})}
    for name, metrics in report.items():
        try:
            measure(name, metrics, judge, args)
        except (RuntimeError, OSError, ValueError, UnblotError) as error:
            metrics["failed"] = str(error)
            print(f"{name}: could not be measured: {error}", flush=True)
        write(args.out, {**result, "machine": machine()})
    if not args.measure_only:
        result |= equal_networks()
    write(args.out, {**result, "machine": machine()})
    print(table(result), flush=True)
    save_chart(result, args.out / "peers.svg")
    print(f"metrics in {args.out / 'peers.json'}, curves in {args.out / 'peers.svg'}")


def digits(pictures: np.ndarray, folder: Path) -> TrainingSet:
    """All these pictures (N, 28, 28) without labels, packed once for all contestants."""
    path = folder / "data.npy"
    if not path.exists():
        np.save(path, pictures[:, None])
    dataset = open_data(str(path), held_out=0, cache=folder / "cache", options={"layout": "NCHW"})
    return TrainingSet(DataConfig(data=str(path), held_out=0), dataset)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for snapshots, sampled pictures and metrics")
    parser.add_argument("--minutes", type=float, default=10, help="of training, for each contestant")
    parser.add_argument("--every", type=float, default=2, help="minutes between two snapshots")
    parser.add_argument("--pictures", type=int, help="sampled from the last snapshot of each; 2000, with --data 500")
    parser.add_argument("--between", type=int, default=500, help="sampled from each snapshot before; 0 for none")
    parser.add_argument("--check", type=int, default=300, help="sampled with 100 steps of DDIM as well; 0 for none")
    parser.add_argument("--contestants", default=",".join(MNIST), help="joined by commas")
    parser.add_argument("--measure-only", action="store_true", help="measure what is trained already")
    parser.add_argument("--train", choices=CONTESTANTS, help=argparse.SUPPRESS)  # what the processes are started with
    parser.add_argument("--data", type=Path, help="pictures to train on instead of MNIST")
    parser.add_argument("--size", type=int, default=64, help="with --data: side of the pictures in pixels")
    parser.add_argument("--only", choices=CONTESTANTS, help="with --data: train this one, in this process")
    parser.add_argument("--measure", action="store_true", help="with --data: measure all that are trained")
    parser.add_argument("--guidance", type=float, default=1.0, help="with --data: of unblot's samples")
    args = parser.parse_args()
    if args.data and not (args.only or args.measure):
        parser.error("--data needs --only NAME, to train a contestant, or --measure")
    args.pictures = args.pictures or (500 if args.data else 2000)
    return args


def plan_run(args: argparse.Namespace, names: list[str]) -> str:
    """What is about to happen and how long it takes, in a few lines."""
    training = 0.0 if args.measure_only else args.minutes * len(names)
    done = [name for name in names if (args.out / name / "training.json").exists()]
    kept = f" ({', '.join(done)} kept from before)" if done else ""
    return (
        f"training: {', '.join(names)}, {args.minutes:g} min each, {training:g} min in all{kept}, "
        f"{torch.get_num_threads()} threads\n"
        f"measuring: {args.pictures} pictures at the end, {args.between} every {args.every:g} min before, "
        f"{args.check} with {CHECK_STEPS} steps of DDIM; its time is printed when the speeds are known"
    )


def run_training(name: str, args: argparse.Namespace) -> None:
    """Trains a contestant in its own process; what it could not do is said, and the others go on."""
    path = args.out / name / "training.json"
    if path.exists():
        return
    before = product_rate()
    flags = ["--train", name, "--out", args.out, "--minutes", args.minutes, "--every", args.every]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *map(str, flags)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    (args.out / name).mkdir(exist_ok=True)
    (args.out / name / "log.txt").write_text(done.stdout)
    if done.returncode or not path.exists():
        print(f"{name}: failed, see {args.out / name / 'log.txt'}: {done.stdout.strip().splitlines()[-1:]}", flush=True)
        return
    metrics = json.loads(path.read_text())
    metrics["product_gflops"] = round((before + product_rate()) / 2, 1)
    path.write_text(json.dumps(metrics, indent=2) + "\n")
    print(
        f"{name}: {metrics['steps']} steps of {metrics['batch']}, {metrics['pictures_per_second']} pictures/s, "
        f"{metrics['parameters'] / 1e6:.2f} M parameters, {time.perf_counter() - start:.0f} s in all",
        flush=True,
    )


def product_rate() -> float:
    """The machine's fp32 matrix-product rate now, in 10^9 operations a second."""
    product, operations = matrix_product()
    return operations / summary(seconds({"product": product}, rounds=5)["product"])["median"] / 1e9


def measuring_plan(args: argparse.Namespace, report: dict[str, Any]) -> str:
    """How long measuring is about to take: one evaluation is a third of a picture's training step."""
    total = 0.0
    for metrics in report.values():
        sampled = (
            photographs.STEPS * (args.pictures + args.between * (len(metrics["snapshots"]) - 1))
            + CHECK_STEPS * args.check
        )
        total += sampled / (3 * metrics["pictures_per_second"])
    return f"measuring takes about {total / 60 + 0.5:.1f} min more"


class Judge:
    """Fréchet distances to the test pictures, in the features of a classifier of the training pictures."""

    def __init__(self, mnist: Any):
        def encode(stored: np.ndarray) -> np.ndarray:
            return stored.astype(np.float32) / 127.5 - 1

        self.train = ImageSet(mnist["x_train"][:, None], encode)
        labels = torch.from_numpy(mnist["y_train"].astype(np.int64))
        self.features: Features = build_features("classifier", FeatureData(self.train, labels, 10))
        self.test = extract(self.features, ImageSet(mnist["x_test"][:, None], encode).chunks())

    def distance(self, pictures: Tensor) -> float:
        """Of pictures (N, 1, 28, 28) in [-1, 1], rounded to bytes first, as all real ones are."""
        rounded = ((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        return round(frechet_distance(extract(self.features, [rounded]), self.test), 3)

    def floor(self, count: int) -> float:
        """Of as many real training pictures."""
        return round(frechet_distance(extract(self.features, self.train.sample(count).chunks()), self.test), 3)


def measure(name: str, metrics: dict[str, Any], judge: Judge, args: argparse.Namespace) -> None:
    """Adds the Fréchet distance of each snapshot to the metrics of a contestant, the last snapshot first."""
    *between, last = metrics["snapshots"]
    last["pictures"], last["frechet"] = args.pictures, judge.distance(sampled(name, last["file"], args.pictures, args))
    print(f"{name}: {last['frechet']} after {last['seconds']:.0f} s", flush=True)
    if args.check:
        first = sampled(name, last["file"], args.pictures, args)[: args.check]
        checked = sampled(name, last["file"], args.check, args, "ddim", "time", CHECK_STEPS)
        metrics["check"] = {
            "pictures": args.check,
            f"dpmpp_2m_{photographs.STEPS}": judge.distance(first),
            f"ddim_{CHECK_STEPS}": judge.distance(checked),
        }
    for snapshot in between if args.between else []:
        snapshot["pictures"] = args.between
        snapshot["frechet"] = judge.distance(sampled(name, snapshot["file"], args.between, args))
        print(f"{name}: {snapshot['frechet']} after {snapshot['seconds']:.0f} s", flush=True)


def sampled(name: str, file: str, count: int, args: argparse.Namespace, *how: Any) -> Tensor:
    """Pictures (count, 1, 28, 28) of a snapshot; kept on disk, so that they are sampled once. how: as of `draw`."""
    solver, _, steps = how or photographs.HOW
    kept = args.out / name / f"{Path(file).stem}-{solver}-{steps}-{count}.npy"
    if kept.exists():
        return torch.from_numpy(np.load(kept, allow_pickle=False))
    frame = frame_of((1, 28, 28))
    task = Task((1, 28 + 2 * frame, 28 + 2 * frame), 0)
    found = photographs.draw(CONTESTANTS[name].load(args.out / name / file, task), count, (1, 28, 28), None, *how)
    np.save(kept.with_suffix(".part.npy"), found.numpy())
    kept.with_suffix(".part.npy").replace(kept)
    return found


def write(folder: Path, result: dict[str, Any]) -> None:
    """peers.json, whole at any time."""
    part = folder / "peers.json.part"
    part.write_text(json.dumps(result, indent=2) + "\n")
    part.replace(folder / "peers.json")


if __name__ == "__main__":
    main()
