"""Weights of one run as the start of another: what fits is taken, and a network does the same where all of it fits."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

import unblot
from helpers import FEW, captioned_folder, refused, shaken
from unblot import UnblotError, api
from unblot.cli.parser import main
from unblot.config.schema import DataConfig
from unblot.process.levels import NoiseLevel
from unblot.runs.folder import CONFIG, MODEL, build_denoiser, load_model, read_config, save_model
from unblot.system.files import checksum
from unblot.training.matching import fill, match, side_of
from unblot.training.transfer import RECIPE, Pretrained, load_pretrained, with_origin

SMALL = "unet:width=8,multipliers=1-2,blocks=1,patch=2,attention=1"
TINY = {**FEW, "steps": 2}
LEVEL = NoiseLevel(torch.tensor(1.0), torch.tensor(0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Classes a and b, and c and d beside b."""
    place, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, labels, channels in (("first", "aabb", 1), ("second", "bcdd", 1), ("colour", "abab", 3)):
        pictures = rng.integers(0, 256, (4, 8, 8, channels), np.uint8)
        np.savez(place / f"{name}.npz", x=pictures.squeeze(-1) if channels == 1 else pictures, y=np.array(list(labels)))
    return place


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    made = unblot.train(folder / "first.npz", out=tmp_path_factory.mktemp("runs") / "first", network=SMALL, **TINY)
    save_model(made.path / MODEL, made.config, shaken(made).denoiser.state_dict())
    return made


def config_of(data, network=SMALL, **choices):
    source = DataConfig(data=str(data), **{n: choices.pop(n) for n in ("unlabelled", "colour") if n in choices})
    dataset = api.open_data(source.data, labels=not source.unlabelled, colour=source.colour)
    return api.plan_run(source, dataset, {"network": network, "clusters": 0, **choices})


def source_of(config, seed=1):
    """Weights of a denoiser of this configuration, none of them zero."""
    denoiser = build_denoiser(config)
    torch.manual_seed(seed)
    weights = {name: torch.randn_like(p) for name, p in denoiser.named_parameters()}
    return Pretrained("there", "0" * 64, config, weights)


def started(config, source):
    denoiser = build_denoiser(config)
    load_pretrained(denoiser, source, config)
    return denoiser.eval()


def test_where_all_fits_the_run_begins_with_exactly_these_weights(run, folder, tmp_path):
    again = unblot.train(folder / "first.npz", out=tmp_path / "r", from_=run.path, **{**TINY, "learning_rate": 0.0})
    assert again.config.train.network == run.config.train.network
    assert {row.taken for row in again.config.origin.parts} == {"whole"}
    assert again.config.origin.share == 1
    for (name, a), b in zip(again.denoiser.named_parameters(), run.denoiser.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_rows_of_labels_are_taken_by_name(run, folder):
    config = config_of(folder / "second.npz")
    source = source_of(run.config)
    rows = started(config, source).get_parameter("network.embed_label.weight")
    new = build_denoiser(config).get_parameter("network.embed_label.weight")
    there = source.weights["network.embed_label.weight"]
    assert (run.config.data.classes, config.data.classes) == (("a", "b"), ("b", "c", "d"))
    assert torch.equal(rows[0], there[1])  # b
    assert torch.equal(rows[1:3], new[1:3])
    assert torch.equal(rows[3], there[2])  # no label
    row = next(p for p in with_origin(config, source).origin.parts if p.part == "network.embed_label")
    assert (row.taken, row.share, row.why) == ("in part", 0.5, "2 of 4 rows: b, no label")


def test_without_labels_it_does_what_the_source_did_without_one(run, folder):
    source = source_of(run.config)
    old = started(run.config, source)
    config = config_of(folder / "first.npz", unlabelled=True)
    new, x = started(config, source), torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(new(x, LEVEL).x0, old(x, LEVEL).x0, rtol=1e-4, atol=1e-4)
    back = started(run.config, Pretrained("there", "", config, dict(new.named_parameters())))
    torch.testing.assert_close(back(x, LEVEL).x0, old(x, LEVEL).x0, rtol=1e-4, atol=1e-4)
    left = [row.why for row in with_origin(config, source).origin.parts if row.taken == "left"]
    assert left == ["added to a bias"]


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (SMALL, "unet:width=12,multipliers=1-2,blocks=1,patch=2,attention=1"),
        (f"{SMALL},join=true,waves=true", "unet:width=12,multipliers=1-2,blocks=1,attention=1,join=true,waves=true"),
        ("ddpm_unet:width=8,multipliers=1-2,blocks=1", "ddpm_unet:width=16,multipliers=1-2,blocks=1"),
        ("dit:width=16,depth=1,heads=2", "dit:width=24,depth=2,heads=2"),
        ("mlp:width=16,depth=1", "mlp:width=24,depth=2"),
    ],
)
@pytest.mark.parametrize("channels", ["first", "colour"])
def test_a_wider_network_with_more_channels_contains_a_narrow_one(folder, narrow, wide, channels):
    small, large = config_of(folder / "first.npz", narrow), config_of(folder / f"{channels}.npz", wide)
    source = source_of(small)
    big = Pretrained("big", "", large, dict(started(large, source).named_parameters()))
    back = dict(started(small, big).named_parameters())
    for name, weight in source.weights.items():
        if "time_embedding.linear_1.weight" not in name:  # frequencies that follow from the width
            assert torch.equal(back[name], weight), name


