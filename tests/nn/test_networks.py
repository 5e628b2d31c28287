"""What holds for every network of the table."""

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.nn import NETWORKS
from unblot.specs import build, options_of

CLASSES = 3
SMALL = {  # a network that is not named here is tested as it is
    "unet": "unet:width=32,blocks=1",
    "ddpm_unet": "ddpm_unet:width=16,multipliers=1-2-2,blocks=1",
    "dit": "dit:width=32,depth=2",
    "mlp": "mlp:width=32,depth=2",
}
COUPLINGS = {"ddpm_index": (0.0, 999.0), "log_noise_ratio": (-8.0, 10.0)}
SHAPES = [  # channels in, channels out, height, width
    (3, 3, 8, 12),
    (1, 2, 1, 13),
    (7, 7, 9, 5),
    (2, 2, 1, 1),
    (1, 1, 16, 1),
]


def network(name: str, channels: int = 3, out: int = 3, height: int = 8, width: int = 12, classes: int = CLASSES):
    """A small network in which no branch is zero: initial zeros are replaced by random values."""
    torch.manual_seed(0)
    net = build(NETWORKS, SMALL.get(name, name), "network", channels, out, (height, width), classes)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return net.eval()


def inputs(net: nn.Module, batch: int = 4, channels: int = 3, height: int = 8, width: int = 12) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    low, high = COUPLINGS[net.embeds]
    x = torch.randn(batch, channels, height, width, generator=generator)
    noise = low + (high - low) * torch.rand(batch, generator=generator)
    return x, noise, torch.arange(batch) % (CLASSES + 1)


every_network = pytest.mark.parametrize("name", NETWORKS)
every_form = pytest.mark.parametrize("name", [*NETWORKS, "unet:width=32,blocks=1,paired=true"])


@every_network
def test_says_what_its_noise_means_and_takes_options_that_a_spec_can_write(name):
    assert NETWORKS[name].embeds in COUPLINGS
    assert all(type(default) in (int, float, str, bool) for default in options_of(NETWORKS[name]).values())


@every_network
def test_default_options_build(name):
    with torch.device("meta"):
        NETWORKS[name](3, 3, (32, 32), 10)


@every_form
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_has_the_size_of_the_picture(name, shape):
    channels, out, height, width = shape
    net = network(name, *shape)
    y = net(*inputs(net, 4, channels, height, width))
    assert y.shape == (4, out, height, width)
    assert y.dtype == torch.float32
    assert y.isfinite().all()


@every_form
def test_a_fresh_network_predicts_nothing(name):
    net = build(NETWORKS, SMALL.get(name, name), "network", 3, 3, (8, 12), CLASSES)
    assert not net(*inputs(net)).any()


@every_form
def test_picture_noise_and_label_all_matter_and_every_label_is_its_own(name):
    net = network(name)
    x, noise, _ = (value[:1] for value in inputs(net))
    y = torch.cat([net(x, noise, torch.tensor([label])) for label in range(CLASSES + 1)])
    gaps = torch.cdist(y.flatten(1), y.flatten(1)) + torch.eye(len(y))
    assert gaps.min() > 1e-3
    assert (net(x + 0.1, noise, None) - net(x, noise, None)).abs().max() > 1e-3
    assert (net(x, noise * 0.9, None) - net(x, noise, None)).abs().max() > 1e-3


@every_form
def test_none_is_the_label_for_no_label(name):
    net = network(name)
    x, noise, _ = inputs(net)
    assert torch.equal(net(x, noise, None), net(x, noise, torch.full((4,), CLASSES)))
    net = network(name, classes=0)
    assert torch.equal(net(x, noise, None), net(x, noise, torch.zeros(4, dtype=torch.int64)))


@every_form
def test_gradients_reach_every_parameter(name):
    net = network(name)
    net(*inputs(net)).square().mean().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        if key.endswith("to_k.bias"):  # one value added to all scores of a query leaves its softmax as it is
            continue
        assert parameter.grad.abs().max() > 1e-9, key


