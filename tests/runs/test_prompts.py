"""From captions to a prompt: the same picture in any batch, from the model file alone, in every command."""

import json
import shutil
import socket
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import unblot
from helpers import refused
from unblot import api
from unblot.cli.parser import main
from unblot.config.edits import EDITS
from unblot.config.sampling import SampleConfig
from unblot.editing.files import edit_files
from unblot.errors import UnblotError, UnblotNote
from unblot.process.schedules import karras
from unblot.runs.bulk import sample_to_folder
from unblot.runs.film import shoot
from unblot.runs.folder import MODEL, fingerprint, load_model
from unblot.runs.tuning_store import DEFAULT, Tuning, write_tuning
from unblot.sampling.settings import Candidate, SamplerConfig, choose, within
from unblot.tuning import ema_std
from unblot.tuning.guidance_candidates import guided_candidates

SMALL = {"network": "unet:width=8,multipliers=1,blocks=1", "text_encoder": "transformer:width=32,depth=1"}
TINY = {**SMALL, "steps": 6, "batch_size": 8, "preview_every": 0, "checkpoint_every": 3, "quiet": True}
PROMPTS = ["a red picture", "a dark picture"]


@pytest.fixture(scope="module", autouse=True)
def no_network():
    """Nothing of captions needs a network, in any command."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a socket was opened")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", forbidden)
        patch.setattr(socket, "getaddrinfo", forbidden)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty red and twenty dark pictures, each with captions in a file beside it."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 60, (8, 8, 3), np.uint8)
        pixels[..., 0] += 150 * (i % 2)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"{PROMPTS[1 - i % 2]}\nanother {('dark', 'red')[i % 2]} one")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run in which the text matters: its zeros are made small numbers, as training does slowly."""
    trained = api.train(data, out=tmp_path_factory.mktemp("runs") / "run", **TINY)
    torch.manual_seed(0)
    for parameter in trained.denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    unblot.runs.folder.save_model(trained.path / MODEL, trained.config, dict(trained.denoiser.named_parameters()))
    return api.load(trained.path)


def test_a_run_with_captions_has_no_clusters_and_knows_their_words(run):
    assert run.config.data.clusters == ()
    assert set(run.config.data.text.words.split()) == {"a", "another", "red", "dark", "picture", "one"}


def test_the_prompt_is_obeyed_by_the_network(run):
    red, dark = (run.sample(4, prompt=prompt, steps=3).array.astype(int) for prompt in PROMPTS)
    assert (red != dark).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_picture_is_the_same_beside_other_prompts_and_in_other_batches(run, guidance):
    whole = run.sample(6, prompt=[*PROMPTS, ""], steps=3, guidance=guidance)
    parts = run.sample(6, prompt=[*PROMPTS, ""], steps=3, guidance=guidance, batch_size=1)
    assert np.abs(whole.array.astype(int) - parts.array).max() <= 1  # kernels round by the shape of a batch
    alone = run.sample(1, first=4, prompt=PROMPTS[1], steps=3, guidance=guidance, batch_size=1)
    assert np.array_equal(alone.array[0], parts.array[4])  # the same batch of one: to the last bit


def test_no_prompt_and_an_empty_one_are_no_text(run):
    assert np.abs(run.sample(2, steps=3).array.astype(int) - run.sample(2, steps=3, prompt="").array).max() <= 1


def test_an_empty_negative_prompt_is_none(run, data):
    def same(**choices):
        plain, empty = (run.sample(1, steps=2, **choices, **more) for more in ({}, {"negative": ""}))
        return np.array_equal(plain.array, empty.array) and plain.provenance == empty.provenance

    assert same()
    assert same(guidance=1.0)
    assert same(prompt=PROMPTS[0])
    about = edit_files(run, "reconstruct", [data / "00.png"], steps=2, negative="").about
    assert "negative" not in about


