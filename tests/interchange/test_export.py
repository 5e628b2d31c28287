"""An exported denoiser is the run's, in any number of pictures; the sampler beside it draws the run's pictures."""

import json
import runpy
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unblot
from helpers import captioned_folder, refused, shaken
from unblot.cli.parser import main
from unblot.config.export import ExportConfig
from unblot.errors import UnblotError
from unblot.interchange import export
from unblot.interchange.export import export_run
from unblot.interchange.numpy_sampler import draw, spread_labels
from unblot.process.randomness import labels_for, normal, picture_generators
from unblot.runs.folder import MODEL, save_model

TINY = {"batch_size": 8, "quiet": True, "steps": 2, "preview_every": 0, "held_out_every": 0, "device": "cpu"}
NETWORKS = {
    "unet": {"network": "unet:width=16,multipliers=1,blocks=1"},
    "ddpm_unet": {"network": "ddpm_unet:width=16,multipliers=1,blocks=1,attention=", "preset": "ddpm"},
    "dit": {"network": "dit:width=16,depth=1,heads=2"},
    "mlp": {"network": "mlp:width=16"},
    "spectrum": {"network": "mlp:width=16", "spectrum": "data", "parameterization": "edm"},
}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A run of pictures of 7 to 6 pixels with captions."""
    folder = captioned_folder(tmp_path_factory.mktemp("data"), (7, 6), ("a red picture", "a dark one"))
    text = {"network": "dit:width=32,depth=1,heads=2", "text_encoder": "transformer:width=32,depth=1,kernel=3,layout=4"}
    run = shaken(unblot.train(folder, out=tmp_path_factory.mktemp("runs") / "words", **TINY, **text))
    save_model(run.path / MODEL, run.config, run.denoiser.state_dict())
    return run


def noise_of(run, n, seed=0):
    """The noise of the first n pictures of a seed, as `unblot sample` draws it."""
    return normal(picture_generators(seed, range(n)), run.config.shape).numpy()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of digits with the network of this name, and the folder of its export to ONNX at 3 steps."""

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        run = shaken(unblot.train("digits", out=folder / "run", **TINY, **NETWORKS[name]))
        out, worst = export_run(run, ExportConfig(steps=3), folder / "onnx")
        assert worst < 1e-5
        return run, out

    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_from_the_same_noise_numpy_draws_the_pictures_of_the_run(name, digits):
    run, out = digits(name)
    drawn = draw(out, noise_of(run, 5), np.arange(5)).astype(int)
    samples = run.sample(5, label=[0, 1, 2, 3, 4], steps=3, solver="ddim").array.astype(int)
    assert np.abs(drawn - samples).max() <= 1  # a value between two gray levels may round either way
    assert (drawn == samples).mean() > 0.99
    assert len(np.unique(samples)) > 3


@pytest.fixture(scope="module")
def distilled(digits, tmp_path_factory):
    """A student of two evaluations."""
    few = {"steps": 2, "batch_size": 8, "preview_every": 0, "quiet": True}
    return shaken(unblot.distill(digits("unet")[0].path, out=tmp_path_factory.mktemp("runs") / "run", nfe=2, **few))


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_a_distilled_run_is_exported_whole(to, distilled, tmp_path):
    run = distilled
    out, worst = export_run(run, ExportConfig(to=to), tmp_path / to)
    assert worst < 1e-5
    samples = run.sample(3, label=[0, 1, 2]).array.astype(int)
    assert len(np.unique(samples)) > 3
    if to == "onnx":
        assert np.abs(draw(out, noise_of(run, 3), np.arange(3)).astype(int) - samples).max() <= 1
    assert {path.suffix for path in out.iterdir()} <= {".onnx", ".pt2", ".json", ".py"}  # all that the sampler reads
    with pytest.raises(UnblotError, match="distilled for"):
        export_run(run, ExportConfig(to=to, steps=4), tmp_path / "other")


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    """A run in latents of colour pictures of 9x11 pixels, no multiple of the factor."""
    folder = captioned_folder(tmp_path_factory.mktemp("data"), (9, 11), ("",))
    chosen = {
        "latent": True,
        "latent_width": 8,
        "latent_steps": 4,
        "uncaptioned": True,
        "clusters": 0,
        "spectrum": "data",
    }
    run = unblot.train(folder, out=tmp_path_factory.mktemp("runs") / "latent", **TINY, **chosen, **NETWORKS["unet"])
    return shaken(run)


