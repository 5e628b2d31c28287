"""The film: frames that tell something."""

import numpy as np
import pytest

from unblot.errors import UnblotError
from unblot.runs.film import Frame, spread_frames, step_counts


def frames(positions):
    return [Frame(np.full((1, 1, 2, 2), float(p)), np.zeros((1, 1, 2, 2)), 1.0) for p in positions]


def test_frames_lie_equally_far_apart_and_keep_both_ends():
    still_then_moving = frames([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert spread_frames(still_then_moving, 5) == [0, 6, 8, 10, 12]


def test_fewer_frames_than_asked_for_are_all_shown():
    assert spread_frames(frames([0, 1, 2]), 10) == [0, 1, 2]


def test_one_frame_is_a_film_too():
    assert spread_frames(frames([3]), 10) == [0]


def test_numbers_of_steps_are_read_in_rising_order():
    assert step_counts("16, 4,8,4") == [4, 8, 16]


@pytest.mark.parametrize("text", ["", "4,,8", "4;8", "0,4", "-4", "4.5", "four", "²"])
def test_a_list_of_steps_that_is_none_is_refused(text):
    with pytest.raises(UnblotError, match=r"write 4,8,16,50"):
        step_counts(text)
