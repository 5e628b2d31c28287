"""Runs in latents: the autoencoder's laws, and every command on a tiny run."""

import dataclasses
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import unblot
from helpers import TINY_LATENT_RUN
from machine import Machine
from unblot.cli.parser import main
from unblot.config.presets import ladder
from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset, open_data
from unblot.editing.images import colorize, img2img, inpaint, known_x0, upscale
from unblot.errors import UnblotError
from unblot.latent.latents import AT_A_TIME, latents_of, with_latents
from unblot.nn.autoencoder import Autoencoder, frozen
from unblot.process.levels import NoiseLevel
from unblot.process.randomness import epoch_order
from unblot.process.spectrum import Spectrum
from unblot.runs.film import shoot
from unblot.runs.folder import CONFIG, MODEL, build_model, load_model, read_config, save_model
from unblot.runs.run import Run
from unblot.system.files import read_tensors
from unblot.system.folders import locked
from unblot.training import first_stage
from unblot.training.budget_controller import BudgetController
from unblot.training.decoder_stage import Pace
from unblot.training.first_stage import (
    BATCH,
    FILE,
    MOST,
    FirstStage,
    detail_error,
    kept_about,
    of_steps,
    planned_steps,
    reconstruction_loss,
    trained_autoencoder,
)
from unblot.training.latents import used_before
from unblot.training.learning_rate import warmup_cosine

CHOICES: dict[str, Any] = {**TINY_LATENT_RUN, "spectrum": "data", "checkpoint_every": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """40 gradients in colour, 10x12, whose sides are no multiples of the factor."""
    x, y = np.meshgrid(np.arange(12), np.arange(10))
    stack = [np.stack([x * 20, y * 25, np.full_like(x, 6 * i)], -1) for i in range(40)]
    path = tmp_path_factory.mktemp("latent") / "gradients.npy"
    np.save(path, np.array(stack, np.uint8))
    return path


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory) -> Run:
    return unblot.train(pictures, out=tmp_path_factory.mktemp("runs") / "run", quiet=True, **CHOICES)


@pytest.fixture(scope="module")
def planned(pictures) -> tuple[RunConfig, Dataset]:
    return unblot.plan(pictures, quiet=True, **CHOICES), open_data(str(pictures))


def test_latents_have_the_channels_that_are_chosen(pictures):
    model = build_model(unblot.plan(pictures, quiet=True, **CHOICES, latent_channels=6))
    z = model.latents(torch.randn(2, 3, 10, 12))
    assert z.shape[:2] == (2, 6)
    one = torch.ones(())
    assert model(z, NoiseLevel(one, one)).x0.shape == z.shape
    assert model.pictures(z, (10, 12)).shape == (2, 3, 10, 12)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shapes_are_those_of_the_pictures_for_any_height_and_width(factor):
    network = Autoencoder(3, factor, 5, 8)
    z = network.encode(torch.randn(2, 3, 10, 13))
    assert z.shape == (2, 5, -(-10 // factor), -(-13 // factor))
    assert network.decode(z, 10, 13).shape == (2, 3, 10, 13)


@pytest.mark.parametrize("factor", [3, 32])
def test_a_factor_that_is_no_power_of_two_is_refused(factor):
    with pytest.raises(UnblotError, match="latent_factor"):
        Autoencoder(3, factor, 4, 8)


def test_a_frozen_autoencoder_has_no_parameters_and_the_same_values():
    network = Autoencoder(1, 2, 4, 8)
    x, names = torch.randn(1, 1, 8, 8), set(network.state_dict())
    before = network.encode(x)
    assert not list(frozen(network).parameters())
    assert set(network.state_dict()) == names
    assert torch.equal(network.encode(x), before)


def test_latents_of_the_training_pictures_have_mean_0_and_standard_deviation_1(planned):
    config, dataset = planned
    stage = FirstStage(config, dataset, CPU)
    stage.take_step(2)
    stage.measure()
    z = torch.from_numpy(latents_of(with_latents(dataset, stage.autoencoder)).pictures[dataset.train]).double()
    assert z.mean((0, 2, 3)).abs().max() < 1e-5
    assert (z.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_a_pass_of_the_first_stage_over_the_pictures_is_put_in_order_once(planned):
    config, dataset = planned
    stage, steps, chosen = FirstStage(config, dataset, CPU), len(dataset.train) // BATCH, []
    epoch_order.cache_clear()
    for stage.step in range(2 * steps):
        chosen += stage._chosen(seed=0).tolist()
    assert epoch_order.cache_info().misses == 2
    first, second = chosen[: steps * BATCH], chosen[steps * BATCH :]
    assert len(set(first)) == len(set(second)) == steps * BATCH
    assert first != second


def test_the_first_stage_lowers_the_error(planned):
    config, dataset = planned
    stage = FirstStage(config, dataset, CPU)
    errors = [float(stage.take_step(200)) for _ in range(200)]
    assert np.mean(errors[-5:]) < 0.3 * np.mean(errors[:5])


def test_detail_in_another_place_is_a_small_error_and_missing_detail_a_large_one():
    x, other = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert detail_error(x, other) < 0.5 * detail_error(x, torch.zeros_like(x))
    assert detail_error(x, x) == 0


def test_the_loss_weighs_values_edges_and_detail():
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])  # differences across are 1, down 0
    value_error, loss = reconstruction_loss(x, y)
    assert value_error == 0.5
    assert loss == value_error + first_stage.EDGES * 0.5
    assert reconstruction_loss(x, y, 2.0)[1] == loss + 2 * detail_error(x, y)


def test_the_learning_rate_of_the_first_stage_warms_up_and_falls_to_0():
    rates = [warmup_cosine(step, 5, step / 100, 2.0) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 5)
    assert rates.index(max(rates)) == 4
    assert rates[50] == pytest.approx(1.0)
    assert rates[99] < 0.001
    assert warmup_cosine(100, 5, 1.0) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (9, 6)])