def test_a_run_in_latents_is_exported_with_its_decoder(latent, tmp_path):
    out, worst = export_run(latent, ExportConfig(steps=3), tmp_path / "onnx")
    assert worst < 1e-5
    assert (out / "decoder.onnx").is_file()
    drawn, samples = draw(out, noise_of(latent, 3)), latent.sample(3, steps=3, solver="ddim").array
    assert drawn.shape == samples.shape == (3, 3, 9, 11)
    assert np.abs(drawn.astype(int) - samples).max() <= 1
    assert len(np.unique(samples)) > 3
    out, worst = export_run(latent, ExportConfig(to="torch"), tmp_path / "torch")
    assert worst < 1e-5
    assert (out / "decoder.pt2").is_file()


def test_a_distilled_run_in_latents_is_exported_whole_with_its_decoder_in_it(latent, tmp_path):
    few = {"steps": 2, "batch_size": 8, "preview_every": 0, "quiet": True}
    run = shaken(unblot.distill(latent.path, out=tmp_path / "run", nfe=1, **few))
    out, worst = export_run(run, ExportConfig(), tmp_path / "onnx")
    assert worst < 1e-5
    assert not (out / "decoder.onnx").exists()
    drawn, samples = draw(out, noise_of(run, 2)), run.sample(2).array
    assert drawn.shape == samples.shape == (2, 3, 9, 11)
    assert np.abs(drawn.astype(int) - samples).max() <= 1


def test_a_run_without_labels_whose_network_embeds_its_own_indices(tmp_path):
    network = "ddpm_unet:width=16,multipliers=1,blocks=1,attention=0,head=8,index=schedule"
    choices = {"network": network, "preset": "ddpm", "schedule": "cosine:steps=50", "parameterization": "v"}
    run = shaken(unblot.train("digits", unlabelled=True, out=tmp_path / "run", **TINY, **choices))
    out, worst = export_run(run, ExportConfig(steps=4), tmp_path / "onnx")
    assert worst < 1e-5
    drawn = draw(out, noise_of(run, 3)).astype(int)
    assert np.abs(drawn - run.sample(3, steps=4, solver="ddim").array).max() <= 1


def test_a_model_that_never_saw_pictures_without_a_label_is_exported_with_all_in_turns(tmp_path):
    run = shaken(unblot.train("digits", out=tmp_path / "run", label_dropout=0.0, **TINY, **NETWORKS["mlp"]))
    out, _ = export_run(run, ExportConfig(steps=3), tmp_path / "onnx")
    samples = run.sample(5, steps=3, solver="ddim").array.astype(int)
    assert np.abs(draw(out, noise_of(run, 5)).astype(int) - samples).max() <= 1
    with pytest.raises(ValueError, match="cannot be guided"):
        draw(out, noise_of(run, 5), guidance=2)


def test_labels_are_guided_towards_as_in_the_samples_of_the_run(digits):
    run, out = digits("mlp")
    label, noise = np.full(3, 4), noise_of(run, 3)
    samples = run.sample(3, label="4", steps=3, solver="ddim", guidance=3).array.astype(int)
    assert np.abs(draw(out, noise, label, guidance=3).astype(int) - samples).max() <= 1
    usual = run.sample(3, label="4", steps=3, solver="ddim").array.astype(int)
    assert np.abs(draw(out, noise, label).astype(int) - usual).max() <= 1
    assert np.abs(usual - samples).max() > 1
    unguided = run.sample(3, label="4", steps=3, solver="ddim", guidance=1).array.astype(int)
    assert np.abs(draw(out, noise, label, guidance=1).astype(int) - unguided).max() <= 1
    of_all = run.sample(3, steps=3, solver="ddim").array.astype(int)
    assert np.abs(draw(out, noise).astype(int) - of_all).max() <= 1  # labels as often as in the data
    for wrong in (-1, 11):
        with pytest.raises(ValueError, match="from 0 to 10, of which the last is no label"):
            draw(out, noise, np.full(3, wrong))


def test_clusters_come_as_in_the_samples_of_the_run(tmp_path):
    choices = {"unlabelled": True, "clusters": 3, **NETWORKS["mlp"]}
    run = shaken(unblot.train("digits", out=tmp_path / "run", **TINY, **choices))
    out, _ = export_run(run, ExportConfig(steps=3), tmp_path / "onnx")
    samples, noise = run.sample(5, seed=7, steps=3, solver="ddim").array.astype(int), noise_of(run, 5, seed=7)
    assert np.abs(draw(out, noise, seed=7).astype(int) - samples).max() <= 1
    guided = run.sample(5, seed=7, steps=3, solver="ddim", guidance=3).array.astype(int)
    assert np.abs(draw(out, noise, seed=7, guidance=3).astype(int) - guided).max() <= 1
    unlabelled = draw(out, noise, np.full(5, 3)).astype(int)  # the number after those of the clusters is no label
    assert np.abs(unlabelled - samples).max() > 1