@every_form
def test_memory_format_of_the_picture_does_not_matter(name):
    net = network(name)
    x, noise, label = inputs(net)
    y = net(x.contiguous(memory_format=torch.channels_last), noise, label)
    torch.testing.assert_close(y, net(x, noise, label), atol=1e-5, rtol=0)


@every_form
def test_rows_of_a_batch_do_not_depend_on_each_other(name):
    net = network(name)
    x, noise, label = inputs(net, 7)
    y = net(x, noise, label)
    for i in (0, 6):
        torch.testing.assert_close(net(x[i : i + 1], noise[i : i + 1], label[i : i + 1])[0], y[i], atol=1e-5, rtol=0)
    others = x.clone()
    others[1:] *= 3
    torch.testing.assert_close(net(others, noise.roll(1).index_copy(0, torch.tensor([0]), noise[:1]), label)[0], y[0])


@every_form
def test_input_is_left_as_it_was_and_the_same_input_gives_the_same_output(name):
    net = network(name)
    given = inputs(net)
    copies = [value.clone() for value in given]
    first = net(*given)
    assert all(torch.equal(a, b) for a, b in zip(given, copies))
    assert torch.equal(net(*given), first)


@every_form
def test_state_survives_a_safetensors_file(name):
    net, other = network(name), build(NETWORKS, SMALL.get(name, name), "network", 3, 3, (8, 12), CLASSES).eval()
    other.load_state_dict(load(save(net.state_dict())))
    assert torch.equal(other(*inputs(net)), net(*inputs(net)))


@every_form
def test_learns_a_map_that_needs_picture_noise_and_label(name):
    torch.manual_seed(0)
    net = build(NETWORKS, SMALL.get(name, name), "network", 3, 3, (8, 12), CLASSES)
    x, noise, label = inputs(net, 8)
    low, high = COUPLINGS[net.embeds]
    target = x * ((noise - low) / (high - low))[:, None, None, None] + (label - 1.5)[:, None, None, None]
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        loss = (net(x, noise, label) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * target.square().mean()


@pytest.mark.parametrize(
    "spec",
    [
        "ddpm_unet:width=0",
        "ddpm_unet:width=33",
        "ddpm_unet:multipliers=",
        "ddpm_unet:multipliers=1-0",
        "ddpm_unet:multipliers=1;2",
        "ddpm_unet:blocks=0",
        "ddpm_unet:attention=4",
        "ddpm_unet:attention=high",
        "ddpm_unet:dropout=1",
        "ddpm_unet:width=48,groups=32",
        "ddpm_unet:groups=-1",
        "dit:width=30",
        "dit:heads=5",
        "dit:heads=0",
        "dit:depth=0",
        "dit:patch=0",
        "dit:mlp_ratio=0",
        "dit:mlp_ratio=nan",
        "mlp:width=0",
        "mlp:depth=0",
        "mlp:dropout=-0.1",
    ],
)
def test_options_that_make_no_network_are_refused_in_one_line(spec):
    with pytest.raises(UnblotError, match=r"^[^\n]+$") as refusal:
        build(NETWORKS, spec, "network", 3, 3, (8, 8), 0)
    assert spec.split("=")[-2].split(":")[-1].split(",")[-1] in str(refusal.value)


@pytest.mark.parametrize(
    "spec",
    [
        *("unet:blocks=1000000", "unet:multipliers=1-0", "unet:multipliers=" + "-".join("1" * 40), "unet:patch=100000"),
        *("unet:width=1000000000", "unet:dropout=1.5", "ddpm_unet:blocks=1000000", "ddpm_unet:multipliers=1000000"),
        *("dit:depth=1000000", "dit:mlp_ratio=1e9", "dit:patch=100000", "mlp:depth=1000000", "mlp:width=1000000000"),
    ],
)
def test_sizes_are_bounded(spec: str) -> None:
    """A mistyped or forged number is refused before it takes time and memory."""
    with pytest.raises(UnblotError, match=r"^[^\n]+$"):
        build(NETWORKS, spec, "network", 1, 1, (8, 8), 0)
