"""The built-in shapes: what is said of a scene is true, what is left out never appears, and all else evenly."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

from unblot.data.dataset import open_data
from unblot.data.readers import shape_words
from unblot.data.readers.shapes import (
    COLOURS,
    GROUNDS,
    LEFT_OUT,
    OPPOSITES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    captions,
    is_left_out,
    render,
    scenes,
)
from unblot.errors import UnblotError

MANY = scenes(3, 4000)
GRAY = ((128, 128, 128), (128, 128, 128))
SIDES = {"to the left of": "left", "to the right of": "right", "left of": "left", "right of": "right"}
SIDES |= {"above": "above", "over": "above", "below": "below", "under": "below"}


def fits(words: str, thing: Thing) -> bool:
    """Whether all that words say of a shape is so, and its shape and its colour are among them."""
    said = set(words.removesuffix("s").split())
    facts = {thing.colour, thing.shape, thing.size}
    return said <= facts | {"a", "an", "in"} and said >= {thing.shape, thing.colour}


def true(sentence: str, scene: Scene) -> bool:
    """Whether an English sentence is true of a scene."""
    sentence, on, ground = sentence.partition(" on a ")
    if on and ground != f"{scene.ground} ground":
        return False
    first, last = scene.things[0], scene.things[-1]
    if sentence.startswith("two "):
        sentence, _, order = re.sub(" (side by side|one above the other)$", r"|\1", sentence).partition("|")
        beside = scene.relation in ("left", "right")
        right_order = order in ("", "side by side" if beside else "one above the other")
        words = sentence.removeprefix("two ").removesuffix("s")
        return scene.alike and right_order and set(words.split()) <= {first.colour, first.shape, first.size}
    for word, side in SIDES.items():
        one, found, other = sentence.partition(f" {word} ")
        if found:
            pairs = ((first, last, scene.relation), (last, first, OPPOSITES[scene.relation]))
            return any(fits(one, a) and fits(other, b) and side == s for a, b, s in pairs)
    return len(scene.things) == 1 and fits(sentence, first)


def test_all_that_is_said_is_true_and_the_first_sentence_says_all() -> None:
    for scene in MANY:
        said = captions(scene)
        assert 2 <= len(said) <= 3
        assert len(set(said)) == len(said)
        assert all(true(sentence, scene) for sentence in said), (said, scene)
        assert all({t.colour, t.shape, t.size} <= set(re.findall(r"\w+?(?=s?\b)", said[0])) for t in scene.things)
    changed = dataclasses.replace(MANY[0].things[0], size="")
    assert not all(true(s, dataclasses.replace(MANY[0], things=(changed,))) for s in captions(MANY[0]))


def test_chinese_names_the_same_things() -> None:
    for scene in MANY[:500]:
        said = captions(scene, "zh")
        words = [shape_words.CHINESE[word] for t in scene.things for word in (t.colour, t.shape, t.size)]
        assert all(word in said[0] for word in words)
        assert 2 <= len(set(said)) <= 3
        assert not any(re.search("[a-z]", sentence) for sentence in said)


def test_relations_are_what_is_seen() -> None:
    for scene in MANY:
        if scene.relation:
            a, b = scene.things
            dx, dy = a.x - b.x, a.y - b.y
            along = {"left": -dx, "right": dx, "above": -dy, "below": dy}[scene.relation]
            across = abs(dy if scene.relation in ("left", "right") else dx)
            assert along > 2 * across
        for thing in scene.things:
            assert 0 < min(thing.x, thing.y) < max(thing.x, thing.y) < 1


def test_shapes_do_not_touch_and_are_whole() -> None:
    for scene in MANY[:300]:
        alone = [render(dataclasses.replace(scene, things=(t,), ground="plain", tones=GRAY), 64) for t in scene.things]
        covered = [
            np.abs(picture.astype(int) - 128).sum(axis=0) > np.abs(np.array(t.rgb) - 128).sum() / 2
            for picture, t in zip(alone, scene.things)
        ]
        assert all(not (mask[[0, -1]].any() or mask[:, [0, -1]].any()) for mask in covered)
        assert len(covered) == 1 or not (covered[0] & covered[1]).any()


def test_what_is_left_out_never_appears_and_otherwise_appears() -> None:
    assert not any(map(is_left_out, MANY))
    share = sum(map(is_left_out, scenes(3, 2000, left_out=False))) / 2000
    assert 0.1 < share < 0.4
    assert all(colour in COLOURS and shape in SHAPES for colour, shape in LEFT_OUT.shapes)
    assert all((c, s) not in LEFT_OUT.shapes and side in OPPOSITES for c, s, side in LEFT_OUT.relations)


@pytest.mark.parametrize("attribute", ["colour", "shape", "size", "relation", "ground"])
def test_values_are_evenly_spread(attribute: str) -> None:
    if attribute in ("relation", "ground"):
        seen = Counter(getattr(scene, attribute) for scene in MANY)
        seen.pop("", None)
    else:
        seen = Counter(getattr(thing, attribute) for scene in MANY for thing in scene.things)
    values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "relation": OPPOSITES, "ground": GROUNDS}[attribute]
    assert set(seen) == set(values)
    mean = sum(seen.values()) / len(seen)
    assert all(abs(count - mean) < 4.5 * mean**0.5 for count in seen.values()), seen


def test_a_picture_follows_from_its_seed_and_number() -> None:
    assert scenes(5, 9)[:4] == scenes(5, 4) != scenes(6, 4)
    few, more = open_data("shapes:count=40,seed=5"), open_data("shapes:count=50,seed=5")
    assert (few.pictures == more.pictures[:40]).all()
    assert few.captions == more.captions[:40] if more.captions else False
    assert (few.shape, few.pictures.dtype, few.labels) == ((3, 32, 32), np.uint8, None)
    assert open_data("shapes:count=2,size=48").shape == (3, 48, 48)
    assert open_data("shapes:count=2,language=zh").captions == tuple(captions(s, "zh") for s in scenes(0, 2))
    for wrong in ("count=0", "size=4", "seed=-1", "language=tlh"):
        with pytest.raises(UnblotError, match=wrong.partition("=")[0]):
            open_data(f"shapes:{wrong}")


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_are_distinct_and_colours_are_those_of_the_name(shape: str) -> None:
    def area(size: str, colour: str) -> float:
        scene = Scene((Thing(colour, shape, size, 0.5, 0.5, COLOURS[colour]),), tones=GRAY)
        picture = render(scene).astype(float)
        full = np.array(COLOURS[colour], float)[:, None, None] - 128
        return float(np.abs(picture - 128).sum() / np.abs(full).sum())

    small, medium, large = (area(size, "black") for size in SIZES)
    assert medium > 1.6 * small
    assert large > 1.5 * medium
    nearest = render(Scene((Thing("red", shape, "small", 0.5, 0.5, COLOURS["red"]),), tones=GRAY)).reshape(3, -1)
    assert np.abs(nearest.T.astype(int) - COLOURS["red"]).sum(axis=1).min() == 0
