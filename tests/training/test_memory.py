"""Memory of training on a CPU: what a pass keeps is counted without making it, and the batch goes in parts that fit."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from unblot.config.schema import DataConfig
from unblot.data.dataset import open_data
from unblot.nn import NETWORKS
from unblot.runs.folder import build_denoiser
from unblot.system.memory import machine_memory
from unblot.training import counting, memory
from unblot.training.first_stage import FirstStage
from unblot.training.optim import OPTIMIZERS, Optimizer, state_bytes
from unblot.training.plan import plan_run
from unblot.training.trainer import denoising_trainer

SHAPE = (1, 8, 8)


def config_of(batch_size: int = 64, network: str = "unet:width=16"):
    return plan_run(DataConfig(data="digits"), open_data("digits"), {"batch_size": batch_size, "network": network})


def kept_by(module, run):
    """Bytes of the tensors that `run` keeps for the gradients, without the module's weights."""
    weights, kept = {p.data_ptr() for p in module.parameters()}, {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)


@pytest.mark.parametrize("network", ["unet:width=16", "dit:width=32,depth=2,heads=2", "ddpm_unet:width=32", "mlp"])
def test_what_is_counted_without_values_is_what_a_pass_keeps(network):
    denoiser = build_denoiser(config_of(network=network))
    arguments = torch.zeros(1, *SHAPE), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    wanted = kept_by(denoiser, lambda: denoiser.network(*arguments))
    assert counting.kept_bytes(denoiser, SHAPE) == pytest.approx(wanted, rel=0.15)


LIKE_A_PHOTOGRAPH = "unet:width=16,multipliers=1-2,patch=4,waves=true,join=true"


@pytest.mark.parametrize(
    "choices",
    [
        {"network": LIKE_A_PHOTOGRAPH, "spectrum": "data"},
        {"network": "dit:width=32,depth=2,heads=2", "augment": "non_leaking"},
        {"network": "ddpm_unet:width=32", "objective": "hybrid"},
        {"network": "mlp", "unlabelled": True, "parameterization": "x0"},
    ],
)
def test_the_most_that_a_pass_holds_is_that_of_real_tensors(choices):
    """The same pass with values: what it keeps for the gradients, which all is there when it turns round."""
    source = DataConfig(data="digits", unlabelled=choices.pop("unlabelled", False))
    config = plan_run(source, open_data("digits", labels=not source.unlabelled), {"batch_size": 8, **choices})
    trainer = denoising_trainer(config, open_data("digits", labels=not source.unlabelled))
    batch = trainer.prefetcher.make(0)
    least = kept_by(trainer.denoiser, lambda: trainer.task.measured(batch))
    counted = counting.pass_bytes(config, trainer.denoiser, 8)
    weights = sum(p.numel() * 4 for p in trainer.denoiser.parameters())
    assert least <= counted <= 1.5 * least + weights  # the gradients of weights come as what was kept goes


def test_the_most_that_a_first_stage_holds_is_that_of_real_tensors():
    choices = {"latent": True, "latent_width": 16, "network": "unet:width=16"}
    data = open_data("digits")
    stage = FirstStage(plan_run(DataConfig(data="digits"), data, choices), data, torch.device("cpu"))
    least = kept_by(stage.autoencoder, lambda: stage.take_step(1))
    held = sum(p.numel() * 4 for p in stage.autoencoder.parameters())
    held += sum(t.numel() * 4 for t in stage.optimizer.tensors().values() if t.ndim)
    counted, stays = memory.first_stage_bytes(stage.config, taken=int)
    assert least <= counted - held <= 1.5 * least + held
    assert stays == sum(p.numel() * 4 for p in stage.autoencoder.parameters())
    assert memory.latents_bytes(stage.config) == len(data.train) * 4 * math.prod(stage.config.shape)


def test_the_memory_of_a_run_in_latents_is_that_of_its_larger_stage(monkeypatch):
    config = plan_run(DataConfig(data="digits"), open_data("digits"), {"latent": True, "network": "unet:width=16"})
    denoiser = build_denoiser(config)
    monkeypatch.setattr(memory, "first_stage_bytes", lambda config: (0, 10**6))
    second = memory.run_bytes(config, denoiser, 64)
    monkeypatch.setattr(memory, "first_stage_bytes", lambda config: (0, 0))
    assert second == memory.run_bytes(config, denoiser, 64) + 10**6  # the autoencoder stays
    monkeypatch.setattr(memory, "first_stage_bytes", lambda config: (10**12, 0))
    assert memory.run_bytes(config, denoiser, 64) == memory.LIBRARIES + 10**12


def test_what_a_pass_holds_grows_with_its_pictures_and_shrinks_where_blocks_are_computed_again():
    config = config_of(network="unet:width=16,blocks=4")
    denoiser = build_denoiser(config)
    few, many, again = (counting.pass_bytes(config, denoiser, *how) for how in ((64,), (256,), (256, True)))
    assert many == pytest.approx(4 * few, rel=0.1)
    assert again < many / 2


