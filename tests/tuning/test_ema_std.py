"""Another EMA std, put into the model of a finished run."""

import shutil
import signal

import numpy as np
import pytest
import torch

from helpers import stopped_after
from unblot import UnblotError, api
from unblot.cli import parser as cli
from unblot.errors import UnblotNote
from unblot.process.randomness import OF_EMA
from unblot.runs.folder import MODEL, read_config
from unblot.sampling.batched import split_batches
from unblot.system.files import read_tensors
from unblot.training import checkpoint
from unblot.training.averages import posthoc
from unblot.training.loop import Loop
from unblot.tuning import ema_std

TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 24, "batch_size": 16, "warmup": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    api.train("digits", out=folder, quiet=True, preview_every=0, **TINY)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_an_ema_std_is_put_into_the_model_and_the_first_one_comes_back(copy):
    before = read_tensors(copy / MODEL)[0]
    config = (copy / "config.json").read_bytes()
    chosen = api.choose_ema(copy, std=0.12)
    assert chosen.config.train.ema == "power:std=0.12"
    assert chosen.sample(2, steps=2).provenance["ema"] == "power:std=0.12"
    changed = read_tensors(copy / MODEL)[0]
    assert any(not torch.equal(changed[name], w) for name, w in before.items())
    api.choose_ema(copy, std=0.05)
    again = read_tensors(copy / MODEL)[0]
    assert all(torch.equal(again[name], w) for name, w in before.items())
    assert (copy / "config.json").read_bytes() == config


def test_the_second_average_is_the_one_that_was_tracked(copy):
    api.choose_ema(copy, std=0.1)
    saved = checkpoint.load(copy, TINY["steps"])[0]
    weights = read_tensors(copy / MODEL)[0]
    assert all(torch.equal(saved[f"ema1/{name}"], w) for name, w in weights.items())


@pytest.mark.parametrize("by", ["loss", "distance"])
def test_the_best_ema_std_is_the_one_with_the_lowest_loss_or_distance(copy, monkeypatch, by):
    monkeypatch.setattr(ema_std, "EMA_STDS", (0.05, 0.2))
    rows = []
    chosen = api.choose_ema(copy, by=by, n=20, report=rows.append)
    best = min(rows, key=lambda row: row.metric)
    assert [row.std for row in rows] == [0.05, 0.2]
    assert chosen.config.train.ema == f"power:std={best.std}"
    if by == "loss":  # after so few steps the shorter one has learned more
        assert rows[0].metric < rows[1].metric


@pytest.mark.parametrize("by", ["loss", "distance"])
def test_the_best_ema_std_is_chosen_on_the_data_of_the_run_alone(tmp_path, by):
    pictures = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
    np.save(tmp_path / "a.npy", pictures)
    run = api.train(str(tmp_path / "a.npy"), out=tmp_path / "run", quiet=True, preview_every=0, **TINY)
    np.save(tmp_path / "a.npy", 255 - pictures)
    before = (run.path / MODEL).read_bytes()
    with pytest.raises(UnblotError, match=r"a\.npy.*put it back as it was"):
        api.choose_ema(run.path, by=by, n=20)
    assert (run.path / MODEL).read_bytes() == before
    assert api.choose_ema(run.path, std=0.1).config.train.ema == "power:std=0.1"  # which needs no data


def test_the_loss_is_measured_with_other_noise_than_in_an_evaluation(copy, monkeypatch):
    monkeypatch.setattr(ema_std, "EMA_STDS", (0.05,))
    asked, loss_by_level = [], ema_std.loss_by_level
    monkeypatch.setattr(ema_std, "loss_by_level", lambda *a, **k: asked.append(k) or loss_by_level(*a, **k))
    api.choose_ema(copy, batch_size=50)
    assert asked == [{"seed": OF_EMA, "batch_size": 50}]


