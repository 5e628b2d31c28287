"""Which words does a denoiser of `shapes` know? It is used as a classifier (Li et al. 2023), without drawing anything.

A picture is noised, and denoised with its true caption and with one in which something is exchanged, from the same
noise. Printed is in how many per cent of pictures the true caption has the smaller error, at each sigma; 50 is chance.
Things that were never trained on are among the pictures. Exchanged are

- one: the shape, colour or size of the only thing, for another one;
- two: the shape or colour of the first of two things, for one that neither has;
- bound: the colours, or the shapes, of two things with one another: the same words, at other places in the sentence;
- order: the relation for its opposite (left for right): the same words as if the things had been named in turn.

Usage: python words.py RUN [RUN ...] [-n 160] [--sigmas 1,2,4,8] [--threads 1]
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import unblot
from shapes_judge import HELD_OUT_SEED
from unblot.data.readers.shapes import COLOURS, OPPOSITES, SHAPES, SIZES, Scene, captions, render, scenes
from unblot.data.values import ValueMap
from unblot.process.levels import NoiseLevel, corrupt
from unblot.process.randomness import normal, picture_generators

WORDS_SEED = HELD_OUT_SEED + 2  # of the pictures
CHOICES = {"shape": list(SHAPES), "colour": list(COLOURS), "size": list(SIZES)}


def other(attribute: str) -> Callable[[Scene], Scene]:
    """Exchanges an attribute of the first thing for the next one in its list that nothing in the scene has."""

    def exchange(scene: Scene) -> Scene:
        first, *rest = scene.things
        choices, taken = CHOICES[attribute], {getattr(thing, attribute) for thing in scene.things}
        start = choices.index(getattr(first, attribute))
        new = next(c for c in choices[start:] + choices[:start] if c not in taken)
        return replace(scene, things=(replace(first, **{attribute: new}), *rest))

    return exchange


def swapped(attribute: str) -> Callable[[Scene], Scene]:
    """Exchanges an attribute of the two things."""

    def exchange(scene: Scene) -> Scene:
        values = [getattr(thing, attribute) for thing in scene.things]
        things = [replace(thing, **{attribute: v}) for thing, v in zip(scene.things, values[::-1], strict=True)]
        return replace(scene, things=tuple(things))

    return exchange


def turned(scene: Scene) -> Scene:
    """The scene with the opposite relation."""
    return replace(scene, relation=OPPOSITES[scene.relation])


EXCHANGES: dict[str, tuple[int, Callable[[Scene], Scene]]] = {  # how many things the pictures have, and what is done
    "one: shape": (1, other("shape")),
    "one: colour": (1, other("colour")),
    "one: size": (1, other("size")),
    "two: shape": (2, other("shape")),
    "two: colour": (2, other("colour")),
    "bound: colours": (2, swapped("colour")),
    "bound: shapes": (2, swapped("shape")),
    "order: relation": (2, turned),
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    groups = {things: pictured(things, args.n) for things in (1, 2)}
    print("per cent at sigma " + ", ".join(f"{sigma:g}" for sigma in args.sigmas))
    for path in args.runs:
        run = unblot.load(path)
        for name, (things, exchange) in EXCHANGES.items():
            found = [100 * known(run, groups[things], exchange, sigma) for sigma in args.sigmas]
            print(f"{path.name:<20}{name:<18}" + "".join(f"{share:>6.0f}" for share in found), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs of shapes")
    parser.add_argument("-n", type=int, default=160, help="pictures of each group")
    parser.add_argument("--sigmas", type=lambda t: [float(s) for s in t.split(",")], default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def pictured(things: int, n: int) -> list[Scene]:
    """n scenes of so many things; of two, no two of one colour or shape, since these cannot be exchanged."""
    found = [scene for scene in scenes(WORDS_SEED, 8 * n, left_out=False) if len(scene.things) == things]
    differ = [s for s in found if all(len({getattr(t, a) for t in s.things}) == things for a in ("colour", "shape"))]
    return differ[:n]


@torch.no_grad()
def known(run: unblot.Run, group: Sequence[Scene], exchange: Callable[[Scene], Scene], sigma: float) -> float:
    """The share of pictures whose true caption has a smaller error than that of the exchanged scene."""
    denoiser, values = run.denoiser.eval(), ValueMap.from_dict(run.config.data.values)
    pictures = np.stack([render(scene, run.config.data.height) for scene in group])
    x0 = denoiser.latents(torch.from_numpy(values.encode(pictures, np.float32)))
    total = (1 + sigma**2) ** 0.5
    level = NoiseLevel(torch.tensor(1 / total).double(), torch.tensor(sigma / total).double())
    x_t = corrupt(x0, level, normal(picture_generators(0, range(len(group))), x0.shape[1:]))
    errors = []
    for said in (group, [exchange(scene) for scene in group]):
        condition = denoiser.condition(captions=[captions(scene)[0] for scene in said])
        errors.append((denoiser(x_t, level, condition).x0 - x0).square().mean((1, 2, 3)))
    return float((errors[0] < errors[1]).float().mean())


if __name__ == "__main__":
    main()
