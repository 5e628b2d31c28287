"""The sampling loop: what it asks, keeps, shows and refuses."""

import pytest
import torch

from oracles import F64, Counted, gaussian, gaussian_flow, level, levels, no_noise, seeded_noise
from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, transition
from unblot.process.schedules import flow, linear, uniform_time_levels
from unblot.sampling.loop import Progress, Solver, renoise, sample
from unblot.sampling.solvers import SOLVERS

X = torch.linspace(-2, 2, 5, dtype=F64).view(5, 1, 1, 1)


def test_the_denoiser_is_never_asked_about_a_clean_picture() -> None:
    def denoise(x: torch.Tensor, level: NoiseLevel) -> Denoised:
        assert bool((level.sigma > 0).all())
        return Denoised(torch.zeros_like(x))

    for make in SOLVERS.values():
        y = sample(denoise, X, uniform_time_levels(linear(), 6), make(), seeded_noise(X.shape))
        assert torch.equal(y, torch.zeros_like(X))


def test_steps_are_shown() -> None:
    shown: list[Progress] = []
    sequence = uniform_time_levels(linear(), 4)
    y = sample(gaussian(0.3, 0.5), X, sequence, SOLVERS["euler"](), no_noise, shown.append)
    assert [p.step for p in shown] == [1, 2, 3, 4]
    assert all(p.steps == 4 for p in shown)
    assert [float(p.level.sigma) for p in shown] == sequence.sigma[1:].tolist()
    assert shown[-1].x is y
    torch.testing.assert_close(shown[0].x0, gaussian(0.3, 0.5)(X, sequence.at(0)).x0)


def test_steps_up_are_not_shown_and_not_asked_about() -> None:
    shown: list[Progress] = []
    sequence = levels((1, 0.4), (1, 0.2), (1, 0.1), (1, 0))
    denoise, solver = Counted(gaussian(0.3, 0.5)), SOLVERS["restart"](repeats=1)
    sample(denoise, X, sequence, solver, seeded_noise(X.shape), shown.append)
    assert [float(p.level.sigma) for p in shown] == [0.2, 0.1, 0.1, 0.0]
    assert {p.steps for p in shown} == {4}
    assert denoise.calls == 7


def test_history_is_as_long_as_the_solver_asks() -> None:
    lengths: list[int] = []

    def step(history, s, denoise, noise):
        lengths.append(len(history))
        assert [float(h.level.sigma) for h in history] == sorted(float(h.level.sigma) for h in history)
        return history[0].x

    sample(gaussian(0, 1), X, uniform_time_levels(linear(), 6), Solver(step, order=1, memory=3), no_noise)
    assert lengths == [1, 2, 3, 3, 3]


def test_history_begins_anew_above() -> None:
    lengths: list[int] = []

    def step(history, s, denoise, noise):
        lengths.append(len(history))
        return history[0].x

    sequence = levels((1, 4), (1, 3), (1, 2), (1, 1))
    again = torch.tensor([0, 1, 2, 1, 2, 3])
    solver = Solver(step, order=1, memory=3, route=lambda levels: levels.at(again), renoise=renoise)
    sample(gaussian(0, 1), X, sequence, solver, seeded_noise(X.shape))
    assert lengths == [1, 2, 1, 2]


def test_rising_levels_invert_sampling() -> None:
    """Up and down again by many ODE steps lead back, and up agrees with the exact flow."""
    down = flow()(torch.linspace(0.9, 0.02, 400, dtype=F64))
    up = down.at(torch.arange(399, -1, -1))
    for name in ("heun", "dpmpp_2s", "deis"):
        x_T = sample(gaussian(0.3, 0.5), X, up, SOLVERS[name](), no_noise)
        torch.testing.assert_close(x_T, gaussian_flow(X, up.at(0), up.at(-1), 0.3, 0.5), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            sample(gaussian(0.3, 0.5), x_T, down, SOLVERS[name](), no_noise), X, rtol=0, atol=1e-3
        )


def test_renoising_is_the_forward_process() -> None:
    s, t = level(0.9, 0.3), level(0.4, 0.8)
    noise = torch.full((5, 1, 1, 1), 0.7, dtype=F64)
    r, beta = transition(t, s)
    torch.testing.assert_close(renoise(X, s, t, lambda: noise), r * X + beta.sqrt() * 0.7)
    torch.testing.assert_close(renoise(X, s, t, lambda: noise, scale=2.0), r * X + beta.sqrt() * 1.4)


@pytest.mark.parametrize(
    "sequence",
    [
        levels((1, 1)),
        levels((1, 2), (1, 1), (1, 1.5)),
        levels((1, 2), (1, 2)),
        levels((1, 0), (1, 1)),
        levels((1, float("nan")), (1, 0)),
        NoiseLevel(torch.ones(0, dtype=F64), torch.ones(0, dtype=F64)),
    ],
)
def test_levels_that_lead_nowhere_are_refused(sequence: NoiseLevel) -> None:
    with pytest.raises(UnblotError, match="two levels or more") as error:
        sample(gaussian(0, 1), X, sequence, SOLVERS["euler"](), no_noise)
    assert "\n" not in str(error.value)


def test_gradients_are_not_kept() -> None:
    weight = torch.ones((), dtype=F64, requires_grad=True)
    y = sample(lambda x, level: Denoised(weight * x), X, uniform_time_levels(linear(), 3), SOLVERS["heun"](), no_noise)
    assert not y.requires_grad
