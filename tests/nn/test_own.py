"""Networks of one's own: trained, kept by name and version, and imported only where a person has named them."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unblot
from helpers import refused
from unblot import UnblotError, api
from unblot.cli.parser import main
from unblot.interchange.raw import with_raw_weights
from unblot.losses import WEIGHTINGS
from unblot.nn import own
from unblot.nn.own import module_of
from unblot.runs.adapter import adapted
from unblot.runs.folder import BEST, CONFIG, MODEL, buffers, load_model, save_model
from unblot.runs.run_data import open_dataset
from unblot.runs.snapshots import at_snapshot
from unblot.sampling import SOLVERS
from unblot.specs import canonical, parse
from unblot.studio import commands
from unblot.system.files import checksum, read_tensors
from unblot.training import checkpoint
from unblot.training import trainer as engine
from unblot.training.diagnostics import run_logger

CODE = """
import random
from pathlib import Path

import torch
from torch import nn

Path("imported").touch()

class MyNet(nn.Module):
    def __init__(self, channels, out_channels, size, num_classes, *, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(),
                                    nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, x, noise, label=None):
        return self.layers(x) + noise[:, None, None, None]

class Kept(MyNet):
    def __init__(self, channels, out_channels, size, num_classes, *, width: int = 8):
        super().__init__(channels, out_channels, size, num_classes, width=width)
        self.norm = nn.BatchNorm2d(channels)
        self.register_buffer("frequencies", torch.tensor([random.SystemRandom().gauss(0, 1)]))  # each time others

    def forward(self, x, noise, label=None):
        return super().forward(self.norm(x) + self.frequencies, noise)

class Unknown(MyNet):
    embeds = "log_snr"

class Nothing:
    pass
