"""The text encoder: padding changes nothing, the order of words does."""

import pytest
import torch

from unblot.errors import UnblotError
from unblot.text.encoder import TextEncoder
from unblot.text.tokenizer import PAD, learn

FACTS = learn([("a red circle above a blue square",)] * 10)


def trained(**options: int) -> TextEncoder:
    """An encoder in which nothing is zero, as after training."""
    torch.manual_seed(0)
    encoder = TextEncoder(FACTS, width=32, **options)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


@pytest.mark.parametrize("kernel", [1, 3, 63])
def test_what_stands_in_the_padding_changes_no_word(kernel):
    encoder = trained(kernel=kernel)
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


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_without_attention_a_token_sees_as_many_beside_it_as_the_kernel_says(kernel):
    encoder = trained(kernel=kernel, depth=1)
    torch.nn.init.zeros_(encoder.blocks[0].out.weight)
    before = encoder(encoder.read(["a red circle above a blue square"]))
    with torch.no_grad():
        encoder.positions[4] += torch.randn(32)  # a shift of all channels alike is nothing after a norm
    changed = ((encoder(encoder.read(["a red circle above a blue square"])) - before).abs() > 1e-3).any(-1)[0]
    near = kernel // 2
    assert changed.nonzero().flatten().tolist() == list(range(4 - near, 5 + near))


def test_a_wider_kernel_that_reads_no_neighbours_yet_is_the_narrower_one():
    narrow, wide = trained(kernel=1), trained(kernel=3)
    state = {name: value.clone() for name, value in narrow.state_dict().items()}
    for name in [name for name in state if "widen.weight" in name]:
        state[name] = torch.cat([state[name], torch.zeros(state[name].shape[0], 2 * 32)], 1)
    wide.load_state_dict(state)
    tokens = narrow.read(["a red circle", "blue"])
    there = tokens != PAD
    torch.testing.assert_close(wide(tokens)[there], narrow(tokens)[there])


@pytest.mark.parametrize(
    "options", [{"kernel": 2}, {"kernel": 0}, {"width": 48}, {"width": 0}, {"depth": 0}, {"width": 10**9}]
)
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(UnblotError, match="text encoder"):
        TextEncoder(FACTS, **options)
