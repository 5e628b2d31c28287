"""What sampling accepts and refuses: choices by name, guidance, bounds, and samples that are not finite."""

import dataclasses
import json
import math
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import unblot
from helpers import TINY_RUN
from unblot import UnblotError
from unblot.cli.parser import main
from unblot.config.measuring import EmaConfig
from unblot.config.sampling import SampleConfig
from unblot.data.dataset import open_data
from unblot.data.values import ValueMap
from unblot.editing import images
from unblot.evaluation import measure
from unblot.process.randomness import training_labels
from unblot.process.schedules import SCHEDULES, karras
from unblot.reports import evaluation
from unblot.runs import bulk
from unblot.runs.bulk import sample_to_folder
from unblot.runs.conditions import condition_as_trained, needs_clusters
from unblot.runs.describe import describe
from unblot.runs.folder import METRICS, MODEL, SAMPLES, save_model
from unblot.runs.run import Run
from unblot.runs.shared import sample_in_shares
from unblot.sampling.settings import SamplerConfig, sampler_for
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import MOST_STEPS
from unblot.system.distributed import Group
from unblot.tuning.ema_std import best_std

TINY = {**TINY_RUN, "steps": 2, "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "r", **TINY)


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "m"
    return unblot.train("moons", out=folder, network="mlp:width=8,depth=1", steps=1, batch_size=4, quiet=True)


def with_changes(run: Run, *, data: dict | None = None, train: dict | None = None) -> Run:
    """The run, as if it had other data or had been trained otherwise."""
    config = run.config
    changed = {
        "data": dataclasses.replace(config.data, **data or {}),
        "train": dataclasses.replace(config.train, **train or {}),
    }
    return dataclasses.replace(run, config=dataclasses.replace(config, **changed))


def test_the_keyword_face_is_the_configuration(run):
    choices = {"steps": 2, "solver": "euler", "label": "3", "guidance": 2.0, "guidance_high": 5.0, "seed": 4}
    config = SampleConfig(n=3, **choices)
    expected = run.sample_with(run.sampler(config), config, range(2, 5))
    found = run.sample(3, first=2, **choices)
    assert np.array_equal(found.array, expected.array)
    assert found.provenance == expected.provenance


@pytest.mark.parametrize("choice", ["stpes", "device", "out"])
def test_an_unknown_choice_is_named_with_the_known_ones(run, choice):
    with pytest.raises(UnblotError, match=rf"unknown choice '{choice}'.*nfe.*steps.*solver"):
        run.sample(1, **{choice: 3})
    with pytest.raises(UnblotError, match=rf"unknown choice '{choice}'.*steps.*solver"):
        images.img2img(run, np.zeros((1, 1, 8, 8), np.uint8), **{choice: 3})


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, [1.0, math.nan], []], ids=str)
def test_a_guidance_scale_that_is_no_number_is_refused_by_name(run, scale):
    with pytest.raises(UnblotError, match="guidance"):
        run.sample(1, steps=1, label="3", guidance=scale)


@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_at_the_command_line_it_is_refused_by_its_flag(run, scale, tmp_path, capsys):
    assert main(["sample", str(run.path), "--label", "3", "--guidance", scale, "--out", str(tmp_path / "o")]) == 2
    assert "--guidance" in (line := capsys.readouterr().err)
    assert "diverged" not in line
    assert not (tmp_path / "o").exists()


def test_an_interval_without_a_level_is_refused(run):
    with pytest.raises(UnblotError, match=r"guidance_low=5.*guidance_high=1"):
        run.sample(1, steps=1, label="3", guidance=2.0, guidance_low=5, guidance_high=1)
    with pytest.raises(UnblotError, match="limit a guidance"):
        with_changes(run, train={"label_dropout": 0.0}).sample(1, steps=1, guidance_high=5)


