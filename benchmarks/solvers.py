"""Fréchet distance against evaluations, for every solver and grid, and for what tuning found: a table and a chart.

    python benchmarks/solvers.py --run runs/mnist --limit 60
    python benchmarks/solvers.py --run runs/mnist --pictures 500 --cells "tuned,| karras | 10,unipc | karras"
    python benchmarks/solvers.py --minutes 20 --run runs/new      (trains a model of MNIST, and tunes it, first)

Every cell is measured on as many pictures from the same noise, in the features of a small classifier of MNIST's
labels, against its 10,000 test pictures; of a run of other data against that data, as `unblot tune` does. Cells are
kept in RUN/report/solvers-PICTURES.json as they are done, and a second call goes on. All solvers go through the run's
own grid, and some solvers through all grids; `--all` takes every pair. `learned` is the grid that a fine run of this
model suggests, `tuned` what `unblot tune` has chosen. The 1000 steps of ddpm and ddim on grid time are the reference.
"""

import argparse
import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unblot
from damage import load
from measure import machine
from unblot import api
from unblot.data.values import ValueMap
from unblot.evaluation.distances import moments
from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.process.schedules import SCHEDULES
from unblot.runs.tuning_store import read_tuning
from unblot.sampling.settings import SamplerConfig, front, sampler_for
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS, spec_of
from unblot.specs import build
from unblot.system.files import write_json, write_text
from unblot.tuning.learned_spacing import learned_spacing
from unblot.tuning.reference import ReferenceStatistics, reference_statistics
from unblot.tuning.screening import reference_trajectories

COUNTS = (5, 6, 8, 10, 15, 20, 50)
BROAD = ("ddim", "dpmpp_2m", "unipc", "deis")  # solvers that go through every grid
EXTRA = ("unipc:order=3", "dpmpp_2m_sde:eta=0.5")
FINE = 1000
RESAMPLES = 20
COLOURS = ("#e07b00", "#2c7a4b", "#8e44ad", "#b3342d", "#008b8b", "#777700")


def mnist() -> ReferenceStatistics:
    """MNIST's test pictures, seen by a classifier of its training pictures, which are the floor."""
    training, test = load("mnist")
    source = FeatureData(ImageSet(training.pictures), training.labels, 10, api.cache_folder() / "features")
    features = build_features("classifier", source)
    reference, real = (extract(features, [part.pictures]) for part in (test, training))
    return ReferenceStatistics(features, moments(reference), "MNIST test pictures", len(reference), real)


def cells(run: unblot.Run, every: bool) -> dict[str, SamplerConfig]:
    """The settings to measure, by "solver | grid | evaluations": the tuned ones, and then the cheap ones first."""
    train = run.config.train
    schedule, own = build(SCHEDULES, train.schedule, "schedule"), train.spacing.partition(":")[0]
    trajectory = reference_trajectories(run, api.open_dataset(run.config.source, quiet=True), seed=0).trajectory
    found: dict[str, SamplerConfig | None] = {}
    if tuning := read_tuning(run.path, run.denoiser):
        found |= {f"tuned | tuned | {candidate.nfe}": candidate.sampler for candidate in front(tuning.candidates)}
    for calls in COUNTS:
        for solver in (*SOLVERS, *EXTRA):
            for spacing in SPACINGS:
                if spacing != "listed" and (every or solver in BROAD or spacing == own):
                    found[f"{solver} | {spacing} | {calls}"] = sampler_for(solver, spacing, calls, schedule)
            each = build(SOLVERS, solver, "solver").nfe
            if each and (every or solver in BROAD):
                steps = (calls - 1) // each + 1
                found[f"{solver} | learned | {calls}"] = SamplerConfig(
                    solver, spec_of(learned_spacing(trajectory, steps)), steps
                )
    found |= {f"{solver} | time | {FINE}": SamplerConfig(solver, "time", FINE) for solver in ("ddim", "ddpm")}
    return {name: sampler for name, sampler in found.items() if sampler is not None}


def measured(run: unblot.Run, sampler: SamplerConfig, yard: ReferenceStatistics, n: int) -> dict[str, float]:
    """Distance of n pictures, its bootstrap standard deviation, and the seconds that sampling them took."""
    start = time.perf_counter()
    label = "all" if run.config.data.classes else None
    array = run.sample(n, **dataclasses.asdict(sampler), label=label, seed=0, batch_size=100).array
    seconds = time.perf_counter() - start
    encoded = ValueMap.from_dict(run.config.data.values).encode(array, np.float32)
    seen = yard.see([torch.from_numpy(encoded)])
    g = torch.Generator().manual_seed(0)
    second_noise = [yard.distance(seen[torch.randint(0, n, (n,), generator=g)]) for _ in range(RESAMPLES)]
    return {"distance": yard.distance(seen), "deviation": float(np.std(second_noise)), "seconds": round(seconds, 2)}


