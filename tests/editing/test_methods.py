"""Working on pictures, where the right answer is known: normal data, and data that is a handful of pictures."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from oracles import F64, Counted, correlated, gaussian, ideal, level, no_noise, seeded_noise
from unblot.denoiser import Denoised
from unblot.editing.methods import (
    img2img,
    inpaint,
    interpolate,
    invert,
    outpaint,
    repaint,
    restore,
    spherical,
    variations,
)
from unblot.editing.operators import averaging, conditioned, graying, imposed_within, masking, tilted
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, norm
from unblot.process.prior import Prior
from unblot.process.schedules import SCHEDULES, flow, linear
from unblot.sampling.loop import sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import karras

DATA = (
    torch.rand(8, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=F64) * 2 - 1
)  # two channels: nothing here is about grey or colour
LEFT = torch.tensor([True, True, False, False]).view(1, 1, 1, 4)
GRID = karras(high=50)(linear(), 20)
HEUN, ANCESTRAL = SOLVERS["heun"](), SOLVERS["ddpm"]()


def noise_like(x: Tensor, seed: int = 0) -> Tensor:
    return norm(GRID.at(0), 0.5) * seeded_noise(x.shape, seed)()


# --- denoisers that know a measurement


def normal_of_two() -> tuple[Tensor, Tensor]:
    return torch.tensor([0.3, -0.4], dtype=F64), torch.tensor([[0.25, 0.18], [0.18, 0.16]], dtype=F64)


@pytest.mark.parametrize("schedule", ["linear", "flow", "karras"])
def test_conditioning_is_exact_for_normal_data(schedule: str) -> None:
    """E[x0 | x_t, first pixel], in closed form, at every level."""
    mean, covariance = normal_of_two()
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    x, y = seeded_noise((7, 1, 1, 2), 1)(), seeded_noise((7, 1, 1, 2), 2)() * mask
    for t in (0.2, 0.4, 0.8):
        here = SCHEDULES[schedule]()(torch.tensor([t], dtype=F64)).at(0)
        x0 = conditioned(correlated(mean, covariance), masking(mask), y)(x, here).x0.view(7, 2)
        # what is seen: x_t (both pixels) and pixel 1, which are normal together with pixel 2
        seen = torch.tensor([[here.alpha, 0], [0, here.alpha], [1, 0]], dtype=F64)
        noise = torch.diag(torch.tensor([here.sigma**2, here.sigma**2, 1e-8], dtype=F64))
        gain = covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + noise)
        values = torch.cat([x.view(7, 2), y.view(7, 2)[:, :1]], 1)
        torch.testing.assert_close(x0, mean + (values - mean @ seen.T) @ gain.T, rtol=1e-4, atol=1e-4)


def test_more_iterations_come_nearer_to_the_conditional_mean() -> None:
    root = seeded_noise((6, 6), 3)()
    denoise = correlated(torch.zeros(6, dtype=F64), root @ root.T / 6)
    x, y = seeded_noise((3, 1, 1, 6), 4)(), seeded_noise((3, 1, 1, 6), 5)()
    operator = masking(torch.tensor([True, False, True, False, True, False]).view(1, 1, 1, 6))
    y, t = operator.measure(y), level(0.6, 0.8)
    every_second = torch.tensor([True, False] * 3)
    exact = conditional_mean(root @ root.T / 6, every_second, x.flatten(1), y.flatten(1), t)
    estimates = [conditioned(denoise, operator, y, n)(x, t).x0.flatten(1) for n in (1, 4, 16, 100)]
    errors = [float((x0 - exact).norm()) for x0 in estimates]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-3


@pytest.mark.parametrize("twice", [True, False])
def test_a_tilt_settles_on_the_conditional_mean(twice: bool) -> None:
    """For normal data, called again and again at one level, with or without a second denoiser call each time."""
    root = seeded_noise((6, 6), 3)()
    covariance, t = root @ root.T / 6, level(0.6, 0.8)
    mask = torch.tensor([True, False, True, False, True, False]).view(1, 1, 1, 6)
    x, y = seeded_noise((3, 1, 1, 6), 4)(), seeded_noise((3, 1, 1, 6), 5)() * mask
    tilt = tilted(correlated(torch.zeros(6, dtype=F64), covariance), masking(mask), y, high=10.0 if twice else 0.0)
    estimates = [tilt(x, t).x0.flatten(1) for _ in range(2000)]
    known = mask.flatten()
    exact = conditional_mean(covariance, known, x.flatten(1), y.flatten(1), t)
    errors = [float((estimates[n] - exact).norm()) for n in (0, 30, 1999)]
    assert errors[0] > 2 * errors[1]
    assert errors[2] < 1e-3


def conditional_mean(covariance: Tensor, known: Tensor, x: Tensor, y: Tensor, t: NoiseLevel) -> Tensor:
    """E[x0 | x_t, the known values] of normal data around 0; x, y: (B, D)."""
    seen = torch.cat([t.alpha * torch.eye(len(known), dtype=F64), torch.eye(len(known), dtype=F64)[known]])
    variance = torch.diag(torch.cat([t.sigma.square().expand(len(known)), torch.full((int(known.sum()),), 1e-8)]))
    gain = covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + variance)
    return torch.cat([x, y[:, known]], 1) @ gain.T


def test_conditioning_does_not_run_off_where_the_jacobian_is_not_symmetric() -> None:
    """As a trained network's is not: with a large skew part, further iterations leave less and less of it."""
    skew = seeded_noise((6, 6), 7)()
    matrix = 0.3 * torch.eye(6, dtype=F64) + 0.3 * (skew - skew.T)
    denoise = lambda x, level: Denoised((x.flatten(1) @ matrix.T).view_as(x))  # noqa: E731
    everything = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    operator = masking(everything)._replace(impose=lambda x, y: x)  # so that what is left can be seen
    x, y = seeded_noise((5, 1, 1, 6), 4)(), seeded_noise((5, 1, 1, 6), 5)()
    left = [(y - conditioned(denoise, operator, y, n)(x, level(0.6, 0.8)).x0).norm() for n in (1, 2, 4, 8, 16)]
    assert all(later <= sooner for sooner, later in pairwise(left))


