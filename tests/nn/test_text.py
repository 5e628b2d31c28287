"""Networks that read a text: nothing at first, something after it has learned, and the same without padding."""

import pytest
import torch
from torch import nn

from unblot.nn import NETWORKS
from unblot.specs import build

READING = {"unet": "unet:width=16,multipliers=1-2,blocks=1", "dit": "dit:width=32,depth=2,patch=2"}
X, NOISE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(2)
TEXT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(5) < torch.tensor([[5], [3]]))[:, None, None]


def network(spec: str, text: int = 16) -> nn.Module:
    """The network with no layer at zero, as after training."""
    torch.manual_seed(0)
    made = build(NETWORKS, spec, "network", 3, 3, (8, 8), 0, text)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("spec", READING.values(), ids=READING)
def test_every_word_matters_and_padding_does_not(spec):
    made = network(spec)
    before = made(X, NOISE, None, TEXT, MASK)
    later, padding = TEXT.clone(), TEXT.clone()
    later[:, 2] += 1
    padding[1, 3:] += 100
    changed = (made(X, NOISE, None, later, MASK) - before).abs().amax((1, 2, 3))
    assert (changed > 1e-4).all()
    torch.testing.assert_close(made(X, NOISE, None, padding, MASK), before)


@pytest.mark.parametrize("spec", READING.values(), ids=READING)
def test_attention_to_the_text_starts_as_nothing(spec):
    torch.manual_seed(0)
    made = build(NETWORKS, spec, "network", 3, 3, (8, 8), 0, 16)
    outs = [p for name, p in made.named_parameters() if ".read.out." in name]
    assert outs
    assert not any(bool(p.any()) for p in outs)


def test_networks_say_whether_they_read_a_text():
    assert {name for name, made in NETWORKS.items() if made.reads_text} == set(READING)


@pytest.mark.parametrize("spec", READING.values(), ids=READING)
def test_without_a_text_a_network_has_no_weight_more(spec):
    names = dict(network(spec, 0).named_parameters())
    assert not [name for name in names if "read" in name or "text" in name]
