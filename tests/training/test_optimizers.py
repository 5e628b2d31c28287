"""Muon's update is orthogonal, AdamW's is PyTorch's, and a step that is not finite changes nothing."""

import pytest
import torch
from torch import nn

from helpers import NETWORK
from unblot import api
from unblot.nn import NETWORKS
from unblot.training import optim
from unblot.training.optim import OPTIMIZERS, Optimizer, orthogonal, split
from unblot.training.trainer import Trainer, denoising_trainer

GOOD, BAD = torch.tensor(False), torch.tensor(True)


def network(name: str = "unet", channels: int = 1, classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    options = {"width": 32} if name == "ddpm_unet" else {"width": 16}
    made = NETWORKS[name](channels, channels, (8, 8), classes, **options)
    return made.to(memory_format=torch.channels_last)


def give_gradients(module: nn.Module, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=g))


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 144), (2, 100, 8)])
def test_an_orthogonal_matrix_keeps_its_directions_and_has_values_near_1(shape):
    g = torch.Generator().manual_seed(0)
    given = torch.randn(*shape, generator=g)
    u, values, v = torch.linalg.svd(given, full_matrices=False)
    made = u.mT @ orthogonal(given) @ v.mT
    diagonal = made.diagonal(dim1=1, dim2=2)
    reached = values > 0.01 * torch.linalg.matrix_norm(given)[:, None]
    assert reached.float().mean() > 0.9
    assert bool((diagonal[reached] > 0.6).all())
    assert bool((diagonal[reached] < 1.25).all())
    assert float((made - torch.diag_embed(diagonal)).abs().max()) < 1e-3


def test_turning_the_longer_side_turns_what_is_made():
    g = torch.Generator().manual_seed(0)
    values = torch.logspace(0, -4, 16).double()  # small ones, which the square of a wide matrix holds squared
    given = torch.linalg.qr(torch.randn(2, 16, 16, generator=g).double()).Q * values
    turn = torch.linalg.qr(torch.randn(2, 144, 16, generator=g).double()).Q.mT
    wanted = orthogonal(given) @ turn
    torch.testing.assert_close(orthogonal(given @ turn), wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(orthogonal((given @ turn).float()), wanted.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_matrices_are_muons_and_what_touches_pictures_or_labels_is_not(name):
    module, other = network(name), network(name, channels=2, classes=5)
    matrices, rest = (set(part) for part in split(module))
    assert len(matrices) + len(rest) == len(list(module.parameters()))
    for p, same in zip(module.parameters(), other.parameters(), strict=True):
        assert (p in matrices) == (p.ndim >= 2 and p.shape == same.shape)


def test_muons_first_update_is_orthogonal_of_adamws_size():
    module = network()
    before = [p.detach().clone() for p in split(module)[0]]
    give_gradients(module, 1)
    Optimizer(module, "muon:scale=0.2", 0.0).step(0.01, GOOD)
    for p, old in zip(split(module)[0], before, strict=True):
        change = (p.detach() - old).flatten(1) / 0.01
        wanted = 0.2 * max(change.shape) ** 0.5  # singular values whose entries have root mean square 0.2
        assert 0.6 * wanted < float(torch.linalg.matrix_norm(change, 2)) < 1.25 * wanted
        assert float(change.square().mean().sqrt()) == pytest.approx(0.2, rel=0.3)


def test_adamw_is_pytorchs():
    ours, theirs = network(), network()
    optimizer = Optimizer(ours, "adamw", 0.1)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for seed in range(3):
        give_gradients(ours, seed), give_gradients(theirs, seed)
        optimizer.step(0.01, GOOD), reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("spec", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(spec):
    module = network()
    optimizer = Optimizer(module, spec, 0.1)
    give_gradients(module, 0)
    optimizer.step(0.01, GOOD)
    before = [t.clone() for t in [*module.parameters(), *optimizer.tensors().values()]]
    for p in module.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step(0.01, BAD)
    assert all(map(torch.equal, [*module.parameters(), *optimizer.tensors().values()], before))


@pytest.mark.parametrize("spec", OPTIMIZERS)
def test_nor_where_pytorchs_own_optimizer_cannot_be_told(spec, monkeypatch):
    """As the fused AdamW of Apple's GPUs in PyTorch 2.11 and 2.12."""
    step = torch.optim.AdamW.step

    def untold(part):
        part.found_inf = None
        return step(part)

    monkeypatch.setattr(optim, "WITHOUT_FOUND_INF", ("cpu",))
    monkeypatch.setattr(torch.optim.AdamW, "step", untold)
    test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(spec)


@pytest.mark.parametrize("spec", OPTIMIZERS)
def test_state_taken_up_goes_on_to_the_last_bit(spec):
    module, copy = network(), network()
    optimizer, other = Optimizer(module, spec, 0.0), Optimizer(copy, spec, 0.0)
    for seed in range(4):
        if seed == 2:
            copy.load_state_dict(module.state_dict())
            other.load({name: t.clone().contiguous() for name, t in optimizer.tensors().items()})
        give_gradients(module, seed), give_gradients(copy, seed)
        optimizer.step(0.01, GOOD)
        if seed >= 2:
            other.step(0.01, GOOD)
    assert all(map(torch.equal, module.parameters(), copy.parameters()))


def test_muon_makes_its_moments_once(monkeypatch):
    module = network()
    optimizer = Optimizer(module, "muon", 0.0)
    give_gradients(module, 1)
    optimizer.step(0.01, GOOD)
    monkeypatch.setattr(torch, "zeros_like", lambda *_: pytest.fail("made anew"))
    give_gradients(module, 2)
    optimizer.step(0.01, GOOD)


def trainer_of(**choices) -> Trainer:
    """A trainer of digits before its first step; only the choices tell two of them apart."""
    choices = {"network": NETWORK, "batch_size": 8, "steps": 4, "clusters": 0, "warmup": 0.0, **choices}
    return denoising_trainer(api.plan("digits", quiet=True, **choices), api.open_data("digits"))


@pytest.mark.parametrize("clip_norm", [1e-3, 1e6])
def test_gradients_are_clipped_to_the_norm_that_is_chosen(clip_norm, monkeypatch):
    norms, step = [], Optimizer.step

    def seen(optimizer, rate, bad):
        norms.append(float(torch.stack([p.grad.norm() for p in optimizer.parameters if p.grad is not None]).norm()))
        return step(optimizer, rate, bad)

    monkeypatch.setattr(Optimizer, "step", seen)
    norm = float(trainer_of(clip_norm=clip_norm).take_step().grad_norm)
    assert 1e-3 < norm < 1e6
    assert norms == [pytest.approx(min(norm, clip_norm), rel=1e-2)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_decay_by_the_share_that_is_chosen_times_the_learning_rate(optimizer):
    plain, decayed = (trainer_of(optimizer=optimizer, learning_rate=0.1, weight_decay=decay) for decay in (0.0, 0.5))
    before = [p.detach().clone() for p in plain.denoiser.parameters()]
    rate = plain.learning_rate(0)
    assert rate == pytest.approx(0.1, rel=0.2)
    plain.take_step(), decayed.take_step()
    for p, q, old in zip(plain.denoiser.parameters(), decayed.denoiser.parameters(), before, strict=True):
        torch.testing.assert_close(p - q, 0.5 * rate * old, rtol=1e-3, atol=1e-6)
