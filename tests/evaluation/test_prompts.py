"""The judge of prompts: what counts as right and as wrong, which prompts are asked, and how answers are read."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import prompts
import shapes_judge
from shapes_judge import LAYOUTS, VALUES, Judge, Reading, changed, encoded, reading_of, right
from unblot.data.readers.shapes import COLOURS, captions, is_left_out, render, scenes

RED, BLUE = ("red", "circle", "small"), ("blue", "square", "large")
SCENES = scenes(0, 60, left_out=False)
PAIRS = [scene for scene in SCENES if shapes_judge.can_turn(scene)]


def test_what_is_asked_is_right_in_everything() -> None:
    for scene in SCENES:
        assert all(right(reading_of(scene), reading_of(scene)).values())


@pytest.mark.parametrize("name", VALUES)
def test_one_attribute_changed_is_wrong_in_that_one_alone(name: str) -> None:
    for scene in SCENES[:20]:
        found = right(reading_of(scene), reading_of(changed(scene, name)))
        assert [key for key, yes in found.items() if not yes] == [name, "all"]
        assert not np.array_equal(render(scene), render(changed(scene, name)))


def test_things_in_each_others_places_are_wrong_in_relation_alone() -> None:
    for scene in PAIRS:
        found = right(reading_of(scene), reading_of(changed(scene, "relation")))
        assert [key for key, yes in found.items() if not yes] == ["relation", "all"]


def test_beside_is_not_above_and_one_thing_is_not_two() -> None:
    asked = Reading("beside", (RED, BLUE))
    assert right(asked, Reading("above", (RED, BLUE))) == {
        **dict.fromkeys(VALUES, True),
        **{"relation": False, "all": False},
    }
    assert not any(right(asked, Reading("one", (RED,))).values())
    assert not any(right(Reading("one", (RED,)), asked).values())


def test_left_of_is_right_of_the_other_way_round() -> None:
    left, turned = Reading("beside", (RED, BLUE)), Reading("beside", (BLUE, RED))
    for scene in PAIRS:
        first = scene.things[0]
        reading = reading_of(scene)
        low = reading.things[0] == (first.colour, first.shape, first.size)
        assert low == (scene.relation in ("left", "above"))
    assert right(left, turned)["relation"] is False


def test_groups_hold_what_they_say() -> None:
    groups = prompts.groups(3, 5)
    assert [len(group) for group in groups.values()] == [5, 5, 5, 5]
    for name, group in groups.items():
        for scene in group:
            assert len(scene.things) == (1 if name.startswith("one") else 2)
            assert is_left_out(scene) == name.endswith("left out")
            assert all(thing.colour in captions(scene)[0] for thing in scene.things)


def test_a_judge_that_answers_is_read_as_it_answers() -> None:
    judge, asked = Judge(), [reading_of(scene) for scene in SCENES[:7]]
    targets = encoded(asked)

    def answers(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.nn.functional.one_hot(t.clamp_min(0), 9).float() for name, t in targets.items()}

    judge.forward = answers  # type: ignore[method-assign]
    assert judge.read(np.stack([render(scene, 64) for scene in SCENES[:7]])) == asked
    assert len(COLOURS) == shapes_judge.HEADS["colour 0"]
    assert len(LAYOUTS) == shapes_judge.HEADS["layout"]


def test_the_table_names_every_row_and_leaves_what_is_not_asked_empty() -> None:
    marks = prompts.marks(SCENES[:2], [reading_of(scene) for scene in SCENES[:2]])
    row = {"group": "one, seen", "steps": 4, "guidance": 1.5, "n": 2, **marks}
    shown = prompts.table([row]).splitlines()
    assert shown[0].split() == ["group", "steps", "guidance", "colour", "shape", "size", "relation", "all"]
    assert shown[1].split()[:5] == ["one,", "seen", "4", "1.5", "100.0"]
