"""What networks share: padding and cropping, features of the noise level, numbers in options."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unblot.errors import UnblotError
from unblot.nn.layers import fourier_features, heads_of, numbers, pad_to_multiple, sinusoids


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))
def test_padding_reaches_the_next_multiples_and_cropping_undoes_it(height, width, multiple):
    x = torch.arange(1.0, 1 + 2 * height * width).view(1, 2, height, width)
    padded, crop = pad_to_multiple(x, multiple)
    assert all(side % multiple == 0 and 0 <= side - old < multiple for side, old in zip(padded.shape[2:], x.shape[2:]))
    assert torch.equal(crop(padded), x)
    assert padded.sum() == x.sum()


def test_features_tell_levels_apart_near_and_far():
    levels = torch.arange(-9.0, 11.0, 0.05)
    gaps = torch.cdist(features := fourier_features(levels, 64), features) + torch.eye(len(levels)) * 9
    assert gaps.min() > 0.3
    assert features.shape == (len(levels), 64)


def test_sinusoids_have_the_frequencies_that_they_are_given():
    x = torch.linspace(-2, 2, 9)
    shifted = sinusoids(x + 2 * torch.pi / 3, torch.tensor([3.0, 6.0]))
    torch.testing.assert_close(shifted, sinusoids(x, torch.tensor([3.0, 6.0])), atol=1e-5, rtol=0)


def test_numbers_of_an_option():
    assert numbers("multipliers", "1-2-10") == [1, 2, 10]
    assert numbers("attention", "") == []
    for text in ("1-", "-1", "1.5", "a", "1,2"):
        with pytest.raises(UnblotError, match="multipliers"):
            numbers("multipliers", text)


def test_every_width_has_a_whole_number_of_heads_and_as_many_as_before_where_that_was_one():
    for width in range(1, 300):
        assert width % heads_of(width, 32) == 0
        if width % max(1, width // 32) == 0:
            assert heads_of(width, 32) == max(1, width // 32)
