"""Fine-tuning of the decoder of a run in latents against a discriminator of detail."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import unblot
from helpers import TINY_LATENT_RUN
from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset, open_data
from unblot.errors import UnblotError
from unblot.latent.latents import build_autoencoder, with_blank_latents
from unblot.nn.autoencoder import Autoencoder, frozen
from unblot.runs.folder import MODEL, load_model, read_config, save_model
from unblot.system.files import read_tensors, under
from unblot.training import adversarial, checkpoint, decoder_stage
from unblot.training.adversarial import (
    DecoderTuning,
    Detail,
    Discriminator,
    decoder_seconds,
    decoder_steps,
    fine_tunes_decoder,
    reserved_seconds,
    tune_decoder,
)
from unblot.training.budget_controller import FINE_TUNING, BudgetController
from unblot.training.decoder_stage import Pace
from unblot.training.first_stage import FILE, FirstStage
from unblot.training.loop import Loop
from unblot.training.previews import drawn_latents
from unblot.training.trainer import denoising_trainer

CHOICES: dict[str, Any] = {**TINY_LATENT_RUN, "adversarial_steps": 3}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """40 pictures of 16x16 with a bright rectangle, whose sharp edges a young decoder blurs."""
    rng, stack = np.random.default_rng(0), np.full((40, 16, 16, 3), 60, np.uint8)
    for picture, (top, left), (height, width) in zip(
        stack, rng.integers(1, 8, (40, 2)), rng.integers(4, 8, (40, 2)), strict=True
    ):
        picture[top : top + height, left : left + width] = rng.integers(150, 255, 3)
    path = tmp_path_factory.mktemp("adversarial") / "rectangles.npy"
    np.save(path, stack)
    return path


@pytest.fixture(scope="module")
def planned(pictures) -> tuple[RunConfig, Dataset]:
    return unblot.plan(pictures, quiet=True, **CHOICES), open_data(str(pictures))


@pytest.fixture(scope="module")
def model(planned) -> Autoencoder:
    """An autoencoder after a few steps, frozen."""
    stage = FirstStage(*planned, CPU)
    for _ in range(60):
        stage.take_step(60)
    stage.measure()
    return frozen(stage.autoencoder)


@pytest.fixture
def run(pictures, tmp_path, monkeypatch) -> Path:
    """A run so short that its detail says nothing; its decoder is fine-tuned all the same, as in all runs after it."""
    monkeypatch.setattr(adversarial, "is_nearer", lambda after, before: True)
    return unblot.train(pictures, out=tmp_path / "run", quiet=True, **CHOICES).path


def copy(config: RunConfig, model: Autoencoder) -> Autoencoder:
    other = frozen(build_autoencoder(config))
    other.load_state_dict(model.state_dict())
    return other


def drawn(planned) -> Tensor:
    return torch.randn(16, *planned[0].shape, generator=torch.Generator().manual_seed(0))


def weights(path: Path) -> dict[str, Tensor]:
    return under("autoencoder.", read_tensors(path / MODEL)[0])


def decoders_differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two autoencoders have other decoders, and all else in common to the last bit."""
    assert a.keys() == b.keys()
    different = {name for name, weight in a.items() if not torch.equal(weight, b[name])}
    assert all(name.startswith("decoder.") for name in different)
    return bool(different)


