"""Learned spacings: step errors, the optimum, refinement; candidates, the front and the choice among them."""

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch

from oracles import F64, gaussian, ideal, no_noise
from unblot.errors import UnblotError
from unblot.process.schedules import karras as karras_schedule
from unblot.process.schedules import linear
from unblot.sampling.loop import count_nfe, sample
from unblot.sampling.settings import Candidate, SamplerConfig, choose, front, sampler_for, within
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS, spec_of
from unblot.specs import build
from unblot.tuning.learned_spacing import (
    end_error,
    learned_spacing,
    mean_products,
    refined_spacing,
    solve_trajectory,
    step_errors,
)

DATA = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=F64) * 2 - 1
X = 80 * torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
VE = karras_schedule()


def test_errors_are_foretold_truly() -> None:
    """What a first-order step from x_i to level j would miss x_j by, without taking it, is what it misses it by."""
    trajectory = solve_trajectory(ideal(DATA), X, VE, 12)
    xs = [X]
    sample(ideal(DATA), X, trajectory.levels, SOLVERS["dpmpp_2s"](), no_noise, lambda p: xs.append(p.x))
    errors, levels = step_errors(trajectory), trajectory.levels
    picture = xs[-1].square().mean()
    for i, j in ((0, 1), (2, 7), (5, 12), (11, 12)):
        step = sample(ideal(DATA), xs[i], levels.at(torch.tensor([i, j])), SOLVERS["euler"](), no_noise)
        deviation = torch.sqrt(levels.alpha[j] ** 2 * picture + levels.sigma[j] ** 2)
        missed = (step - xs[j]).square().mean().sqrt() / deviation
        assert float(errors[i, j]) == pytest.approx(float(missed), rel=1e-6, abs=1e-9)
    assert bool(torch.tril(errors).isinf().logical_or(torch.tril(torch.ones_like(errors)) == 0).all())


@pytest.mark.parametrize("at_once", [1, 7, 64, 1000])
def test_products_in_slices_are_those_of_the_whole(at_once: int) -> None:
    states = [x.flatten() for x in torch.randn(5, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))]
    whole = torch.stack(states).double()
    torch.testing.assert_close(mean_products(states, at_once), whole @ whole.T / 96, rtol=1e-12, atol=1e-15)


def test_a_trajectory_has_the_products_of_its_states_and_its_end() -> None:
    seen = [(X, None)]
    trajectory = solve_trajectory(ideal(DATA), X, VE, 6)
    sample(ideal(DATA), X, trajectory.levels, SOLVERS["dpmpp_2s"](), no_noise, lambda p: seen.append((p.x, p.x0)))
    whole = torch.stack([*(x for x, _ in seen), *(x0 for _, x0 in seen[1:])]).flatten(1)
    torch.testing.assert_close(trajectory.products, whole @ whole.T / X.numel(), rtol=1e-12, atol=0)
    assert torch.equal(trajectory.end, seen[-1][0])


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
def test_the_learned_spacing_is_the_best_of_all(steps: int) -> None:
    trajectory = solve_trajectory(ideal(DATA), X, VE, 9)
    errors = step_errors(trajectory)

    def cost(sequence: tuple[int, ...]) -> float:
        return sum(float(errors[i, j]) for i, j in pairwise(sequence))

    best = min(((0, *inner, 9) for inner in combinations(range(1, 9), steps - 1)), key=cost)
    spacing = learned_spacing(trajectory, steps)
    assert spacing.sigma.tolist() == trajectory.levels.sigma[list(best)].tolist()


@pytest.mark.parametrize("schedule", [karras_schedule(), linear()], ids=["exploding", "preserving"])
def test_a_learned_spacing_beats_the_given_ones(schedule) -> None:
    """On pictures that it was not learned from, with a solver of higher order than it was learned with."""
    first = SPACINGS["log_snr"]()(schedule, 64).at(0)
    start = X / 80 * torch.sqrt(first.sigma**2 + first.alpha**2 / 3)
    seen, unseen = start[:32], start[32:]
    fine = SPACINGS["log_snr"]()(schedule, 200)
    target = sample(ideal(DATA), start, fine, SOLVERS["dpmpp_2s"](), no_noise)
    solver = SOLVERS["dpmpp_2m"]()
    learned = learned_spacing(solve_trajectory(ideal(DATA), seen, schedule, 48), 6)
    error = end_error(ideal(DATA), unseen, target[32:], solver)
    given = [error(SPACINGS[name]()(schedule, 6)) for name in ("karras", "log_snr", "time")]
    assert error(learned) < 0.8 * min(given)