def test_of_scale_and_shift_and_of_two_maps_side_by_side_the_first_channels_are_taken(folder):
    small, large = (config_of(folder / "first.npz", f"unet:width={w},multipliers=1,blocks=1") for w in (8, 12))
    sides = [side_of(c, {n: p.shape for n, p in build_denoiser(c).named_parameters()}) for c in (small, large)]
    scale_and_shift = [*range(8), *range(12, 20)]
    assert match("network.up.0.modulate.weight", *sides).axes[0][1].tolist() == scale_and_shift
    assert match("network.up.0.conv1.weight", *sides).axes[1][1].tolist() == scale_and_shift


def test_a_filled_tensor_has_the_entries_where_they_belong():
    new, axes = torch.zeros(3, 4), [(torch.tensor([1, 0]), torch.tensor([0, 2])), (torch.arange(2), torch.arange(2, 4))]
    fill(new, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), axes)
    assert new.tolist() == [[0, 0, 3, 4], [0, 0, 0, 0], [0, 0, 1, 2]]


def test_words_of_captions_keep_their_vectors(tmp_path):
    configs = []
    for name, captions in (("a", ["red cat", "blue cat"]), ("b", ["a blue dog that sits", "green cat"])):
        (tmp_path / name).mkdir()
        captioned_folder(tmp_path / name, (8, 8), captions)
        configs.append(config_of(tmp_path / name, "unet:width=8,multipliers=1,blocks=1"))
    source = source_of(configs[0])
    there, here = (build_denoiser(c).text_encoder.tokenizer.vocabulary for c in configs)
    tokens = started(configs[1], source).text_encoder.tokens
    blue = next(token for token in there.keys() & here.keys() if token.endswith("blue"))
    assert there[blue] != here[blue]
    assert torch.equal(tokens[here[blue]], source.weights["text_encoder.tokens"][there[blue]])


def test_a_text_encoder_of_a_wider_kernel_begins_with_what_the_narrower_one_learned_of_each_token(tmp_path):
    data = captioned_folder(tmp_path, (8, 8), ["red cat", "blue cat"])
    small = "unet:width=8,multipliers=1,blocks=1"
    configs = [config_of(data, small, text_encoder=f"transformer:kernel={kernel},width=32") for kernel in (1, 3)]
    source, name = source_of(configs[0]), "text_encoder.blocks.1.widen.weight"
    taken = started(configs[1], source).state_dict()[name]
    assert taken.shape == (128, 96)
    assert torch.equal(taken[:, :32], source.weights[name])
    shapes = [{n: p.shape for n, p in build_denoiser(config).state_dict().items()} for config in configs]
    assert match(name, *(side_of(c, s) for c, s in zip(configs, shapes, strict=True))).why == "32 there, 96 here"


def test_the_channels_of_a_layout_and_those_of_augmentation_do_not_take_each_others_place(tmp_path):
    data = captioned_folder(tmp_path, (8, 8), ["red cat", "blue cat"])
    small = {"network": "unet:width=8,multipliers=1,blocks=1", "augment": "non_leaking"}
    without, laid_out = (
        config_of(data, **small, text_encoder=f"transformer:width=32,layout={squares}") for squares in (0, 4)
    )
    name, augmentations = "network.enter.weight", build_denoiser(without).augmentations
    before, source = 4 * (3 + augmentations), source_of(without)
    taken = started(laid_out, source).state_dict()[name]
    assert taken.shape[1] == before + 4 * 3
    assert torch.equal(taken[:, :before], source.weights[name])
    back = started(without, source_of(laid_out)).state_dict()[name]
    assert torch.equal(back, source_of(laid_out).weights[name][:, :before])


