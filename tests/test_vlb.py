"""The bound as a training objective: its terms, what it teaches, and what a learned variance gains."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from oracles import F64, gaussian
from unblot import UnblotError, api
from unblot.denoiser import Denoised, Denoiser
from unblot.evaluation.likelihood import variational_bound
from unblot.losses import OBJECTIVES, bound_loss, hybrid, vlb
from unblot.process.levels import NoiseLevel, corrupt
from unblot.process.randomness import picture_generators
from unblot.process.schedules import SCHEDULES, linear, uniform_time_levels
from unblot.sampling.singlestep import ddpm
from unblot.training.trainer import Trainer, denoising_trainer
from unblot.vlb import bound_terms, density, discretised, reverse_step

STD, STEPS = 0.5, 1000
LINEAR = linear()
G = torch.Generator().manual_seed(0)


def posterior_by_bayes(x_t: Tensor, x0: Tensor, t: NoiseLevel, s: NoiseLevel) -> Normal:
    """q(x_s | x_t, x0) as the product of N(alpha_s·x0, sigma_s²) and of N(x_t; r·x_s, beta), from precisions."""
    r = t.alpha / s.alpha
    beta = t.sigma**2 - r**2 * s.sigma**2
    precision = 1 / s.sigma**2 + r**2 / beta
    return Normal((s.alpha * x0 / s.sigma**2 + r * x_t / beta) / precision, precision.rsqrt())


@pytest.mark.parametrize("index", [2, 3, 500, 1000])
def test_a_term_is_the_divergence_of_two_normals(index: int) -> None:
    x0, eps, x0_hat = torch.randn(3, 1, 1, 2, 2, generator=G, dtype=F64)
    mix = torch.rand(1, 1, 2, 2, generator=G, dtype=F64)
    steps = reverse_step(LINEAR, torch.tensor([index / STEPS], dtype=F64), STEPS)
    t, s = steps.t.at(0), steps.s.at(0)
    x_t = corrupt(x0, t, eps)
    true, guess = (posterior_by_bayes(x_t, mean, t, s) for mean in (x0, x0_hat))
    beta = t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2
    variance = torch.exp(mix * beta.log() + (1 - mix) * guess.variance.log())
    expected = kl_divergence(true, Normal(guess.mean, variance.sqrt())).mean()
    found = bound_terms(Denoised(x0_hat, mix), x0, steps, density)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "edm", "flow"])
@pytest.mark.parametrize("decoder", [density, discretised(2 / 255)])
def test_the_terms_add_up_to_the_bound_of_evaluation(schedule: str, decoder) -> None:
    """The mean over all T steps, times T, and the prior's constant: what `variational_bound` measures, likewise."""
    steps, n = 40, 64
    x0 = (STD * torch.randn(n, 1, 2, 2, generator=G, dtype=F64)).clamp(-1, 1)
    exact, made = gaussian(0.0, STD), SCHEDULES[schedule]()

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        return Denoised(exact(x, level).x0, torch.full_like(x, 0.3))

    from unblot.vlb import learned_variance

    levels = uniform_time_levels(made, steps)
    bound = variational_bound(denoise, x0, levels, learned_variance, decoder, picture_generators(0, range(n)))
    terms = torch.zeros(n, dtype=F64)
    for index in range(1, steps + 1):
        part = reverse_step(made, torch.full((n,), index / steps, dtype=F64), steps)
        x_t = corrupt(x0, part.t, torch.randn(x0.shape, generator=G, dtype=F64))
        terms += bound_terms(denoise(x_t, part.t), x0, part, decoder)
    both = bound.steps + bound.decoder
    difference = terms - both  # of two draws of the noise
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(n) + 1e-9


def mean_terms(mixes: Tensor) -> Tensor:
    """The expected terms (T,) of all T steps with these var_mix (T,), for data N(0, STD²) and its exact denoiser.

    A term is quadratic in x0 − x0_hat, so that the root of its mean square stands for it.
    """
    part = reverse_step(LINEAR, torch.arange(1, STEPS + 1, dtype=F64) / STEPS, STEPS)
    uncertain = (STD**2 * part.t.sigma**2 / (part.t.alpha**2 * STD**2 + part.t.sigma**2)).sqrt().view(-1, 1, 1, 1)
    return bound_terms(Denoised(torch.zeros_like(uncertain), mixes.view(-1, 1, 1, 1)), uncertain, part, density)


def excess(mixes: Tensor) -> float:
    """How far the bound with these var_mix (T,) lies over the entropy, in expectation."""
    end = LINEAR(torch.ones(1, dtype=F64))
    prior = 0.5 * float(end.alpha**2 * STD**2 + end.sigma**2 - 1 - (end.sigma**2).log())
    return float(mean_terms(mixes).sum()) + prior - 0.5 * math.log(2 * math.pi * math.e * STD**2)