def test_a_negative_prompt_takes_the_place_of_no_text(run):
    plain = run.sample(2, steps=3, prompt=PROMPTS[0], guidance=2.0)
    away = run.sample(2, steps=3, prompt=PROMPTS[0], guidance=2.0, negative=PROMPTS[1])
    assert not np.array_equal(plain.array, away.array)
    itself = run.sample(2, steps=3, prompt=PROMPTS[0], guidance=2.0, negative=PROMPTS[0])
    unguided = run.sample(2, steps=3, prompt=PROMPTS[0], guidance=1.0)
    assert np.abs(itself.array.astype(int) - unguided.array).max() <= 1  # away from what it goes towards


def test_a_prompt_is_guided_towards_and_a_negative_one_away_from_where_nothing_is_said_of_guidance(run, data):
    def same(one, **choices):
        return np.array_equal(one.array, run.sample(2, steps=3, **choices).array)

    assert same(run.sample(2, steps=3, prompt=PROMPTS[0]), prompt=PROMPTS[0], guidance=2.0)
    assert same(run.sample(2, steps=3, negative=PROMPTS[0]), negative=PROMPTS[0], guidance=2.0)
    assert same(run.sample(2, steps=3), guidance=1.0)
    assert same(run.sample(2, steps=3, prompt=np.array(PROMPTS)), prompt=PROMPTS, guidance=2.0)
    assert same(run.sample(2, steps=3, prompt=["", ""]), prompt="", guidance=1.0)
    limited = run.sample(2, steps=3, prompt=PROMPTS[0], guidance_high=1.0)
    assert same(limited, prompt=PROMPTS[0], guidance=2.0, guidance_high=1.0)
    assert run.sample(1, prompt=PROMPTS[0], nfe=8).provenance["steps"] == 4  # of two calls each
    with pytest.raises(UnblotError, match=r"or guidance=1\.0, which takes half as many"):
        run.sample(1, prompt=PROMPTS[0], nfe=1)
    drawn = edit_files(run, "img2img", [data / "00.png"], prompt=PROMPTS[0], n=1, steps=2)
    guided = edit_files(run, "img2img", [data / "00.png"], prompt=PROMPTS[0], n=1, steps=2, guidance=2.0)
    assert np.array_equal(drawn.array, guided.array)
    assert edit_files(run, "reconstruct", [data / "00.png"], prompt=PROMPTS[0], steps=2).about["guidance"] == 1.0


def test_a_model_that_always_saw_its_captions_is_not_guided(data, tmp_path):
    trained = api.train(data, out=tmp_path / "run", label_dropout=0.0, **{**TINY, "steps": 1})
    assert trained.sample(1, prompt=PROMPTS[0], steps=1).provenance["guidance"] == 1.0


def test_the_model_file_alone_draws_the_same(run, tmp_path):
    (tmp_path / MODEL).write_bytes((run.path / MODEL).read_bytes())
    alone = api.load(tmp_path / MODEL)
    assert np.array_equal(
        alone.sample(2, prompt=PROMPTS[0], steps=3).array, run.sample(2, prompt=PROMPTS[0], steps=3).array
    )


def test_words_that_were_never_seen_are_named(run):
    with pytest.warns(UnblotNote, match=r"furry, dragon$"):
        run.sample(1, prompt="furry red dragon", steps=1)


def test_long_prompts_are_noted(run):
    with pytest.warns(UnblotNote, match="longer than the longest caption"):
        run.sample(1, prompt="a red picture " * 20, steps=1)


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"prompt": []}, "holds no prompt"),
        ({"prompt": [3]}, "prompt=3 is no text"),
        ({"prompt": 3}, "prompt=3 is no text"),
        ({"negative": PROMPTS}, r"negative=\['a red picture', .*\] is no text"),
        ({"negative": 3}, "negative=3 is no text"),
        ({"negative": "a dark one", "guidance": 1.0}, "guidance=2.0"),
        ({"guidance": 2.0}, "give one with prompt="),
    ],
)
def test_what_cannot_be_asked_for_is_refused(run, choices, told):
    with pytest.raises(UnblotError, match=told):
        run.sample(1, steps=1, **choices)


def test_a_run_without_captions_refuses_a_prompt(data, tmp_path):
    plain = api.train(data, out=tmp_path / "plain", uncaptioned=True, **{**TINY, "text_encoder": "none"})
    assert plain.config.data.text is None
    assert plain.denoiser.text_encoder is None
    for name in ("prompt", "negative"):
        with pytest.raises(UnblotError, match=f"{name}='a red picture' asks for words.* without captions"):
            plain.sample(1, **{name: "a red picture"})


