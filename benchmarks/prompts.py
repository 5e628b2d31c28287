"""Are prompts obeyed, also those of combinations that were never seen? A judge reads what a run of `shapes` drew.

The prompts are the full captions of scenes that no training had (from their own seed), in four groups: one thing, and
two; seen combinations, and those that training leaves out (of one thing the colour of its shape; of two which of them
lies on which side of the other). The judge is benchmarks/shapes_judge.py: trained on real renderings, examined on
others, and refused below 99 %. For every number of steps and every guidance: the share that is right, by attribute.

One thing: right in colour, shape, size. Two things: also in relation. A wrong number of things is wrong in everything.
Usage: python prompts.py --run DIR [--minutes 10] [-n 64] [--steps 4,8,16,50] [--guidance 1,1.5,3] [--guidance-low 0]
       [--solver NAME] --out FILE
With --minutes the run is trained first, by `unblot train shapes:size=SIZE --budget`.
"""

import argparse
import itertools
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import unblot
from shapes_judge import HELD_OUT_SEED, Reading, load_judge, reading_of, right, shares
from unblot.data.cache.build import cache_folder
from unblot.data.output import sheet
from unblot.data.readers.shapes import LEFT_OUT, Scene, captions, is_left_out, scenes
from unblot.data.values import ValueMap

PROMPT_SEED = HELD_OUT_SEED + 1  # of the scenes that prompts describe
SHOWN = 32  # pictures of each group on the sheet


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    judge, examination = load_judge(args.judge or cache_folder() / "judges")
    if args.minutes:
        data = f"shapes:size={args.size}"
        unblot.train(data, out=args.run, budget=f"{args.minutes:g}m", quiet=True)
    run = unblot.load(args.run)
    asked = {name: group[: args.n] for name, group in groups(PROMPT_SEED, args.n).items()}
    rows = []
    for steps, guidance in itertools.product(args.steps, args.guidance):
        start = time.perf_counter()
        how = {"steps": steps, "guidance": guidance, "guidance_low": args.guidance_low, "solver": args.solver}
        for name, group in asked.items():
            samples = run.sample(len(group), prompt=[captions(scene)[0] for scene in group], seed=1, **how)
            seen = judge.read(samples.array)
            rows.append({"group": name, **how, "n": len(group), **marks(group, seen)})
            if args.sheets:
                args.sheets.mkdir(parents=True, exist_ok=True)
                picture = sheet(samples.array[:SHOWN], ValueMap.from_dict(run.config.data.values), columns=8)
                picture.save(args.sheets / f"{name.replace(' ', '-')}-{steps}-{guidance:g}.png")
        print(f"{steps} steps, guidance {guidance:g}: {time.perf_counter() - start:.0f} s", flush=True)
    result = {"judge": examination, "run": about(run), "rows": rows}
    args.out.write_text(json.dumps(result, indent=2))
    print(table(rows))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run of shapes; where it is trained, with --minutes")
    parser.add_argument("--minutes", type=float, default=0, help="train the run first, for so long")
    parser.add_argument("--size", type=int, default=32, help="pixels of the pictures to train on")
    parser.add_argument("-n", type=int, default=64, help="prompts of each group")
    parser.add_argument("--steps", type=numbers(int), default=[4, 8, 16, 50])
    parser.add_argument("--guidance-low", type=float, default=0.0, help="no guidance where sigma/alpha is below")
    parser.add_argument("--solver", metavar="NAME[:OPTIONS]", help="as in unblot sample")
    parser.add_argument("--guidance", type=numbers(float), default=[1.0, 1.5, 3.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--judge", type=Path, help="folder where the judge is kept (default: in the dataset cache)")
    parser.add_argument("--sheets", type=Path, help="folder for sheets of what was drawn")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def numbers(kind: type) -> Any:
    """A reader of numbers with commas between."""
    return lambda text: [kind(part) for part in text.split(",")]


def groups(seed: int, n: int) -> dict[str, list[Scene]]:
    """n scenes of each group; of two things alike there are none, since they have no order."""
    found: dict[str, list[Scene]] = {
        f"{things}, {seen}": [] for things in ("one", "two") for seen in ("seen", "left out")
    }
    for scene in itertools.chain.from_iterable(scenes(seed + k, 200, left_out=False) for k in itertools.count()):
        if all(len(group) == n for group in found.values()):
            break
        if scene.alike:
            continue
        strange = any((thing.colour, thing.shape) in LEFT_OUT.shapes for thing in scene.things)
        if len(scene.things) == 2 and strange:
            continue  # of two things only the relation is to be new
        group = found[f"{'one' if len(scene.things) == 1 else 'two'}, {'left out' if is_left_out(scene) else 'seen'}"]
        if len(group) < n:
            group.append(scene)
    return found


def marks(group: list[Scene], seen: list[Reading]) -> dict[str, float]:
    """The share that is right, by attribute."""
    return shares([right(reading_of(scene), reading) for scene, reading in zip(group, seen, strict=True)])


def about(run: unblot.Run) -> dict[str, Any]:
    """What the run is, and the machine."""
    train = run.config.train
    return {
        "data": run.config.data.name,
        "size": run.config.data.height,
        "network": train.network,
        "steps": train.steps,
        "batch_size": train.batch_size,
        "budget": train.budget,
        "parameters": sum(p.numel() for p in run.denoiser.parameters()),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each group, number of steps and guidance; shares in per cent."""
    names = ("colour", "shape", "size", "relation", "all")
    lines = [f"{'group':<14}{'steps':>6}{'guidance':>10}" + "".join(f"{name:>10}" for name in names)]
    for row in sorted(rows, key=lambda row: row["group"]):
        cells = "".join(f"{100 * row[name]:>10.1f}" if name in row else f"{'':>10}" for name in names)
        lines.append(f"{row['group']:<14}{row['steps']:>6}{row['guidance']:>10g}{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