def test_the_error_of_detail_has_finite_gradients_at_any_size_also_where_pictures_are_flat(size):
    y = torch.zeros(2, 3, *size, requires_grad=True)
    detail_error(torch.randn(2, 3, *size), y).add(0 * y.sum()).backward()
    assert y.grad.isfinite().all()


def test_a_first_stage_that_was_stopped_goes_on_exactly(planned, tmp_path):
    config, dataset = planned
    whole = trained_autoencoder(tmp_path, config, dataset, CPU, lambda line: None)[0].state_dict()
    stopped = FirstStage(config, dataset, CPU)
    for _ in range(3):
        stopped.take_step(6)
    (tmp_path / "again").mkdir()
    stopped.save(tmp_path / "again")
    again = trained_autoencoder(tmp_path / "again", config, dataset, CPU, lambda line: None)[0].state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_model_file_alone_holds_the_autoencoder(run, tmp_path):
    (tmp_path / MODEL).write_bytes((run.path / MODEL).read_bytes())
    alone = unblot.load(tmp_path / MODEL, "cpu")
    own = {name for name in read_tensors(run.path / MODEL)[0] if name.startswith("autoencoder.")}
    assert "autoencoder.mean" in own
    assert np.array_equal(alone.sample(2, steps=2).array, run.sample(2, steps=2).array)


def test_the_spectrum_of_a_run_is_that_of_its_latents_once_there_are_some(run, pictures):
    assert unblot.plan(pictures, quiet=True, **CHOICES).x0_facts.spectrum == ""
    latents = latents_of(with_latents(open_data(str(pictures)), run.denoiser.autoencoder))
    expected = Spectrum.of(latents.batch(latents.train)[0]).stds(3, 3)
    torch.testing.assert_close(run.denoiser.spectrum.stds(3, 3), expected, rtol=1e-4, atol=0)


def test_samples_have_the_shape_and_the_type_of_the_pictures(run):
    samples = run.sample(3, steps=2)
    assert (samples.array.shape, samples.array.dtype) == ((3, 3, 10, 12), np.uint8)
    assert np.array_equal(run.sample(1, first=2, steps=2).array[0], samples.array[2])