@pytest.mark.parametrize("network", ["mlp", "ddpm_unet"])
def test_networks_that_cannot_read_are_refused_with_those_that_can(data, network):
    with pytest.raises(UnblotError, match="choose unet or dit"):
        api.plan(data, network=network, quiet=True)


def test_captions_that_are_not_there_cannot_be_read(data):
    with pytest.raises(UnblotError, match="has no captions"):
        api.plan(data, uncaptioned=True, text_encoder="transformer", quiet=True)


def test_training_goes_on_to_the_last_bit(data, tmp_path):
    whole = api.train(data, out=tmp_path / "whole", **TINY)
    before = (whole.path / MODEL).read_bytes()
    shutil.rmtree(whole.path / "checkpoints" / "00000006")
    (whole.path / MODEL).unlink()
    api.resume(whole.path, quiet=True)
    assert (whole.path / MODEL).read_bytes() == before


def test_samples_say_what_was_asked_for(run, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPTS[1]}\n\n")
    out = tmp_path / "out"
    argv = ["sample", run.path, "-n", "3", "--steps", "2", "--prompt", PROMPTS[0], "--prompts", prompts, "--out", out]
    assert main([*map(str, argv)]) == 0
    about = [json.loads(Image.open(out / f"{i:06d}.png").text["unblot"]) for i in range(3)]
    assert [a["prompt"] for a in about] == [*PROMPTS, PROMPTS[0]]
    assert json.loads((out / "manifest.json").read_text())["prompt"] == PROMPTS
    assert main([*map(str, argv)]) == 0  # which finds everything there
    assert "another model or of other choices" in refused(capsys, *argv, "--prompt", "red")


def test_film_and_edits_take_prompts(run, data, tmp_path):
    film = ["film", run.path, "--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "-n", "3", "--seed", "7"]
    for name, steps in (("film", 2), ("compared", [2, 3])):
        taken = ["--steps", "2"] if name == "film" else ["--compare-steps", "3,2"]
        assert main([*map(str, film), *taken, "--out", str(tmp_path / name)]) == 0
        about = json.loads((tmp_path / name / "manifest.json").read_text())
        assert about["prompts"] == [*PROMPTS, PROMPTS[0]]
        assert (about["seed"], about["steps"], about["guidance"]) == (7, steps, 2.0)
    edit = ["edit", "img2img", run.path, data / "00.png", "--prompt", PROMPTS[0], "--guidance", "2", "-n", "2"]
    assert main([*map(str, [*edit, "--steps", "3", "--out", tmp_path / "edit"])]) == 0
    files = sorted((tmp_path / "edit").glob("00-*.png"))
    assert [json.loads(Image.open(f).text["unblot"])["prompt"] for f in files] == [PROMPTS[0]] * 2


def test_every_prompt_is_drawn_where_no_number_is_given(run, data, tmp_path):
    prompts, picture = tmp_path / "six.txt", data / "00.png"
    prompts.write_text("\n".join([*PROMPTS, "a picture", "another one", "a red one", "a dark one"]))
    often = ["--prompts", str(prompts), "--steps", "1"]
    assert main(["film", str(run.path), *often, "--out", str(tmp_path / "film")]) == 0
    assert json.loads((tmp_path / "film" / "changes.json").read_text())["pictures"] == 6
    assert main(["edit", "img2img", str(run.path), str(picture), *often, "--out", str(tmp_path / "edit")]) == 0
    assert len(list((tmp_path / "edit").glob("00-*.png"))) == 6
    assert main(["film", str(run.path), "--steps", "1", "--out", str(tmp_path / "four")]) == 0
    assert json.loads((tmp_path / "four" / "changes.json").read_text())["pictures"] == 4


def test_prompts_that_are_not_drawn_are_noted(run, data, tmp_path):
    told = "1 picture for 2 prompts: 1 of these is not drawn"
    with pytest.warns(UnblotNote, match=told):
        run.sample(1, prompt=PROMPTS, steps=2)
    with pytest.warns(UnblotNote, match=told):
        sample_to_folder(tmp_path / "folder", run, 1, prompt=PROMPTS, steps=2)
    with pytest.warns(UnblotNote, match=told):
        edit_files(run, "reconstruct", [data / "00.png"], prompt=PROMPTS, steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnblotNote)
        edit_files(run, "reconstruct", [data / "00.png", data / "01.png"], prompt=PROMPTS, steps=2)
        sample_to_folder(tmp_path / "two", run, 2, prompt=PROMPTS, steps=1, batch_size=1)


OPTIONS = {
    "inpaint": {"mask": "mask.png"},
    "outpaint": {"left": 3},
    "upscale": {"factor": 2},
    "variations": {"amount": 0.6},
}


@pytest.mark.parametrize("kind", EDITS)
def test_the_prompt_changes_every_edit_and_the_same_seed_gives_the_same_bytes(run, data, tmp_path, kind):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = {k: tmp_path / v if k == "mask" else v for k, v in OPTIONS.get(kind, {}).items()}
    options |= {} if kind == "reconstruct" else {"n": 2}
    pictures = [data / "00.png", data / "01.png"][: 2 if kind == "interpolate" else 1]

    def drawn(prompt):
        return edit_files(run, kind, pictures, prompt=prompt, steps=4, **options).array

    assert not np.array_equal(drawn(PROMPTS[0]), drawn(PROMPTS[1]))
    assert np.array_equal(drawn(PROMPTS[0]), drawn(PROMPTS[0]))


def test_the_prompt_changes_films_and_many_samples_and_the_same_seed_gives_the_same_bytes(run, tmp_path):
    one, other = (shoot(run, 1, prompt=prompt, steps=2)[0][-1].x0 for prompt in PROMPTS)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, shoot(run, 1, prompt=PROMPTS[0], steps=2)[0][-1].x0)
    places = [sample_to_folder(tmp_path / f"{i}", run, 2, prompt=PROMPTS[i % 2], steps=2) for i in range(3)]
    one, other, again = ((place / "000001.png").read_bytes() for place in places)
    assert one == again != other


