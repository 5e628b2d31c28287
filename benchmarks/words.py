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
from torch import Tensor

import unblot
from prompts import numbers
from shapes_judge import HELD_OUT_SEED, VALUES
from unblot.data.readers.shapes import OPPOSITES, Scene, captions, render, scenes
from unblot.data.values import ValueMap
from unblot.process.levels import NoiseLevel, corrupt
from unblot.process.randomness import normal, picture_generators

WORDS_SEED = HELD_OUT_SEED + 2  # of the pictures
Exchange = Callable[[Scene], Scene]


def other(attribute: str) -> Exchange:
    """Exchanges an attribute of the first thing for the next one in its list that nothing in the scene has."""

    def exchange(scene: Scene) -> Scene:
        first, *rest = scene.things
        choices, taken = VALUES[attribute], {getattr(thing, attribute) for thing in scene.things}
        start = choices.index(getattr(first, attribute))
        new = next(c for c in choices[start:] + choices[:start] if c not in taken)
        return replace(scene, things=(replace(first, **{attribute: new}), *rest))

    return exchange


def swapped(attribute: str) -> Exchange:
    """Exchanges an attribute of the two things."""

    def exchange(scene: Scene) -> Scene:
        values = [getattr(thing, attribute) for thing in scene.things]
        things = [replace(thing, **{attribute: v}) for thing, v in zip(scene.things, values[::-1], strict=True)]
        return replace(scene, things=tuple(things))

    return exchange


def turned(scene: Scene) -> Scene:
    """The scene with the opposite relation."""
    return replace(scene, relation=OPPOSITES[scene.relation])


EXCHANGES: dict[int, dict[str, Exchange]] = {  # what is done to pictures of so many things
    1: {"one: shape": other("shape"), "one: colour": other("colour"), "one: size": other("size")},
    2: {
        "two: shape": other("shape"),
        "two: colour": other("colour"),
        "bound: colours": swapped("colour"),
        "bound: shapes": swapped("shape"),
        "order: relation": turned,
    },
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    groups = {things: pictured(things, args.n) for things in EXCHANGES}
    print("per cent at sigma " + ", ".join(f"{sigma:g}" for sigma in args.sigmas))
    for path in args.runs:
        run = unblot.load(path)
        for things, exchanges in EXCHANGES.items():
            found = known(run, groups[things], list(exchanges.values()), args.sigmas)
            for name, shares in zip(exchanges, found, strict=True):
                print(f"{path.name:<20}{name:<18}" + "".join(f"{100 * x:>6.0f}" for x in shares), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs of shapes")
    parser.add_argument("-n", type=int, default=160, help="pictures of each group")
    parser.add_argument("--sigmas", type=numbers(float), default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def pictured(things: int, n: int) -> list[Scene]:
    """n scenes of so many things; of two, no two of one colour or shape, since these cannot be exchanged."""
    found = [scene for scene in scenes(WORDS_SEED, 8 * n, left_out=False) if len(scene.things) == things]
    differ = [s for s in found if all(len({getattr(t, a) for t in s.things}) == things for a in ("colour", "shape"))]
    return differ[:n]


@torch.no_grad()
def known(
    run: unblot.Run, group: Sequence[Scene], exchanges: Sequence[Exchange], sigmas: Sequence[float]
) -> list[list[float]]:
    """For each exchange and sigma the share of pictures whose true caption has the smaller error."""
    denoiser, values = run.denoiser.eval(), ValueMap.from_dict(run.config.data.values)
    pictures = np.stack([render(scene, run.config.data.height) for scene in group])
    x0 = denoiser.latents(torch.from_numpy(values.encode(pictures, np.float32)))
    eps = normal(picture_generators(0, range(len(group))), x0.shape[1:])

    def errors(said: Sequence[Scene]) -> list[Tensor]:
        """Those of these captions, (n,) at each sigma."""
        condition = denoiser.encoded(denoiser.condition(captions=[captions(scene)[0] for scene in said]))
        levels = [NoiseLevel(torch.tensor(1.0).double(), torch.tensor(sigma).double()) for sigma in sigmas]
        return [
            (denoiser(corrupt(x0, level, eps), level, condition).x0 - x0).square().mean((1, 2, 3)) for level in levels
        ]

    true = errors(group)
    false = [errors([exchange(scene) for scene in group]) for exchange in exchanges]
    return [[(a < b).double().mean().item() for a, b in zip(true, those, strict=True)] for those in false]


if __name__ == "__main__":
    main()
