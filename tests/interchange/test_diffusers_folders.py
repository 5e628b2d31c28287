"""Runs as pipelines of the diffusers library and back: its own classes load them and draw our pictures."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import unblot
from helpers import refused
from pipelines import KINDS, LIBRARYS, NETWORK, exported, librarys, run_of
from unblot.cli.parser import main
from unblot.errors import UnblotError, UnblotNote
from unblot.interchange import betas, to_diffusers
from unblot.interchange.betas import SchedulerConfig
from unblot.interchange.from_diffusers import config_of, read_folder
from unblot.interchange.imports import import_run
from unblot.interchange.unet2d import UNetConfig
from unblot.nn import NETWORKS
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import SCHEDULES
from unblot.runs.run import Run, load
from unblot.runs.run_data import data_of_run
from unblot.sampling.loop import sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import trailing
from unblot.specs import build, options_of, parse

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::unblot.errors.UnblotNote"),
]

STEPS = 10
UNET = "unet/diffusion_pytorch_model.safetensors"
LINEAR = "linear:beta_start=0.0001,beta_end=0.02,steps=1000"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def ours(run: Run, solver: str, levels: NoiseLevel, seed: int) -> Tensor:
    """Three pictures in 0 … 1, from the noise of the library's generator."""
    g = torch.Generator().manual_seed(seed)
    noise = lambda: torch.randn((3, *run.config.shape), generator=g)  # noqa: E731
    x = sample(run.denoiser, noise(), levels, build(SOLVERS, solver, "solver"), noise)
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def levels_of(kind: str) -> NoiseLevel:
    """The levels of STEPS equal steps over the indices that the network embeds."""
    spec = KINDS[kind]["schedule"] if "index=schedule" in KINDS[kind]["network"] else "linear"
    indices = int(spec.partition("steps=")[2] or 1000)
    return trailing(indices=indices)(build(SCHEDULES, spec, "schedule"), STEPS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline"])
def test_the_librarys_pipelines_draw_our_pictures(kind, name, tmp_path):
    run = run_of(tmp_path / "run", **KINDS[kind])
    pipeline = getattr(diffusers, name).from_pretrained(exported(run, tmp_path / "out"))
    pipeline.set_progress_bar_config(disable=True)
    g = torch.Generator().manual_seed(1)
    drawn = pipeline(batch_size=3, generator=g, num_inference_steps=STEPS, output_type="np").images
    expected = ours(run, name[:4].lower(), levels_of(kind), 1)
    assert ((expected > 0) & (expected < 1)).double().mean() > 0.5
    torch.testing.assert_close(torch.from_numpy(drawn), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_librarys_euler_draws_our_pictures(kind, tmp_path):
    run = run_of(tmp_path / "run", **KINDS[kind])
    pipeline = diffusers.DDPMPipeline.from_pretrained(exported(run, tmp_path / "out"))
    scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS)
    levels = levels_of(kind)
    x = torch.randn((3, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    x = x * scheduler.init_noise_sigma / levels.sigma[0]  # theirs begins at sigma_T x noise, ours at noise
    for t in scheduler.timesteps:
        output = pipeline.unet(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x).prev_sample
    drawn = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(drawn, ours(run, "euler", levels, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_export_import_export_is_the_same_to_the_last_byte(classes, tmp_path, monkeypatch):
    run = run_of(tmp_path / "run", classes=classes, augment="non_leaking", **KINDS["v"])
    first = exported(run, tmp_path / "first")
    again = exported(load(import_run(first, out=tmp_path / "again")), tmp_path / "second")
    assert files_of(first) == files_of(again)
    assert len(files_of(first)) == 8  # five, and a list of them in each folder
    picture = run.sample(2, steps=2, seed=3).array
    assert (load(tmp_path / "again").sample(2, steps=2, seed=3).array == picture).all()


@pytest.mark.parametrize("name", LIBRARYS)
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@torch.no_grad()
def test_a_network_of_the_library_computes_the_same_as_a_run(name, schedule, tmp_path):
    unet, scheduler = librarys(name), diffusers.DDPMScheduler(beta_schedule=schedule, clip_sample=False)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "theirs")
    run = load(import_run(tmp_path / "theirs", out=tmp_path / "run"))
    levels = build(SCHEDULES, run.config.train.schedule, "schedule")(torch.arange(1, 1001).double() / 1000)
    x = torch.randn(3, *run.config.shape)
    label = torch.tensor([0, 2, 1]) if name == "labels" else None
    for index in (0, 417, 999):
        expected = unet(x, index, label).sample
        level = levels.at(index).expand(3)
        output = run.denoiser.output(x, level, run.denoiser.condition(label))
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_what_was_imported_is_exported_with_the_same_tensors(tmp_path):
    diffusers.DDIMPipeline(librarys("defaults"), diffusers.DDIMScheduler()).save_pretrained(tmp_path / "theirs")
    out = exported(load(import_run(tmp_path / "theirs", out=tmp_path / "run")), tmp_path / "out")
    assert (out / UNET).read_bytes() == (tmp_path / "theirs" / UNET).read_bytes()
    theirs, ours = (json.loads((folder / "unet/config.json").read_text()) for folder in (tmp_path / "theirs", out))
    assert theirs == ours


def old(folder: Path) -> dict[str, Tensor]:
    """Makes a pipeline look as those of 2022: all beside one another, pickled, attention by its old names."""
    weights = load_file(folder / UNET)
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for name, tensor in weights.items():
        for new, before in names.items():
            name = name.replace(new, before)
        renamed[name] = tensor
    torch.save(renamed, folder / "diffusion_pytorch_model.bin")
    kept = "_class_name down_block_types up_block_types block_out_channels in_channels out_channels sample_size "
    kept += "flip_sin_to_cos freq_shift downsample_padding attention_head_dim norm_eps norm_num_groups layers_per_block"
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in kept.split()}))
    (folder / "scheduler/scheduler_config.json").rename(folder / "scheduler_config.json")
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "scheduler")
    return weights