def test_sheets_of_several_prompts_say_which_picture_shows_which(run, tmp_path):
    plain, told = (run.sample(2, prompt=prompt, steps=1) for prompt in (PROMPTS[0], PROMPTS))
    assert told.grid().height > plain.grid().height  # a line of text below
    assert plain.grid().size == run.sample(2, steps=1).grid().size  # one prompt needs none
    told.save(tmp_path / "told")
    assert json.loads((tmp_path / "told" / "manifest.json").read_text())["prompts"] == PROMPTS


def test_previews_say_which_picture_shows_which_caption(data, tmp_path):
    trained = api.train(data, out=tmp_path / "run", **{**TINY, "steps": 1, "preview_every": 1})
    preview = Image.open(trained.path / "samples" / "step_00000001.png")
    captions = json.loads(preview.text["unblot"])["captions"]
    assert len(captions) == 40
    assert set(captions) == set(PROMPTS)


def test_evaluation_and_distillation_show_the_captions_of_the_data(run, data, tmp_path, monkeypatch):
    asked = []
    sample_with = unblot.runs.run.Run.sample_with

    def record(self, sampler, config, *numbers):
        asked.extend(config.prompt)
        return sample_with(self, sampler, config, *numbers)

    monkeypatch.setattr(unblot.runs.run.Run, "sample_with", record)
    api.evaluate(run.path, n=8, likelihood=2, steps=2, quiet=True)
    assert asked
    assert {*asked} <= {*PROMPTS}
    student = api.distill(run.path, out=tmp_path / "student", steps=2, batch_size=4, guidance=1.5, quiet=True)
    one, other = (student.sample(1, prompt=prompt).array for prompt in PROMPTS)
    assert not np.array_equal(one, other)


