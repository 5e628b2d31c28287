"""The power spectrum by octave: closed forms, and that noise reads grainy, blur smooth and the same data right."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from unblot.evaluation.spectrum import OctaveRatio, power_ratios, texture
from unblot.process import octaves
from unblot.process.octaves import GRAINY, SMOOTH, octave_powers


def pictures(n: int, seed: int, shape: tuple[int, int, int] = (3, 32, 32)) -> Tensor:
    """Pictures whose power falls with frequency, as that of photographs does: noise, averaged over 5x5 pixels."""
    channels, height, width = shape
    noise = torch.randn(n, channels, height + 4, width + 4, generator=torch.Generator().manual_seed(seed))
    return avg_pool2d(noise, 5, 1) + 0.05 * noise[..., 2:-2, 2:-2]


def wave(side: int, cycles: float) -> Tensor:
    """One picture of a wave along its width, with `cycles` periods."""
    return torch.cos(2 * math.pi * cycles * torch.arange(side) / side).expand(1, 1, side, side)


@pytest.mark.parametrize(("cycles", "octave"), [(24, 0), (12, 1), (6, 2)])
def test_a_wave_has_its_power_in_its_octave(cycles: int, octave: int) -> None:
    powers = octave_powers(wave(64, cycles))[0]
    assert len(powers) == 6
    total = powers * torch.tensor([64.0**2 / 4**k for k in range(6)])  # means become sums, up to a factor
    assert float(total[octave] / total.sum()) > 0.95


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (4, 48, 64), (2, 1, 9), (1, 7, 1), (1, 2, 2)])
def test_twice_the_contrast_is_four_times_the_power_in_every_octave(shape: tuple[int, int, int]) -> None:
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))
    found = power_ratios([2 * x + 0.3], [x])
    assert len(found) == int(math.log2(max(shape[1:])))
    assert [octave.pixels for octave in found] == [2 ** (k + 1) for k in range(len(found))]
    for octave in found:
        assert octave.ratio == pytest.approx(4, rel=1e-4)
        assert octave.low < 4 < octave.high


def test_the_mean_of_a_picture_has_no_power_and_one_pixel_has_no_octave() -> None:
    assert float(octave_powers(torch.full((1, 3, 16, 16), 0.7)).abs().max()) < 1e-12
    assert power_ratios([torch.ones(4, 2, 1, 1)], [torch.ones(4, 2, 1, 1)]) == []


def test_borders_that_differ_do_not_look_like_fine_detail() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    power = torch.fft.fft2(ramp.double() - ramp.mean()).abs().square()
    bare = float(power[..., 16:49].mean() / power.mean())  # without a window, of wavelengths under 4 pixels
    fine = octave_powers(ramp)[0]
    assert float(fine[0] / fine[-1]) < bare * 1e-2


def test_the_same_distribution_reads_1_within_chance() -> None:
    inside = 0
    for seed in range(20):
        found = power_ratios([pictures(60, seed)], [pictures(80, seed + 100)])
        assert texture(found) == "right"
        inside += sum(octave.low <= 1 <= octave.high for octave in found)
    assert inside >= 88  # of 100 intervals of 95 %


def test_noise_reads_grainy_and_blur_smooth() -> None:
    real, samples = pictures(100, 0), pictures(100, 1)
    grain = 0.1 * torch.randn(samples.shape, generator=torch.Generator().manual_seed(2))
    found = power_ratios([samples + grain], [real])
    assert texture(found) == "grainy"
    assert found[0].low > GRAINY
    assert found[-1].ratio == pytest.approx(1, abs=0.3)
    blurred = avg_pool2d(pad(samples, [1] * 4, mode="replicate"), 3, 1)
    found = power_ratios([blurred], [real])
    assert texture(found) == "smooth"
    assert found[0].high < SMOOTH


def test_batches_do_not_matter_and_few_pictures_are_not_judged() -> None:
    real, samples = pictures(40, 0), 1.3 * pictures(40, 1)
    for whole, parts in zip(power_ratios([samples], [real]), power_ratios(samples.split(7), real.split(9))):
        assert parts == pytest.approx(whole)
    assert texture([OctaveRatio(2, 1.5, 0.9, 2.5)]) == "right"
    assert texture([OctaveRatio(2, None, None, None), OctaveRatio(4, 0.5, 0.4, 0.6)]) == "smooth"
    assert texture([OctaveRatio(2, 1.0, 0.9, 1.1)] * 2 + [OctaveRatio(8, 9.0, 8.0, 10.0)]) == "right"


def test_real_pictures_without_fine_detail_give_no_ratio() -> None:
    smooth = wave(32, 2).repeat(4, 1, 1, 1) * torch.linspace(1, 2, 4).view(-1, 1, 1, 1)
    nothing = torch.zeros(4, 1, 32, 32)
    assert all(octave.ratio is None for octave in power_ratios([smooth], [nothing]))
    assert all(octave.ratio == 0 for octave in power_ratios([nothing], [pictures(4, 0, (1, 32, 32))]))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12), (2, 12, 7), (1, 1, 9), (1, 7, 1), (1, 2, 2)])
def test_the_power_of_an_octave_is_the_mean_over_all_its_frequencies(shape, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)).double()
    _, height, width = shape
    window = octaves._hann(height)[:, None] * octaves._hann(width)
    centred = x - (x * window).sum((2, 3), keepdim=True) / window.sum()
    power = torch.fft.fft2(centred * window).abs().square().mean(1)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)).clamp(max=0.5)
    for values in (2**21, 1):  # all pictures at a time, and one by one
        monkeypatch.setattr(octaves, "VALUES", values)
        found = octave_powers(x.float())
        for k in range(found.shape[1]):
            inside = (frequency <= 2.0 ** -(k + 1)) & (frequency > 2.0 ** -(k + 2))
            torch.testing.assert_close(found[:, k], power[:, inside].mean(1), rtol=1e-4, atol=1e-7)