@pytest.mark.parametrize("schedule", ["linear", "flow"])
def test_inpainting_samples_the_conditional_distribution(schedule: str) -> None:
    """Mean, variance and independence of the pixel beside a known one, within five standard errors."""
    mean, covariance = normal_of_two()
    n, noise = 4000, seeded_noise((4000, 1, 1, 2), 3)
    levels = karras(high=50)(SCHEDULES[schedule](), 40)
    known = seeded_noise((n, 1, 1, 2), 6)() * 0.5 + 0.3
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    x = inpaint(correlated(mean, covariance), known, mask, noise(), levels, HEUN, noise)
    assert torch.equal(x[..., 0], known[..., 0])
    slope = covariance[0, 1] / covariance[0, 0]
    spread = (covariance[1, 1] - slope * covariance[0, 1]).sqrt()
    z = (x[..., 1] - mean[1] - slope * (known[..., 0] - mean[0])).flatten() / spread
    assert abs(float(z.mean())) < 5 / n**0.5
    assert abs(float(z.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float((z * (known[..., 0].flatten() - 0.3) / 0.5).mean())) < 5 / n**0.5


@pytest.mark.parametrize("operator", [averaging(2), graying()], ids=["average", "gray"])
def test_measurement_and_limits_hold_together_and_each_picture_is_what_it_is_alone(operator) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(5, 3, 8, 8, generator=generator)  # far from what is measured: they take 9 to 25 turns
    y = operator.measure(1.8 * torch.rand(5, 3, 8, 8, generator=generator) - 0.9)
    low, high = -torch.ones(3, 1, 1), torch.ones(3, 1, 1)
    found = imposed_within(operator, x, y, low, high)
    assert found.abs().max() <= 1
    torch.testing.assert_close(operator.measure(found), y, atol=1e-4, rtol=0)
    alone = torch.cat([imposed_within(operator, x[i : i + 1], y[i : i + 1], low, high) for i in range(5)])
    assert torch.equal(alone, found)


@pytest.mark.parametrize("operator", [masking(LEFT), averaging(2), graying()], ids=["mask", "average", "gray"])
def test_operators_are_linear_and_impose_what_they_measure(operator) -> None:
    a, b = seeded_noise((2, 3, 2, 4, 4), 7)()
    measure = operator.measure
    torch.testing.assert_close(measure(2 * a - 3 * b), 2 * measure(a) - 3 * measure(b))
    imposed = operator.impose(a, measure(b))
    torch.testing.assert_close(measure(imposed), measure(b))
    torch.testing.assert_close(operator.impose(imposed, measure(b)), imposed)
    # the nearest such picture: what changed is orthogonal to all that is not measured
    unseen = a - operator.impose(torch.zeros_like(a), measure(a))
    torch.testing.assert_close(((imposed - a) * unseen).sum(), torch.zeros((), dtype=F64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("operator", [masking(LEFT), averaging(2), graying()], ids=["mask", "average", "gray"])
@pytest.mark.parametrize(("solver", "least"), [("ddpm", 60), ("dpmpp_2m", 48), ("adaptive", 48)])
def test_restoring_finds_the_one_picture_that_fits(operator, solver: str, least: int) -> None:
    """Of eight pictures, each measurement fits one only. Some end between, for such data is far from normal."""
    wanted = DATA.repeat(8, 1, 1, 1)
    noise, y = seeded_noise(wanted.shape), operator.measure(wanted)
    x = restore(ideal(DATA), operator, y, noise_like(wanted), GRID, SOLVERS[solver](), noise, iterations=5)
    found = (x - wanted).abs().amax((1, 2, 3)) < 0.1
    assert int(found.sum()) >= least
    torch.testing.assert_close(operator.measure(x), y, rtol=0, atol=1e-12)


def test_conditioning_works_inside_no_grad_and_keeps_no_graph() -> None:
    with torch.no_grad():
        x0 = conditioned(ideal(DATA), masking(LEFT), DATA * LEFT)(seeded_noise(DATA.shape, 9)(), level(0.6, 0.8)).x0
    assert not x0.requires_grad


@pytest.mark.parametrize("conditioning", [conditioned, tilted])
@pytest.mark.parametrize("learned", [True, False])
def test_a_learned_variance_stays_that_of_the_denoiser(conditioning, learned: bool) -> None:
    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        return Denoised(0.5 * x, torch.sigmoid(x) if learned else None)

    y = masking(LEFT).measure(DATA)
    found = conditioning(denoise, masking(LEFT), y)(DATA, level(0.8, 0.6)).variance_interpolation
    assert (found is not None) == learned
    assert found is None or (found.shape == DATA.shape and not found.requires_grad)


@pytest.mark.parametrize("conditioning", [conditioned, tilted])
def test_pure_noise_is_no_guide(conditioning) -> None:
    """At alpha = 0 the gradient is all error: only the measurement itself goes in."""
    start = NoiseLevel(torch.zeros((), dtype=F64), torch.ones((), dtype=F64))
    denoise = lambda x, level: Denoised(0.3 + 1e-3 * x)  # noqa: E731
    x = seeded_noise(DATA.shape, 9)()
    x0 = conditioning(denoise, masking(LEFT), DATA * LEFT)(x, start).x0
    torch.testing.assert_close(x0, torch.where(LEFT, DATA, 0.3 + 1e-3 * x))


# --- filling in by RePaint


def test_repaint_keeps_the_known_and_finds_the_rest() -> None:
    noise = seeded_noise(DATA.shape)
    x = repaint(ideal(DATA), DATA, LEFT, noise_like(DATA), karras(high=50)(linear(), 30), noise, jump=5, repeats=5)
    assert torch.equal(x * LEFT, DATA * LEFT)
    right = (x - DATA).abs().amax((1, 2, 3)) < 0.05
    assert int(right.sum()) >= 7


@pytest.mark.parametrize(
    ("steps", "jump", "repeats", "calls"), [(10, 3, 1, 10), (10, 3, 2, 19), (7, 2, 4, 25), (1, 10, 10, 1)]
)
def test_repaint_goes_back_up_as_often_as_it_says(steps: int, jump: int, repeats: int, calls: int) -> None:
    denoise = Counted(gaussian(0.3, 0.5))
    repaint(denoise, DATA, LEFT, noise_like(DATA), karras()(linear(), steps), seeded_noise(DATA.shape), jump, repeats)
    assert denoise.calls == calls


def test_nothing_known_is_plain_sampling() -> None:
    none = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    plain = sample(gaussian(0.3, 0.5), noise_like(DATA), GRID, HEUN, no_noise)
    filled = inpaint(gaussian(0.3, 0.5), DATA, none, noise_like(DATA), GRID, HEUN, no_noise)
    torch.testing.assert_close(filled, plain)


def test_all_known_is_the_picture() -> None:
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    assert torch.equal(inpaint(gaussian(0.3, 0.5), DATA, everything, noise_like(DATA), GRID, HEUN, no_noise), DATA)


@pytest.mark.parametrize("shape", [(4, 4), (8, 2, 4, 3), (3, 1, 4, 4)])
def test_a_mask_of_the_wrong_size_is_refused(shape: tuple[int, ...]) -> None:
    for work in (inpaint, repaint):
        rest = (noise_like(DATA), GRID, HEUN, no_noise) if work is inpaint else (noise_like(DATA), GRID, no_noise)
        with pytest.raises(UnblotError, match="does not fit pictures"):
            work(gaussian(0.3, 0.5), DATA, torch.ones(shape), *rest)


# --- from the picture to noise and back


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2s", "dpmpp_2m", "deis"])
def test_inversion_reconstructs(solver: str) -> None:
    errors = []
    for steps, refinements in ((20, 0), (80, 0), (20, 3)):
        levels = karras(high=50, low=0.01)(linear(), steps)
        x_T = invert(gaussian(0.3, 0.5), DATA, levels, SOLVERS[solver](), refinements)
        again = sample(gaussian(0.3, 0.5), x_T, levels, SOLVERS[solver](), no_noise)
        errors.append(float((again - DATA).abs().max()))
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[0] / 4


def test_inversion_reconstructs_with_steps_of_any_length() -> None:
    """The adaptive solver comes to an end on rising levels, and as near as its tolerance says."""
    counted = Counted(gaussian(0.3, 0.5))

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        assert counted.calls < 1000, "the steps come to no end"
        return counted(x, level)

    for tolerance in (0.1, 0.01, 0.001):
        solver = SOLVERS["adaptive"](tolerance=tolerance)
        x_T = invert(denoise, DATA, GRID, solver)
        torch.testing.assert_close(sample(denoise, x_T, GRID, solver, no_noise), DATA, rtol=0, atol=tolerance)


def test_inverted_noise_is_the_exact_flows() -> None:
    levels = karras(high=50, low=1e-3)(linear(), 200)
    x_T = invert(gaussian(0.3, 0.5), DATA, levels, HEUN)
    first = levels.at(0)
    exact = first.alpha * 0.3 + norm(first, 0.5) / 0.5 * (DATA - 0.3)
    torch.testing.assert_close(x_T, exact, rtol=0, atol=0.02)


def test_blending_has_the_pictures_at_its_ends() -> None:
    levels, denoise = karras(high=50)(linear(), 40), gaussian(0.3, 0.5)
    a, b = DATA[:4], DATA[4:]
    share = torch.tensor([0.0, 0.5, 0.5, 1.0])
    prior = Prior(levels.at(0), 0.5)
    x = interpolate(denoise, a, b, share, levels, HEUN, prior, 2)
    torch.testing.assert_close(x[0], a[0], rtol=0, atol=0.02)
    torch.testing.assert_close(x[3], b[3], rtol=0, atol=0.02)
    other = interpolate(denoise, b, a, 1 - share, levels, HEUN, prior, refinements=2)
    torch.testing.assert_close(x, other, rtol=0, atol=1e-6)


def test_variations_are_between_the_picture_and_a_new_one() -> None:
    levels, denoise, noise = karras(high=50)(linear(), 40), gaussian(0.3, 0.5), seeded_noise(DATA.shape)
    far = [
        float((variations(denoise, DATA, amount, levels, HEUN, noise, Prior(levels.at(0), 0.5), 2) - DATA).abs().mean())
        for amount in (0.0, 0.3, 1.0)
    ]
    assert far[0] < 0.02
    assert far[0] < far[1] < far[2]


def test_spherical_keeps_norms_and_ends() -> None:
    a, b = seeded_noise((2, 5, 1, 8, 8), 8)()
    b = b * (a.square().sum((1, 2, 3), keepdim=True) / b.square().sum((1, 2, 3), keepdim=True)).sqrt()
    for share in (0.0, 0.25, 0.5, 1.0):
        between = spherical(a, b, share)
        torch.testing.assert_close(between.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))
    torch.testing.assert_close(spherical(a, b, 0.0), a)
    torch.testing.assert_close(spherical(a, b, 1.0), b)
    torch.testing.assert_close(spherical(a, a, 0.5), a)


def test_reworking_from_low_noise_keeps_the_picture_and_from_high_noise_not() -> None:
    noise = seeded_noise(DATA.shape)
    near = img2img(ideal(DATA), DATA, 0.2, GRID, HEUN, noise)
    torch.testing.assert_close(near, DATA, rtol=0, atol=1e-3)
    far = img2img(ideal(DATA), DATA, 1.0, GRID, HEUN, noise)
    assert float((far - DATA).abs().max()) > 0.1
    flat = float((torch.cdist(far.flatten(1), DATA.flatten(1)).min(1).values).max())
    assert flat < 0.1  # pictures of the data still


def test_reworking_a_noisy_normal_keeps_its_statistics() -> None:
    n = 4000
    noise = seeded_noise((n, 1, 1, 1))
    x = img2img(gaussian(0.3, 0.5), 0.3 + 0.5 * noise(), 0.6, karras(high=50)(flow(), 60), ANCESTRAL, noise)
    assert abs(float(x.mean()) - 0.3) < 5 * 0.5 / n**0.5


@pytest.mark.parametrize("strength", [0.0, 1.5, -0.1])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(UnblotError, match=str(strength)):
        img2img(gaussian(0.3, 0.5), DATA, strength, GRID, HEUN, no_noise)


def test_inversion_refuses_what_cannot_be_inverted() -> None:
    with pytest.raises(UnblotError, match="deterministic"):
        invert(gaussian(0.3, 0.5), DATA, GRID, ANCESTRAL)
    with pytest.raises(UnblotError, match="alpha > 0"):
        invert(gaussian(0.3, 0.5), DATA, flow()(torch.linspace(1, 0, 5, dtype=F64)), HEUN)
    with pytest.raises(UnblotError, match="steps=2 or more"):
        invert(gaussian(0.3, 0.5), DATA, karras(high=50)(linear(), 1), HEUN)


# --- extending


@pytest.mark.parametrize(("side", "axis", "first"), [("left", 3, 3), ("right", 3, 0), ("top", 2, 3), ("bottom", 2, 0)])
def test_extending_keeps_the_picture_and_asks_for_what_is_new(side: str, axis: int, first: int) -> None:
    seen: list[int] = []

    def fill_with_sevens(known: Tensor, mask: Tensor) -> Tensor:
        assert known.shape == mask.shape == DATA.shape
        seen.append(int((~mask).sum() // (8 * 2 * 4)))  # columns or rows
        edge = (~mask).float().mean((0, 1)).argmax()
        assert (int(edge) == 0) == (side in ("left", "top"))
        return torch.where(mask, known, 7.0)

    x = outpaint(DATA, fill_with_sevens, **{side: 3})
    assert x.shape[axis] == 7
    assert torch.equal(x.narrow(axis, first, 4), DATA)
    assert float(x.sum() - DATA.sum()) == pytest.approx(7.0 * 8 * 2 * 4 * 3)
    assert seen == [2, 1]


def test_outpainting_on_all_sides_samples_every_pixel_once_beside_known_ones() -> None:
    drawn = torch.zeros(8, 2, 4 + 3 + 2, 4 + 1 + 6)
    parts: list[Tensor] = []

    def count(known: Tensor, mask: Tensor) -> Tensor:
        assert float(mask.double().mean()) >= 0.5  # at least half of a window is known already
        parts.append(~mask)
        return torch.where(mask, known, known + 1)

    x = outpaint(DATA, count, left=1, right=6, top=3, bottom=2)
    assert x.shape == drawn.shape
    assert torch.equal(x[..., 3:7, 1:5], DATA)
    assert float(x.sum() - DATA.sum()) == pytest.approx(drawn.numel() - DATA.numel())  # each went from 0 to 1
    assert sum(int(part.sum()) for part in parts) == drawn.numel() - DATA.numel()


def test_an_impossible_extension_is_refused() -> None:
    for sides in ({}, {"left": 0}, {"left": -1, "right": 3}):
        with pytest.raises(UnblotError, match="pixels on some side"):
            outpaint(DATA, lambda known, mask: known, **sides)


def test_graying_takes_weights() -> None:
    """Brightness of three channels, given and imposed."""
    weights = torch.tensor([0.3, 0.6, 0.1], dtype=F64)
    x, y = seeded_noise((2, 3, 4, 4), 3)(), seeded_noise((2, 1, 4, 4), 4)()
    operator = graying(weights)
    torch.testing.assert_close(operator.measure(x)[:, 0], torch.einsum("c,bchw->bhw", weights, x))
    torch.testing.assert_close(operator.measure(operator.impose(x, y)), y)
    change = operator.impose(x, y) - x
    torch.testing.assert_close(
        change / weights.view(1, 3, 1, 1), (change / weights.view(1, 3, 1, 1))[:, :1].expand(-1, 3, -1, -1)
    )
