"""Solvers: orders of convergence, identities, statistics, and the laws that every entry of the table obeys."""

from dataclasses import replace

import pytest
import torch

from oracles import (
    F64,
    Counted,
    correlated,
    gaussian,
    gaussian_flow,
    ideal,
    level,
    marginal_start,
    no_noise,
    order_of,
    seeded_noise,
)
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, corrupt, norm
from unblot.process.randomness import picture_generators
from unblot.process.schedules import SCHEDULES, edm, flow, karras, linear, uniform_time_levels
from unblot.sampling.guidance import THRESHOLDS
from unblot.sampling.loop import count_nfe, pictures_noise, sample, visited
from unblot.sampling.settings import SamplerConfig
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS
from unblot.specs import build, options_of

DETERMINISTIC = ["euler", "ddim", "heun", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm"]
STOCHASTIC = ["ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde", "edm_churn", "restart"]
FIXED = [*DETERMINISTIC, *STOCHASTIC]  # a given NFE
every = pytest.mark.parametrize("name", SOLVERS)
FAMILIES = {
    "vp": lambda t: linear()(t),
    "ve": lambda t: NoiseLevel(torch.ones_like(t), torch.exp(-3 + 6 * t)),
    "flow": lambda t: flow()(t),
}


def test_every_solver_is_looked_at() -> None:
    assert sorted([*FIXED, "adaptive"]) == sorted(SOLVERS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*DETERMINISTIC, "unipc:3", "deis:2", "deis:4", "ipndm:2"])
def test_order_of_convergence(name: str, family: str) -> None:
    """On levels from t = 0.8 to 0.2 whose steps begin short, for there a multistep method is still of first order."""
    key, _, order = name.partition(":")
    solver = SOLVERS[key](order=int(order)) if order else SOLVERS[key]()

    def spacing(n: int) -> NoiseLevel:
        return FAMILIES[family](0.8 - 0.6 * torch.linspace(0, 1, n + 1, dtype=F64) ** 2)

    assert order_of(solver, spacing, [64, 96, 128, 192, 256]) == pytest.approx(solver.order, abs=0.2)


