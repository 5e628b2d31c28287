"""Checkpoints of improved-diffusion and guided-diffusion become runs that compute the same."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers import refused
from pipelines import exported
from unblot.cli.parser import main
from unblot.config.export import ImportConfig
from unblot.config.sampling import SampleConfig
from unblot.errors import UnblotError, UnblotNote
from unblot.interchange.imports import import_run
from unblot.process.schedules import SCHEDULES
from unblot.runs.conditions import labels_by_share
from unblot.runs.run import load
from unblot.runs.run_data import data_of_run
from unblot.specs import build
from unet_model import unet_model

pytestmark = pytest.mark.filterwarnings("ignore::unblot.errors.UnblotNote")
ONE, TWO = ImportConfig(size="8", heads=1), ImportConfig(size="8", heads=2)
KINDS = {  # options of a network, and what a user must say of it
    "plain": ({"scale_shift": False}, ONE),
    "scale_shift": ({"multipliers": (1, 2), "blocks": 2}, ONE),
    "heads": ({"heads": 2}, TWO),
    "head_channels": ({"heads": 0, "head_channels": 16, "attention": (0, 1)}, ImportConfig(size="8", head_channels=16)),
    "new_order": ({"heads": 2, "new_order": True}, ImportConfig(size="8", heads=2, new_attention_order=True)),
    "resblock_updown": ({"updown": True, "heads": 2, "multipliers": (1, 2, 2)}, TWO),
    "no attention": ({"attention": ()}, ONE),
    "one level": ({"multipliers": (1,), "attention": (0,)}, ONE),
    "learned variance": ({"outputs": 6}, ONE),
    "labels": ({"labels": 3, "channels": 1, "outputs": 2}, ImportConfig(size="8x16", heads=1)),
}


def saved(net, folder, name="ema_0.9999_000100.pt"):
    torch.save(net.state_dict(), folder / name)
    return folder / name


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_run_computes_what_the_trainers_network_does(kind, tmp_path):
    options, choices = KINDS[kind]
    net = unet_model(**options)
    run = load(import_run(saved(net, tmp_path), choices, tmp_path / "run"))
    shape = run.config.shape
    assert shape == (net.o["channels"], 8, 16 if kind == "labels" else 8)
    label = torch.tensor([0, 2, 1]) if kind == "labels" else None
    x, index = torch.randn(3, *shape).double(), torch.tensor([0, 417, 999])
    expected = net.double()(x, index, label)[:, : shape[0]]
    assert expected.std() > 0.05
    levels = build(SCHEDULES, run.config.train.schedule, "schedule")((index.double() + 1) / 1000)
    output = run.denoiser.double().output(x, levels, run.denoiser.condition(label))
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("own", "scale"), [(False, 0.25), (True, 1.0)])
@torch.no_grad()
def test_indices_of_4000_steps_are_in_thousandths_or_as_they_are(own, scale, tmp_path):
    net = unet_model(multipliers=(1,))
    choices = ImportConfig(size="8", heads=1, schedule="cosine:steps=4000", own_timesteps=own)
    run = load(import_run(saved(net, tmp_path), choices, tmp_path / "run"))
    assert run.config.train.schedule == "cosine:offset=0.008,steps=4000,beta_max=0.999"
    assert run.config.train.sampling_steps == 4000
    x, index = torch.randn(2, 3, 8, 8), torch.tensor([3, 3000])
    levels = build(SCHEDULES, run.config.train.schedule, "schedule")((index.double() + 1) / 4000)
    expected = net(x, scale * index)
    torch.testing.assert_close(run.denoiser.output(x, levels), expected, atol=2e-5, rtol=1e-5)
    assert (net(x, 2 * scale * index) - expected).abs().max() > 1e-3  # the index matters


@torch.no_grad()
def test_what_it_has_in_common_with_the_library_goes_on_to_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    net = unet_model(heads=2, multipliers=(1, 2))
    run = load(import_run(saved(net, tmp_path), TWO, tmp_path / "run"))
    theirs = diffusers.UNet2DModel.from_pretrained(exported(run, tmp_path / "out") / "unet")
    assert theirs.config.attention_head_dim == 32
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(theirs(x, 417).sample, net(x, torch.tensor([417, 417])), atol=1e-5, rtol=1e-5)


ELSEWHERE = {  # what diffusers does not have
    "resample=block": ({"updown": True}, ONE),
    "makes them 16 and 32 channels": ({"heads": 2, "multipliers": (1, 2), "attention": (0,)}, TWO),
    "times 1000/T": ({}, ImportConfig(size="8", heads=1, schedule="cosine:steps=4000")),
}


@pytest.mark.parametrize("part", ELSEWHERE)
def test_what_it_has_not_in_common_is_refused_there(part, tmp_path):
    options, choices = ELSEWHERE[part]
    run = load(import_run(saved(unet_model(**options), tmp_path), choices, tmp_path / "run"))
    with pytest.raises(UnblotError, match=part):
        exported(run, tmp_path / "out")


def test_what_learns_from_it_without_labels_is_not_drawn_with_labels(tmp_path):
    choices = ImportConfig(size="8", heads=1)
    net = unet_model(labels=2, channels=1, outputs=1, multipliers=(1,))
    run = load(import_run(saved(net, tmp_path), choices, tmp_path / "run"))
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    np.save(tmp_path / "bare.npy", pictures)
    np.savez(tmp_path / "labelled.npz", x=pictures, y=np.arange(20) % 2)
    for name, draws in (("bare.npy", False), ("labelled.npz", True)):
        config = data_of_run(run.config, run.path, tmp_path / name, quiet=True)[1]
        assert config.draws_labels == draws
        assert labels_by_share(config, SampleConfig()) == draws


def test_a_file_that_is_cut_off_is_one_line(tmp_path, capsys):
    file = saved(unet_model(multipliers=(1,)), tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "it is cut off" in refused(capsys, "import", file, "--size", 8, "--heads", 1, "--out", tmp_path / "run")


def test_the_command_line_says_what_was_taken_for_granted_and_the_run_draws(tmp_path, capsys):
    file, out = saved(unet_model(outputs=6, multipliers=(1,)), tmp_path), tmp_path / "run"
    assert main(["import", str(file), "--size", "8", "--heads", "1", "--out", str(out)]) == 0
    told = capsys.readouterr().err
    for part in ("DDPM's 1000 linear betas", "learned variance is left out", "--threshold static"):
        assert part in told
    assert main(["sample", str(out), "-n", "2", "--steps", "2", "--threshold", "static"]) == 0


def test_weights_of_half_precision_and_as_safetensors_are_read_too(tmp_path):
    net = unet_model(multipliers=(1,)).half()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    weights = load(import_run(tmp_path / "model.safetensors", ONE, tmp_path / "run")).denoiser.network.state_dict()
    assert weights["conv_out.weight"].dtype == torch.float32
    assert torch.equal(weights["conv_out.weight"], net.out[2].weight.float())


def test_in_python_a_note_names_the_argument(tmp_path):
    with pytest.warns(UnblotNote, match=r"schedule='cosine:steps=4000' says another"):
        import_run(saved(unet_model(multipliers=(1,)), tmp_path), ONE, tmp_path / "run")


def without(name):
    return lambda weights: weights.pop(name)


def reshaped(name, *shape):
    return lambda weights: weights.update({name: torch.zeros(shape)})


WRONG = {  # a change of sound weights, and a part of the line
    "it has no tensor 'out.2.weight'": without("out.2.weight"),
    "its 2 input_blocks and 1 output_blocks": lambda w: [w.pop(n) for n in list(w) if n.startswith("output_blocks.1")],
    "middle_block.1.more.weight', for which no network here has a place": reshaped("middle_block.1.more.weight", 2, 2),
    "it has no tensor 'middle_block.1.proj_out.weight'": without("middle_block.1.proj_out.weight"),
    "up_blocks.0.resnets.1.conv1.weight' is (2, 2) in the file": reshaped("output_blocks.1.0.in_layers.2.weight", 2, 2),
    "takes 6 channels and gives 3": reshaped("input_blocks.0.0.weight", 32, 6, 3, 3),
    "has the shape (96, 32, 3)": reshaped("middle_block.1.qkv.weight", 96, 32, 3),
    "its first level has 32 channels and its first convolution 16": reshaped("input_blocks.0.0.weight", 16, 3, 3, 3),
    "its 'input_blocks.0.0.weight' has the shape ()": reshaped("input_blocks.0.0.weight"),
}


@pytest.mark.parametrize("part", WRONG)
def test_weights_that_are_not_whole_or_of_another_network(part, tmp_path, capsys):
    weights = dict(unet_model(multipliers=(1,)).state_dict())
    WRONG[part](weights)
    torch.save(weights, tmp_path / "model.pt")
    out = tmp_path / "run"
    assert part in refused(capsys, "import", tmp_path / "model.pt", "--size", 8, "--heads", 1, "--out", out)
    assert not out.exists()


CHOICES = {
    "does not say the size of its pictures; give it, as in --size 64": ["--heads", 1],
    "give --heads 4, the default there, or --head-channels 64": ["--size", 8],
    "are not shared out by 5 heads": ["--size", 8, "--heads", 5],
    "are not shared out by 2 heads": ["--size", 8, "--head-channels", 12],
    "has no indices to embed": ["--size", 8, "--heads", 1, "--schedule", "edm"],
    "eps-prediction": ["--size", 8, "--heads", 1, "--schedule", "linear_zero_snr"],
    "'8x' is no size": ["--size", "8x", "--heads", 1],
}


@pytest.mark.parametrize("part", CHOICES)
def test_what_the_user_must_say(part, tmp_path, capsys):
    file = saved(unet_model(multipliers=(1,)), tmp_path)
    assert part in refused(capsys, "import", file, *CHOICES[part], "--out", tmp_path / "run")


def test_networks_that_resample_without_a_convolution_are_refused(tmp_path):
    weights = unet_model(multipliers=(1, 2)).state_dict()
    for name in [name for name in weights if ".op." in name or ".conv." in name]:
        del weights[name]
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(UnblotError, match="are not levels of as many blocks each with a convolution between them"):
        import_run(tmp_path / "model.pt", ONE, tmp_path / "run")


def test_choices_of_a_checkpoint_are_not_for_a_folder(tmp_path, capsys):
    assert "--heads 4 is for a checkpoint" in refused(capsys, "import", tmp_path, "--heads", 4)
