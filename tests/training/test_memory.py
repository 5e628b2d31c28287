"""Memory of training on a CPU: what a pass keeps is counted without making it, and the batch goes in parts that fit."""

import dataclasses

import pytest
import torch

from unblot.config.schema import DataConfig
from unblot.data.dataset import open_data
from unblot.runs.folder import build_denoiser
from unblot.system.memory import machine_memory
from unblot.training import memory
from unblot.training.plan import plan_run

SHAPE = (1, 8, 8)


def config_of(batch_size: int = 64, network: str = "unet:width=16"):
    return plan_run(DataConfig(data="digits"), open_data("digits"), {"batch_size": batch_size, "network": network})


@pytest.mark.parametrize("network", ["unet:width=16", "dit:width=32,depth=2,heads=2", "ddpm_unet:width=32", "mlp"])
def test_what_is_counted_without_values_is_what_a_pass_keeps(network):
    denoiser = build_denoiser(config_of(network=network))
    weights = {p.data_ptr() for p in denoiser.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        denoiser.network(torch.zeros(1, *SHAPE), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    wanted = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    assert memory.kept_bytes(denoiser, SHAPE) == pytest.approx(wanted, rel=0.15)


def test_a_batch_goes_in_equal_parts_that_fit_and_a_small_one_is_not_looked_at(monkeypatch):
    config = config_of()
    denoiser = build_denoiser(config)
    assert memory.fitting_pictures(config, denoiser, 1) == 64
    monkeypatch.setattr(memory, "SMALL", 0)
    each = memory.kept_bytes(denoiser, SHAPE) / memory.SHARE
    for pictures, fitting in ((1000, 64), (64, 64), (63, 32), (31, 22), (1, 1), (0, 1)):
        assert memory.fitting_pictures(config, denoiser, int((pictures + 0.5) * each)) == fitting
    points = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=1))
    assert memory.fitting_pictures(points, denoiser, 1) == 1


def test_the_memory_of_a_control_group_is_a_limit(tmp_path):
    limit, none, missing = tmp_path / "limit", tmp_path / "none", tmp_path / "missing"
    limit.write_text("1000000\n")
    none.write_text("max\n")
    assert machine_memory((none, limit, missing)) == 1_000_000
    assert machine_memory((none, missing)) > 2**28
