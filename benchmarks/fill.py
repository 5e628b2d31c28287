"""Filling in half of held-out pictures: `unblot edit inpaint` against RePaint (Lugmayr et al. 2022) at equal NFE.

    python benchmarks/fill.py --run runs/mnist --sheet fill.png --out fill.json
    python benchmarks/fill.py                        # trains on the built-in digits first, a minute or two

Each method gets as many steps as its NFE allows; `calls` says how often the network was called for a picture.
RePaint can spend them in several ways: spacings, and how often it goes back up by how many steps.

Known pixels are the picture's own in every result. error: mean squared error of the unknown ones, in the network's
range; spread: mean squared difference of two samples there (an exact sampler's is equal to its error);
Fréchet: distance of the filled pictures to the held-out ones as they were, in the features of a classifier of the
data (random features where it has no labels); the floor is that of as many training pictures.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import unblot
from measure import report
from unblot.api import open_dataset
from unblot.data.cache.build import cache_folder
from unblot.data.output import as_display, tile
from unblot.editing import images as edit
from unblot.editing.methods import repaint
from unblot.editing.operators import HIGH, LOW
from unblot.editing.result import tinted
from unblot.evaluation.distances import frechet_distance
from unblot.evaluation.features import Features, build_features, default_features, extract
from unblot.evaluation.parts import feature_data
from unblot.process.levels import NoiseLevel
from unblot.process.randomness import picture_generators
from unblot.runs.run import Run
from unblot.sampling.batched import sampling_levels
from unblot.sampling.loop import pictures_noise

SPACINGS = ("karras", "karras:low=0.02,high=20")
PASSES = ((1, 1), (1, 2), (1, 3), (1, 4), (4, 2), (4, 4))  # RePaint's (jump, repeats); (1, 1) goes back up never
BATCH, SHOWN = 250, 8

Filling = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # pictures, unknown, seed -> filled pictures


class Data(NamedTuple):
    """Held-out pictures in stored values, what compares them, and the features of them and of training pictures."""

    truth: np.ndarray
    features: Features
    reference: Tensor
    floor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--nfe", type=int, nargs="+", default=[48, 96])
    parser.add_argument("--masks", nargs="+", default=["left", "centre", "random"])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--passes", nargs="+", default=[f"{j},{r}" for j, r in PASSES], help="RePaint's jump,repeats")
    parser.add_argument("--grids", nargs="+", default=SPACINGS, help="of RePaint")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    run = unblot.load(args.run) if args.run else unblot.train("digits", unlabelled=True, held_out=0.2)
    data = read(run, args.pictures)
    found: dict[str, Any] = {"run": run.config.data.name, "pictures": len(data.truth), "features": data.features.name}
    found |= {"floor": data.floor, "draws": args.draws, "rows": []}
    passes = [tuple(int(part) for part in text.split(",")) for text in args.passes]
    for mask in args.masks:
        unknown, columns = MASKS[mask](*data.truth.shape[2:]), []
        for count in args.nfe:
            best = None
            for name, filling in [ours(run, count), *repaints(run, count, passes, args.grids)]:
                row, filled = measure(run, data, filling, unknown, args.draws)
                row = {"mask": mask, "nfe": count, "method": name, **row}
                found["rows"].append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
                if name == "ours":
                    columns.append(filled)
                elif best is None or row["frechet"] < best[0]:
                    best = row["frechet"], filled
            columns += [best[1]] if best else []
        if args.sheet:
            sheet(run, data.truth, unknown, columns).save(args.sheet.with_stem(f"{args.sheet.stem}-{mask}"))
    report(args.out, **found, summary=summary(found["rows"]))


MASKS: dict[str, Callable[[int, int], np.ndarray]] = {  # height, width -> unknown pixels (1, 1, H, W)
    "left": lambda h, w: np.broadcast_to(np.arange(w) < w // 2, (1, 1, h, w)).copy(),
    "centre": lambda h, w: _middle(h)[:, None] & _middle(w) & np.ones((1, 1, h, w), bool),
    "random": lambda h, w: np.random.default_rng(0).permutation(h * w).reshape(1, 1, h, w) < h * w // 2,
}


def _middle(length: int) -> np.ndarray:
    """Truth over the middle of an axis, such that half of a square is true."""
    part = round(length * 0.5**0.5)
    return (np.arange(length) >= (length - part) // 2) & (np.arange(length) < (length - part) // 2 + part)


def read(run: Run, count: int) -> Data:
    """The held-out pictures of a run, and how they are compared: by labels, even if the run was trained without."""
    dataset = open_dataset(replace(run.config.source, unlabelled=False), quiet=True)
    order = np.random.default_rng(0).permutation(dataset.held_out)[:count]
    source = feature_data(dataset, cache_folder() / "features")
    features = build_features(default_features(source), source)
    reference = extract(features, dataset.batch(order)[0].split(BATCH))
    some = np.random.default_rng(1).permutation(dataset.train)[: len(order)]
    floor = frechet_distance(extract(features, dataset.batch(some)[0].split(BATCH)), reference)
    return Data(np.asarray(dataset.pictures[order]), features, reference, floor)


def ours(run: Run, count: int) -> tuple[str, Filling]:
    """`unblot edit inpaint` with as many steps as its NFE allows."""
    schedule, spacing = run.config.train.schedule, edit.INPAINTING["spacing"]
    steps = max(n for n in range(1, count + 1) if _filling_cost(sampling_levels(schedule, spacing, n)) <= count)

    def filling(pictures: np.ndarray, unknown: np.ndarray, seed: int) -> np.ndarray:
        edited = edit.inpaint(run, pictures, unknown, n=1, steps=steps, seed=seed, batch_size=BATCH)
        return edited.array[:, 0]

    return "ours", filling


def _filling_cost(levels: NoiseLevel) -> int:
    """Evaluations of filling in: a second one at some of the levels."""
    ratio = (levels.sigma / levels.alpha)[:-1]
    return len(ratio) + int(((ratio >= LOW) & (ratio <= HIGH)).sum())


def repaints(run: Run, count: int, passes: list[tuple[int, ...]], grids: list[str]) -> list[tuple[str, Filling]]:
    """RePaint with several settings, each with as many levels as its NFE allows."""
    found = []
    for spacing in grids:
        for jump, repeats in passes:
            steps = max(n for n in range(1, count + 1) if _cost(n, jump, repeats) <= count)
            name = f"RePaint: {steps} steps, jump {jump}, {repeats} times, {spacing}"
            found.append((name, _repaint(run, steps, jump, repeats, spacing)))
    return found


def _cost(steps: int, jump: int, repeats: int) -> int:
    return steps + (steps - 1) // jump * jump * (repeats - 1)


def _repaint(run: Run, steps: int, jump: int, repeats: int, spacing: str) -> Filling:
    levels = sampling_levels(run.config.train.schedule, spacing, steps)
    prior, values = run.denoiser.prior(levels.at(0)), edit.values_of(run)

    def filling(pictures: np.ndarray, unknown: np.ndarray, seed: int) -> np.ndarray:
        mask, filled = torch.from_numpy(~unknown).to(run.device), []
        for first in range(0, len(pictures), BATCH):
            known = torch.from_numpy(values.encode(pictures[first : first + BATCH], np.float32)).to(run.device)
            noise = pictures_noise(
                picture_generators(seed, range(first, first + len(known))), known.shape[1:], run.device
            )
            x = repaint(run.denoiser, known, mask, prior.draw(noise()), levels, noise, jump, repeats)
            filled.append(values.decode(x.cpu().numpy()))
        return np.where(unknown, np.concatenate(filled), pictures)

    return filling


def measure(
    run: Run, data: Data, filling: Filling, unknown: np.ndarray, draws: int
) -> tuple[dict[str, Any], np.ndarray]:
    """The metrics of one method, and its first samples."""
    start, values, seen = time.process_time(), edit.values_of(run), [0]

    def count(network: Any, given: Any, found: Any) -> None:
        seen[0] += len(given[0])

    with run.denoiser.register_forward_hook(count):
        filled = [filling(data.truth, unknown, seed) for seed in range(draws)]
    seconds = time.process_time() - start
    x, truth = np.stack([values.encode(f) for f in filled]), values.encode(data.truth)
    hidden = np.broadcast_to(unknown, truth.shape)
    shown = [torch.from_numpy(part).float() for part in x]
    distances = [frechet_distance(extract(data.features, s.split(BATCH)), data.reference) for s in shown]
    errors = np.square(x - truth)[:, hidden].reshape(draws, len(truth), -1).mean(axis=(0, 2))
    return {
        "error": float(errors.mean()),
        "error_stderr": float(errors.std() / len(errors) ** 0.5),  # standard error over the pictures
        "spread": float(np.square(x[0] - x[1])[hidden].mean()) if draws > 1 else None,
        "frechet": float(np.mean(distances)),
        "calls": seen[0] / (draws * len(truth)),
        "cpu_seconds": seconds,
    }, filled[0]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each mask and count: ours, and the best that any setting of RePaint reached in each metric by itself."""
    found = []
    for mask, count in dict.fromkeys((row["mask"], row["nfe"]) for row in rows):
        here = [row for row in rows if (row["mask"], row["nfe"]) == (mask, count)]
        mine, theirs = here[0], here[1:]
        line: dict[str, Any] = {"mask": mask, "nfe": count}
        for metric in ("error", "frechet"):
            best = min((row[metric] for row in theirs), default=None)
            line[metric] = {"ours": mine[metric], "best_repaint": best, "ours_is_less": best and mine[metric] < best}
        found.append(line)
    return found


def sheet(run: Run, truth: np.ndarray, unknown: np.ndarray, columns: list[np.ndarray]) -> Any:
    """Rows of a held-out picture, what was known of it, and for each NFE ours and RePaint's."""
    values = edit.values_of(run)
    shown = as_display(truth[:SHOWN], values)
    known = tinted(shown, np.broadcast_to(unknown, (len(shown), *unknown.shape[1:])))
    row = np.stack([shown, known, *(as_display(part[:SHOWN], values) for part in columns)], axis=1)
    return tile(row.reshape(-1, *row.shape[2:]), columns=row.shape[1])


if __name__ == "__main__":
    main()
