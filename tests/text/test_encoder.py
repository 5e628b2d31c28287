"""The text encoder: padding changes nothing, the order of words does."""

import pytest
import torch

from unblot.errors import UnblotError
from unblot.text.encoder import TextEncoder
from unblot.text.tokenizer import PAD, learn

FACTS = learn([("a red circle above a blue square",)] * 10)


def trained() -> TextEncoder:
    """An encoder in which nothing is zero, as after training."""
    torch.manual_seed(0)
    encoder = TextEncoder(FACTS, width=32)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def test_what_stands_in_the_padding_changes_no_word():
    encoder = trained()
    tokens = encoder.read(["a red circle"])
    before = encoder(tokens)
    there = tokens[0] != PAD
    with torch.no_grad():
        encoder.tokens[PAD] += 10
    assert torch.equal(encoder(tokens)[0, there], before[0, there])


def test_each_token_sees_those_before_and_after_it():
    encoder = trained()
    a, b = encoder(encoder.read(["red above blue", "blue above red"]))
    assert not torch.allclose(a[2], b[2])  # the same word between other words
    assert not torch.allclose(a[0], b[0])  # the first sums them up


@pytest.mark.parametrize("options", [{"width": 48}, {"width": 0}, {"depth": 0}, {"width": 10**9}])
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(UnblotError, match="text encoder"):
        TextEncoder(FACTS, **options)
