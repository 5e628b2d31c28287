"""What is particular to the transformer: silent blocks, fixed positions, bounded attention, any size."""

import torch
from torch import nn

from unblot.nn.dit import Block, DiT, grid_positions


def awake(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return net.eval()


def test_a_fresh_block_is_the_identity_whatever_the_noise():
    torch.manual_seed(0)
    net = DiT(3, 3, (8, 8), 0, width=32, depth=2)
    tokens, e = torch.randn(2, 16, 32), torch.randn(2, 1, 32)
    for block in net.blocks:
        assert torch.equal(block(tokens, e), tokens)


def test_positions_are_distinct_and_those_of_the_grid():
    small, large = (grid_positions(*grid, 32, torch.device("cpu")) for grid in ((3, 4), (5, 9)))
    gaps = torch.cdist(large, large) + torch.eye(len(large))
    assert gaps.min() > 0.5
    torch.testing.assert_close(small.view(3, 4, 32), large.view(5, 9, 32)[:3, :4])


def test_positions_make_the_place_of_a_patch_matter():
    """Without positions, attention and layers on single tokens would roll along with the picture."""
    torch.manual_seed(0)
    net = awake(DiT(3, 3, (8, 8), 0, width=32, depth=2))
    x, noise = torch.randn(1, 3, 8, 8), torch.zeros(1)
    rolled = net(x.roll(2, dims=-1), noise, None)
    assert (rolled - net(x, noise, None).roll(2, dims=-1)).abs().max() > 1e-2


def test_a_token_is_one_patch():
    """With silent attention, what is under one patch of the output depends on that patch of the input alone."""
    torch.manual_seed(0)
    net = awake(DiT(1, 1, (8, 12), 0, width=32, depth=2, patch=4))
    for block in net.blocks:
        nn.init.zeros_(block.out.weight)
    x = torch.randn(1, 1, 8, 12, requires_grad=True)
    net(x, torch.zeros(1), None)[..., 4:8, 4:8].square().sum().backward()
    reached = x.grad[0, 0] != 0
    assert reached[4:8, 4:8].all()
    assert reached.sum() == 16


def test_attention_does_not_grow_with_its_weights():
    """Queries and keys are normalised: larger ones give the same attention (Karras et al. 2024)."""
    torch.manual_seed(0)
    block = Block(32, 4, 64).eval()
    tokens = torch.randn(2, 10, 32)
    before = block.attention(tokens)
    with torch.no_grad():
        block.qkv.weight[:64] *= 1000
        block.qkv.bias[:64] *= 1000
    torch.testing.assert_close(block.attention(tokens), before, atol=1e-4, rtol=0)


def test_one_network_takes_pictures_of_any_size():
    torch.manual_seed(0)
    net = awake(DiT(3, 3, (8, 8), 0, width=32, depth=2, patch=4))
    for size in ((8, 8), (5, 13), (1, 30)):
        assert net(torch.randn(2, 3, *size), torch.zeros(2), None).shape == (2, 3, *size)