def test_network_calls_are_counted_before_anything_is_drawn(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "sample_with", lambda *a: pytest.fail("drawn"))
    for module in (bulk, evaluation):
        monkeypatch.setattr(module, "network_calls", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_to_folder(tmp_path / "s", run, 2)
    with pytest.raises(ZeroDivisionError):
        unblot.evaluate(run.path, n=2, quiet=True)


def test_samples_are_held_in_memory_once(run, monkeypatch):
    """However many batches there are, and in the one process of an evaluation."""
    monkeypatch.setattr(Run, "drawn", lambda self, batch, on_step: np.zeros((len(range(3000)[batch.part]), 1, 8, 8)))
    config = SampleConfig(n=3000, batch_size=30, steps=1)
    tracemalloc.start()
    unlabelled = with_changes(run, data={"classes": ()})  # labels take memory of their own
    array = sample_in_shares(unlabelled, Group(), config).array
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.7 * array.nbytes


def test_guidance_needs_a_model_that_knows_no_label(tmp_path):
    run = unblot.train("digits", out=tmp_path / "r", label_dropout=0.0, **TINY)
    with pytest.raises(UnblotError, match="train with label_dropout"):
        run.sample(1, steps=1, label="3", guidance=2.0)
    with pytest.raises(UnblotError, match="train with label_dropout"):
        images.img2img(run, np.zeros((1, 1, 8, 8), np.uint8), steps=2, label="3", guidance=2.0)
    assert run.sample(1, steps=1, label="3", guidance=1.0).labels == [3]


def test_without_a_label_each_class_comes_as_often_as_in_the_data(run, tmp_path, monkeypatch):
    drawn = run.sample(12, steps=1)
    assert np.array_equal(drawn.array, run.sample(12, steps=1, label=drawn.labels).array)
    assert run.sample(3, first=5, steps=1).labels == drawn.labels[5:8]
    assert run.sample(12, steps=1, seed=1).labels != drawn.labels
    counts = np.bincount(run.sample(500, steps=1).labels, minlength=10) / 500
    dataset = open_data("digits")
    assert np.abs(counts - np.bincount(dataset.labels[dataset.train]) / len(dataset.train)).max() < 0.01
    assert images.img2img(run, drawn.array[:1], n=2, steps=1).labels is None  # the picture says what it shows
    monkeypatch.setattr(bulk, "MANY", 3)
    sample_to_folder(tmp_path / "s", run, 3, steps=1)
    assert np.load(tmp_path / "s" / "labels-000000.npy").tolist() == drawn.labels[:3]


def test_classes_of_runs_that_know_no_shares_come_equally_often(run):
    old = with_changes(run, data={"shares": ()})
    assert np.abs(np.bincount(old.sample(500, steps=1).labels, minlength=10) / 500 - 0.1).max() < 0.005


def test_a_model_that_never_saw_pictures_without_a_label_edits_with_one_alone(run):
    told = with_changes(run, train={"label_dropout": 0.0})
    drawn = told.sample(3, steps=1, guidance=1)
    assert drawn.labels == run.sample(3, steps=1).labels
    assert images.img2img(told, drawn.array[:1], n=2, steps=1, label="3").labels == ["3", "3"]
    with pytest.raises(UnblotError, match="give label="):
        images.img2img(told, drawn.array[:1], n=2, steps=1)


def test_labels_may_be_those_of_numpy_and_pytorch(run, tmp_path):
    picture = run.sample(1, steps=1, label=np.int64(3))
    assert picture.labels == [3]
    assert run.sample(2, steps=1, label=torch.tensor([1, 2])).labels == [1, 2]
    assert images.img2img(run, picture.array, n=2, steps=1, label=np.array([1, 2])).labels == ["1", "2"]
    sample_to_folder(tmp_path, run, 2, steps=1, label=np.array([1, 2]))
    assert json.loads((tmp_path / "manifest.json").read_text())["label"] == [1, 2]


def test_a_rescaling_without_a_guidance_is_refused(run):
    with pytest.raises(UnblotError, match=r"guidance_rescale=0\.5 rescales a guidance; give guidance=2\.0"):
        with_changes(run, train={"label_dropout": 0.0}).sample(1, steps=1, guidance_rescale=0.5)
    assert run.sample(1, steps=1, label="3", guidance_rescale=0.5, guidance=2.0).array.shape == (1, 1, 8, 8)


def test_a_model_that_never_saw_pictures_without_a_cluster_has_no_edits_and_no_likelihood(tmp_path):
    choices = {**TINY, "unlabelled": True, "clusters": 3, "label_dropout": 0.0}
    run = unblot.train("digits", out=tmp_path / "r", **choices)
    drawn = run.sample(2, steps=1).array
    with pytest.raises(UnblotError, match=r"never saw pictures without a cluster.*train with label_dropout"):
        images.img2img(run, drawn, n=1, steps=1)
    dataset, notes = open_data("digits", labels=False), []
    assert measure.likelihood(run.config, run.denoiser, dataset, measure.Options(likelihood=4)) is None
    assert evaluation._learning(run.config, run.denoiser, dataset, measure.Options(), notes.append) is None
    assert "never saw pictures without a cluster" in notes[0]
    with pytest.raises(UnblotError, match="give by='distance'"):
        best_std(run, dataset, None, EmaConfig(by="loss"), tmp_path, print)
    with_dropout = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, label_dropout=0.1))
    assert not needs_clusters(with_dropout)