def test_a_resumed_run_is_the_run_that_did_not_stop(run, pictures, tmp_path):
    half = unblot.train(pictures, out=tmp_path / "half", quiet=True, **{**CHOICES, "decay": "none", "warmup": 0.0})
    longer = unblot.resume(half.path, steps=6, quiet=True)
    straight = {**CHOICES, "steps": 6, "decay": "none", "warmup": 0.0, "latent_steps": 6}
    whole = unblot.train(pictures, out=tmp_path / "whole", quiet=True, **straight)
    a, b = (r.denoiser.state_dict() for r in (longer, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_film_shows_pictures(run):
    frames, _ = shoot(run, 2, steps=2)
    assert frames[0].x.shape == frames[0].x0.shape == (2, 3, 10, 12)


def test_pictures_and_latents_are_those_of_float32_also_in_mixed_precision(run, monkeypatch):
    x = torch.linspace(-1, 1, 2 * 3 * 10 * 12).view(2, 3, 10, 12)
    z = run.denoiser.latents(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = run.denoiser.latents(x), run.pictures(z)
    assert {part.dtype for part in found} == {torch.float32}
    assert all(torch.equal(*pair) for pair in zip(found, (z, run.pictures(z)), strict=True))
    monkeypatch.setattr("unblot.runs.run.precision_of", lambda *_: torch.autocast("cpu", torch.bfloat16))
    frames, samples = shoot(run, 2, steps=1)
    assert (frames[0].x0.dtype, samples.array.dtype) == (np.float32, np.uint8)


def test_known_pixels_are_exact_after_inpainting(run):
    known = np.random.default_rng(0).integers(0, 256, (1, 3, 10, 12)).astype(np.uint8)
    unknown = np.zeros((1, 1, 10, 12), bool)
    unknown[..., 2:5, 3:7] = True
    result = inpaint(run, known, unknown, n=2, steps=3).array
    outside = np.broadcast_to(~unknown[:, None], result.shape)
    assert np.array_equal(result[outside], np.broadcast_to(known[:, None], result.shape)[outside])


def test_hidden_pixels_change_nothing_though_an_encoder_looks_at_all(run):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 10, 12)).astype(np.uint8)
    unknown = np.zeros((1, 1, 10, 12), bool)
    unknown[..., 9, 10:] = True
    results = [
        inpaint(run, x, unknown, n=1, steps=2).array for x in (pictures, np.where(unknown, 255 - pictures, pictures))
    ]
    assert np.array_equal(*results)
    known = pictures.copy()
    known[..., 0, 0] ^= 255
    assert (inpaint(run, known, unknown, n=1, steps=2).array != results[0])[..., 9, 10:].any()


def test_a_latent_is_known_where_all_of_its_pixels_are(run):
    known = torch.ones(1, 1, 10, 12, dtype=torch.bool)
    known[..., 3, 4] = False
    assert (~known_x0(run, known)).nonzero().tolist() == [[0, 0, 0, 1]]


def test_other_edits_work_or_are_refused_with_the_reason(run):
    given = run.sample(1, steps=2).array
    assert img2img(run, given, n=1, steps=2).array.shape == (1, 1, 3, 10, 12)
    for edit, small in ((upscale, given[..., :5, :6]), (colorize, given[:, :1])):
        with pytest.raises(UnblotError, match="latent"):
            edit(run, small, n=1)
    with pytest.raises(UnblotError, match="latent"):
        run.sample(1, steps=2, threshold="static")


def test_pictures_to_edit_are_encoded_a_few_at_a_time(run, monkeypatch):
    encode, sizes = Autoencoder.encode, []
    monkeypatch.setattr(Autoencoder, "encode", lambda self, x: sizes.append(len(x)) or encode(self, x))
    given = run.sample(2 * AT_A_TIME + 1, steps=1).array
    assert img2img(run, given, n=1, steps=2, strength=0.5).array.shape == (len(given), 1, 3, 10, 12)
    assert sizes == [AT_A_TIME, AT_A_TIME, 1]


def test_autoguidance_is_among_latents_of_one_autoencoder(run, tmp_path):
    weights = dict(run.denoiser.state_dict())
    save_model(tmp_path / "same.safetensors", run.config, weights)
    assert run.sample(1, steps=2, autoguide=tmp_path / "same.safetensors", guidance=2.0).array.shape == (1, 3, 10, 12)
    save_model(
        tmp_path / "other.safetensors",
        run.config,
        {name: -w if name == "autoencoder.mean" else w for name, w in weights.items()},
    )
    with pytest.raises(UnblotError, match="latents of two mean different things; give a snapshot of this run"):
        run.sample(1, steps=2, autoguide=tmp_path / "other.safetensors", guidance=2.0)


def test_a_student_of_a_run_in_latents_draws_pictures(run, tmp_path):
    student = unblot.distill(run.path, out=tmp_path / "student", quiet=True, nfe=1, teacher_steps=1, steps=2)
    assert student.sample(2).array.shape == (2, 3, 10, 12)


def test_augmented_pictures_are_augmented_before_they_are_encoded(pictures, tmp_path):
    choices = {**CHOICES, "augment": "plain:flip=true", "steps": 2}
    assert unblot.train(pictures, out=tmp_path / "run", quiet=True, **choices).sample(1, steps=2).array.shape[1] == 3


def test_show_says_it(run):
    from unblot.runs.describe import describe

    assert "3 x 3 x 4, of an own autoencoder: factor 4, width 8, trained with noise of 0.8 for 6 steps" in describe(
        run.path
    )


@pytest.mark.parametrize(
    ("side", "choices", "latents"),
    [
        (64, {"budget": "10m"}, True),
        (63, {"budget": "10m"}, False),
        (64, {"budget": "9m"}, False),
        (64, {}, False),
        (64, {"budget": "10m", "pixels": True}, False),
        (64, {"budget": "10m", "latent": False}, False),
        (64, {"budget": "10m", "network": "unet"}, False),
        (64, {"budget": "10m", "spectrum": "data"}, True),
        (64, {"budget": "10m", "preset": "ddpm"}, False),
    ],
)
@pytest.mark.parametrize("captions", [False, True])
def test_a_budget_chooses_latents_for_large_pictures(tmp_path, side, captions, choices, latents):
    for i in range(3):
        Image.fromarray(np.full((side, 66, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
        if captions:
            (tmp_path / f"{i}.txt").write_text("a plain")
    config = unblot.plan(tmp_path, size=f"{side}x66", quiet=True, **choices)
    assert (config.latent is not None) == latents


def test_latents_have_noise_levels_of_their_own_but_for_another_preset(pictures):
    few = {name: value for name, value in CHOICES.items() if name.startswith("latent")}
    assert unblot.plan(pictures, quiet=True, **few).train.schedule.startswith("edm:mean=0.3,std=1.0,")
    assert unblot.plan(pictures, quiet=True, **few, preset="ddpm").train.schedule.startswith("linear")
    given = unblot.plan(pictures, quiet=True, **few, schedule="edm:mean=0").train
    assert given.schedule.startswith("edm:mean=0.0,")


def test_a_budget_gives_the_first_stage_steps_up_to_a_limit(planned):
    config, dataset = planned
    free = dataclasses.replace(config, latent=dataclasses.replace(config.latent, latent_steps=None))
    assert planned_steps(free, dataset, CPU, 1e9) == MOST
    assert planned_steps(free, dataset, CPU, 1e-9) == 1
    assert planned_steps(free, dataset, CPU, None) == config.train.steps


SPEEDS: dict[str, Callable[[int], float]] = {  # seconds of step i, where trial steps told of 1
    "as told": lambda i: 1.0,
    "slower": lambda i: 2.0,
    "faster": lambda i: 0.5,
    "slow at first": lambda i: 10.0 if i < 20 else 1.0,
    "slow for a while": lambda i: 8.0 if 100 <= i < 120 else 1.0,
    "slow towards the end": lambda i: 6.0 if i >= 300 else 1.0,
}


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_first_stage_keeps_its_share_of_the_time_where_the_machine_is_not_as_its_trial_steps(
    planned, tmp_path, monkeypatch, speed
):
    config, dataset = planned
    now, rates = 0.0, []

    def step(stage, count):
        nonlocal now
        now += SPEEDS[speed](stage.step)
        rates.append(1 - stage.step / count)
        stage.step += 1
        return torch.zeros(())

    monkeypatch.setattr(FirstStage, "take_step", step)
    share = BudgetController(400.0, lambda: now)
    _, taken = trained_autoencoder(tmp_path, of_steps(config, 400), dataset, CPU, lambda line: None, share)
    assert now == pytest.approx(400, rel=0.1)
    assert rates[-1] < 0.05  # its learning rate has decayed
    written = read_config(tmp_path).latent.latent_steps if (tmp_path / CONFIG).exists() else 400
    assert written == taken


def test_latents_and_pixels_together_are_refused(pictures):
    with pytest.raises(UnblotError, match="pixels"):
        unblot.plan(pictures, quiet=True, latent=True, pixels=True)


def test_a_run_in_latents_can_be_planned_before_there_are_any(pictures, capsys):
    assert main(["train", str(pictures), "--latent", "--spectrum", "data", "--dry-run"]) == 0
    assert "3 x 3 x 4, of an own autoencoder" in capsys.readouterr().out


def test_options_of_the_autoencoder_without_it_are_refused(pictures, tmp_path):
    with pytest.raises(UnblotError, match="latent_width"):
        unblot.train(pictures, out=tmp_path / "run", quiet=True, latent_width=8)
    assert not (tmp_path / "run").exists()


def test_a_configuration_without_latents_is_read_as_before(run):
    raw = dataclasses.replace(run.config, latent=None).to_dict()
    del raw["latent"]
    assert RunConfig.from_dict(raw).shape == (3, 10, 12)


def test_a_model_file_whose_autoencoder_is_another_is_refused(run, tmp_path):
    from unblot.system.files import write_tensors

    tensors, header = read_tensors(run.path / MODEL)
    del tensors["autoencoder.mean"]
    write_tensors(tmp_path / MODEL, tensors, header)
    with pytest.raises(UnblotError, match=r"autoencoder\.mean"):
        load_model(tmp_path / MODEL)


def test_a_run_that_was_killed_in_its_first_stage_goes_on(run, pictures, tmp_path, monkeypatch):
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("unblot.training.first_stage.FirstStage.measure", killed)
        with pytest.raises(KeyboardInterrupt):
            unblot.train(pictures, out=tmp_path / "run", quiet=True, **CHOICES)
    again = unblot.resume(tmp_path / "run", quiet=True).denoiser.state_dict()
    straight = run.denoiser.state_dict()
    assert all(torch.equal(again[name], straight[name]) for name in straight)


@contextmanager
def stopped_in_its_first_stage(monkeypatch, step: int, stop: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """Within it Ctrl-C, or SIGTERM, comes while the autoencoder takes this step."""
    take_step = FirstStage.take_step

    def interrupted_step(stage: FirstStage, steps: int) -> Tensor:
        if stage.step == step:
            signal.raise_signal(stop)
        return take_step(stage, steps)

    with monkeypatch.context() as patched:
        patched.setattr(FirstStage, "take_step", interrupted_step)
        with pytest.raises(SystemExit if stop == signal.SIGTERM else KeyboardInterrupt):
            yield


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_first_stage_saves_it_and_says_how_to_go_on(pictures, tmp_path, monkeypatch, capsys, stop):
    path, many = tmp_path / "run", {**CHOICES, "latent_steps": 60}  # saved after every third step
    with stopped_in_its_first_stage(monkeypatch, 4, stop):
        unblot.train(pictures, out=path, **many)
    assert kept_about(path)["step"] == 5
    assert f"unblot train --resume {path}" in capsys.readouterr().err
    again = unblot.resume(path, quiet=True).denoiser.state_dict()
    straight = unblot.train(pictures, out=tmp_path / "straight", quiet=True, **many).denoiser.state_dict()
    assert all(torch.equal(again[name], straight[name]) for name in straight)


def test_a_run_in_its_first_stage_is_not_resumed_beside_its_process(pictures, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with stopped_in_its_first_stage(monkeypatch, 1):
        unblot.train(pictures, out=path, quiet=True, **CHOICES)
    before = {name: (path / name).read_bytes() for name in (FILE, CONFIG)}
    with locked(path), pytest.raises(UnblotError, match="in use"):
        unblot.resume(path, quiet=True, steps=50)
    assert {name: (path / name).read_bytes() for name in before} == before


def test_time_that_the_first_stage_used_counts_where_a_budget_is_given_anew(pictures, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with stopped_in_its_first_stage(monkeypatch, 1):
        unblot.train(pictures, out=path, quiet=True, **CHOICES)
    stage = FirstStage(read_config(path), open_data(str(pictures)), CPU)
    stage.load(path)
    stage.save(path, {**kept_about(path), "seconds": 90.0})
    with pytest.raises(UnblotError, match="has used 1m30s already"):
        unblot.resume(path, quiet=True, budget="60s")


@pytest.mark.parametrize("spectrum", ["data", "none"])
def test_a_run_that_was_stopped_in_its_first_stage_is_told_the_same_of_its_data(
    pictures, tmp_path, monkeypatch, spectrum
):
    choices = {**CHOICES, "spectrum": spectrum}
    with stopped_in_its_first_stage(monkeypatch, 1):
        unblot.train(pictures, out=tmp_path / "stopped", quiet=True, **choices)
    stopped = unblot.resume(tmp_path / "stopped", quiet=True)
    straight = unblot.train(pictures, out=tmp_path / "straight", quiet=True, **choices)
    assert stopped.config.data == straight.config.data


def test_a_run_with_a_budget_that_was_stopped_in_its_first_stage_is_planned_as_if_it_had_not_been(
    pictures, tmp_path, monkeypatch
):
    machine, path = latent_machine(monkeypatch), tmp_path / "run"

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FirstStage, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            unblot.train(pictures, out=path, quiet=True, latent=True, budget="60s", seed=3)
    before, start = used_before(path, {}), machine.now
    assert before > 10
    train = unblot.resume(path, quiet=True).config.train
    assert before + machine.now - start == pytest.approx(60, rel=0.05)  # not the whole budget again
    assert train.seed == 3
    smallest = ladder(unblot.load(path).config.x0_facts, "default")[0]
    assert train.network.split(",")[0] == smallest.split(",")[0]  # as trial steps chose it
    assert json.loads((path / "plan.json").read_text())["plan"]["used"] == pytest.approx(
        18, abs=1
    )  # a quarter, and trial steps


def latent_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine on whose clock a step of the first stage takes 0.1 s, one of the second 0.2 s, and the decoder's
    fine-tuning the time that it may."""
    machine = Machine(monkeypatch, lambda trainer, now: 0.2)

    def take_step(stage: FirstStage, steps: int) -> Tensor:
        machine.now += 0.1
        stage.step += 1
        return torch.tensor(1.0)

    def fine_tune(trainer: Any, controller: BudgetController, *_: object) -> bool:
        machine.now += Pace(trainer.config, controller, machine).seconds
        return True

    monkeypatch.setattr(FirstStage, "take_step", take_step)
    monkeypatch.setattr("unblot.training.loop.run_decoder_stage", fine_tune)
    monkeypatch.setattr(BudgetController.__init__, "__defaults__", (None, machine, 0.0))
    for room in ("latents", "first_stage"):
        monkeypatch.setattr(f"unblot.training.{room}.time", SimpleNamespace(monotonic=machine))
    return machine


def test_evaluation_has_no_likelihood_of_latents(run):
    with pytest.raises(UnblotError, match="latent"):
        unblot.evaluate(run.path, quiet=True, n=20, steps=2, ode=2)


def test_the_autoencoder_learns_augmented_pictures(pictures, monkeypatch):
    config, dataset = unblot.plan(pictures, quiet=True, **CHOICES, augment="plain:flip=true"), open_data(str(pictures))
    seen: list[torch.Tensor] = []

    def reconstruct(autoencoder, x, noise):
        seen.extend(x)
        return original(autoencoder, x, noise)

    original = first_stage.reconstruct
    monkeypatch.setattr(first_stage, "reconstruct", reconstruct)
    stage = FirstStage(config, dataset, CPU)
    for _ in range(5):
        stage.take_step(5)
    known = list(dataset.batch(dataset.train)[0])
    as_they_are = [any(torch.equal(x, y) for y in known) for x in seen]
    mirrored = [any(torch.equal(x.flip(-1), y) for y in known) for x in seen]
    assert all(a != b for a, b in zip(as_they_are, mirrored, strict=True))
    assert any(as_they_are)
    assert any(mirrored)
