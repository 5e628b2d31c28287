"""Fréchet distance of models distilled to few network calls (NFE), beside their teacher's: a table.

    python benchmarks/distill.py --run runs/mnist --nfe 1 2 4 --steps 1000

Distilled runs stand beside the run, as RUN-1, RUN-2, …, and are made where they are not there yet. Every cell is of as
many pictures, in the features of a small classifier of MNIST's labels, against its 10,000 test pictures.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import unblot
from damage import load
from measure import machine
from unblot.api import cache_folder
from unblot.data.values import ValueMap
from unblot.evaluation.distances import frechet_distance, frechet_error
from unblot.evaluation.features import FeatureData, Features, build_features, extract
from unblot.evaluation.image_set import ImageSet

TEACHER = (1, 2, 4, 10, 20)  # NFE


def judge() -> tuple[Features, torch.Tensor, float]:
    """The classifier's features, those of the test pictures, and the floor: the distance of 2,000 training pictures."""
    training, test = load("mnist")
    source = FeatureData(ImageSet(training.pictures), training.labels, 10, cache_folder() / "features")
    features = build_features("classifier", source)
    reference, real = (extract(features, [part.pictures]) for part in (test, training))
    return features, reference, frechet_distance(real[:2000], reference)


def measured(run: unblot.Run, features: Features, reference: torch.Tensor, n: int, **choices) -> dict[str, float]:
    """Distance of n pictures, its bootstrap standard deviation, and the CPU seconds that sampling them took."""
    start = time.process_time()
    array = run.sample(n, seed=0, guidance=1.0, batch_size=100, **choices).array
    seconds = time.process_time() - start
    encoded = ValueMap.from_dict(run.config.data.values).encode(array, np.float32)
    seen = extract(features, [torch.from_numpy(encoded)])
    return {
        "distance": frechet_distance(seen, reference),
        "deviation": frechet_error(seen, reference, resamples=20),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--nfe", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=1000, help="of distillation")
    parser.add_argument("--teacher", type=int, nargs="*", default=TEACHER, help="NFE of the teacher")
    parser.add_argument("-n", type=int, default=2000)
    args = parser.parse_args()
    teacher = unblot.load(args.run)
    features, reference, floor = judge()
    found = {}
    for calls in args.teacher:
        found[f"teacher, {calls}"] = measured(teacher, features, reference, args.n, steps=calls)
        print(f"teacher, {calls}", found[f"teacher, {calls}"], flush=True)
    for calls in args.nfe:
        place = args.run.with_name(f"{args.run.name}-{calls}")
        if not place.exists():
            unblot.distill(args.run, out=place, nfe=calls, steps=args.steps)
        found[f"distilled, {calls}"] = measured(unblot.load(place), features, reference, args.n)
        print(f"distilled, {calls}", found[f"distilled, {calls}"], flush=True)
    result = {"n": args.n, "floor": floor, "cells": found, "machine": machine()}
    args.run.with_name(f"{args.run.name}-distilled.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"floor {floor:.2f}\n\n| NFE | Fréchet distance |\n|---|---|")
    for name, cell in found.items():
        print(f"| {name} | {cell['distance']:.2f} ± {cell['deviation']:.2f} |")


if __name__ == "__main__":
    main()