def test_samples_as_in_training_have_labels_and_captions_of_the_same_pictures(tmp_path):
    for i in range(40):
        name = ("dog", "cat")[i % 5 > 0]
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 6 * i, np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
        (tmp_path / "data" / name / f"{i}.txt").write_text(name)
    reads = {**TINY, "text_encoder": "transformer:width=32,depth=1"}
    run = unblot.train(tmp_path / "data", out=tmp_path / "run", **reads)
    dataset, data = open_data(str(tmp_path / "data")), run.config.data
    found = condition_as_trained(run.denoiser, data, dataset, 0, 30)
    alone = run.denoiser.condition(None, [data.classes[k] for k in found.label.tolist()])
    assert torch.equal(found.tokens, alone.tokens)
    assert (found.label == data.classes.index("cat")).sum() > 20  # as often as in the data


def test_no_class_is_no_label(run):
    with pytest.raises(UnblotError, match="names no class"):
        run.sample(1, steps=1, label=[])


# --- bounds


def test_steps_are_bounded(run):
    with pytest.raises(UnblotError, match="steps"):
        run.sample(1, steps=10**6)
    with pytest.raises(UnblotError, match=f"1 to {MOST_STEPS} steps, not {MOST_STEPS + 1}"):
        SamplerConfig("euler", "time", MOST_STEPS + 1).levels(karras())
    found = sampler_for("euler", "time", 10**9, karras())
    assert found is not None
    assert found.steps == MOST_STEPS


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine", "sigmoid", "linear_zero_snr"])
@pytest.mark.parametrize("steps", [0, 10**12])
def test_the_table_of_a_schedule_is_bounded(name, steps):
    with pytest.raises(UnblotError, match=f"not {steps}"):
        SCHEDULES[name](steps=steps)


def test_repeats_are_bounded():
    with pytest.raises(UnblotError, match="repeats"):
        SOLVERS["restart"](repeats=10**6)


# --- samples that are not finite, or too large for their type


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["run", "points"])
def test_damaged_weights_give_one_line_instead_of_samples(which, bad, tmp_path, request, capsys):
    good = request.getfixturevalue(which)
    save_model(
        tmp_path / MODEL, good.config, {k: torch.full_like(w, bad) for k, w in good.denoiser.state_dict().items()}
    )
    with pytest.raises(UnblotError, match="NaN or infinite"):
        unblot.load(tmp_path / MODEL).sample(2, steps=2)
    assert main(["sample", str(tmp_path / MODEL), "-n", "2", "--steps", "2", "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_beyond_a_type_become_its_largest(dtype):
    limits = np.finfo(dtype)
    values = ValueMap(dtype, (0.0,), (float(limits.max) / 2,))
    x = np.array([-5.0, -1.0, 0.0, 1.0, 5.0]).reshape(5, 1, 1, 1)
    found = values.decode(x).ravel()
    assert found.dtype == dtype
    expected = np.array([limits.min, limits.min / 2, 0, limits.max / 2, limits.max], np.float64)
    assert np.array_equal(found, expected.astype(dtype))


# --- what is said of a run


@pytest.fixture
def copy(run, tmp_path) -> Run:
    return unblot.load(shutil.copytree(run.path, tmp_path / "r"))


def test_a_run_is_described_before_its_first_logged_step_and_without_samples(copy):
    shutil.rmtree(copy.path / SAMPLES)
    (copy.path / METRICS).write_text("")
    assert "reached" not in describe(copy.path)
    (copy.path / METRICS).write_text(json.dumps({"step": 1, "training": [0.5], "held_out": []}) + "\n")
    text = describe(copy.path)
    assert "step 1 of 2" in text
    assert "0.5000 at step 1" in text
    (copy.path / METRICS).unlink()
    (copy.path / MODEL).unlink()  # as before its first checkpoint
    assert "no model saved yet" in describe(copy.path)


# --- labels as in the training data


@pytest.mark.parametrize("count", [1, 5, 12])
def test_training_labels_are_a_random_order_of_them_all(count):
    labels = np.array([4, 4, 0, 1, 2])
    found = training_labels(labels, seed=3, count=count)
    assert len(found) == count
    whole = count // 5 * 5
    assert sorted(found[:5]) == sorted(labels.tolist()) or count < 5
    assert found[:whole] == found[:5] * (count // 5)
    assert found == training_labels(labels, seed=3, count=12)[:count]
    assert training_labels(labels, 0, 5) != training_labels(labels, 1, 5)