def test_refining_a_spacing_lowers_its_error_on_other_pictures_too() -> None:
    denoise, solver = gaussian(0.3, torch.linspace(0.1, 1, 16, dtype=F64).view(1, 4, 4)), SOLVERS["dpmpp_2m"]()
    target = sample(denoise, X, SPACINGS["log_snr"]()(VE, 200), SOLVERS["dpmpp_2s"](), no_noise)
    learned = learned_spacing(solve_trajectory(denoise, X[:32], VE, 48), 6)
    refined = refined_spacing(learned, VE, end_error(denoise, X[:32], target[:32], solver), rounds=4)
    error = end_error(denoise, X[32:], target[32:], solver)
    assert error(refined) < 0.9 * error(learned)
    ends = [(sequence.sigma / sequence.alpha)[[0, -1]].tolist() for sequence in (learned, refined)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


def test_a_learned_spacing_goes_through_its_spec() -> None:
    learned = learned_spacing(solve_trajectory(gaussian(0.3, 0.5), X, VE, 24), 5)
    again = build(SPACINGS, spec_of(learned), "spacing")(VE, 5)
    torch.testing.assert_close(again.sigma, learned.sigma, rtol=1e-5, atol=0)


def test_a_spacing_is_not_learned_from_too_little() -> None:
    with pytest.raises(UnblotError, match="1 to 4 steps, not 5"):
        learned_spacing(solve_trajectory(gaussian(0.3, 0.5), X, VE, 4), 5)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "adaptive"])
@pytest.mark.parametrize("calls", [1, 2, 5, 20])
def test_samplers_keep_to_their_nfe_and_use_them(solver: str, calls: int) -> None:
    sampler = sampler_for(solver, "karras", calls, VE)
    if sampler is None:
        assert solver == "restart"
        return
    rule = SOLVERS[solver]()
    used = count_nfe(rule, sampler.levels(VE))
    assert calls - used < rule.nfe or solver == "restart"
    assert used <= calls


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "adaptive"])
def test_a_guided_estimate_takes_two_calls(solver: str) -> None:
    plain = SamplerConfig(solver, "karras", 7)
    calls, guided = plain.nfe(VE), replace(plain, guidance=3.0)
    assert calls == count_nfe(SOLVERS[solver](), plain.levels(VE))
    assert guided.nfe(VE) == 2 * calls
    assert replace(guided, guidance_low=1e3).nfe(VE) == calls
    first = replace(guided, guidance_low=79.0)  # which a step from pure noise may look at twice
    assert calls < first.nfe(VE) <= calls + SOLVERS[solver]().nfe


def test_no_sampler_where_the_pictures_decide() -> None:
    assert sampler_for("adaptive", "karras", 20, VE) is None
    assert sampler_for("euler", "karras", 0, VE) is None


def candidate(nfe: int, distance: float) -> Candidate:
    return Candidate(SamplerConfig("euler", "karras", nfe), nfe, distance)


TRIALS = [
    candidate(5, 3.0),
    candidate(5, 4.0),
    candidate(8, 1.4),
    candidate(10, 1.05),
    candidate(20, 1.0),
    candidate(50, 1.02),
]


def test_the_front_is_what_no_other_beats() -> None:
    assert [(t.nfe, t.distance) for t in front(TRIALS[::-1])] == [(5, 3.0), (8, 1.4), (10, 1.05), (20, 1.0)]


def test_choosing() -> None:
    assert [choose(TRIALS, quality).nfe for quality in ("draft", "good", "best")] == [8, 10, 20]
    assert within(TRIALS, 9).nfe == 8
    assert within(TRIALS, 1000).nfe == 20
    for call in (lambda: choose(TRIALS, "superb"), lambda: choose([], "good"), lambda: within(TRIALS, 4)):
        with pytest.raises(UnblotError):
            call()


def test_what_may_be_as_good_by_chance_counts_as_good() -> None:
    candidates = [
        Candidate(SamplerConfig("euler", "karras", n), n, f, s)
        for n, f, s in ((5, 1.3, 0.1), (8, 1.2, 0.21), (20, 1, 0))
    ]
    assert choose(candidates, "best").nfe == 8
    assert choose(candidates, "draft").nfe == 5