def test_the_best_learned_variance_leaves_no_excess_and_beta_what_is_published() -> None:
    """0.001092 nats with beta, none with the optimal variance, which lies between the ends that can be learned."""
    assert excess(torch.ones(STEPS, dtype=F64)) == pytest.approx(0.001092, abs=2e-6)
    low, high = torch.zeros(STEPS, dtype=F64), torch.ones(STEPS, dtype=F64)
    for _ in range(16):  # a term is convex in the variance's logarithm: its slope's sign is followed
        mix = ((low + high) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(mean_terms(mix).sum(), mix)
        low, high = torch.where(slope > 0, low, mix.detach()), torch.where(slope > 0, mix.detach(), high)
    assert abs(excess(low)) < 2e-5


class Says(nn.Module):
    """A network whose output, of twice the channels, is its parameter."""

    embeds = "log_noise_ratio"

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.says = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=F64) / 3)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        return self.says


@pytest.mark.parametrize("times", [[0.0005, 0.4, 0.9, 1.0], [0.3, 0.5, 0.6, 0.9]])
def test_beside_the_squared_error_the_bound_moves_the_variance_alone(times: list[float]) -> None:
    x0, eps = torch.randn(2, 4, 2, 3, 3, generator=G, dtype=F64).clamp(-1, 1)
    steps = reverse_step(LINEAR, torch.tensor(times, dtype=F64), STEPS)
    for objective, moves_mean in ((hybrid(scale=1.0), False), (vlb(), True)):
        denoiser = Denoiser(Says((4, 4, 3, 3)), "v", STD, learned_variance=True)
        weight = torch.zeros(4, dtype=F64)
        bound_loss(denoiser, x0, steps, eps, objective, discretised(2 / 255), weight=weight).sum().backward()
        mean, variance = denoiser.network.says.grad.chunk(2, 1)
        assert bool(mean.isfinite().all() and variance.isfinite().all())
        assert bool((mean != 0).any()) == moves_mean
        assert bool((variance.flatten(1) != 0).any(1).all())


def digits(**choices) -> Trainer:
    choices = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 150, "batch_size": 32, **choices}
    source = api.DataConfig(data="digits")
    dataset = api.open_data("digits")
    choices = {"schedule": "linear", "spacing": "time", "decay": "none", **choices}
    return denoising_trainer(api.plan_run(source, dataset, choices), dataset)


def test_a_learned_variance_has_a_lower_bound_than_either_fixed_one() -> None:
    coarse = 50  # steps so long that the two ends of the variance lie apart
    trainer = digits(objective=f"hybrid:scale=0.1,steps={coarse}")
    while trainer.step < 150:
        trainer.take_step()
    net, data = trainer.denoiser.eval(), trainer.task.batches.dataset
    x0, _ = data.batch(data.held_out[:48])
    t = (torch.arange(48).double() + 0.5) / 48
    terms = dict.fromkeys(("learned", "beta", "posterior"), 0.0)
    with torch.no_grad():
        for offset in range(6):  # the same pictures and noise for each, over all levels
            steps = reverse_step(LINEAR, (t + offset / 288).clamp(2 / coarse, 1), coarse)
            x_t = corrupt(x0, steps.t, torch.randn(x0.shape, generator=G))
            found = net(x_t, steps.t)
            for name, mix in (("learned", found.variance_interpolation), ("beta", 1.0), ("posterior", 0.0)):
                mixed = torch.as_tensor(mix).expand_as(x0)
                terms[name] += float(bound_terms(Denoised(found.x0, mixed), x0, steps, density).sum())
    assert terms["learned"] < 0.999 * min(terms["beta"], terms["posterior"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_and_samples(objective: str) -> None:
    spec = objective if objective == "simple" else f"{objective}:steps=50"
    trainer = digits(objective=spec)
    fixed = [trainer.task.batches.at(10_000 + i) for i in range(4)]

    def loss() -> float:
        with torch.no_grad():
            return sum(float(trainer.task.measured(batch).mean()) for batch in fixed)

    first = loss()
    for _ in range(60):
        trainer.take_step()
    assert loss() < first
    x = torch.randn(2, 1, 8, 8)
    assert (trainer.denoiser.eval()(x, LINEAR(torch.tensor([0.5, 0.7]))).variance_interpolation is not None) == (
        objective != "simple"
    )


def test_bad_bounds_and_a_variance_that_was_not_learned_are_refused() -> None:
    with pytest.raises(UnblotError, match="2 steps or more"):
        vlb(steps=1)
    t, s = LINEAR(torch.tensor([0.5, 0.4])).at(0), LINEAR(torch.tensor([0.5, 0.4])).at(1)
    from unblot.sampling.loop import Estimate

    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(UnblotError, match="has not learned a variance"):
        ddpm(variance="learned").step([Estimate(x, t, x, None)], s, lambda x, level: Denoised(x), lambda: x)