def test_a_folder_of_2022_is_read_too(tmp_path):
    diffusers.DDPMPipeline(librarys("ho"), diffusers.DDPMScheduler(variance_type="fixed_large")).save_pretrained(
        tmp_path
    )
    weights = old(tmp_path)
    with pytest.warns(UnblotNote, match="threshold='static'"):
        run = load(import_run(tmp_path, out=tmp_path / "run"))
    assert run.config.train.solver == "ddpm:variance=beta"
    assert "index=ddpm" in run.config.train.network
    assert all((tensor == weights[name]).all() for name, tensor in run.denoiser.network.state_dict().items())


def test_a_network_alone_is_taken_to_be_of_ddpm_and_that_is_said(tmp_path):
    librarys("ho").save_pretrained(tmp_path / "net")
    with pytest.warns(UnblotNote, match="no scheduler_config.json"):
        config = load(import_run(tmp_path / "net", out=tmp_path / "run")).config
    assert (config.train.parameterization, config.train.schedule) == ("eps", LINEAR)


@pytest.mark.parametrize("kind", betas.READ)
def test_a_scheduler_that_does_not_say_whether_it_clips_does_as_the_librarys(kind, tmp_path):
    librarys("ho").save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": kind}))
    clips = getattr(diffusers, kind)().config.get("clip_sample", False)
    assert any("threshold" in line for line in read_folder(tmp_path).lines) == clips


