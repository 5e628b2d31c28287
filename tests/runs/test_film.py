"""The film: frames that tell something."""

import numpy as np

from unblot.runs.film import Frame, spread_frames


def frames(positions):
    return [Frame(np.full((1, 1, 2, 2), float(p)), np.zeros((1, 1, 2, 2))) for p in positions]


def test_frames_lie_equally_far_apart_and_keep_both_ends():
    still_then_moving = frames([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert spread_frames(still_then_moving, 5) == [0, 6, 8, 10, 12]


def test_fewer_frames_than_asked_for_are_all_shown():
    assert spread_frames(frames([0, 1, 2]), 10) == [0, 1, 2]


def test_one_frame_is_a_film_too():
    assert spread_frames(frames([3]), 10) == [0]
