"""A judge of the built-in `shapes`: reads from a picture how many shapes there are, how they lie, and what each is.

It is trained on renderings of every combination, those that training leaves out too, and is trusted only where it reads
renderings that it never saw rightly: see `examine`. Things are read in the order in which they lie, from the left or
from above, so that relations need no search: "a left of b" and "b right of a" are the same.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unblot.data.readers.shapes import COLOURS, OPPOSITES, SHAPES, SIZES, Scene, Thing, render, scenes
from unblot.evaluation.fitting import fit

SIDE = 32  # pixels; larger pictures are averaged down to it
LAYOUTS = ("one", "beside", "above")  # one thing, two beside each other, one above the other
VALUES = {"colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES)}
HEADS = {"layout": 3} | {f"{name} {i}": len(values) for i in range(2) for name, values in VALUES.items()}
LEARNED, EPOCHS, BATCH, RATE = 16_000, 12, 64, 2e-3
TRAIN_SEED, HELD_OUT_SEED = 1001, 1002  # of scenes; runs train on seed 0
VERSION = 1
NEEDED = 0.99


class Reading(NamedTuple):
    """What is to be seen: a layout of LAYOUTS, and the (colour, shape, size) of each thing, from the left or above."""

    layout: str
    things: tuple[tuple[str, str, str], ...]


def reading_of(scene: Scene) -> Reading:
    """What a scene shows."""
    things = tuple((thing.colour, thing.shape, thing.size) for thing in scene.things)
    if len(things) == 1:
        return Reading("one", things)
    return Reading(
        "beside" if scene.relation in ("left", "right") else "above",
        things if scene.relation in ("left", "above") else things[::-1],
    )


def right(asked: Reading, seen: Reading) -> dict[str, bool]:
    """For each attribute whether what is seen is as asked; "all" for everything at once.

    Another number of things is wrong in everything. The relation is right where the layout is, and no better fit is had
    by exchanging the two things; their attributes are judged in the order that fits better.
    """
    if len(asked.things) != len(seen.things):
        names = [*VALUES, *(["relation"] if len(asked.things) == 2 else [])]
        return dict.fromkeys([*names, "all"], False)
    fit, swapped = (agreements(asked.things, things) for things in (seen.things, seen.things[::-1]))
    in_order = int(fit.sum()) >= int(swapped.sum())
    best = fit if in_order else swapped
    found = {name: bool(best[:, i].all()) for i, name in enumerate(VALUES)}
    if len(asked.things) == 2:
        found["relation"] = in_order and asked.layout == seen.layout
    return found | {"all": all(found.values())}


def agreements(a: Sequence[tuple[str, ...]], b: Sequence[tuple[str, ...]]) -> np.ndarray:
    """(things, attributes), bool."""
    return np.array([[x == y for x, y in zip(*pair, strict=True)] for pair in zip(a, b, strict=True)])


class Judge(nn.Module):
    """Four convolutions that keep the place, and a linear layer for each thing that is read."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Conv2d(widths[i], widths[i + 1], 3, 2 if i else 1, 1, bias=False)]
            layers += [nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 256), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, count) for name, count in HEADS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Scores of each head for pictures (B, 3, 32, 32) in 0 … 1."""
        features = self.trunk(4 * (x - 0.5))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> list[Reading]:
        """What is seen in pictures (N, 3, H, W) uint8."""
        self.eval()
        found: list[Reading] = []
        for part in torch.from_numpy(pictures).split(256):
            best = {name: scores.argmax(1).tolist() for name, scores in self(small(part)).items()}
            for i, layout in enumerate(best["layout"]):
                count = 1 if LAYOUTS[layout] == "one" else 2
                things = [[values[best[f"{n} {k}"][i]] for n, values in VALUES.items()] for k in range(count)]
                found.append(Reading(LAYOUTS[layout], tuple((c, shape, size) for c, shape, size in things)))
        return found


def small(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) uint8 as (B, 3, 32, 32) float32 in 0 … 1."""
    return F.adaptive_avg_pool2d(pictures.float() / 255, SIDE)