def test_tuning_measures_with_captions(run, monkeypatch):
    monkeypatch.setattr("unblot.config.durations.LEAST_SECONDS", 0.0)
    asked, condition = [], run.denoiser.__class__.condition

    def record(self, labels, prompts):
        asked.extend(prompts or [])
        return condition(self, labels, prompts)

    monkeypatch.setattr(run.denoiser.__class__, "condition", record)
    scales = guidances(monkeypatch)
    tuned = api.tune(run.path, budget="1s", n=100)
    assert tuned.candidates
    assert {*asked} >= {*PROMPTS}
    assert {*scales} == {2.0}  # the usual one, which is not chosen by distance
    assert not any(candidate.sampler.guided for candidate in tuned.candidates)
    found = choose(tuned.candidates, DEFAULT)
    for prompt, scale in ((PROMPTS[0], 2.0), (None, 1.0)):
        about = run.sample(1, prompt=prompt).provenance
        assert (about["steps"], about["guidance"]) == (found.sampler.steps, scale)
    twice = run.sampler(SampleConfig(prompt=PROMPTS[0], nfe=2 * found.nfe))  # two calls for each estimate
    assert twice == replace(within(tuned.candidates, found.nfe).sampler, guidance=2.0)


def guidances(monkeypatch):
    """The guidance of every sampling call from now on, in a list that grows."""
    scales, sample_with = [], api.Run.sample_with

    def recording(self, sampler, *rest):
        scales.append(sampler.guidance)
        return sample_with(self, sampler, *rest)

    monkeypatch.setattr(api.Run, "sample_with", recording)
    return scales


def test_an_average_is_chosen_by_the_distance_of_samples_with_the_usual_guidance(run, tmp_path, monkeypatch):
    monkeypatch.setattr(ema_std, "EMA_STDS", (0.05,))
    scales = guidances(monkeypatch)
    api.choose_ema(shutil.copytree(run.path, tmp_path / "run"), by="distance", n=4)
    assert scales == [2.0]


def test_guidance_that_was_found_for_a_run_with_captions_is_not_used(run, tmp_path):
    """As of a tuning before its guidance was left alone."""
    folder = shutil.copytree(run.path, tmp_path / "run")
    plain = SamplerConfig("euler", "time", 3)
    found = Candidate(plain, 3, 1.0), Candidate(replace(plain, steps=4, guidance=1.2), 8, 0.5)
    write_tuning(folder, Tuning(fingerprint(run.denoiser), found))
    tuned = api.load(folder)
    assert tuned.sampler(SampleConfig(prompt=PROMPTS[0])) == replace(plain, guidance=2.0)
    assert tuned.sampler(SampleConfig()) == plain
    assert guided_candidates(tuned, {6: plain}, karras()) == {}


def test_captions_that_are_not_read_leave_a_run_as_it_is_without_any(data, tmp_path):
    (tmp_path / "bare").mkdir()
    for picture in data.glob("*.png"):
        shutil.copy(picture, tmp_path / "bare")
    choices = {**TINY, "text_encoder": "none", "clusters": 0}
    told = api.train(data, out=tmp_path / "told", uncaptioned=True, **choices).denoiser.state_dict()
    bare = api.train(tmp_path / "bare", out=tmp_path / "plain", **choices).denoiser.state_dict()
    assert told.keys() == bare.keys()
    assert all(torch.equal(told[name], bare[name]) for name in bare)


def test_a_network_that_reads_no_text_says_that_captions_are_not_read(data, tmp_path, capsys):
    api.train(data, out=tmp_path / "run", preset="ddpm", steps=1, batch_size=4, preview_every=0, held_out_every=0)
    assert "note: captions are not read: network='ddpm_unet' reads no text" in capsys.readouterr().out


def test_a_model_whose_captions_were_forged_is_damaged(run, tmp_path):
    config, denoiser = load_model(run.path / MODEL)
    text = unblot.config.schema.TextFacts("zz yy", "a", 4, 1)
    forged = unblot.config.schema.RunConfig(
        config.source, config.data.__class__(**{**vars(config.data), "text": text}), config.train, config.version
    )
    unblot.runs.folder.save_model(tmp_path / "m.safetensors", forged, dict(denoiser.named_parameters()))
    with pytest.raises(UnblotError, match="damaged"):
        api.load(tmp_path / "m.safetensors")