def test_another_kind_of_network_is_refused_in_one_line(run, folder, capsys, tmp_path):
    begin = ["train", folder / "second.npz", "--from", run.path, "--out", tmp_path / "r"]
    assert "leave out --network to take the source's" in refused(capsys, *begin, "--network", "dit")
    assert "multipliers=1" in refused(capsys, *begin, "--network", "unet:width=8,multipliers=1,blocks=1")
    assert "paired=True" in refused(capsys, *begin, "--network", f"{SMALL},paired=true")
    assert "no model at" in refused(capsys, *begin[:3], tmp_path / "nothing")
    assert "do not go together" in refused(capsys, *begin, "--latent")
    assert not (tmp_path / "r").exists()


def test_the_record_names_the_source_and_the_table_is_shown(run, folder, tmp_path, capsys):
    out = tmp_path / "r"
    choices = ["--steps", "2", "--batch-size", "4", "--held-out-every", "0"]
    assert main(["train", str(folder / "second.npz"), "--from", str(run.path), "--out", str(out), *choices]) == 0
    told = capsys.readouterr().out
    assert main(["train", str(folder / "second.npz"), "--from", str(run.path), "--dry-run"]) == 0
    planned = capsys.readouterr().out
    for words in ("network.embed_label", "2 of 4 rows: b, no label", checksum(run.path / MODEL)[:12]):
        assert words in planned
        assert words in told
    origin = json.loads((out / CONFIG).read_text())["origin"]
    assert (origin["path"], origin["sha256"]) == (str(run.path), checksum(run.path / MODEL))
    assert load_model(out / MODEL)[0].origin == read_config(out).origin
    assert "of the run that it begins with" in planned


def test_a_run_with_new_weights_says_nothing_of_an_origin(run):
    assert "origin" not in json.loads((run.path / CONFIG).read_text())


def test_it_resumes_without_its_source_also_before_its_first_checkpoint(run, folder, tmp_path):
    source, out = tmp_path / "source", tmp_path / "r"
    shutil.copytree(run.path, source)
    choices = {**TINY, "from_": source / MODEL, "network": SMALL}
    whole = unblot.train(folder / "second.npz", out=out, **choices)
    shutil.copytree(out, tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    begun = started(whole.config, Pretrained("", "", run.config, dict(run.denoiser.named_parameters())))
    save_model(tmp_path / "killed" / MODEL, whole.config, begun.state_dict())  # as it is before the first step
    shutil.rmtree(source)
    again = unblot.resume(tmp_path / "killed", quiet=True)
    assert checksum(again.path / MODEL) == checksum(whole.path / MODEL)
    assert unblot.resume(out, steps=3, quiet=True).config.origin == whole.config.origin
    (tmp_path / "killed" / MODEL).unlink()
    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    with pytest.raises(UnblotError, match="was stopped before it had the weights"):
        unblot.resume(tmp_path / "killed", quiet=True)


def test_a_snapshot_and_a_model_file_begin_a_run_and_a_distilled_one_does_not(run, folder, tmp_path):
    snapshot = next((run.path / "snapshots").glob("*.safetensors"))
    for place in (snapshot, run.path / MODEL):
        planned = api.plan(folder / "second.npz", from_=place, quiet=True)
        assert planned.origin.sha256 == checksum(place)
    student = dataclasses.replace(run.config, distill=api.DistillConfig(teacher="teacher"))
    save_model(tmp_path / MODEL, student, run.denoiser.state_dict())
    with pytest.raises(UnblotError, match="begin with its teacher, from_='teacher'"):
        api.plan(folder / "second.npz", from_=tmp_path / MODEL, quiet=True)


def test_a_given_preset_decides_the_recipe_and_the_source_the_network(run, folder):
    planned = api.plan(folder / "second.npz", from_=run.path, preset="ddpm", quiet=True)
    assert (planned.train.parameterization, planned.train.network) == ("eps", run.config.train.network)
    assert planned.origin.choices == ("network",)
    assert planned.train.data_std == 1.0


@pytest.mark.parametrize(("name", "value"), [("sampling_steps", 50), ("weighting", "min_snr"), ("solver", "ddim")])
def test_a_single_choice_of_the_recipe_leaves_the_rest_to_the_source(folder, tmp_path, name, value):
    source = config_of(folder / "first.npz", preset="ddpm")
    save_model(tmp_path / MODEL, source, build_denoiser(source).state_dict())
    planned = api.plan(folder / "second.npz", from_=tmp_path / MODEL, quiet=True, **{name: value})
    wanted = dataclasses.replace(source.train, **{name: getattr(planned.train, name)})
    assert str(getattr(planned.train, name)).startswith(str(value))
    assert [getattr(planned.train, f) for f in ("preset", *RECIPE)] == [getattr(wanted, f) for f in ("preset", *RECIPE)]
    assert planned.train.parameterization == "eps"
    assert {"preset", *RECIPE} - set(planned.origin.choices) == {name}