def table(done: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a row for each solver and grid, a column for each NFE."""
    split = {name: name.split(" | ") for name in done}
    counts = sorted({int(calls) for _, _, calls in split.values()})
    lines = ["| solver | grid | " + " | ".join(map(str, counts)) + " |", "|---|---|" + "---|" * len(counts)]
    for row in dict.fromkeys((solver, spacing) for solver, spacing, _ in split.values()):
        shown = [done.get(f"{row[0]} | {row[1]} | {calls}") for calls in counts]
        lines.append(
            f"| {row[0]} | {row[1]} | " + " | ".join(f"{c['distance']:.2f}" if c else "" for c in shown) + " |"
        )
    return "\n".join(lines)


def chart(done: dict[str, dict[str, float]], floor: float | None) -> str:
    """An SVG: a line for each solver and grid, the tuned front in bold, the 1000-step distances and the floor."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for name, cell in done.items():
        solver, spacing, calls = name.split(" | ")
        lines.setdefault((solver, spacing), []).append((int(calls), cell["distance"]))
    fine = {row[0]: d for row, points in lines.items() for calls, d in points if calls == FINE}
    short = {row: sorted(p for p in points if p[0] < FINE) for row, points in lines.items()}
    short = {row: points for row, points in short.items() if points}
    metrics = [d for points in short.values() for _, d in points] + list(fine.values()) + ([floor] if floor else [])
    low, high = math.log(min(metrics) / 1.15), math.log(min(max(metrics), 40 * min(metrics)) * 1.1)

    def x(calls: float) -> float:
        return 60 + 560 * math.log(calls / 4) / math.log(50 / 4)

    def y(distance: float) -> float:
        return 440 - 420 * min(1.0, (math.log(distance) - low) / (high - low))

    parts = [f'<text x="{x(c):.0f}" y="462" text-anchor="middle">{c}</text>' for c in (4, *COUNTS)]
    for tick in (m * 10.0**e for e in range(-2, 4) for m in (1, 2, 5)):
        if low < math.log(tick) < high:
            parts.append(f'<path d="M60 {y(tick):.1f}H620" stroke="#ddd"/>')
            parts.append(f'<text x="52" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    levels = {f"{solver}, {FINE} steps": d for solver, d in fine.items()} | ({"real pictures": floor} if floor else {})
    for words, d in levels.items():
        parts.append(f'<path d="M60 {y(d):.1f}H620" stroke="#b3342d" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="618" y="{y(d) - 4:.1f}" text-anchor="end">{words}: {d:.2f}</text>')
    best = sorted(short, key=lambda row: min(d for _, d in short[row]))
    named = [row for row in best if row[0] != "tuned"][: len(COLOURS)]
    for row, points in short.items():
        colour = "#1c5fb0" if row[0] == "tuned" else COLOURS[named.index(row)] if row in named else "#ccc"
        width = 3 if row[0] == "tuned" else 1.5
        path = " ".join(f"{x(calls):.1f},{y(d):.1f}" for calls, d in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
    legend = {("tuned", "tuned"): "#1c5fb0"} | dict(zip(named, COLOURS, strict=False))
    for i, (row, colour) in enumerate((row, colour) for row, colour in legend.items() if row in short):
        at = 30 + 20 * i
        parts.append(f'<path d="M640 {at}h24" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="670" y="{at + 4}">{row[0]}, {row[1]}</text>')
    parts.append('<text x="340" y="484" text-anchor="middle">network calls a picture takes</text>')
    style = 'font-family="system-ui, sans-serif" font-size="13" fill="#333"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 495" {style}>'
    return head + '<rect width="960" height="495" fill="white"/>' + "".join(parts) + "</svg>\n"


def prepared(path: Path, minutes: float) -> unblot.Run:
    """The run in a folder; where none is there, a model of MNIST is trained for so many minutes, and tuned."""
    if not path.exists():
        data = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mnist.npz"
        start, candidate = time.perf_counter(), {"out": path, "unlabelled": True, "quiet": True, "preview_every": 0}
        unblot.train(str(data), **candidate, steps=60)
        seconds = (time.perf_counter() - start) / 60
        unblot.train(str(data), **candidate, steps=max(100, int(minutes * 60 / seconds)), overwrite=True)
        unblot.tune(path)
    return unblot.load(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/mnist-solvers"))
    parser.add_argument("--minutes", type=float, default=20, help="to train for, where there is no such run")
    parser.add_argument("--pictures", type=int, default=2000, help="of each cell")
    parser.add_argument("--cells", default="", help="only cells whose name has one of these in it, joined by commas")
    parser.add_argument("--limit", type=float, default=float("inf"), help="minutes after which no cell is begun")
    parser.add_argument("--all", action="store_true", help="every solver on every grid")
    args = parser.parse_args()
    begun = time.monotonic()
    run = prepared(args.run, args.minutes)
    yard = (
        mnist()
        if run.config.data.shape == (1, 28, 28)
        else reference_statistics(api.open_dataset(run.config.source, quiet=True))
    )
    about = {"pictures": args.pictures, "reference": f"{yard.count} {yard.name}", "features": yard.features.name}
    path = run.path / "report" / f"solvers-{args.pictures}.json"
    path.parent.mkdir(exist_ok=True)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    done = kept["cells"] if kept.get("about") == about else {}
    for name, sampler in cells(run, args.all).items():
        describe_sampler = json.dumps(dataclasses.asdict(sampler))
        if (
            not any(part in name for part in args.cells.split(","))
            or done.get(name, {}).get("setting") == describe_sampler
        ):
            continue
        if time.monotonic() - begun > 60 * args.limit:
            break
        done[name] = {**measured(run, sampler, yard, args.pictures), "setting": describe_sampler}
        print(f"{name}: {done[name]['distance']:.3f} ± {done[name]['deviation']:.3f}", flush=True)
        write_json(path, {"about": about, "floor": yard.floor(args.pictures), "machine": machine(), "cells": done})
    print(f"\n{table(done)}\n\nfloor: {yard.floor(args.pictures)}")
    if done:
        write_text(path.with_suffix(".svg"), chart(done, yard.floor(args.pictures)))


if __name__ == "__main__":
    main()
