"""The sampler of a call: what is asked for, what tuning found, or what the run was trained with; and guidance."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

import unblot
from helpers import TINY_RUN
from unblot import UnblotError
from unblot.cli.parser import main
from unblot.config.distill import DistillConfig
from unblot.config.sampling import EditConfig, SampleConfig
from unblot.config.schema import RunConfig
from unblot.runs import bulk
from unblot.runs.choosing import LABEL_GUIDANCE, untuned_sampler
from unblot.runs.describe import describe
from unblot.runs.folder import TUNING, fingerprint, save_model
from unblot.runs.run import Run
from unblot.runs.tuning_store import Tuning, read_tuning, write_tuning
from unblot.sampling.settings import Candidate, SamplerConfig
from unblot.system.files import checksum, read_tensors

TINY = {**TINY_RUN, "steps": 2, "quiet": True}
TRIALS = tuple(
    Candidate(SamplerConfig("euler", "karras:rho=7.0,low=0.002,high=80.0", nfe), nfe, distance)
    for nfe, distance in ((2, 5.0), (3, 1.4), (4, 1.0))
)
WEAK = "snapshots/00000001.safetensors"
AWAY = Candidate(SamplerConfig("euler", "karras:rho=7.0,low=0.002,high=80.0", 3, 30.0, 0.1, 10.0, WEAK), 5, 0.5)
TOWARDS = Candidate(SamplerConfig("euler", "karras:rho=7.0,low=0.002,high=80.0", 3, 1.2), 6, 0.6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "r", **TINY)


@pytest.fixture
def tuned(run):
    write_tuning(run.path, Tuning(fingerprint(run.denoiser), TRIALS, {"features": "classifier"}))
    yield run
    (run.path / TUNING).unlink()


def taken(run: Run, **asked) -> tuple[str, int]:
    about = run.sample(1, **asked).provenance
    return about["solver"].partition(":")[0], about["steps"]


def test_a_tuned_run_samples_with_what_was_found(tuned):
    assert read_tuning(tuned.path, tuned.denoiser).candidates == TRIALS
    assert taken(tuned) == ("euler", 4)  # good
    assert taken(tuned, quality="draft") == ("euler", 3)
    assert taken(tuned, quality="best") == ("euler", 4)
    assert taken(tuned, nfe=3) == ("euler", 3)
    assert taken(tuned, nfe=100) == ("euler", 4)


def test_labels_and_clusters_are_guided_towards_where_nothing_is_said_of_guidance(run):
    labelled, edit = run.config, EditConfig(label="3")
    assert run.sampler(SampleConfig(label="3")).guidance == untuned_sampler(labelled, edit).guidance == LABEL_GUIDANCE
    assert run.sampler(SampleConfig()).guidance == LABEL_GUIDANCE  # labels are drawn as often as in the data
    assert untuned_sampler(labelled, EditConfig()).guidance == 1.0  # a picture that is edited has none
    for choices in ({"guidance": 1.0}, {"guidance": 3.0}):
        assert run.sampler(SampleConfig(label="3", **choices)).guidance == choices["guidance"]
    assert run.sampler(SampleConfig(label="3", guidance_high=1.0)).guidance == LABEL_GUIDANCE
    assert run.sample(1, label="3", nfe=8).provenance["steps"] == 4  # of two calls each

    always = dataclasses.replace(labelled, train=dataclasses.replace(labelled.train, label_dropout=0.0))
    assert untuned_sampler(always, edit).guidance == 1.0
    clusters = dataclasses.replace(labelled, data=dataclasses.replace(labelled.data, classes=(), clusters=(0.5, 0.5)))
    assert untuned_sampler(clusters, SampleConfig()).guidance == LABEL_GUIDANCE
    assert untuned_sampler(clusters, EditConfig()).guidance == 1.0


@pytest.fixture
def guided(run, tmp_path):
    """A tuned run whose best sampler is guided, in a folder of its own."""
    folder = shutil.copytree(run.path, tmp_path / "guided")
    guides = {WEAK: checksum(folder / WEAK)}
    write_tuning(folder, Tuning(fingerprint(run.denoiser), (*TRIALS, AWAY, TOWARDS), {}, guides))
    return unblot.load(folder)


def test_a_run_whose_best_sampler_is_guided_is_guided_by_default(guided):
    about = guided.sample(1).provenance
    expected = (3, 30.0, WEAK, 10.0)
    assert tuple(about[key] for key in ("steps", "guidance", "autoguide", "guidance_high")) == expected
    assert guided.sample(1, nfe=4).provenance["guidance"] == 1.0
    assert guided.sampler(SampleConfig(nfe=5)) == guided.sampler(SampleConfig()) == AWAY.sampler
    assert guided.sampler(SampleConfig(guidance=1.0)) == TRIALS[-1].sampler
    assert guided.sampler(SampleConfig(guidance=3.0)).guidance_high is None
    plain = guided.sampler(SampleConfig(steps=3))
    assert (plain.guidance, plain.autoguide) == (LABEL_GUIDANCE, None)
    assert "away from snapshots" in describe(guided.path)


def test_guidance_that_tuning_found_can_be_asked_for(guided):
    """Picture for picture: by its parts, by a model file of the same weights, and in a folder that was moved."""
    found = guided.sample(3).array
    path = guided.path.parent / "weak.safetensors"
    tensors, _ = read_tensors(guided.path / WEAK)
    save_model(path, guided.config, {k[2:]: w.float() for k, w in tensors.items() if k.startswith("0/")})
    choices = {"steps": 3, "solver": "euler", "guidance": 30.0, "guidance_low": 0.1, "guidance_high": 10.0}
    for weak in (WEAK, guided.path / WEAK, path):
        assert np.array_equal(found, guided.sample(3, autoguide=weak, **choices).array)
    assert not np.array_equal(found, guided.sample(3, steps=3, solver="euler").array)
    moved = unblot.load(guided.path.rename(guided.path.with_name("moved")))
    assert np.array_equal(found, moved.sample(3).array)


def test_samples_in_a_folder_are_guided_and_say_so(guided, tmp_path):
    assert main(["sample", str(guided.path), "-n", "2", "--out", str(tmp_path / "o")]) == 0
    kept = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert (kept["guidance"], kept["autoguide"], kept["sampled_with"]["autoguide"]) == (30.0, WEAK, WEAK)
    assert main(["sample", str(guided.path), "-n", "2", "--guidance", "1", "--out", str(tmp_path / "p")]) == 0
    assert json.loads((tmp_path / "p" / "manifest.json").read_text())["autoguide"] is None


def test_without_its_weaker_model_a_run_samples_with_the_best_that_is_left(guided):
    assert guided.sampler(SampleConfig()).guided
    (guided.path / WEAK).write_bytes((guided.path / WEAK).read_bytes() + b" ")
    assert guided.sampler(SampleConfig()) == TOWARDS.sampler
    (guided.path / WEAK).unlink()
    assert guided.sampler(SampleConfig()) == TOWARDS.sampler
    assert "is gone" in describe(guided.path)


def test_a_damaged_tuning_does_not_prevent_sampling_without_it(run):
    (run.path / TUNING).write_text("{")
    assert taken(run, steps=2, solver="euler", spacing="time") == ("euler", 2)
    (run.path / TUNING).unlink()


def test_what_is_asked_for_goes_before_what_was_found(tuned):
    train = tuned.config.train
    assert taken(tuned, steps=5) == (train.solver.partition(":")[0], 5)
    assert taken(tuned, solver="heun", nfe=5, guidance=1) == ("heun", 3)
    assert taken(tuned, solver="heun", nfe=10) == ("heun", 3)  # towards a label a step takes twice as many
    assert taken(tuned, spacing="time") == (train.solver.partition(":")[0], train.sampling_steps)


def test_without_tuning_the_run_decides(run):
    assert taken(run) == ("dpmpp_2m", run.config.train.sampling_steps)
    assert taken(run, nfe=7, guidance=1) == ("dpmpp_2m", 7)
    assert taken(run, nfe=7) == ("dpmpp_2m", 3)  # towards a label a step takes two


def test_tuning_holds_for_the_weights_that_it_was_made_with(tuned, tmp_path):
    other = {k: v + 1 for k, v in tuned.denoiser.state_dict().items()}
    save_model(tmp_path / "model.safetensors", tuned.config, other)
    (tmp_path / TUNING).write_text((tuned.path / TUNING).read_text())
    run = unblot.load(tmp_path)
    assert read_tuning(run.path, run.denoiser) is None
    with pytest.raises(UnblotError, match="unblot tune RUN"):
        run.sample(1, quality="good")
    assert taken(run) == ("dpmpp_2m", run.config.train.sampling_steps)


def test_a_call_is_resumed_with_its_sampler_though_the_run_was_tuned_meanwhile(run, tmp_path):
    bulk.sample_to_folder(tmp_path / "a", run, 2, steps=None)
    write_tuning(run.path, Tuning(fingerprint(run.denoiser), TRIALS))
    with pytest.raises(UnblotError, match="other choices"):
        bulk.sample_to_folder(tmp_path / "a", run, 2, steps=None)
    (run.path / TUNING).unlink()


def test_a_damaged_tuning_is_reported_in_one_line(run):
    (run.path / TUNING).write_text('{"model": "x", "candidates": [{"solver": "euler"}]}')
    with pytest.raises(UnblotError, match="write it anew"):
        run.sample(1)
    (run.path / TUNING).unlink()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--quality", "good"], "tuned with its present weights"),
        (["--quality", "good", "--steps", "3"], "leave out --steps"),
        (["--quality", "good", "--nfe", "3"], "leave out --nfe"),
        (["--nfe", "3", "--steps", "3"], "leave out --steps"),
        (["--nfe", "0"], "--nfe must be at least 1"),
        (["--nfe", "3", "--solver", "adaptive"], "cannot keep to"),
        (["--guidance-rescale", "2"], "--guidance-rescale must be from 0 to 1"),
        (["--guidance-low", "-1"], "--guidance-low must be at least 0"),
        (["--label", "1", "--threshold", "hard"], "choose one of none, static, dynamic"),
        (["--autoguide", "no/such/run", "--guidance", "2"], "no model at"),
    ],
)
def test_wrong_choices_are_one_line(run, flags, expected, capsys, tmp_path):
    assert main(["sample", str(run.path), "--out", str(tmp_path / "o"), *flags]) == 2
    line = capsys.readouterr().err
    assert expected in line
    assert line.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_an_unknown_quality_is_named(tuned):
    with pytest.raises(UnblotError, match="choose one of draft, good, best"):
        tuned.sample(1, quality="superb")


# --- guidance


def pixels(run: Run, **choices) -> np.ndarray:
    return run.sample(4, steps=3, label="all", **choices).array.astype(int)


@pytest.fixture(scope="module")
def weak(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("weak") / "model.safetensors"
    weights = {k: v + 0.05 * torch.ones_like(v) for k, v in run.denoiser.state_dict().items()}
    save_model(path, run.config, weights)
    return path


def test_scale_1_changes_nothing_and_an_empty_interval_neither(run):
    plain = pixels(run, guidance=1.0)
    assert np.array_equal(plain, pixels(run, guidance=1.0, guidance_rescale=0.7, guidance_low=1.0))
    assert np.array_equal(plain, pixels(run, guidance=4.0, guidance_low=1e6))
    assert not np.array_equal(plain, pixels(run, guidance=20.0))


def test_scales_take_turns_among_pictures(run):
    plain, guided = pixels(run, guidance=1.0), pixels(run, guidance=20.0)
    mixed = pixels(run, guidance=[1.0, 20.0])
    assert np.abs(mixed[::2] - plain[::2]).max() <= 1
    assert np.abs(mixed[1::2] - guided[1::2]).max() <= 1
    later = run.sample(1, first=3, steps=3, label="all", guidance=[1.0, 20.0]).array.astype(int)
    assert np.abs(later - mixed[3:]).max() <= 1


def test_autoguidance_pushes_away_from_another_model(run, weak):
    assert not np.array_equal(pixels(run), pixels(run, autoguide=weak, guidance=3.0))
    unlabelled = run.sample(2, steps=3, autoguide=weak, guidance=3.0)
    assert unlabelled.provenance["autoguide"] == str(weak)
    with pytest.raises(UnblotError, match="changes nothing"):
        run.sample(1, autoguide=weak)


def test_a_model_of_other_pictures_cannot_guide(run, tmp_path):
    other = unblot.train("moons", out=tmp_path / "m", network="mlp:width=8,depth=1", steps=1, batch_size=4, quiet=True)
    with pytest.raises(UnblotError, match="give a model of the same data"):
        run.sample(1, autoguide=other.path, guidance=2.0)
    with pytest.raises(UnblotError, match="unbounded floats"):
        other.sample(1, threshold="static")


DISTILLED = DistillConfig(teacher="runs/teacher")


@pytest.mark.parametrize(
    ("mine", "its", "expected"),
    [
        ({}, {"distill": DISTILLED}, "was distilled, .*; use its teacher, 'runs/teacher'"),
        ({"distill": DISTILLED}, {}, "this run was distilled, .*; use its teacher"),
        (
            {},
            {"classes": tuple("0123456798")},
            "knows label 8 as '9', this run as '8'; give a model of the same classes",
        ),
        ({}, {"classes": (), "clusters": (0.1,) * 10}, "other clusters as labels"),
        ({}, {"values": {"dtype": "uint8", "offset": [0.0], "scale": [255.0]}}, "another range of values"),
    ],
)
def test_a_model_whose_estimates_or_labels_mean_something_else_cannot_guide(run, tmp_path, mine, its, expected):
    """Though its shapes are those of the run, so that it would."""

    def changed(changes: dict) -> RunConfig:
        facts = {name: value for name, value in changes.items() if name != "distill"}
        data = dataclasses.replace(run.config.data, **facts)
        return dataclasses.replace(run.config, data=data, distill=changes.get("distill"))

    save_model(tmp_path / "model.safetensors", changed(its), run.denoiser.state_dict())
    guided = dataclasses.replace(run, config=changed(mine))
    with pytest.raises(UnblotError, match=expected):
        guided.sample(1, autoguide=tmp_path / "model.safetensors", guidance=2.0)


def test_thresholds_hold_what_has_limits(run):
    held = run.sample(4, steps=3, label="all", guidance=3000.0, threshold="dynamic:quantile=0.5")
    assert held.provenance["threshold"] == "dynamic:quantile=0.5"
    assert not np.array_equal(held.array, pixels(run, guidance=3000.0))