def test_a_distance_is_of_pictures_of_every_cluster_as_often_as_it_comes(tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 64, (200, 8, 8), np.uint8)
    pictures[:160] += 192  # four fifths are bright
    np.save(tmp_path / "a.npy", pictures)
    run = api.train(str(tmp_path / "a.npy"), out=tmp_path / "run", quiet=True, preview_every=0, clusters=2, **TINY)
    seen = []
    monkeypatch.setattr(ema_std, "EMA_STDS", (0.05,))

    def recording(denoiser, shape, indices, *rest, **how):
        seen.append((indices, how["condition"].label, how["batch_size"]))
        return split_batches(denoiser, shape, indices, *rest, **how)

    monkeypatch.setattr("unblot.runs.run.split_batches", recording)
    api.choose_ema(run.path, by="distance", n=50, batch_size=7)
    ((indices, labels, batch_size),) = seen
    assert (indices, batch_size) == (range(OF_EMA, OF_EMA + 50), 7)  # none is one of `evaluate`
    assert np.abs(torch.bincount(labels, minlength=2).numpy() / 50 - run.config.data.clusters).max() <= 0.04


def test_a_distilled_run_is_not_judged_by_the_loss_of_levels_that_it_does_not_know(run, tmp_path, monkeypatch):
    few = {"nfe": 1, "steps": 8, "batch_size": 16, "preview_every": 0, "quiet": True}
    student = api.distill(run, out=tmp_path / "few", **few)
    before = (student.path / MODEL).read_bytes()
    with pytest.raises(UnblotError, match=r"distilled.*by='loss'.*give by='distance'"):
        api.choose_ema(student.path)
    assert (student.path / MODEL).read_bytes() == before
    monkeypatch.setattr(ema_std, "EMA_STDS", (0.1,))
    assert api.choose_ema(student.path, by="distance", n=20).config.train.ema == "power:std=0.1"


def test_snapshots_are_taken_again_after_going_back(run, copy):
    newest = copy / "checkpoints" / f"{TINY['steps']:08d}"
    shutil.rmtree(newest)
    last = f"{TINY['steps']:08d}.safetensors"
    (copy / posthoc.SNAPSHOTS / last).write_bytes(b"of steps that are taken again")
    api.resume(copy, quiet=True)
    for file in (run / posthoc.SNAPSHOTS).iterdir():
        assert (copy / posthoc.SNAPSHOTS / file.name).read_bytes() == file.read_bytes()
    assert (copy / MODEL).read_bytes() == (run / MODEL).read_bytes()
    assert read_config(copy).train.ema == "power:std=0.05+power:std=0.1"


def test_of_a_stopped_run_it_says_which_step_the_average_is_of(copy, tmp_path, monkeypatch):
    (copy / posthoc.SNAPSHOTS / f"{TINY['steps']:08d}.safetensors").unlink()
    with pytest.warns(UnblotNote, match="checkpoint of step 24, and its newest snapshot is of step 21"):
        api.choose_ema(copy, std=0.1)
    stopped_after(monkeypatch, 2)
    run = api.train("digits", out=tmp_path / "early", quiet=True, preview_every=0, **TINY)
    with pytest.raises(UnblotError, match="stopped after step 2, before its first snapshot; go on with it by"):
        api.choose_ema(run.path)


def test_a_run_without_snapshots_and_a_damaged_one_are_one_line(copy, capsys):
    file = next((copy / posthoc.SNAPSHOTS).iterdir())
    file.write_bytes(file.read_bytes()[:100])
    assert cli.main(["ema", str(copy), "--std", "0.1"]) == 2
    assert "is not a complete snapshot" in capsys.readouterr().err
    shutil.rmtree(copy / posthoc.SNAPSHOTS)
    assert cli.main(["ema", str(copy)]) == 2
    assert "has no snapshots" in capsys.readouterr().err
    with pytest.raises(UnblotError, match="no snapshots"):
        api.choose_ema(copy, std=0.1)


def test_the_average_that_was_chosen_stays_where_a_resume_trains_nothing(copy, monkeypatch):
    api.choose_ema(copy, std=0.12)
    chosen = (copy / MODEL).read_bytes()
    assert api.resume(copy, quiet=True).config.train.ema == "power:std=0.12"
    assert (copy / MODEL).read_bytes() == chosen
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "adjust_steps", lambda loop: signal.raise_signal(signal.SIGINT))
        assert api.resume(copy, steps=30, quiet=True).interrupted
    assert (copy / MODEL).read_bytes() == chosen
    (copy / MODEL).unlink()
    assert api.resume(copy, steps=24, quiet=True).config.train.ema == "power:std=0.05+power:std=0.1"
