"""What is computed in float64 is computed elsewhere for a device that has none, such as Apple's GPUs.

The meta device stands for one: it computes shapes alone, and here every float64 tensor on it is an error. What is read
from it is zeros.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oracles import F64
from unblot.data.values import ValueMap
from unblot.denoiser import Condition, Denoised, Denoiser
from unblot.evaluation import learning
from unblot.evaluation.likelihood import ode_log_likelihood, variational_bound
from unblot.losses import none
from unblot.nn.autoencoder import Autoencoder
from unblot.process.levels import NoiseLevel
from unblot.process.prior import Prior
from unblot.process.randomness import picture_generators
from unblot.process.schedules import linear, uniform_time_levels
from unblot.process.spectrum import Spectrum
from unblot.system import device
from unblot.system.distributed import Group
from unblot.training.diagnostics.held_out import HeldOutLoss
from unblot.training.first_stage import FirstStage
from unblot.vlb import VARIANCES, bound_terms, decoder_of, density, reverse_step

CPU, META = torch.device("cpu"), torch.device("meta")
LEVELS = uniform_time_levels(linear(), 6)
WHOLE = decoder_of(ValueMap("uint8", (127.5, 127.5), (127.5, 127.5)))


class WithoutFloat64(TorchDispatchMode):
    """Within it no tensor on the meta device is float64, and those on it can be read, as zeros."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == CPU:
            assert kwargs.get("dtype") != F64, "float64 is made on the device"
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        made = func(*args, **kwargs)
        assert not any(isinstance(x, Tensor) and x.is_meta and x.dtype == F64 for x in tree_leaves(made)), func
        return made


@pytest.fixture(autouse=True)
def meta_has_no_float64(monkeypatch):
    monkeypatch.setattr(device, "WITHOUT_FLOAT64", ("meta",))
    with WithoutFloat64():
        yield


def test_this_device_has_no_float64() -> None:
    x = torch.ones(2, device="meta")
    with pytest.raises(AssertionError):
        x.double()
    with pytest.raises(AssertionError):
        torch.ones(2, dtype=F64).to(x.device)
    assert torch.equal(device.to_float64(x), torch.zeros(2, dtype=F64))


def pictures() -> Tensor:
    return torch.zeros(3, 2, 4, 4, device="meta")


def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
    return Denoised(0.5 * x, torch.full_like(x, 0.25))


def priors() -> list[Prior]:
    spectrum = Spectrum(torch.zeros(2), torch.eye(2), torch.ones(2, 5))
    return [Prior(LEVELS.at(0), 0.5, known) for known in (None, spectrum)]


@pytest.mark.parametrize("variance", VARIANCES.values(), ids=list(VARIANCES))
@pytest.mark.parametrize("decoder", [density, WHOLE], ids=["density", "whole numbers"])
@pytest.mark.parametrize("nfe", [None, 2])
def test_the_bound(variance, decoder, nfe) -> None:
    for prior in priors():
        bound = variational_bound(
            denoise, pictures(), LEVELS, variance, decoder, picture_generators(0, range(3)), nfe, prior
        )
        assert all((term.device, term.dtype, term.shape) == (CPU, F64, (3,)) for term in bound)


@pytest.mark.parametrize("generators", [None, picture_generators(0, range(3))], ids=["trace", "Hutchinson"])
def test_the_likelihood_along_the_ode(generators) -> None:
    for prior in priors():
        found = ode_log_likelihood(denoise, pictures(), LEVELS, generators, prior)
        assert (found.device, found.dtype, found.shape) == (CPU, F64, (3,))


def test_the_bound_as_a_training_objective() -> None:
    mix = torch.full_like(pictures(), 0.25).requires_grad_()
    steps = reverse_step(linear(), torch.tensor([1 / 40, 0.5, 1.0], dtype=F64), 40)
    terms = bound_terms(Denoised(pictures(), mix), pictures(), steps, WHOLE)
    terms.sum().backward()
    assert (terms.device, terms.dtype, mix.grad.dtype) == (META, torch.float32, torch.float32)


class Silent(nn.Module):
    """A network that says nothing."""

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def test_the_losses_of_evaluation_and_of_training(monkeypatch) -> None:
    batch = pictures(), Condition(), picture_generators(0, range(3))
    monkeypatch.setattr(learning, "seen_by", lambda *_: [batch])
    found = learning._losses(Denoiser(Silent(), "v"), SimpleNamespace(shape=(2, 4, 4)), None, linear(), none(), 0, 64)
    assert (found.device, found.dtype, found.shape) == (CPU, F64, (3, learning.BINS))
    measurement = SimpleNamespace(
        n=4,
        group=Group(),
        mine=torch.arange(4),
        chosen={"training": np.arange(4)},
        batches=lambda part: {"training": part},
        task=SimpleNamespace(measured=lambda part: torch.zeros(part.stop - part.start, device="meta")),
    )
    losses = HeldOutLoss._losses(measurement, 4)["training"]
    assert (losses.device, losses.dtype, losses.shape) == (CPU, F64, (4,))


def test_the_scale_of_latents() -> None:
    dataset = SimpleNamespace(train=np.arange(6), batch=lambda chosen: (torch.zeros(len(chosen), 1, 4, 4), None))
    autoencoder = Autoencoder(1, 2, 2, 4).to("meta")
    stage = SimpleNamespace(
        dataset=dataset, autoencoder=autoencoder, device=META, config=SimpleNamespace(shape=(2, 2, 2))
    )
    FirstStage.measure(stage)
    assert autoencoder.std.dtype == torch.float32