def test_adaptive_error_follows_the_tolerance() -> None:
    sequence = flow()(torch.tensor([0.8, 0.2], dtype=F64))
    x = torch.linspace(-2, 2, 5, dtype=F64).view(5, 1, 1, 1)
    exact = gaussian_flow(x, sequence.at(0), sequence.at(-1), 0.3, 0.5)
    errors, calls = [], []
    for tolerance in (0.1, 0.01, 0.001):
        denoise = Counted(gaussian(0.3, 0.5))
        y = sample(denoise, x, sequence, SOLVERS["adaptive"](tolerance=tolerance), no_noise)
        errors.append(float((y - exact).abs().max()))
        calls.append(denoise.calls)
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5
    assert calls[0] < calls[1] < calls[2]


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("schedule", ["linear", "karras", "flow"])
def test_mean_and_covariance(name: str, schedule: str) -> None:
    """Stochastic solvers sample the data's distribution: each moment within five of its standard errors."""
    n, mean = 4000, torch.tensor([0.3, -0.4], dtype=F64)
    covariance = torch.tensor([[0.25, 0.12], [0.12, 0.16]], dtype=F64)
    sequence = uniform_time_levels(SCHEDULES[schedule](), 60 if name in ("edm_churn", "restart") else 300)
    noise = seeded_noise((n, 1, 1, 2), seed=1)
    root = torch.linalg.cholesky(sequence.alpha[0] ** 2 * covariance + sequence.sigma[0] ** 2 * torch.eye(2, dtype=F64))
    x_T = sequence.alpha[0] * mean + noise() @ root.T
    options = {"variance": "beta"} if name == "ddpm" else {"noise": 1.0} if name == "edm_churn" else {}
    y = sample(correlated(mean, covariance), x_T, sequence, SOLVERS[name](**options), noise).view(n, 2)
    z = (y - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T  # standard normal, if all is well
    assert float(z.mean(0).abs().max()) < 5 / n**0.5
    moments = z.T @ z / n - torch.eye(2, dtype=F64)
    assert float(moments.diagonal().abs().max()) < 5 * (2 / n) ** 0.5
    assert abs(float(moments[0, 1])) < 5 / n**0.5


def test_posterior_variance_is_right_for_data_at_one_point() -> None:
    sequence = uniform_time_levels(linear(), 7)
    here = gaussian(0.3, 0.0)
    x = sample(
        here,
        torch.randn(9, 1, 1, 1, dtype=F64),
        sequence.at(slice(0, 7)),
        SOLVERS["ddpm"](),
        seeded_noise((9, 1, 1, 1)),
    )
    assert x.shape == (9, 1, 1, 1)
    n, noise = 20_000, seeded_noise((20_000, 1, 1, 1))
    x_T = corrupt(torch.full((n, 1, 1, 1), 0.3, dtype=F64), sequence.at(0), noise())
    x = sample(here, x_T, sequence.at(slice(0, 7)), SOLVERS["ddpm"](), noise)
    z = (x - sequence.alpha[6] * 0.3) / sequence.sigma[6]
    assert abs(float(z.mean())) < 5 / n**0.5
    assert abs(float(z.var()) - 1) < 5 * (2 / n) ** 0.5


# --- edge cases: every entry, every schedule, one step


@every
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_work_on_every_schedule(name: str, schedule: str, steps: int) -> None:
    sequence = uniform_time_levels(SCHEDULES[schedule](), steps)
    denoise = gaussian(0.3, 0.5)
    x_T = norm(sequence.at(0), 0.5) * torch.linspace(-2, 2, 5).view(5, 1, 1, 1)
    y = sample(denoise, x_T.float(), sequence, SOLVERS[name](), seeded_noise(x_T.shape, 0, torch.float32))
    assert y.dtype == torch.float32
    assert bool(y.isfinite().all())
    assert float((y - 0.3).abs().max()) < 4  # the data's deviation is 0.5
    if steps == 1 and name not in ("edm_churn", "adaptive"):
        torch.testing.assert_close(y, denoise(x_T.float(), sequence.at(0)).x0)


@pytest.mark.parametrize("name", [*DETERMINISTIC, "adaptive"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_twenty_steps_come_near_the_truth_on_every_schedule(name: str, schedule: str) -> None:
    """In float32, from the very end of the schedule: no formula loses its digits or runs off in pure noise."""
    sequence = uniform_time_levels(SCHEDULES[schedule](), 20)
    x_T = (norm(sequence.at(0), 0.5) * torch.linspace(-2, 2, 5).view(5, 1, 1, 1)).float()
    y = sample(gaussian(0.3, 0.5), x_T, sequence, SOLVERS[name](), no_noise)
    exact = gaussian_flow(x_T, sequence.at(0), sequence.at(-1), 0.3, 0.5)
    assert float((y - exact).abs().max()) < (0.15 if name in ("euler", "ddim") else 0.1)


@every
def test_an_ideal_denoisers_samples_are_its_data(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    data = torch.rand(6, 1, 3, 3, generator=g, dtype=F64) * 2 - 1
    sequence = uniform_time_levels(karras(), 40)
    noise = seeded_noise((20, 1, 3, 3))
    y = sample(ideal(data), 80 * noise(), sequence, SOLVERS[name](), noise)
    distance = torch.cdist(y.flatten(1), data.flatten(1))
    assert float(distance.min(1).values.max()) < 1e-3
    assert len(distance.argmin(1).unique()) > 1


@every
def test_evaluations_are_counted_right(name: str) -> None:
    solver, denoise = SOLVERS[name](), Counted(gaussian(0.3, 0.5))
    noise = seeded_noise((3, 1, 1, 1))
    for sequence in (uniform_time_levels(karras(), 18), karras()(torch.linspace(1, 0.2, 9, dtype=F64))):
        denoise.calls = 0
        sample(denoise, 80 * noise(), sequence, solver, noise)
        assert count_nfe(solver, sequence) == (0 if name == "adaptive" else denoise.calls)


@pytest.mark.parametrize("solver", [*SOLVERS, "ddpm:variance=learned"])
def test_guidance_doubles_the_calls_where_the_pictures_do_not_decide_them(solver: str) -> None:
    plain = SamplerConfig(solver, "karras", 7)
    assert (plain.nfe(karras()) == 0) == (solver == "adaptive")
    assert replace(plain, guidance=2.0).nfe(karras()) == 2 * plain.nfe(karras())


@every
def test_a_picture_is_the_same_in_any_batch(name: str) -> None:
    sequence = uniform_time_levels(linear(), 12)
    mean = torch.linspace(-1, 1, 16, dtype=F64).view(1, 4, 4)

    def samples(indices: range) -> torch.Tensor:
        noise = pictures_noise(picture_generators(3, indices), (1, 4, 4), torch.device("cpu"))
        return sample(gaussian(mean, 0.4), noise(), sequence, SOLVERS[name](), noise)

    whole = samples(range(64))
    for size in (1, 7):
        parts = torch.cat([samples(range(first, min(first + size, 64))) for first in range(0, 64, size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


# --- identities


@pytest.mark.parametrize("name", FIXED)
def test_exploding_and_preserving_sampling_agree_after_rescaling(name: str) -> None:
    vp = uniform_time_levels(linear(), 12)
    ve = NoiseLevel(torch.ones_like(vp.alpha), vp.sigma / vp.alpha)
    x_T = torch.randn(5, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    one = sample(gaussian(0.3, 0.5), x_T, vp, SOLVERS[name](), seeded_noise(x_T.shape))
    other = sample(gaussian(0.3, 0.5), x_T / vp.alpha[0], ve, SOLVERS[name](), seeded_noise(x_T.shape))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("one", "options", "other", "others"),
    [
        ("ddim", {"eta": 1.0}, "ddpm", {}),
        ("euler", {}, "ddim", {}),
        ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m", {}),
        ("deis", {"order": 1}, "euler", {}),
        ("ipndm", {"order": 1}, "euler", {}),
        ("edm_churn", {"churn": 0.0}, "heun", {}),
        ("restart", {"repeats": 0}, "heun", {}),
    ],
)
@pytest.mark.parametrize("schedule", ["linear", "linear_zero_snr", "flow", "karras"])
def test_special_cases_are_one_another(one: str, options: dict, other: str, others: dict, schedule: str) -> None:
    sequence = uniform_time_levels(SCHEDULES[schedule](), 10)
    x_T = norm(sequence.at(0), 0.5) * torch.randn(5, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    results = [
        sample(gaussian(0.3, 0.5), x_T, sequence, SOLVERS[name](**kwargs), seeded_noise(x_T.shape))
        for name, kwargs in ((one, options), (other, others))
    ]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_solvers_with_noise_turned_off_use_none() -> None:
    sequence = uniform_time_levels(linear(), 5)
    x_T = torch.ones(2, 1, 1, 1, dtype=F64)
    for name in DETERMINISTIC:
        sample(gaussian(0.3, 0.5), x_T, sequence, SOLVERS[name](), no_noise)


def test_first_order_steps_of_the_three_families_are_their_papers() -> None:
    x, denoise = torch.linspace(-2, 2, 5, dtype=F64).view(5, 1, 1, 1), gaussian(0.3, 0.5)
    for t, s in ((0.8, 0.5), (0.4, 0.1)):
        line = flow()(torch.tensor([t, s], dtype=F64))
        x0 = denoise(x, line.at(0)).x0
        velocity = (x - (1 - t) * x0) / t - x0
        torch.testing.assert_close(sample(denoise, x, line, SOLVERS["euler"](), no_noise), x + (s - t) * velocity)
        exploding = NoiseLevel(torch.ones(2, dtype=F64), torch.tensor([t, s], dtype=F64))
        slope = (x - denoise(x, exploding.at(0)).x0) / t
        torch.testing.assert_close(sample(denoise, x, exploding, SOLVERS["euler"](), no_noise), x + (s - t) * slope)


@pytest.mark.parametrize(("churn", "noise_scale"), [(0.0, 1.0), (30.0, 1.007)])
def test_edms_algorithm_2_written_out(churn: float, noise_scale: float) -> None:
    """Karras et al. 2022, algorithm 2 line by line; at S_churn = 0 it is their algorithm 1, our `heun`."""
    n, low, high = 18, 0.05, 50.0
    t = karras()(torch.linspace(1, 0, n, dtype=F64)).sigma
    t = torch.cat([t[:-1], torch.tensor([0.002, 0.0], dtype=F64)])  # sigma_max … sigma_min, 0
    denoise = gaussian(0.3, 0.5)
    draw = seeded_noise((7, 1, 2, 2))
    x = 80 * draw()
    for i in range(n):
        gamma = min(churn / n, 2**0.5 - 1) if low <= t[i] <= high else 0.0
        t_hat = t[i] + gamma * t[i]
        if gamma > 0:
            x = x + (t_hat**2 - t[i] ** 2).sqrt() * noise_scale * draw()
        d = (x - denoise(x, level(1.0, float(t_hat))).x0) / t_hat
        x_next = x + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_next = (x_next - denoise(x_next, level(1.0, float(t[i + 1]))).x0) / t[i + 1]
            x_next = x + (t[i + 1] - t_hat) * (d / 2 + d_next / 2)
        x = x_next
    ours = seeded_noise((7, 1, 2, 2))
    solver = SOLVERS["edm_churn"](churn=churn, low=low, high=high, noise=noise_scale)
    sequence = NoiseLevel(torch.ones_like(t), t)
    torch.testing.assert_close(sample(denoise, 80 * ours(), sequence, solver, ours), x, rtol=1e-9, atol=1e-9)


def test_restart_goes_over_its_interval_again() -> None:
    sequence = NoiseLevel(torch.ones(6, dtype=F64), torch.tensor([80.0, 1.0, 0.25, 0.1, 0.01, 0.0], dtype=F64))
    route = visited(sequence, SOLVERS["restart"](repeats=2)).sigma.tolist()
    assert route == [80.0, 1.0, 0.25, 0.1, 0.25, 0.1, 0.25, 0.1, 0.01, 0.0]
    wide = SOLVERS["restart"](low=1e-3, high=1e-2)
    assert visited(sequence, wide).sigma.tolist() == sequence.sigma.tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"variance": "large"}),
        ("ddim", {"eta": -1.0}),
        ("dpmpp_2m_sde", {"eta": -0.5}),
        ("dpmpp_3m_sde", {"eta": -0.5}),
        ("unipc", {"order": 4}),
        ("deis", {"order": 0}),
        ("ipndm", {"order": 5}),
        ("edm_churn", {"churn": -1.0}),
        ("restart", {"repeats": -1}),
        ("adaptive", {"tolerance": 0.0}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict) -> None:
    with pytest.raises(UnblotError, match=str(next(iter(options.values())))):
        SOLVERS[name](**options)


def test_a_marginal_is_kept_by_the_exact_flow() -> None:
    """The oracle itself: its ODE carries one exact marginal into the next."""
    t, s = level(0.3, 0.9), edm()(torch.tensor([0.4], dtype=F64)).at(0)
    moved = gaussian_flow(marginal_start(20_000, t, 0.3, 0.5), t, s, 0.3, 0.5)
    assert float(moved.mean()) == pytest.approx(0.3 * float(s.alpha), abs=5 * float(norm(s, 0.5)) / 20_000**0.5)
    assert float(moved.std() / norm(s, 0.5)) == pytest.approx(1, abs=5 / 40_000**0.5)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "table", [SOLVERS, SPACINGS, SCHEDULES, THRESHOLDS], ids=["solver", "spacing", "schedule", "threshold"]
)
def test_options_that_are_no_finite_numbers_are_refused(table, value: str) -> None:
    for name, entry in table.items():
        for option, default in options_of(entry).items():
            if isinstance(default, float):
                with pytest.raises(UnblotError, match=value):
                    build(table, f"{name}:{option}={value}", "entry", *([None] if table is THRESHOLDS else []))