def test_a_tensor_takes_more_than_its_bytes_up_to_a_size_and_then_only_these():
    config = config_of()
    denoiser = build_denoiser(config)
    bare, small = (counting.pass_bytes(config, denoiser, 64, taken=how) for how in (int, memory.taken))
    assert small == pytest.approx(memory.SLACK * bare, rel=1e-3)
    assert memory.taken(memory.MAPPED) == memory.MAPPED < memory.taken(memory.MAPPED - 1)


def test_optimizers_come_to_hold_what_was_counted_beforehand():
    for spec in OPTIMIZERS:
        denoiser = build_denoiser(config_of())
        optimizer = Optimizer(denoiser, spec, 0.0)
        for p in denoiser.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step(0.1, torch.tensor(False))
        moments = [t for t in optimizer.tensors().values() if t.ndim]
        assert state_bytes(denoiser, spec) == sum(t.numel() * 4 for t in moments)


SMALL_NETWORKS = {
    "unet": "unet:width=16,dropout=0.5",
    "ddpm_unet": "ddpm_unet:width=32,multipliers=1-2,dropout=0.5",
    "dit": "dit:width=32,depth=2,heads=2",
    "mlp": "mlp:width=32,dropout=0.5",
}


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_the_same_where_not_even_one_picture_fits(network, monkeypatch):
    """Then pictures go through the network one by one, and its blocks are computed again in the backward pass."""
    config, data = config_of(2, SMALL_NETWORKS[network]), open_data("digits")
    plain = denoising_trainer(config, data)
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "machine_memory", lambda: 1)
    tight = denoising_trainer(config, data)
    assert tight.recomputes
    assert tight.micro_batch == plain.micro_batch - 1 == 1
    plain.micro_batch = 1
    for trainer in (plain, tight):
        with torch.random.fork_rng():  # of dropout
            torch.manual_seed(0)
            trainer.denoiser.train()
            trainer._passes(trainer.prefetcher.make(0))
    for a, b in zip(plain.denoiser.parameters(), tight.denoiser.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert plain.denoiser.state_dict().keys() == tight.denoiser.state_dict().keys()


def test_the_memory_of_a_run_is_that_of_its_parts():
    config = config_of()
    denoiser = build_denoiser(config)
    one = memory.run_bytes(config, denoiser, 64)
    assert one > memory.LIBRARIES + counting.pass_bytes(config, denoiser, 64, taken=memory.taken)
    assert memory.run_bytes(config, denoiser, 8) < one
    averages = dataclasses.replace(config, train=dataclasses.replace(config.train, ema="power"))
    weights = sum(p.numel() * 4 for p in denoiser.parameters())
    assert one - memory.run_bytes(averages, denoiser, 64) == pytest.approx(weights, abs=2)


@pytest.mark.parametrize("latent", [False, True], ids=["pixels", "latents"])
def test_the_default_run_on_large_colour_pictures_fits_into_8_gb_of_a_machine_of_24(latent, tmp_path):
    """1024x1024, a thousand pictures; read are only a few of them, which decide the rest of the plan."""
    path = str(tmp_path / "pictures.npy")
    np.save(path, np.random.default_rng(0).integers(0, 256, (4, 1024, 1024, 3), np.uint8))
    source, choices = DataConfig(data=path, size="1024"), {"latent": True} if latent else {}
    config = plan_run(source, open_data(path, size=1024), choices)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, count=1000))
    assert config.data.shape == (3, 1024, 1024)
    denoiser = build_denoiser(config)
    fitting = memory.fitting_pictures(config, denoiser, 24 * 2**30)
    assert fitting
    assert memory.run_bytes(config, denoiser, fitting) < 8e9


def test_a_batch_goes_in_equal_parts_that_fit_and_a_small_one_is_not_looked_at(monkeypatch):
    config = config_of()
    denoiser = build_denoiser(config)
    assert memory.fitting_pictures(config, denoiser, 1) == 64
    monkeypatch.setattr(memory, "SMALL", 0)
    each = counting.kept_bytes(denoiser, SHAPE) / memory.SHARE
    for pictures, fitting in ((1000, 64), (64, 64), (63, 32), (31, 22), (1, 1), (0, 0)):
        assert memory.fitting_pictures(config, denoiser, int((pictures + 0.5) * each)) == fitting
    points = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=1))
    assert memory.fitting_pictures(points, denoiser, int(1.5 * each)) == 1
    assert memory.fitting_pictures(points, denoiser, 1) == 0


def test_the_memory_of_a_control_group_is_a_limit(tmp_path):
    limit, none, missing = tmp_path / "limit", tmp_path / "none", tmp_path / "missing"
    limit.write_text("1000000\n")
    none.write_text("max\n")
    assert machine_memory((none, limit, missing)) == 1_000_000
    assert machine_memory((none, missing)) > 2**28
