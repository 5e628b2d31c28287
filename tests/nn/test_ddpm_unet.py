"""The network of Ho et al. is, weight for weight, what the diffusers library calls UNet2DModel."""

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from unblot.errors import UnblotError
from unblot.nn import NETWORKS
from unblot.nn.ddpm_blocks import Attention, ResBlock, Upsample
from unblot.nn.ddpm_unet import DDPMUNet, suitable_groups
from unblot.specs import build

CONFIGS = {
    "small": {"width": 32, "multipliers": "1-2-2", "blocks": 2, "attention": "1"},
    "narrow": {"width": 8, "multipliers": "1-1-3", "blocks": 1, "attention": "0-2"},
    "no_attention": {"width": 16, "multipliers": "2-1", "blocks": 3, "attention": ""},
    "one_size": {"width": 16, "multipliers": "1", "blocks": 1, "attention": "0"},
    "ho_groups": {"width": 64, "multipliers": "1-2", "blocks": 1, "attention": "1", "groups": 32},
    "library": {"width": 16, "multipliers": "1-2", "blocks": 1, "attention": "1", "eps": 0.1, "head": 8,
                "symmetric": True, "embedding": "nichol"},
    "scale_shift": {"width": 16, "multipliers": "1-3", "blocks": 1, "attention": "1", "scale_shift": True},
    "heads": {"width": 16, "multipliers": "1-2", "blocks": 1, "attention": "1", "heads": 4},
}  # fmt: skip


def peer(options: dict, channels: int, out: int, classes: int) -> UNet2DModel:
    """UNet2DModel in the configuration of google/ddpm-cifar10-32, with these options."""
    width, blocks = options["width"], options["blocks"]
    widths = [width * int(factor) for factor in options["multipliers"].split("-")]
    attended = [str(level) in options["attention"].split("-") for level in range(len(widths))]
    return UNet2DModel(
        in_channels=channels,
        out_channels=out,
        flip_sin_to_cos=options.get("embedding") == "nichol",
        freq_shift=int(options.get("embedding") != "nichol"),
        downsample_padding=int(options.get("symmetric", False)),
        norm_eps=options.get("eps", 1e-6),
        norm_num_groups=options.get("groups") or suitable_groups(width),
        attention_head_dim=widths[-1] // options["heads"] if "heads" in options else options.get("head"),
        resnet_time_scale_shift="scale_shift" if options.get("scale_shift") else "default",
        attn_norm_num_groups=options.get("groups") or suitable_groups(width),
        block_out_channels=widths,
        layers_per_block=blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attended],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended)],
        num_class_embeds=classes + 1 if classes else None,
    ).eval()


def randomised(net: nn.Module) -> nn.Module:
    """The network with every parameter at a random value, so that none is at a value that hides its use."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5 / max(1, parameter[0].numel()) ** 0.5)
    return net.eval()


def batch(channels: int, height: int, width: int, classes: int, dtype: torch.dtype):
    x = torch.randn(3, channels, height, width, dtype=dtype)
    label = torch.tensor([0, classes, 1]) if classes else None
    return x, torch.tensor([0.0, 417.25, 999.0]), label


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("config", CONFIGS)
def test_same_parameters_and_same_outputs_either_way(config, classes):
    torch.manual_seed(0)
    options = CONFIGS[config]
    ours, theirs = DDPMUNet(3, 6, (16, 24), classes, **options), peer(options, 3, 6, classes)
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    x, index, label = batch(3, 16, 24, classes, torch.float32)
    for source, target in ((theirs, ours), (ours, theirs)):
        target.load_state_dict(randomised(source).state_dict())
        expected = theirs(x, index, label).sample
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.eval()(x, index, label), expected, atol=1e-5, rtol=0)


def test_same_gradients():
    torch.manual_seed(0)
    options = CONFIGS["small"]
    theirs = randomised(peer(options, 1, 1, 4)).double()
    ours = DDPMUNet(1, 1, (16, 16), 4, **options).double().eval()
    ours.load_state_dict(theirs.state_dict())
    x, index, label = batch(1, 16, 16, 4, torch.float64)
    ours(x, index, label).pow(3).sum().backward()
    theirs(x, index, label).sample.pow(3).sum().backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key].grad, atol=1e-9, rtol=1e-6, msg=key)


def test_default_options_are_the_published_network():
    """google/ddpm-cifar10-32 has 128, 256, 256, 256 channels, two blocks each, attention at 16×16."""
    options = {"width": 128, "multipliers": "1-2-2-2", "blocks": 2, "attention": "1", "groups": 32}
    with torch.device("meta"):
        ours, theirs = DDPMUNet(3, 3, (32, 32), 0), peer(options, 3, 3, 0)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert {m.num_groups for m in ours.modules() if isinstance(m, nn.GroupNorm)} == {32}


def test_other_sizes_are_the_peer_on_a_frame_of_zeros():
    torch.manual_seed(0)
    options = CONFIGS["small"]
    ours, theirs = DDPMUNet(3, 3, (14, 5), 0, **options).eval(), randomised(peer(options, 3, 3, 0))
    ours.load_state_dict(theirs.state_dict())
    x, index, _ = batch(3, 14, 5, 0, torch.float32)
    framed = nn.functional.pad(x, (1, 2, 1, 1))
    torch.testing.assert_close(ours(x, index, None), theirs(framed, index).sample[..., 1:15, 1:6], atol=1e-5, rtol=0)


REFUSED = ["eps=0", "head=3", "head=-1", "heads=3", "heads=-1", "head=8,heads=2", "resample=pool", "embedding=other",
           "index=other"]  # fmt: skip


@pytest.mark.parametrize("option", REFUSED)
def test_options_that_it_does_not_have_are_refused(option):
    with pytest.raises(UnblotError, match=option.partition("=")[0]):
        build(NETWORKS, f"ddpm_unet:width=16,{option}", "network", 3, 3, (8, 8), 0)


@pytest.mark.parametrize("width", [2, 8, 16, 32, 48, 64, 96, 128, 192, 256])
def test_groups_divide_the_width_and_have_four_channels_or_more(width):
    groups = suitable_groups(width)
    assert width % groups == 0
    assert groups == 1 or width // groups >= 4
    assert groups == 32 or width < 128


@pytest.mark.parametrize("channels", [1, 3])
def test_every_map_inside_stays_in_channels_last(channels):
    """A layer that fell back to the other format would give the same numbers, more slowly."""
    net = DDPMUNet(channels, channels, (16, 16), 0, **CONFIGS["small"])
    seen = []
    for module in [m for stages in (net.down_blocks, net.mid_block, net.up_blocks) for m in stages.modules()]:
        if isinstance(module, nn.GroupNorm | nn.Conv2d | ResBlock | Attention | Upsample):
            module.register_forward_hook(lambda module, given, y: seen.append(y))
    x, index, _ = batch(channels, 16, 16, 0, torch.float32)
    net(x, index, None)
    assert len(seen) > 40
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)
