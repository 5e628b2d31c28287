"""Distance over NFE, for every solver and spacing, and for the tuned candidates: a table and a chart.

    python benchmarks/solvers.py --run runs/mnist --limit 60
    python benchmarks/solvers.py --run runs/mnist --pictures 500 --cells "tuned,| karras | 10,unipc | karras"
    python benchmarks/solvers.py --minutes 20 --run runs/new      (trains a model of MNIST, and tunes it, first)

Every cell is measured on as many pictures from the same noise, in the features of a small classifier of MNIST's
labels, against its 10,000 test pictures; of a run of other data against that data, as `unblot tune` does. Cells are
stored in RUN/report/solvers-PICTURES.json when they are done, and a second call goes on. All solvers are measured on
the run's own spacing, and some on every spacing; `--all` takes every pair. `learned` is the spacing that fine
trajectories of this model suggest, `tuned` what `unblot tune` has chosen. The 1000 steps of ddpm and ddim on spacing
time are the reference.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import unblot
from damage import load
from measure import machine
from unblot import api
from unblot.evaluation.distances import DistanceTo
from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.process.schedules import SCHEDULES
from unblot.runs.tuning_store import read_tuning
from unblot.sampling.settings import SamplerConfig, front, sampler_for
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS, spec_of
from unblot.specs import build
from unblot.system.files import write_json, write_text
from unblot.system.plots import log_axis, svg_file
from unblot.tuning.learned_spacing import learned_spacing
from unblot.tuning.reference import Reference, reference_of
from unblot.tuning.screening import reference_trajectories

COUNTS = (5, 6, 8, 10, 15, 20, 50)
BROAD = ("ddim", "dpmpp_2m", "unipc", "deis")  # solvers that are measured on every spacing
EXTRA = ("unipc:order=3", "dpmpp_2m_sde:eta=0.5")
FINE = 1000
BLUE, NAMED = "#1c5fb0", ("#e07b00", "#2c7a4b", "#8e44ad", "#b3342d", "#008b8b", "#777700")


def mnist() -> Reference:
    """MNIST's test pictures in the features of a classifier of its training pictures, which give the floor."""
    training, test = load("mnist")
    source = FeatureData(ImageSet(training.pictures), training.labels, 10, api.cache_folder() / "features")
    features = build_features("classifier", source)
    reference, real = (extract(features, [part.pictures]) for part in (test, training))
    return Reference(features, DistanceTo(reference), "MNIST test pictures", real)


def cells(run: unblot.Run, every: bool) -> dict[str, SamplerConfig]:
    """The samplers to measure, by "solver | spacing | NFE": first the tuned ones, then by rising NFE."""
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


def measured(run: unblot.Run, sampler: SamplerConfig, reference: Reference, n: int) -> dict[str, float]:
    """Distance of n pictures, its bootstrap standard deviation, and the seconds that sampling them took."""
    start = time.perf_counter()
    label = "all" if run.config.data.classes else None
    samples = run.sample(n, **dataclasses.asdict(sampler), label=label, seed=0, batch_size=100)
    seconds = time.perf_counter() - start
    seen = reference.see(samples)
    deviation = float(reference.distance.resampled(seen).std())
    return {"distance": reference.distance(seen), "deviation": deviation, "seconds": round(seconds, 2)}


def table(done: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a row for each solver and spacing, a column for each NFE."""
    split = {name: name.split(" | ") for name in done}
    counts = sorted({int(calls) for _, _, calls in split.values()})
    lines = ["| solver | spacing | " + " | ".join(map(str, counts)) + " |", "|---|---|" + "---|" * len(counts)]
    for row in dict.fromkeys((solver, spacing) for solver, spacing, _ in split.values()):
        shown = [done.get(f"{row[0]} | {row[1]} | {calls}") for calls in counts]
        lines.append(
            f"| {row[0]} | {row[1]} | " + " | ".join(f"{c['distance']:.2f}" if c else "" for c in shown) + " |"
        )
    return "\n".join(lines)


def chart_of(done: dict[str, dict[str, float]], floor: float | None, distance: str) -> str:
    """An SVG file: a line for each solver and spacing, the tuned front in bold, the 1000-step distances, the floor."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for name, cell in done.items():
        solver, spacing, calls = name.split(" | ")
        lines.setdefault((solver, spacing), []).append((int(calls), cell["distance"]))
    fine = {row[0]: d for row, points in lines.items() for calls, d in points if calls == FINE}
    short = {row: sorted(p for p in points if p[0] < FINE) for row, points in lines.items()}
    short = {row: points for row, points in short.items() if points}
    values = [d for points in short.values() for _, d in points] + list(fine.values()) + ([floor] if floor else [])
    top = min(max(values), 40 * min(values)) * 1.1
    best = sorted(short, key=lambda row: min(d for _, d in short[row]))
    named = {("tuned", "tuned"): BLUE} | dict(zip((row for row in best if row[0] != "tuned"), NAMED))

    def draw(axes: Any) -> None:
        for row, points in sorted(short.items(), key=lambda item: item[0] in named):
            look = {"color": named.get(row, "#cccccc"), "linewidth": 3 if row[0] == "tuned" else 1.5}
            label = ", ".join(row) if row in named else None
            axes.plot([calls for calls, _ in points], [min(d, top) for _, d in points], label=label, **look)
        levels = {f"{solver}, {FINE} steps": d for solver, d in fine.items()}
        levels |= {"real pictures": floor} if floor else {}
        for (words, distance), style in zip(levels.items(), ("--", ":", "-.")):
            axes.axhline(distance, color="#b3342d", linestyle=style, label=f"{words}: {distance:.2f}")
        log_axis(axes, "y", min(values) / 1.15, top)
        log_axis(axes, "x", 3.8, 53)
        axes.set_xticks([4, *COUNTS])
        axes.set(xlabel="NFE (network calls for a picture)", ylabel=distance)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return svg_file(960, 495, f"{distance} over NFE", draw)


def prepared(path: Path, minutes: float) -> unblot.Run:
    """The run in a folder; where none is there, a model of MNIST is trained for this many minutes, and tuned."""
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
    parser.add_argument("--all", action="store_true", help="every solver on every spacing")
    args = parser.parse_args()
    begun = time.monotonic()
    run = prepared(args.run, args.minutes)
    reference = (
        mnist()
        if run.config.data.shape == (1, 28, 28)
        else reference_of(api.open_dataset(run.config.source, quiet=True))
    )
    about = {
        "pictures": args.pictures,
        "reference": f"{reference.count} {reference.name}",
        "features": reference.features.name,
        "distance": reference.distance.name(args.pictures),
    }
    path = run.path / "report" / f"solvers-{args.pictures}.json"
    path.parent.mkdir(exist_ok=True)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    done = kept["cells"] if kept.get("about") == about else {}
    for name, sampler in cells(run, args.all).items():
        described = json.dumps(dataclasses.asdict(sampler))
        if not any(part in name for part in args.cells.split(",")) or done.get(name, {}).get("sampler") == described:
            continue
        if time.monotonic() - begun > 60 * args.limit:
            break
        done[name] = {**measured(run, sampler, reference, args.pictures), "sampler": described}
        print(f"{name}: {done[name]['distance']:.3f} ± {done[name]['deviation']:.3f}", flush=True)
        write_json(path, {"about": about, "floor": reference.floor(args.pictures), "machine": machine(), "cells": done})
    print(f"\n{table(done)}\n\nfloor: {reference.floor(args.pictures)}")
    if done:
        write_text(path.with_suffix(".svg"), chart_of(done, reference.floor(args.pictures), about["distance"]))


if __name__ == "__main__":
    main()
