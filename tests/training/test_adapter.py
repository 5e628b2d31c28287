"""Adapters: only the addition is trained, it is small, and without it the run is what it was, to the last bit."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import unblot
from helpers import FEW, captioned_folder, refused, shaken
from unblot import UnblotError
from unblot.cli.parser import main
from unblot.config.card import CardConfig
from unblot.config.export import ExportConfig
from unblot.interchange.card import card
from unblot.interchange.raw import with_raw_weights
from unblot.interchange.to_diffusers import UNET, WEIGHTS, export_pipeline
from unblot.nn import NETWORKS
from unblot.nn.low_rank import add_low_rank, additions, merge_low_rank
from unblot.runs.adapter import adapted, merged, split_weight
from unblot.runs.folder import CONFIG, LOG, MODEL, build_denoiser, fingerprint, save_model
from unblot.runs.run_data import data_of_run
from unblot.specs import build
from unblot.system.files import checksum, read_tensors

TINY = {**FEW, "steps": 3}
TRAINED = {"steps": 3, "preview_every": 0, "held_out_every": 0, "quiet": True}
SMALL = {
    "unet": "unet:width=16,multipliers=1,blocks=1",
    "ddpm_unet": "ddpm_unet:width=32,multipliers=1,blocks=1,attention=0",
    "dit": "dit:width=32,depth=1",
    "mlp": "mlp:width=32,depth=1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, labels in (("first", "aabb"), ("second", "ccdd"), ("same", "abab")):
        np.savez(place / f"{name}.npz", x=rng.integers(0, 256, (4, 8, 8), np.uint8), y=np.array(list(labels)))
    return place


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    made = unblot.train(
        folder / "first.npz", out=tmp_path_factory.mktemp("runs") / "first", network=SMALL["unet"], **TINY
    )
    save_model(made.path / MODEL, made.config, shaken(made).denoiser.state_dict())
    return unblot.load(made.path)


@pytest.fixture(scope="module")
def trained(run, folder):
    return unblot.train(folder / "second.npz", from_=run.path, adapter=2, out=run.path.with_name("added"), **TRAINED)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_takes_an_addition_that_does_nothing_at_first_and_is_merged(kind):
    torch.manual_seed(0)
    network = build(NETWORKS, SMALL[kind], "network", 1, 1, (8, 8), 2)
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x, noise, label = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.2]), torch.tensor([0, 2])
    names, before = set(network.state_dict()), network(x, noise, label)
    add_low_rank(network, 2)
    assert torch.equal(network(x, noise, label), before)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        f"{name}.parametrizations.weight.0.{part}" for name in additions(network) for part in ("up", "down")
    }
    for addition in additions(network).values():
        addition.up.data.normal_()
    after = network(x, noise, label)
    assert not torch.allclose(after, before)
    merge_low_rank(network)
    assert set(network.state_dict()) == names
    torch.testing.assert_close(network(x, noise, label), after, rtol=1e-4, atol=1e-4)


def test_only_the_addition_is_trained_and_it_draws_what_its_run_draws(run, trained):
    whole, source = trained.denoiser.state_dict(), run.denoiser.state_dict()
    for name, weight in whole.items():
        if ".weight.0." not in name:
            assert torch.equal(weight, source[name.replace(".parametrizations.weight.original", ".weight")]), name
    assert any(bool(a.up.any()) for a in additions(trained.denoiser.network).values())
    file = trained.path / "adapter.safetensors"
    drawn, plain = adapted(run, [str(file)]).sample(4, seed=1), trained.sample(4, seed=1)
    assert drawn.labels is plain.labels is None
    assert np.abs(drawn.array.astype(int) - plain.array).max() <= 1
    same = {"label": "all", "seed": 1}
    labelled = run.sample(4, **same).array
    assert np.array_equal(adapted(run, [f"{file}:0"]).sample(4, **same).array, labelled)
    assert np.array_equal(adapted(run, [f"{file}:0.75", f"{file}:-0.75"]).sample(4, **same).array, labelled)
    assert np.array_equal(run.sample(4, **same).array, labelled)
    assert file.stat().st_size < (run.path / MODEL).stat().st_size
    header = json.loads(read_tensors(file)[1]["unblot_adapter"])
    assert header == {"rank": 2, "model": fingerprint(run.denoiser), "unlabelled": True}


def test_it_resumes_without_its_source(run, trained, folder, tmp_path):
    for part in ("stopped", "whole"):
        shutil.copytree(trained.path, tmp_path / part)
    again = unblot.resume(tmp_path / "stopped", steps=5, quiet=True)
    assert any(not torch.equal(a, b) for a, b in zip(again.denoiser.parameters(), trained.denoiser.parameters()))
    straight = unblot.train(folder / "second.npz", from_=run.path, adapter=2, out=tmp_path / "s", **TRAINED)
    assert checksum(straight.path / MODEL) == checksum(trained.path / MODEL)
    assert checksum(straight.path / "adapter.safetensors") == checksum(trained.path / "adapter.safetensors")


def test_an_adapter_for_the_run_of_an_adapter_is_applied_to_that(trained, folder, tmp_path):
    second = unblot.train(folder / "first.npz", from_=trained.path, adapter=1, out=tmp_path / "second", **TRAINED)
    file = second.path / "adapter.safetensors"
    drawn = adapted(unblot.load(trained.path), [str(file)])
    assert drawn.config.adapter is None
    assert np.abs(drawn.sample(4, seed=1).array.astype(int) - second.sample(4, seed=1).array).max() <= 1
    with pytest.raises(UnblotError, match="adds to other weights"):
        adapted(second, [str(file)])


def test_at_the_command_line_it_is_applied_and_left_out(run, trained, tmp_path, capsys):
    out = tmp_path / "drawn"
    file = trained.path / "adapter.safetensors"
    assert main(["sample", str(run.path), "-n", "2", "--adapter", f"{file}:0.5", "--out", str(out)]) == 0
    before = checksum(run.path / MODEL)
    assert json.loads((out / "manifest.json").read_text())["model"] != fingerprint(run.denoiser)
    assert checksum(run.path / MODEL) == before
    assert "adds to other weights" in refused(capsys, "sample", trained.path, "--adapter", file)
    assert "is no adapter" in refused(capsys, "sample", run.path, "--adapter", run.path / MODEL)
    assert "no such file" in refused(capsys, "sample", run.path, "--adapter", out / "none.safetensors")
    assert "has no weight" in refused(capsys, "sample", run.path, "--adapter", f"{file}:x")


def test_files_name_the_adapters_that_they_were_drawn_with(run, trained, tmp_path):
    file = trained.path / "adapter.safetensors"
    named = [f"adapter.safetensors:{weight} (sha256 {checksum(file)[:8]})" for weight in ("0.5", "1")]
    both = ["--adapter", f"{file}:0.5", "--adapter", str(file), "--steps", "2"]
    picture = run.sample(1, steps=2).save(tmp_path / "plain") / "000000.png"
    assert main(["sample", str(run.path), "-n", "1", *both, "--out", str(tmp_path / "drawn")]) == 0
    assert main(["film", str(run.path), "-n", "1", *both, "--out", str(tmp_path / "film")]) == 0
    edit = ["edit", "img2img", str(run.path), str(picture), "-n", "1"]
    assert main([*edit, *both, "--out", str(tmp_path / "edit")]) == 0
    for kind in ("drawn", "film", "edit"):
        assert json.loads((tmp_path / kind / "manifest.json").read_text())["adapters"] == named
        for drawn in (tmp_path / kind).glob("0*.png"):
            assert json.loads(Image.open(drawn).text["unblot"])["adapters"] == named
    assert "adapters" not in Image.open(picture).text["unblot"]
    assert main(["sample", str(run.path), "-n", "2", "--steps", "2", "--out", str(tmp_path / "without")]) == 0
    assert not any("adapters" in path.read_text() for path in (tmp_path / "without").glob("*.json"))


def test_labels_are_learned_where_the_classes_are_the_same(run, trained, folder, tmp_path):
    same = unblot.train(folder / "same.npz", from_=run.path, adapter=1, out=tmp_path / "r", **TRAINED)
    assert not same.config.source.unlabelled
    assert trained.config.source.unlabelled
    assert same.config.data.classes == trained.config.data.classes == ("a", "b")


def never_without(run):
    """The run, as if it had never been trained with hidden labels."""
    train = dataclasses.replace(run.config.train, label_dropout=0.0)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, train=train))


def test_one_that_learned_without_labels_is_drawn_without_and_says_so(run, trained, capsys):
    assert sorted(never_without(run).sample(2, steps=1).labels) == [0, 1]
    assert never_without(trained).sample(2, steps=1).labels is None
    assert trained.sample(2, steps=1, label="b").labels == [1, 1]
    assert run.config.draws_labels
    assert not trained.config.draws_labels
    told = card(trained, CardConfig(), None, {"solver": "ddim", "steps": 1})
    assert main(["show", str(trained.path)]) == 0
    for text in (told, capsys.readouterr().out):
        assert "a, b (of the " in text
        assert "asked for by" not in text


LONG = "one picture of a blue and green owl"


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """Folders of pictures with captions: few short ones, and long ones of other words."""
    folders = [tmp_path_factory.mktemp(name) for name in ("short", "long")]
    captioned_folder(folders[0], (8, 8), ["red", "dark"])
    captioned_folder(folders[1], (8, 8), ["red", LONG])
    return folders


def test_that_it_learns_pixels_may_be_said(run, folder):
    planned = unblot.plan(folder / "second.npz", from_=run.path, adapter=1, pixels=True, quiet=True)
    assert (planned.adapter.rank, planned.latent) == (1, None)


def test_its_words_are_those_of_its_own_captions(captions, tmp_path):
    reader = {"network": SMALL["unet"], "text_encoder": "transformer:width=32,depth=1,layout=2"}
    run = unblot.train(captions[0], out=tmp_path / "run", **reader, **TINY)
    added = unblot.train(captions[1], from_=run.path, adapter=1, out=tmp_path / "added", **TRAINED)
    learned = {name for name, p in build_denoiser(added.config).named_parameters() if p.requires_grad}
    assert learned
    assert all("parametrizations" in name for name in learned)  # no gradients for what is not trained
    own, text = run.config.data.text, added.config.data.text
    assert {*text.words.split()} == {"red", *LONG.split()}
    assert (text.merges, text.length) == (own.merges, own.length)
    dataset = data_of_run(added.config, added.path, None, quiet=True)[0]
    assert 0 < text.cut == sum(dataset.captions[i] == (LONG,) for i in dataset.train)
    assert text.pictures == len(dataset.train)
    log = (added.path / LOG).read_text()
    assert (
        f"captions of {text.pictures} pictures, 9 words, up to {own.length} tokens; {text.cut} longer captions" in log
    )
    bare = unblot.plan(captions[1], from_=run.path, adapter=1, uncaptioned=True, quiet=True).data.text
    assert (bare.pictures, bare.cut, bare.words) == (0, 0, own.words)


def test_what_its_run_cannot_read_is_said(run, captions, folder, tmp_path, capsys):
    plain = unblot.train(captions[0], out=tmp_path / "run", network=SMALL["unet"], uncaptioned=True, **TINY)
    unblot.plan(captions[1], from_=plain.path, adapter=1)
    assert f"note: captions are not read: '{plain.path}' learned from none" in capsys.readouterr().err
    unblot.plan(captions[1], from_=plain.path, adapter=1, uncaptioned=True)
    assert "not read" not in capsys.readouterr().err
    unblot.plan(folder / "second.npz", from_=run.path, adapter=1)
    assert f"note: labels are not read: their classes are not those of '{run.path}'" in capsys.readouterr().err


def test_what_it_cannot_be_is_one_line(run, folder, tmp_path, capsys):
    begin = ["train", folder / "second.npz", "--from", run.path, "--out", tmp_path / "r"]
    assert "leave out --network" in refused(capsys, *begin, "--adapter", "2", "--network", SMALL["unet"])
    assert "--adapter must be from 0 to 256" in refused(capsys, *begin, "--adapter", "999")
    assert "name it with --from" in refused(capsys, "train", folder / "second.npz", "--adapter", "2")
    for choices, words in (
        ({"adapter": 256}, "is larger than rank 256"),
        ({"adapter": 2, "size": 16}, "do not fit.*bring them there with size='8x8'$"),
        ({"adapter": 2, "colour": "rgb"}, "do not fit.*bring them there with colour='gray'$"),
    ):
        with pytest.raises(UnblotError, match=words):
            unblot.train(folder / "second.npz", from_=run.path, out=tmp_path / "r", quiet=True, **choices)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_values_mean_what_they_mean_to_the_run_whatever_range_new_pictures_have(dtype, tmp_path):
    rng = np.random.default_rng(0)
    for name, most in (("wide", 4000), ("narrow", 900)):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, most, (24, 8, 8)).astype(dtype))
    run = unblot.train(tmp_path / "wide.npy", out=tmp_path / "run", network=SMALL["unet"], **TINY)
    how = {"from_": run.path, "adapter": 2, "checkpoint_every": 2, **TRAINED}
    added = unblot.train(tmp_path / "narrow.npy", out=tmp_path / "added", **how)
    assert added.config.data.values == run.config.data.values
    dataset, _ = data_of_run(added.config, added.path, None, quiet=True)
    assert dataset.values.to_dict() == run.config.data.values
    assert float(dataset.batch(dataset.train)[0].mean()) < -0.2  # darker than what the run knows
    before = checksum(added.path / MODEL)
    shutil.rmtree(added.path / "checkpoints" / "00000003")
    unblot.resume(added.path, quiet=True)
    assert checksum(added.path / MODEL) == before


def test_pictures_of_another_type_are_refused_with_what_would_bring_them_there(run, tmp_path):
    np.save(tmp_path / "deep.npy", np.random.default_rng(0).integers(0, 4000, (4, 8, 8), np.uint16))
    with pytest.raises(UnblotError, match=r"channel of uint16 do not fit.* with values of type uint8 in the files$"):
        unblot.plan(tmp_path / "deep.npy", from_=run.path, adapter=2, quiet=True)


def test_its_run_is_distilled_into_one_without_an_adapter_that_learns_and_resumes(trained, tmp_path):
    few = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 0, "held_out_every": 0, "quiet": True}
    student = unblot.distill(trained.path, out=tmp_path / "few", nfe=1, **few)
    assert student.config.adapter is None
    assert not (student.path / "adapter.safetensors").exists()
    before = merged(trained.config, trained.denoiser)[1].state_dict()
    learned = student.denoiser.state_dict()
    assert learned.keys() == before.keys()
    changed = sum(w.numel() for name, w in learned.items() if not torch.equal(w, before[name]))
    assert changed > sum(w.numel() for w in learned.values()) / 2
    model = checksum(student.path / MODEL)
    shutil.rmtree(student.path / "checkpoints" / "00000004")
    unblot.resume(student.path, quiet=True)
    assert checksum(student.path / MODEL) == model


def test_another_average_is_in_the_file_of_the_adapter_too_and_the_weights_below_stay(run, trained, tmp_path):
    copied = shutil.copytree(trained.path, tmp_path / "run")
    before = checksum(copied / "adapter.safetensors")
    chosen = unblot.choose_ema(copied, std=0.15)
    source = run.denoiser.state_dict()
    for name, weight in chosen.denoiser.state_dict().items():
        if ".weight.0." not in name:
            assert torch.equal(weight, source[name.replace(".parametrizations.weight.original", ".weight")]), name
    file = copied / "adapter.safetensors"
    assert checksum(file) != before
    for name, addition in additions(chosen.denoiser.network).items():
        assert torch.equal(read_tensors(file)[0][f"{name}.up"], addition.up)
    unblot.choose_ema(copied, std=0.05)
    assert checksum(file) == before


def test_a_pipeline_of_its_run_has_the_adapter_in_its_weights(folder, tmp_path):
    how = {"network": SMALL["ddpm_unet"], "preset": "ddpm", **TINY}
    run = unblot.train(folder / "first.npz", out=tmp_path / "run", **how)
    added = unblot.train(folder / "second.npz", from_=run.path, adapter=1, out=tmp_path / "added", **TRAINED)
    out = export_pipeline(added, ExportConfig(to="diffusers"), tmp_path / "pipeline")
    found = read_tensors(out / UNET / WEIGHTS)[0]
    expected = merged(added.config, added.denoiser)[1].network.state_dict()
    assert additions(added.denoiser.network), "the run that was exported stays as it is"
    assert np.isfinite(added.sample(1, steps=2).array).all()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], w) for name, w in expected.items())
    assert "adapter" not in json.loads((out / "unblot.json").read_text())


def test_another_run_can_begin_with_what_an_adapter_made(run, trained, folder, tmp_path):
    planned = unblot.plan(folder / "second.npz", from_=trained.path, quiet=True)
    assert {row.taken for row in planned.origin.parts} >= {"whole"}
    assert not any(row.taken == "left" for row in planned.origin.parts)
    assert planned.adapter is None
    assert "adapter" not in json.loads((run.path / CONFIG).read_text())


def test_a_weight_follows_the_last_colon(tmp_path):
    assert split_weight("a.safetensors:0.5")[1] == 0.5
    assert split_weight("a.safetensors")[1] == 1
    odd = tmp_path / "b:2"
    odd.touch()
    assert split_weight(str(odd)) == (odd, 1.0)
    with pytest.raises(UnblotError, match="give FILE or FILE"):
        split_weight("a.safetensors:nan")


def test_the_last_weights_of_an_adapter_are_no_model(trained):
    with pytest.raises(UnblotError, match="trained an adapter alone; leave out raw=True"):
        with_raw_weights(trained)