def load_judge(cache: Path) -> tuple[Judge, dict[str, Any]]:
    """The judge, from the folder `cache` where it was trained before, and how its examination went.

    Ends the program where it is not right often enough.
    """
    judge, path = Judge(), cache / f"shapes-judge-{VERSION}.safetensors"
    if path.is_file():
        judge.load_state_dict(load_file(path))
    else:
        start = time.process_time()
        train(judge)
        cache.mkdir(parents=True, exist_ok=True)
        save_file(judge.state_dict(), path)
        print(f"judge trained in {time.process_time() - start:.0f} s of CPU time", flush=True)
    found = examine(judge)
    print("judge", json.dumps(found), flush=True)
    poor = {name: share for name, share in found["right"].items() if name != "all" and share < NEEDED}
    if poor:
        raise SystemExit(f"the judge cannot be trusted: {poor}; needed is {NEEDED}")
    return judge, found


def train(judge: Judge) -> None:
    """Trains on LEARNED renderings; always the same weights."""
    torch.manual_seed(0)
    judge.load_state_dict(Judge().state_dict())
    drawn = scenes(TRAIN_SEED, LEARNED, left_out=False)
    pictures = torch.from_numpy(np.stack([render(scene, SIDE) for scene in drawn]))
    targets = encoded([reading_of(scene) for scene in drawn])

    def loss(chosen: Tensor) -> Tensor:
        scores = judge(small(pictures[chosen]))
        losses = [F.cross_entropy(scores[name], targets[name][chosen], ignore_index=-1) for name in HEADS]
        return torch.stack(losses).sum()

    fit(judge, loss, LEARNED, batch=BATCH, steps=EPOCHS * (LEARNED // BATCH), rate=RATE)


def encoded(readings: Sequence[Reading]) -> dict[str, Tensor]:
    """The index of the right answer of each head, (N,); -1 for a second thing that is not there."""
    found = {"layout": torch.tensor([LAYOUTS.index(reading.layout) for reading in readings])}
    for k in range(2):
        for i, (name, values) in enumerate(VALUES.items()):
            rows = [values.index(r.things[k][i]) if k < len(r.things) else -1 for r in readings]
            found[f"{name} {k}"] = torch.tensor(rows)
    return found


def examine(judge: Judge, count: int = 2000) -> dict[str, Any]:
    """How often the judge is right about renderings that it never saw, and how often it says no to a wrong one.

    right: by attribute, relation of those of two things. refused: of renderings with one attribute changed, the share
    that is called wrong in just that attribute or more.
    """
    drawn = scenes(HELD_OUT_SEED, count, left_out=False)
    asked = [reading_of(scene) for scene in drawn]
    seen = judge.read(np.stack([render(scene, SIDE) for scene in drawn]))
    refused = {}
    for name in (*VALUES, "relation"):
        pairs = [(a, changed(scene, name)) for a, scene in zip(asked, drawn) if name != "relation" or can_turn(scene)]
        wrong = judge.read(np.stack([render(scene, SIDE) for _, scene in pairs]))
        refused[name] = float(np.mean([not right(a, b)[name] for (a, _), b in zip(pairs, wrong, strict=True)]))
    return {"right": shares([right(a, b) for a, b in zip(asked, seen, strict=True)]), "refused": refused}


def shares(found: Sequence[dict[str, bool]]) -> dict[str, float]:
    """The share that is right, by attribute, of those that have it."""
    names = (*VALUES, "relation", "all")
    have = {name: [one[name] for one in found if name in one] for name in names}
    return {name: round(float(np.mean(values)), 4) for name, values in have.items() if values}


def can_turn(scene: Scene) -> bool:
    """Whether a scene is another one when its things change places: two things that are not alike."""
    return len(scene.things) == 2 and not scene.alike


def changed(scene: Scene, name: str) -> Scene:
    """The scene with one attribute of its first thing changed to the next value, or turned to the opposite relation."""
    if name == "relation":
        turned = [replace(thing, x=1 - thing.x, y=1 - thing.y) for thing in scene.things]
        return replace(scene, things=tuple(turned), relation=OPPOSITES[scene.relation])
    first = scene.things[0]
    values = VALUES[name]
    value = values[(values.index(getattr(first, name)) + 1) % len(values)]
    other: Thing = replace(first, **{name: value})
    if name == "colour":
        other = replace(other, rgb=COLOURS[value])
    return replace(scene, things=(other, *scene.things[1:]))