# --- the discriminator, and the law of fine-tuning


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 48, 48), (4, 16, 40)])
def test_the_discriminator_says_something_of_each_square_of_four_pixels(shape):
    channels, height, width = shape
    assert Discriminator(channels)(torch.randn(2, *shape)).shape == (2, 1, height // 4, width // 4)


def test_detail_is_what_plain_areas_and_slopes_lack():
    slope = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    grain = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, fine = adversarial._high_pass(slope + 3), adversarial._high_pass(grain)
    assert plain[..., 4:-4].abs().max() < 1e-5
    assert fine.std() > 0.9 * grain.std()


def test_fine_tuning_brings_detail_nearer_to_its_real_strength_and_leaves_the_encoder(planned, model):
    mine = copy(planned[0], model)
    tuning = DecoderTuning(*planned, mine, drawn(planned))
    found = tune_decoder(tuning, mine, lambda step: step / 300, lambda: False)
    assert found is not None
    assert found.steps == 300
    assert found.before < 0.3
    assert 3 * found.before < found.after < 1.5
    assert decoders_differ(model.state_dict(), mine.state_dict())


def test_fine_tuning_is_a_function_of_the_seed(planned, model):
    ends = []
    for _ in range(2):
        tuning = DecoderTuning(*planned, model, drawn(planned))
        for step in range(20):
            tuning.take_step(step / 20)
        ends.append(tuning.autoencoder.state_dict())
    assert not decoders_differ(*ends)
    assert decoders_differ(ends[0], model.state_dict())


def test_a_decoder_that_would_get_worse_stays_as_it_is(planned, model, monkeypatch):
    mine = copy(planned[0], model)
    tuning = DecoderTuning(*planned, mine, drawn(planned))
    strengths = iter([torch.tensor([0.5, 0.8]), torch.tensor([0.5, float("nan")])])
    monkeypatch.setattr(tuning, "strengths", lambda autoencoder: next(strengths))
    found = tune_decoder(tuning, mine, lambda step: step / 3, lambda: False)
    assert found == Detail(3, found.before, found.before, taken=False)
    assert str(found).startswith("decoder: left as it was")
    assert not decoders_differ(model.state_dict(), mine.state_dict())


def test_what_is_stopped_changes_nothing(planned, model):
    mine, asked = copy(planned[0], model), itertools.count()
    tuning = DecoderTuning(*planned, mine, drawn(planned))
    assert tune_decoder(tuning, mine, lambda step: step / 9, lambda: next(asked) == 3) is None
    assert tuning.step == 3
    assert not decoders_differ(model.state_dict(), mine.state_dict())


# --- how long


@pytest.mark.parametrize(
    ("choices", "steps"),
    [
        ({"adversarial_steps": 7}, 7),
        ({"adversarial_steps": 0}, 0),
        ({"adversarial_steps": None, "steps": 20}, 20),
        ({"adversarial_steps": None, "steps": 20_000}, 1000),
        ({"adversarial_steps": None, "steps": None, "budget": "30m"}, None),
        ({"latent": False, "latent_width": None}, 0),
    ],
)
def test_steps_are_those_given_or_of_the_run_or_decided_by_its_budget(pictures, choices, steps):
    given = {name: value for name, value in {**CHOICES, **choices}.items() if value is not None}
    if not given["latent"]:
        given = {name: value for name, value in given.items() if name not in ("latent_steps", "adversarial_steps")}
    config = unblot.plan(pictures, quiet=True, **given)
    assert decoder_steps(config) == steps
    assert fine_tunes_decoder(config) == (steps != 0)
    assert reserved_seconds(config, 1800, 900) == (0 if steps == 0 else 180)
    assert reserved_seconds(config, 1800, 400) == (0 if steps == 0 else 100)


def test_short_budgets_give_more_of_their_time_to_the_decoder():
    assert [decoder_seconds(60 * minutes) for minutes in (1, 10, 15, 25, 60)] == [12, 120, 150, 150, 360]


def test_pictures_without_room_for_detail_are_not_fine_tuned(tmp_path):
    np.save(tmp_path / "low.npy", np.random.default_rng(0).integers(0, 255, (30, 12, 40, 3), np.uint8))
    config = unblot.plan(tmp_path / "low.npy", quiet=True, **{**CHOICES, "latent_factor": 2})
    assert decoder_steps(config) == 0
    assert not fine_tunes_decoder(config)


def test_with_a_budget_it_fills_the_time_that_is_left(pictures):
    config = unblot.plan(pictures, quiet=True, latent=True, budget="100s", batch_size=8)
    now = 0.0
    controller = BudgetController(100, clock=lambda: now)
    controller.expected = {"checkpoints": 4.0, FINE_TUNING: 10.0}
    now = 86.0
    pace = Pace(config, controller, controller.clock)
    now = 91.0
    assert pace.progress(10**6) == pytest.approx(0.5)
    assert pace.late()
    now = 96.0
    assert pace.progress(0) == pytest.approx(1)


def test_without_time_nothing_is_said_to_be_learned(planned, model):
    found = tune_decoder(DecoderTuning(*planned, model, drawn(planned)), model, lambda step: 1.0, lambda: False)
    assert found is not None
    assert str(found) == "decoder: not fine-tuned, since no time was left"


# --- a run


def test_a_run_ends_with_a_decoder_of_its_own_and_the_encoder_of_its_first_stage(run):
    first = under("weights/", read_tensors(run / FILE)[0])
    assert decoders_differ(first, weights(run))
    log = (run / "training.log").read_text()
    assert "fine-tuned in 3 steps against a discriminator" in log
    assert "decoder: fine-tuned in 3 steps; the fine detail" in log


def test_without_steps_the_decoder_is_that_of_the_first_stage(pictures, tmp_path):
    choices = {**CHOICES, "adversarial_steps": 0}
    path = unblot.train(pictures, out=tmp_path / "plain", quiet=True, **choices).path
    assert not decoders_differ(under("weights/", read_tensors(path / FILE)[0]), weights(path))
    assert "fine-tuned" not in (path / "training.log").read_text()


@pytest.mark.parametrize(
    "place", [(DecoderTuning, "take_step"), (decoder_stage, "drawn_latents")], ids=["step", "draw"]
)
def test_where_memory_runs_out_the_run_ends_with_the_decoder_of_the_first_stage(place, pictures, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(*place, full)
    run = unblot.train(pictures, out=tmp_path / "run", quiet=True, **CHOICES).path
    assert "decoder: out of memory; it stays as it was" in (run / "training.log").read_text()
    without = unblot.train(pictures, out=tmp_path / "without", quiet=True, **{**CHOICES, "adversarial_steps": 0}).path
    assert not decoders_differ(weights(run), weights(without))


def test_a_finished_run_that_is_resumed_stays_as_it_is(run):
    before = (run / MODEL).read_bytes()
    unblot.resume(run, quiet=True)
    assert (run / MODEL).read_bytes() == before
    assert (run / "training.log").read_text().count("decoder: fine-tuned in 3 steps;") == 1


def test_a_run_stopped_while_it_is_fine_tuned_goes_on_to_the_same_end(run, pictures, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(Loop, "end", lambda loop, interrupted: False)
        stopped = unblot.train(pictures, out=tmp_path / "stopped", quiet=True, **CHOICES).path
    assert decoders_differ(weights(run), weights(stopped))
    unblot.resume(stopped, quiet=True)
    assert (stopped / MODEL).read_bytes() == (run / MODEL).read_bytes()


def test_more_steps_end_with_a_fine_tuning_of_the_first_stages_decoder(run, pictures, tmp_path):
    whole = {**CHOICES, "decay": "none", "warmup": 0.0}
    short = unblot.train(pictures, out=tmp_path / "short", quiet=True, **whole).path
    long = unblot.train(pictures, out=tmp_path / "long", quiet=True, **{**whole, "steps": 8}).path
    unblot.resume(short, steps=8, quiet=True)
    assert not decoders_differ(weights(short), weights(long))


def test_checkpoints_from_before_there_was_fine_tuning_still_fit(run, monkeypatch):
    hashed: list[dict] = []
    monkeypatch.setattr(checkpoint, "_digest", lambda parts: hashed.append(parts) or "")
    checkpoint.run_identity(read_config(run))
    assert "latent_noise" in hashed[0]["latent"]
    assert "adversarial_steps" not in hashed[0]["latent"]


def test_latents_are_drawn_with_labels_and_captions_as_training_pictures_have_them(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [36, 4])
    captions = np.array([("many", "few")[label] for label in labels])
    path = tmp_path / "told.npz"
    np.savez(path, images=rng.integers(0, 255, (40, 16, 16, 3), np.uint8), labels=labels, text=captions)
    told: list[tuple[int, str]] = []
    config = unblot.plan(path, quiet=True, held_out=0, **CHOICES)
    trainer = denoising_trainer(config, with_blank_latents(open_data(str(path), held_out=0), config))
    condition = trainer.denoiser.condition

    def spied(labels: Tensor | None, prompts: list[str] | None) -> Any:
        assert labels is not None
        assert prompts is not None
        told.extend(zip(labels.tolist(), prompts, strict=True))
        return condition(labels, prompts)

    trainer.denoiser.condition = spied
    assert drawn_latents(trainer, 40, lambda: False).shape == (40, *config.shape)
    assert sorted(told) == [(0, "many")] * 36 + [(1, "few")] * 4
    assert told != sorted(told)


def test_a_snapshot_guides_a_run_whose_decoder_was_fine_tuned(run, tmp_path):
    config, denoiser = load_model(run)
    plain = dataclasses.replace(config, latent=dataclasses.replace(config.latent, adversarial_steps=0))
    other = under("weights/", read_tensors(run / FILE)[0])
    denoiser.autoencoder.load_state_dict(other)
    weak = tmp_path / MODEL
    save_model(weak, plain, denoiser.state_dict())
    unblot.load(run).sample(2, autoguide=str(weak), guidance=1.5, steps=2)
    denoiser.autoencoder.encoder[1].weight.add_(1)
    save_model(weak, plain, denoiser.state_dict())
    with pytest.raises(UnblotError, match="one autoencoder"):
        unblot.load(run).sample(2, autoguide=str(weak), guidance=1.5, steps=2)