"""
TINY = ["--steps", "2", "--batch-size", "4", "--sampling-steps", "2", "--held-out-every", "0", "--clusters", "0"]
FOUR = {"steps": 4, "batch_size": 4, "sampling_steps": 2, "checkpoint_every": 2, "quiet": True}
FOUR |= {"held_out_every": 0, "preview_every": 0, "clusters": 0}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the working directory that nobody has imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "_imported", set())
    name = f"mymodule_{tmp_path.name}"
    Path(f"{name}.py").write_text(CODE)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def forgotten(module, monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(own, "_imported", set())
    sys.modules.pop(module, None)
    Path("imported").unlink(missing_ok=True)


def test_it_trains_and_is_kept_by_name_and_version_and_never_imported_unasked(module, monkeypatch, capsys):
    assert main(["train", "digits", "--out", "r", "--network", f"{module}:MyNet,width=12", *TINY]) == 0
    kept = json.loads(Path("r", CONFIG).read_text())
    assert kept["train"]["network"] == f"{module}:MyNet,width=12"
    assert kept["code"] == f"sha256 {checksum(Path(f'{module}.py'))}"
    forgotten(module, monkeypatch)
    for command in (["sample", "r", "-n", "1"], ["show", f"r/{MODEL}"], ["train", "--resume", "r", "--steps", "3"]):
        assert f"unblot --import {module}" in refused(capsys, *command)
    with pytest.raises(UnblotError, match=r"unblot\.import_networks"):
        unblot.load("r")
    assert not Path("imported").exists()
    assert main(["--import", module, "sample", "r", "-n", "1"]) == 0
    assert main(["--import", module, "train", "--resume", "r", "--steps", "3", "--quiet"]) == 0
    unblot.import_networks(module)
    assert unblot.load("r").sample(1).array.shape == (1, 1, 8, 8)
    assert unblot.plan("digits", from_="r", quiet=True).origin.share == 1


def test_another_version_of_the_code_is_told(module, monkeypatch, capsys):
    assert main(["train", "digits", "--out", "r", "--network", f"{module}:MyNet", "--quiet", *TINY]) == 0
    drawn = unblot.load("r").sample(1).array
    forgotten(module, monkeypatch)
    Path(f"{module}.py").write_text(CODE + "# later")
    capsys.readouterr()
    assert main(["--import", module, "show", "r"]) == 0
    assert "is another version than" in capsys.readouterr().err
    with pytest.warns(unblot.errors.UnblotNote, match="is another version"):
        assert np.array_equal(unblot.load("r").sample(1).array, drawn)


def test_another_version_of_the_code_is_told_before_it_trains(module, monkeypatch):
    unblot.import_networks(module)
    unblot.train("digits", out="r", network=f"{module}:MyNet", **FOUR)
    forgotten(module, monkeypatch)
    Path(f"{module}.py").write_text(CODE + "# later")
    unblot.import_networks(module)
    monkeypatch.setattr(api, "denoising_trainer", lambda *given: pytest.fail("trains"))
    with (
        pytest.warns(unblot.errors.UnblotNote, match=f"{module}:MyNet.* is another version than .* was trained with"),
        pytest.raises(pytest.fail.Exception, match="trains"),
    ):
        unblot.resume("r", steps=6, quiet=True)


def test_what_is_no_network_is_one_line(module, capsys):
    for network, words in (
        (f"{module}:Nothing", "name a class in it that is a torch.nn.Module"),
        (f"{module}:Unknown", "`embeds` is 'log_snr'; choose one of log_noise_ratio, ddpm_index"),
        (f"{module}:Missing", "has no network 'Missing'"),
        (f"{module}:MyNet,depth=2", "has no option 'depth=2'; its options are: width=8"),
        ("no_such_module:Net", "cannot be imported (ModuleNotFoundError"),
    ):
        assert words in refused(capsys, "train", "digits", "--network", network)
    Path("broken.py").write_text("1/0")
    assert "ZeroDivisionError" in refused(capsys, "--import", "broken", "show", "r")


def test_a_forged_model_file_imports_nothing(module, capsys):
    assert main(["train", "digits", "--out", "r", "--network", "mlp:width=8,depth=1", "--quiet", *TINY]) == 0
    config, denoiser = load_model(Path("r"))
    train = dataclasses.replace(config.train, network=f"{module}:MyNet,width=8")
    save_model(Path("forged.safetensors"), dataclasses.replace(config, train=train), denoiser.state_dict())
    assert "imported only if asked" in refused(capsys, "sample", "forged.safetensors")
    assert not Path("imported").exists()


def test_the_studio_takes_no_code():
    with pytest.raises(UnblotError, match="imports no code"):
        commands.arguments("train", {"network": "mymodule:MyNet"})
    assert commands.arguments("train", {"network": "unet:width=8"}) == ["--network=unet:width=8"]


def test_specs_of_own_networks():
    assert module_of("a.b:Net,width=3") == "a.b"
    assert all(module_of(spec) is None for spec in ("unet", "unet:width=3", "a.b:width=3", "a-b:Net", ":Net"))

    def made(*, width: int = 8, deep: bool = False) -> None:
        pass

    table = {"a.b:Net": made}
    assert parse(table, "a.b:Net,width=3", "network") == ("a.b:Net", {"width": 3, "deep": False})
    assert canonical(table, "a.b:Net", "network") == "a.b:Net,width=8,deep=False"


def test_a_module_adds_solvers_and_weightings_of_its_own(module, monkeypatch, capsys):
    for table, name in ((SOLVERS, "quieter"), (WEIGHTINGS, "halved")):
        monkeypatch.setitem(table, name, None)  # what the module adds goes with the test
        del table[name]
    Path(f"{module}.py").write_text(
        "from unblot.losses import WEIGHTINGS\n"
        "from unblot.sampling import SOLVERS\n"
        "def quieter(*, keep: float = 0.9):\n"
        "    return SOLVERS['ddim'](eta=1 - keep)\n"
        "SOLVERS['quieter'] = quieter\n"
        "WEIGHTINGS['halved'] = lambda: lambda level, denoiser: 0.5 * level.alpha**0\n"
    )
    training = ["train", "digits", "--out", "r", "--network", "mlp:width=8,depth=1", "--quiet", *TINY]
    assert "unknown weighting 'halved'" in refused(capsys, *training, "--weighting", "halved")
    assert main(["--import", module, *training, "--weighting", "halved"]) == 0
    assert main(["sample", "r", "-n", "1", "--solver", "quieter:keep=0.8", "--out", "drawn"]) == 0
    assert json.loads(Path("drawn", "manifest.json").read_text())["solver"] == "quieter:keep=0.8"


@pytest.fixture
def kept(module):
    """A run of a network with batch norm, and with numbers in a buffer that are others in each new network."""
    unblot.import_networks(module)
    return unblot.train("digits", out="kept", network=f"{module}:Kept", **FOUR)


def same_buffers(a, b):
    a, b = (found if isinstance(found, dict) else buffers(found) for found in (a, b))
    assert a.keys() == b.keys()
    assert "network.norm.running_mean" in a
    return all(torch.equal(a[name], b[name]) for name in a)


def test_what_a_network_keeps_in_buffers_goes_on_with_its_run(kept):
    before = checksum(kept.path / MODEL)
    shutil.rmtree(kept.path / "checkpoints" / "00000004")
    unblot.resume(kept.path, quiet=True)
    assert checksum(kept.path / MODEL) == before
    assert same_buffers(with_raw_weights(kept).denoiser, kept.denoiser)


def test_a_checkpoint_without_buffers_still_goes_on(kept, monkeypatch):
    load = checkpoint.load_newest

    def older(*given):
        tensors, state = load(*given)
        return {name: t for name, t in tensors.items() if not name.startswith("buffers/")}, state

    monkeypatch.setattr(checkpoint, "load_newest", older)
    assert np.isfinite(unblot.resume(kept.path, steps=5, quiet=True).sample(1).array).all()


def test_a_snapshot_has_the_buffers_of_its_step(kept):
    step_2 = read_tensors(kept.path / "checkpoints/00000002/state.safetensors", ("buffers/denoiser/",))[0]
    denoiser = at_snapshot(kept.path / "snapshots/00000002.safetensors", kept.config)
    assert same_buffers(denoiser, {name.removeprefix("buffers/denoiser/"): t for name, t in step_2.items()})
    assert not same_buffers(denoiser, kept.denoiser)
    assert np.isfinite(kept.sample(1, autoguide="snapshots/00000002.safetensors", guidance=2).array).all()


def test_a_training_from_it_and_a_student_begin_with_its_buffers(kept):
    begun = unblot.train("digits", from_=kept.path, out="begun", **FOUR)
    assert begun.config.origin.share == 1
    student = unblot.distill(kept.path, out="student", nfe=1, steps=2, batch_size=4, quiet=True)
    for run in (begun, student):
        assert torch.equal(buffers(run.denoiser)["network.frequencies"], buffers(kept.denoiser)["network.frequencies"])
        assert not same_buffers(run.denoiser, kept.denoiser)  # statistics go on
    before = checksum(student.path / MODEL)
    unblot.resume(student.path, quiet=True)
    assert checksum(student.path / MODEL) == before


def test_an_adapter_leaves_its_buffers_as_they_are(kept):
    chosen = {name: value for name, value in FOUR.items() if name not in ("clusters", "sampling_steps")}
    added = unblot.train("digits", from_=kept.path, adapter=1, out="added", **chosen)
    assert same_buffers(added.denoiser, kept.denoiser)
    drawn = adapted(kept, [str(added.path / "adapter.safetensors")]).sample(4, seed=1).array
    assert np.abs(drawn.astype(int) - added.sample(4, seed=1).array).max() <= 1


def test_the_best_weights_of_a_run_that_overfits_have_the_buffers_of_their_step(module, monkeypatch):
    monkeypatch.setattr(run_logger, "turned", lambda lines: lines)
    monkeypatch.setattr(checkpoint, "best_saved", lambda run: 2)
    unblot.import_networks(module)
    run = unblot.train("digits", out="kept", network=f"{module}:Kept", **FOUR)
    step_2 = read_tensors(run.path / "checkpoints/00000002/state.safetensors", ("buffers/denoiser/",))[0]
    best = load_model(run.path / BEST)[1]
    assert same_buffers(best, {name.removeprefix("buffers/denoiser/"): t for name, t in step_2.items()})
    assert not same_buffers(best, run.denoiser)


def test_passes_that_are_only_tried_change_no_buffer(kept, monkeypatch):
    monkeypatch.setattr(engine, "compile_where_it_pays", lambda network, mode, device, passes, steps, note: passes())
    trainer = engine.denoising_trainer(kept.config, open_dataset(kept.config.source, quiet=True))
    before = {name: buffer.clone() for name, buffer in buffers(trainer.denoiser).items()}
    trainer.compile(print)
    assert same_buffers(trainer.denoiser, before)
    trainer.take_step()
    assert not same_buffers(trainer.denoiser, before)