HELD = {"network": KINDS["v"]["network"], "parameterization": "v", "schedule": "cosine"}
REFUSED = {  # choices of a run that the library cannot hold, and a part of the line
    "dit": ({"network": "dit:width=16,depth=1,heads=2"}, "no network that computes what 'dit' does"),
    "edm": ({"parameterization": "edm"}, "do not know the parameterization 'edm'"),
    "data_std": ({"data_std": 0.5}, "standard deviation 0.5"),
    "learned": ({"objective": "hybrid"}, "learned variance in another form"),
    "levels": ({"network": KINDS["ddpm"]["network"], "schedule": "scaled_linear"}, "ddpm_unet:index=schedule"),
    "size": ({"network": KINDS["v"]["network"].replace("1-2", "1-1-1-1-1")}, "8x8 are padded to a multiple of 16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_library_cannot_hold_is_told_in_a_line(name, tmp_path, capsys):
    choices, part = REFUSED[name]
    run = run_of(tmp_path / "run", **{**HELD, **choices})
    assert part in refused(capsys, "export", run.path, "--to", "diffusers", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_says_what_is_lost_and_where_nothing_lies(tmp_path):
    run = run_of(tmp_path / "run", channels=2, **HELD)
    values = {**run.config.data.values, "dtype": "uint16"}
    config = dataclasses.replace(
        run.config,
        data=dataclasses.replace(run.config.data, values=values),
        source=dataclasses.replace(run.config.source, data="/home/ada/small"),
    )
    with pytest.warns(UnblotNote) as told:
        out = exported(dataclasses.replace(run, config=config), tmp_path / "out")
    lines = " ".join(str(one.message) for one in told)
    assert "the values of the pictures are uint16" in lines
    assert "the pictures have 2 channels" in lines
    assert "/home/ada" not in (out / "unblot.json").read_text()


def test_a_pipeline_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, capsys):
    run = run_of(tmp_path / "run", **HELD)

    def full(path, tensors, metadata):
        raise UnblotError("the disk is full")

    monkeypatch.setattr(to_diffusers, "write_tensors", full)
    assert "the disk is full" in refused(capsys, "export", run.path, "--to", "diffusers", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_choices_of_other_exports_are_refused(tmp_path, capsys):
    run = run_of(tmp_path / "run", **HELD)
    for flags in (["--half"], ["--steps", "5"], ["--spacing", "time"]):
        assert f"{flags[0]} " in refused(capsys, "export", run.path, "--to", "diffusers", *flags)


def test_raw_weights_are_those_of_the_last_step(tmp_path, capsys):
    choices = {"preset": "ddpm", "network": NETWORK, "steps": 2, "batch_size": 4, "held_out_every": 0}
    run = unblot.train("digits", out=tmp_path / "run", quiet=True, preview_every=0, unlabelled=True, **choices)
    assert main(["export", str(run.path), "--to", "diffusers", "--raw", "--out", str(tmp_path / "raw")]) == 0
    last = load_file(run.path / "checkpoints/00000002/state.safetensors")
    for name, tensor in load_file(tmp_path / "raw" / UNET).items():
        assert (tensor == last[f"weights/denoiser/network.{name}"]).all()
    averaged = load_file(exported(run, tmp_path / "averaged") / UNET)
    assert any((averaged[n] != last[f"weights/denoiser/network.{n}"]).any() for n in averaged)
    import_run(tmp_path / "averaged", out=tmp_path / "again")
    assert "keeps averaged weights alone; leave out --raw" in refused(
        capsys, "export", tmp_path / "again", "--to", "diffusers", "--raw"
    )


def test_an_imported_run_takes_the_data_that_it_is_given_and_trains_on_nothing_else(tmp_path, capsys):
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    one = {"in_channels": 1, "out_channels": 1}
    diffusers.DDPMPipeline(librarys("ho", **one), scheduler).save_pretrained(tmp_path / "theirs")
    folder = import_run(tmp_path / "theirs", out=tmp_path / "run")
    config = load(folder).config
    with pytest.raises(UnblotError, match="imported without the pictures"):
        data_of_run(config, folder, None, quiet=True)
    dataset, known = data_of_run(config, folder, "digits", quiet=True)
    assert (known.data.count, known.data.fingerprint) == (len(dataset.train), dataset.fingerprint)
    assert dataset.labels is None  # the network knows none
    wide = dataclasses.replace(config, data=dataclasses.replace(config.data, width=16))
    with pytest.raises(UnblotError, match="another kind"):
        data_of_run(wide, folder, "digits", quiet=True)
    before = files_of(folder)
    line = refused(capsys, "train", "--resume", folder, "--data", "digits", "--steps", "5")
    assert "was imported and has no checkpoint" in line
    assert files_of(folder) == before


def test_an_imported_run_of_labels_draws_each_and_is_not_guided(tmp_path, capsys):
    diffusers.DDPMPipeline(librarys("labels"), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "theirs")
    run = load(import_run(tmp_path / "theirs", out=tmp_path / "run"))
    assert run.sample(3, label="all", steps=2).labels == [0, 1, 2]
    with pytest.raises(UnblotError, match="needs a model that was also trained without labels"):
        run.sample(1, label="0", steps=2, guidance=2.0)


HO = {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "attention_head_dim": None, "norm_eps": 1e-6}
PUBLISHED = {  # Ho's networks as the library has them: size, channels, the level with attention, and their options here
    "cifar10": (32, (128, 256, 256, 256), 1, {}),
    "celebahq": (256, (128, 128, 256, 256, 512, 512), 4, {"multipliers": "1-1-2-2-4-4", "attention": "4"}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_hos_networks_are_the_default_network_but_for_their_sizes(name):
    size, channels, level, changed = PUBLISHED[name]
    down = tuple("AttnDownBlock2D" if i == level else "DownBlock2D" for i in range(len(channels)))
    up = tuple(block.replace("Down", "Up") for block in reversed(down))
    unet = UNetConfig(sample_size=size, block_out_channels=channels, down_block_types=down, up_block_types=up, **HO)
    config = config_of(unet, SchedulerConfig(variance_type="fixed_large"), name)
    _, options = parse(NETWORKS, config.train.network, "network")
    assert options == {**options_of(NETWORKS["ddpm_unet"]), "groups": 32, **changed}
    assert config.shape == (3, size, size)
    assert (config.train.schedule, config.train.solver) == (LINEAR, "ddpm:variance=beta")
