"""Text under pictures: every text has its field, long ones are cut, and letters without a font are left out."""

import numpy as np
import pytest

from unblot.system import lettering


def ink(field: np.ndarray) -> int:
    return int((field < 255).any(-1).sum())


def test_fields_are_as_high_as_the_longest_text_needs():
    assert lettering.fields(["a", "b"], 60).shape == (2, lettering.LINE, 60, 3)
    assert lettering.fields(["a", "a red circle above a square"], 60).shape[1] == 3 * lettering.LINE
    assert lettering.fields(["", ""], 60).min() == 255


def test_what_is_cut_ends_in_an_ellipsis_and_nothing_is_wider_than_its_field():
    lines, font = lettering._lines("a red circle above a blue square and a star " * 3, 60)
    assert len(lines) == lettering.MOST_LINES
    assert lines[-1].endswith("…")
    assert max(map(font.getlength, lines)) <= 60
    assert lettering._lines("unbreakable" * 9, 60)[0][0]


def test_letters_that_no_font_has_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lettering, "INSTALLED", ())
    plain, mixed, none = lettering.fields(["a star", "a \U00020000star", "\U00020000"], 60)
    assert np.array_equal(plain, mixed)
    assert ink(plain) > 0 == ink(none)
