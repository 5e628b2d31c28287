"""What only a GPU can show; left out where there is none."""

import time

import numpy as np
import pytest
import torch

from helpers import TINY_LATENT_RUN
from unblot import api
from unblot.config.sampling import SampleConfig
from unblot.editing.images import img2img
from unblot.runs.film import shoot
from unblot.runs.together import checked_call, sample_together
from unblot.training import trainer as engine
from unblot.training.budget import try_out
from unblot.training.task import DenoisingTask
from unblot.training.timing import STREAK

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CHOICES = {"network": "unet:width=32,multipliers=1-2,blocks=1", "steps": 50, "batch_size": 64, "device": "cuda"}
DROPOUT = {"network": f"{CHOICES['network']},dropout=0.1"}


def trainer_for(choices, data="digits"):
    dataset = api.open_data(data)
    config = api.plan_run(api.DataConfig(data=data), dataset, choices)
    return engine.Trainer(config, DenoisingTask(config, dataset))


@pytest.mark.parametrize("choices", [{}, {"augment": "non_leaking"}, {"times": "adaptive"}, DROPOUT])
def test_a_step_never_waits_for_the_device(choices):
    takes_steps_without_waiting(trainer_for({**CHOICES, **choices}))


def test_a_step_on_colour_pictures_never_waits_for_the_device_either(tmp_path):
    """Their default network has a spectrum, waves and a join, and learns by Muon."""
    path = str(tmp_path / "colours.npy")
    np.save(path, np.random.default_rng(0).integers(0, 256, (256, 16, 16, 3), np.uint8))
    trainer = trainer_for({"steps": 50, "batch_size": 64, "device": "cuda"}, path)
    assert trainer.denoiser.spectrum is not None
    takes_steps_without_waiting(trainer)


def takes_steps_without_waiting(trainer):
    for _ in range(3):
        trainer.take_step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [trainer.take_step() for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(result.loss) for result in results)


def test_the_losses_are_those_of_a_cpu():
    on_gpu, on_cpu = trainer_for({**CHOICES, "precision": "fp32"}), trainer_for({**CHOICES, "device": "cpu"})
    for _ in range(5):
        torch.testing.assert_close(on_gpu.take_step().loss.cpu(), on_cpu.take_step().loss, rtol=2e-3, atol=2e-3)


def test_bf16_learns_what_float32_learns():
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = trainer_for({**CHOICES, "precision": precision})
        losses[precision] = torch.stack([trainer.take_step().loss for _ in range(50)])[-20:].mean().item()
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_out_of_memory_halves_the_micro_batch_and_the_step_is_whole(monkeypatch):
    trainer, plain = trainer_for({**CHOICES, "precision": "fp32"}), trainer_for({**CHOICES, "precision": "fp32"})
    losses = trainer.losses

    def short(batch):
        if len(batch.x0) > 16:
            raise torch.OutOfMemoryError("made up")
        return losses(batch)

    monkeypatch.setattr(trainer, "losses", short)
    torch.testing.assert_close(trainer.take_step().loss, plain.take_step().loss)
    assert trainer.micro_batch == 16


def test_a_run_in_latents_draws_films_and_edits_in_mixed_precision(tmp_path):
    run = api.train("digits", out=tmp_path / "run", device="cuda", quiet=True, **TINY_LATENT_RUN)
    frames, samples = shoot(run, 2, steps=2)
    assert (frames[0].x0.dtype, samples.array.shape) == (np.float32, (2, 1, 8, 8))
    call = checked_call(run, run.sampler(SampleConfig(n=2, steps=2)), SampleConfig(n=2, steps=2))
    (together,) = sample_together(run, [call])
    assert together.array.shape == samples.array.shape
    assert img2img(run, samples.array, n=1, steps=2).array.shape == (2, 1, 1, 8, 8)


def test_dropout_on_a_gpu_follows_from_the_seed_and_the_step_alone():
    one, two = (trainer_for({**CHOICES, **DROPOUT, "precision": "fp32"}) for _ in range(2))
    for _ in range(5):
        state = torch.cuda.get_rng_state()
        loss = one.take_step().loss
        assert torch.equal(torch.cuda.get_rng_state(), state)
        torch.rand(8, device="cuda")
        torch.testing.assert_close(two.take_step().loss, loss)


def test_a_trial_measures_a_streak_of_steps_and_gives_its_memory_back():
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, CHOICES)
    taken = []
    for _ in range(3):  # the first leaves what libraries keep
        assert try_out(config, dataset, time.monotonic, preview=True).steps >= STREAK
        taken.append(torch.cuda.memory_allocated())
    assert taken[2] <= taken[1]
