"""What changes at each step of sampling: the sum of it, and that outlines come before details."""

from itertools import pairwise

import pytest
import torch

from oracles import F64, correlated, gaussian, ideal, no_noise, seeded_noise
from unblot.process.spectrum import cosines, to_waves
from unblot.sampling.batched import sampling_levels
from unblot.sampling.changes import Changes, border_cycles, changes, frequencies
from unblot.sampling.loop import Denoise, sample
from unblot.sampling.singlestep import ddim

SIDE, STEPS = 16, 40


def estimates(denoise: Denoise, n: int = 3) -> list[torch.Tensor]:
    """x0_hat (n, 1, SIDE, SIDE) of each step of sampling."""
    found: list[torch.Tensor] = []
    levels = sampling_levels("edm", "log_snr", STEPS)
    noise = seeded_noise((n, 1, SIDE, SIDE))
    sample(denoise, noise() * levels.sigma[0], levels, ddim(), no_noise, lambda progress: found.append(progress.x0))
    return found


def outlines_and_details() -> Denoise:
    """Normal pictures whose waves have a standard deviation of 1 where they are coarse, else of 0.02."""
    coarse = frequencies(SIDE, SIDE) * SIDE < border_cycles(SIDE, SIDE)
    waves = torch.kron(cosines(SIDE), cosines(SIDE)).double()
    stds = torch.where(coarse, 1.0, 0.02).double().flatten()
    return correlated(torch.zeros(SIDE**2, dtype=F64), waves.T @ torch.diag(stds**2) @ waves)


def test_outlines_are_over_before_details_begin_where_details_are_weak() -> None:
    found = changes(estimates(outlines_and_details()))
    coarse, fine = found.coarse.half(), found.fine.half()
    assert coarse is not None
    assert fine is not None
    assert coarse + 5 < fine
    assert found.coarse.share[fine - 2 :].sum() < 0.05


def test_outlines_come_first_from_the_ideal_denoiser_of_drawn_shapes() -> None:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    left = [(x < border).double() for border in range(4, 13)]
    checked = [torch.where((x + y + k) % 2 == 0, 0.05, -0.05).double() for k in range(2)]
    found = changes(estimates(ideal(torch.stack([a + b for a in left for b in checked])[:, None]), n=8))
    coarse, fine = found.coarse.half(), found.fine.half()
    assert coarse is not None
    assert fine is not None
    assert coarse < fine


def test_without_outlines_both_change_together() -> None:
    found = changes(estimates(gaussian(0.0, 0.5)))
    torch.testing.assert_close(found.coarse.share, found.fine.share, atol=1e-6, rtol=0)


def test_the_changes_of_all_steps_sum_to_the_whole() -> None:
    x = torch.randn(7, 2, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = changes(list(x))
    for band in (found.coarse, found.fine):
        assert float(band.share.sum()) == pytest.approx(1, abs=1e-6)
    squares = (found.coarse.rms**2 + found.fine.rms**2).tolist()
    assert squares == pytest.approx([float((b - a).square().mean()) for a, b in pairwise(x)], rel=1e-5)


def wave(k: int) -> torch.Tensor:
    return cosines(SIDE)[k].expand(1, 1, SIDE, SIDE)


@pytest.mark.parametrize(("half_periods", "is_fine"), [(0, False), (7, False), (8, True), (15, True)])
def test_a_wave_is_fine_from_four_cycles_a_picture_on(half_periods: int, is_fine: bool) -> None:
    found = changes([torch.zeros(1, 1, SIDE, SIDE), wave(half_periods)])
    moved, still = (found.fine, found.coarse) if is_fine else (found.coarse, found.fine)
    assert moved.share.tolist() == pytest.approx([1.0])
    assert float(still.rms) < 1e-6
    assert float(to_waves(wave(half_periods)).square().sum()) == pytest.approx(SIDE, rel=1e-5)


def halves(found: Changes) -> tuple[int | None, int | None]:
    return found.coarse.half(), found.fine.half()


def test_half_is_over_after_the_step_that_passes_it() -> None:
    x = torch.stack([torch.full((1, 1, 8, 8), v) for v in (0.0, 0.1, 0.4, 0.6, 1.0)])
    assert halves(changes(list(x))) == (4, None)


def test_points_have_no_fine_waves_and_one_step_no_changes() -> None:
    assert halves(changes([torch.zeros(5, 2, 1, 1), torch.ones(5, 2, 1, 1)])) == (2, None)
    assert halves(changes([torch.zeros(1, 1, 8, 8)])) == (None, None)
