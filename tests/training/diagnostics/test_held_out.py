"""The held-out loss while training: the same measurement each time, whoever shares in it."""

import dataclasses

import numpy as np
import pytest
import torch

from unblot import api
from unblot.losses import training_loss
from unblot.runs.metrics import mean_loss
from unblot.system.distributed import Group
from unblot.training.diagnostics import held_out as heldout
from unblot.training.diagnostics.colours import ColourStatistics
from unblot.training.diagnostics.held_out import BLOCK, LEVELS, HeldOutLoss, pictures_a_side
from unblot.training.task import DenoisingTask
from unblot.training.trainer import Trainer

TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 100, "batch_size": 32}


def trainer_for(data="digits", held_out=0.05, **choices):
    source = api.DataConfig(data=data, held_out=held_out)
    dataset = api.open_data(data, held_out=held_out)
    config = api.plan_run(source, dataset, {**TINY, **choices})
    return Trainer(config, DenoisingTask(config, dataset))


def measurement(trainer):
    return HeldOutLoss(trainer.config, trainer.task, trainer.group, trainer.device)


def measured(trainer):
    with trainer.averaged():
        return measurement(trainer).measure(trainer.step)


def test_it_is_the_same_each_time_and_leaves_training_alone():
    plain, watched = trainer_for(), trainer_for()
    first = measured(watched)
    for _ in range(3):
        plain.take_step()
        watched.take_step()
        measured(watched)
    for a, b in zip(plain.denoiser.parameters(), watched.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = measured(trainer_for())
    assert torch.equal(fresh["held_out"], first["held_out"])
    assert torch.equal(fresh["training_parts"], first["training_parts"])


def test_it_is_the_loss_of_the_averaged_weights_at_levels_from_all_of_training():
    trainer = trainer_for()
    for _ in range(3):
        trainer.take_step()
    line = measured(trainer)
    batch = measurement(trainer).batches(slice(None))["held_out"]
    with trainer.averaged(), torch.no_grad():
        loss = training_loss(
            trainer.denoiser,
            batch.x0,
            trainer.task.schedule(batch.t),
            batch.eps,
            batch.condition,
            None,
            batch.augmentation,
        )
    assert mean_loss({"held_out": line["held_out"].tolist()}, "held_out") == pytest.approx(loss.mean().item(), rel=1e-5)
    assert line["held_out_parts"].mean().item() == pytest.approx(loss.mean().item(), rel=1e-5)
    assert (line["log_snr"].diff() < 0).all()
    held_out = trainer.task.batches.dataset.batch(trainer.task.batches.dataset.held_out)[0]
    assert all((picture == held_out).flatten(1).all(1).any() for picture in batch.x0)


def test_it_grows_with_the_noise_that_hides_a_picture_from_an_untrained_x0_prediction():
    """An untrained network answers zero: each level's loss is that of the target, here the picture itself."""
    line = measured(trainer_for(parameterization="x0", schedule="cosine"))
    assert np.allclose(line["training"], line["training"][0], rtol=0.25)


def test_processes_share_it_out(monkeypatch):
    whole = measured(trainer_for(batch_size=48))
    shares = []
    for rank in range(3):
        trainer = trainer_for(batch_size=48)
        trainer.group = Group(rank, 3)
        monkeypatch.setattr(heldout, "sum_over", lambda group, *values: None)
        shares.append(measured(trainer))
    for key in ("training", "held_out", "held_out_parts"):
        assert torch.allclose(sum(share[key] for share in shares), whole[key], rtol=1e-5)


def test_large_pictures_are_made_anew_for_each_measurement_and_give_the_same(monkeypatch):
    held = measurement(trainer_for())
    monkeypatch.setattr(heldout, "MEMORY", 1)
    anew = measurement(trainer_for())
    assert held.held is not None
    assert anew.held is None
    for at_a_time in (7, 64):
        a, b = held.measure(0, at_a_time), anew.measure(0, at_a_time)
        assert all(torch.equal(a[key], b[key]) for key in ("training", "held_out", "held_out_parts"))


def test_without_held_out_pictures_the_training_loss_is_measured_alone():
    line = measured(trainer_for(held_out=0))
    assert line["held_out"] is None
    assert len(line["training"]) == LEVELS


def test_it_is_cheap_and_every_level_and_part_has_as_many_pictures():
    config = trainer_for(steps=3000, batch_size=64).config
    n = pictures_a_side(config.train, config.data)
    assert n % BLOCK == 0
    assert 2 * n <= 0.02 * heldout.PASSES * config.train.held_out_every * config.train.batch_size
    huge = dataclasses.replace(config.data, height=2048, width=2048)
    assert pictures_a_side(config.train, huge) == BLOCK


@pytest.mark.parametrize("data", ["digits", "moons:count=2000"])
def test_colours_of_real_pictures_are_as_chance_has_them_and_of_changed_ones_not(data):
    dataset = api.open_data(data)
    labels, chosen = None, dataset.held_out[:40]
    if dataset.classes:
        labels = torch.arange(40) % len(dataset.classes)
        chosen = np.concatenate([dataset.held_out[dataset.labels[dataset.held_out] == c][:4] for c in range(10)])
    pictures, colours = dataset.batch(chosen)[0], ColourStatistics(dataset, labels)
    real = colours.compare(7, pictures)["preview"]
    assert np.abs([real["mean_z"], real["std_z"]]).max() < 4
    moved = colours.compare(7, pictures + 0.5)["preview"]
    assert np.subtract(moved["mean_off"], real["mean_off"]) == pytest.approx(0.5 / colours.std.numpy(), rel=1e-3)
    assert min(moved["mean_z"]) > 0.2 / colours.spread[0].max() * len(chosen) ** 0.5
    flat = colours.compare(7, colours.mean[None, :, None, None] + 0.5 * (pictures - colours.mean[None, :, None, None]))
    assert np.subtract(flat["preview"]["std_off"], real["std_off"]) == pytest.approx(np.log(0.5), abs=1e-3)