@given(seed=st.integers(0, 2**64), shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=9))
def test_numpy_gives_the_pictures_of_a_seed_the_clusters_that_sampling_gives_them(seed, shares):
    assert spread_labels(seed, 20, shares).tolist() == labels_for(seed, range(20), clusters=shares).tolist()


@pytest.fixture(scope="module")
def exported(captioned, tmp_path_factory):
    """The folder of its export to ONNX, at 3 steps, by the command line."""
    out = tmp_path_factory.mktemp("exports") / "onnx"
    assert main(["export", str(captioned.path), "--out", str(out), "--steps", "3"]) == 0
    return out


def test_prompts_are_tokens_and_the_size_may_be_odd(captioned, exported):
    out = exported
    prompts = ["a red picture", "", "dark"]
    tokens = captioned.denoiser.text_encoder.read(prompts).numpy()
    drawn = draw(out, noise_of(captioned, 3), tokens=tokens).astype(int)
    samples = captioned.sample(3, prompt=prompts, steps=3, solver="ddim").array.astype(int)
    assert np.abs(drawn - samples).max() <= 1
    plain = draw(out, noise_of(captioned, 3), tokens=tokens, guidance=1).astype(int)
    assert np.abs(plain - captioned.sample(3, prompt=prompts, steps=3, solver="ddim", guidance=1).array).max() <= 1
    assert (plain != drawn).any()
    none = draw(out, noise_of(captioned, 3)).astype(int)
    assert np.abs(none[1] - drawn[1]).max() <= 1  # the empty prompt is no text
    assert (none[0] != drawn[0]).any()
    assert json.loads((out / "tokenizer.json").read_text())["model"]["type"] == "BPE"


def test_half_weights_and_a_program_of_torch(captioned, exported, tmp_path):
    half, worst = export_run(captioned, ExportConfig(half=True), tmp_path / "half")
    assert 0 < worst < 1e-2
    assert (half / "model.onnx").stat().st_size < 0.9 * (exported / "model.onnx").stat().st_size
    _, worst = export_run(captioned, ExportConfig(to="torch"), tmp_path / "torch")
    assert worst < 1e-5


def test_a_file_that_differs_is_refused_and_nothing_is_left(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "difference", lambda *given: 2e-4)
    with pytest.raises(unblot.UnblotError, match=r"differs from the run's by 0\.0002"):
        export_run(digits("mlp")[0], ExportConfig(to="torch"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_leaves_nothing(captioned, tmp_path, monkeypatch, capsys):
    def full(run, part, path, half):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    monkeypatch.setattr(export, "_to_torch", full)
    assert "the disk is full" in refused(capsys, "export", captioned.path, "--to", "torch", "--out", out)
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "exporting needs the package onnxruntime" in refused(capsys, "export", captioned.path, "--out", out)
    assert not out.exists()


def test_what_cannot_be_exported_is_told_in_a_line(captioned, tmp_path, capsys):
    assert "--to pickle is unknown; choose one of onnx, torch" in refused(
        capsys, "export", captioned.path, "--to", "pickle"
    )
    assert "--half is for --to onnx alone" in refused(capsys, "export", captioned.path, "--half", "--to", "torch")
    (tmp_path / "mine.txt").write_text("mine")
    told = refused(capsys, "export", captioned.path, "--out", tmp_path / "mine.txt")
    assert "mine.txt" in told


def test_the_script_beside_the_file_runs_by_itself(exported, tmp_path, capsys, monkeypatch):
    code = "import runpy, sys; sys.modules['torch'] = sys.modules['unblot'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    script = [str(exported / "sample.py"), "-n", "2", "--out", str(tmp_path / "p.npy")]
    subprocess.run([sys.executable, "-c", code, *script], check=True)
    assert np.load(tmp_path / "p.npy").shape == (2, 3, 7, 6)
    monkeypatch.setattr(sys, "argv", [script[0], "--label", "3"])
    with pytest.raises(SystemExit):
        runpy.run_path(script[0], run_name="__main__")
    assert capsys.readouterr().err.endswith("error: this model knows no labels; leave out label\n")
