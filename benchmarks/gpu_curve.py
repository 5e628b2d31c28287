"""The part of gpu.py that learns: the default recipe at CIFAR-10 size, judged on the way."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_parts import CUDA, DEVICE, tell
from unblot import api
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.denoiser import Condition
from unblot.evaluation.distances import frechet_distance
from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.process.randomness import labels_for
from unblot.sampling.batched import sample_batches
from unblot.training.trainer import Trainer, denoising_trainer

CIFAR = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10-test.tar"
DATA = "CIFAR-10's test pictures" if CIFAR.exists() else f"soft blobs, made here: UNBLOT_DATA has no {CIFAR.name}"
CURVE = "unet:width=192,multipliers=1-2,patch=2" if CUDA else "unet:width=16,multipliers=1-2,patch=2"
CURVE_BATCH, CURVE_RATE, CURVE_POINTS = (512, 1e-3, 6) if CUDA else (16, 4e-3, 2)
CURVE_PICTURES = 2000 if CUDA else 50


def training_curve(limit: float, points: list[dict[str, Any]]) -> dict[str, Any]:
    """The default recipe at CIFAR-10 size for `limit` seconds.

    Added to `points` on the way, so that an error costs none: Fréchet distances of the averaged weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset, name = pictures_to_learn(Path(folder))
        source = DataConfig(data=name, unlabelled=True)
        choices = {"network": CURVE, "batch_size": CURVE_BATCH, "learning_rate": CURVE_RATE, "device": DEVICE}
        encode = dataset.values.encode
        train = ImageSet(dataset.pictures, encode, dataset.train)
        features = build_features("random", FeatureData(train))
        target = extract(features, ImageSet(dataset.pictures, encode, dataset.held_out).chunks())
        trial = denoising_trainer(api.plan_run(source, dataset, {**choices, "steps": 1000}), dataset)
        per_step = run_for(trial, 0.05 * limit)
        steps = max(CURVE_POINTS, int(0.8 * limit / per_step))
        trainer = denoising_trainer(
            api.plan_run(source, dataset, {**choices, "steps": steps, "compile": "auto"}), dataset
        )
        notes: list[str] = []
        start, uncounted = time.perf_counter(), 0.0
        trainer.compile(notes.append)
        for step in range(1, steps + 1):
            loss = trainer.take_step().loss
            over = time.perf_counter() - start - uncounted > limit
            if step * CURVE_POINTS // steps > (step - 1) * CURVE_POINTS // steps or over:
                value = float(loss)  # waits for the device
                taken = time.perf_counter() - start - uncounted
                distance = frechet_distance(extract(features, [sampled(trainer)]), target)
                pictures = step * CURVE_BATCH
                points.append({"seconds": round(taken, 1), "pictures": pictures, "loss": value, "frechet": distance})
                uncounted = time.perf_counter() - start - taken
                tell(f"  {taken:.0f} s, {pictures} pictures, loss {value:.4f}, Fréchet distance {distance:.4g}")
                if over:
                    break
        floor = frechet_distance(extract(features, train.sample(CURVE_PICTURES).chunks()), target)
    return {"data": DATA, "network": CURVE, "batch": CURVE_BATCH, "notes": notes, "floor": floor}


def pictures_to_learn(folder: Path) -> tuple[Dataset, str]:
    """The CIFAR-10 test pictures where they are at hand, else as many of soft coloured blobs; and what they are."""
    if CIFAR.exists():
        return open_data(str(CIFAR), cache=folder, labels=False), str(CIFAR.name)
    rng = np.random.default_rng(0)
    count = 10_000 if CUDA else 500
    y, x = np.mgrid[0:32, 0:32]
    made = np.zeros((count, 3, 32, 32), np.float32)
    for _ in range(4):
        at, wide, colour = (
            rng.uniform(0, 32, (2, count, 1, 1)),
            rng.uniform(3, 12, (count, 1, 1)),
            rng.uniform(-1, 1, (count, 3, 1, 1)),
        )
        blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * wide**2))
        made += colour * blob[:, None]
    np.save(folder / "blobs.npy", (255 / (1 + np.exp(-3 * made))).astype(np.uint8))
    return open_data(str(folder / "blobs.npy"), cache=folder, options={"layout": "NCHW"}), "blobs"


def run_for(trainer: Trainer, limit: float) -> float:
    """Seconds of a step, from as many as fit into `limit` seconds."""
    trainer.take_step().loss.item()
    start, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - start < limit:
        trainer.take_step().loss.item()
        done += 1
    return (time.perf_counter() - start) / done


def sampled(trainer: Trainer) -> torch.Tensor:
    """Pictures from the averaged weights, sampled as the recipe says, rounded to bytes."""
    train, data = trainer.config.train, trainer.config.data
    with trainer.averaged():
        parts = sample_batches(
            trainer.denoiser,
            data.shape,
            range(CURVE_PICTURES),
            schedule=train.schedule,
            spacing=train.spacing,
            solver=train.solver,
            steps=train.sampling_steps,
            condition=Condition(labels_for(0, range(CURVE_PICTURES), clusters=data.clusters)),
            batch_size=500,
        )
        found = torch.cat([part.cpu() for part in parts])
    return ((found.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
