"""Preconditioning wave by wave: what must hold of it whatever the pictures."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, corrupt, norm
from unblot.process.spectrum import Spectrum, cosines, from_waves, to_waves

SHAPES = [(1, 8, 8), (3, 12, 20), (4, 7, 5), (2, 1, 9)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class Says(nn.Module):
    """A network that gives back `share` of what it sees, and keeps it."""

    embeds = "log_noise_ratio"

    def __init__(self, share: float | Tensor = 0.0):
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        self.seen = x
        return self.share * x


def levels(n: int, alpha: float = 1.0) -> NoiseLevel:
    return NoiseLevel(torch.full((n,), alpha).double(), torch.logspace(-2, 1, n).double())


def pictures(shape: tuple[int, ...], n: int = 2000, seed: int = 0) -> tuple[Tensor, Spectrum]:
    """Gaussian pictures with a mean and a spectrum that half octaves describe, and that spectrum."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[0]
    axes, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator))
    stds = torch.linspace(0.1, 2.0, 14) * torch.linspace(1, 0.3, channels)[:, None]
    spectrum = Spectrum(torch.linspace(-0.5, 0.5, channels), axes, stds)
    amplitudes = spectrum.stds(*shape[1:]) * torch.randn(n, *shape, generator=generator)
    return spectrum.from_waves(amplitudes) + spectrum.mean[:, None, None], spectrum


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_cosine_waves_are_orthonormal(n):
    torch.testing.assert_close(cosines(n) @ cosines(n).T, torch.eye(n), atol=1e-6, rtol=0)


@every_shape
def test_waves_and_pictures_are_each_others_inverse(shape):
    x, spectrum = pictures(shape, 3)
    torch.testing.assert_close(from_waves(to_waves(x)), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(spectrum.from_waves(spectrum.to_waves(x)), x, atol=1e-5, rtol=0)


@every_shape
def test_white_pictures_are_preconditioned_as_edm_does(shape):
    std = 0.4
    white = Spectrum(torch.zeros(shape[0]), torch.eye(shape[0]), torch.full((shape[0], 5), std))
    x, level, network = torch.randn(4, *shape), levels(4), Says(0.3)
    theirs = Denoiser(network, "edm", std)(x, level).x0
    torch.testing.assert_close(Denoiser(network, "edm", std, spectrum=white)(x, level).x0, theirs, atol=1e-5, rtol=1e-5)


@every_shape
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_a_silent_network_is_the_exact_denoiser_of_gaussian_pictures(shape, alpha):
    """The posterior mean of each wave: s²·alpha/(alpha²·s² + sigma²) of its deviation from the mean's."""
    x0, spectrum = pictures(shape, 4)
    level = levels(4, alpha)
    x = corrupt(x0, level, torch.randn_like(x0))
    mean = spectrum.mean[:, None, None]
    s, a, sigma = spectrum.stds(*shape[1:]), level.alpha.float()[0], level.sigma.float()[:, None, None, None]
    exact = mean + spectrum.from_waves(a * s**2 / (a**2 * s**2 + sigma**2) * spectrum.to_waves(x - a * mean))
    torch.testing.assert_close(
        Denoiser(Says(), "edm", 0.5, spectrum=spectrum)(x, level).x0, exact, atol=2e-4, rtol=1e-3
    )


def test_the_network_sees_fine_waves_with_unit_variance_and_coarse_ones_as_edm_shows_them():
    x0, spectrum = pictures((3, 16, 16))
    network = Says()
    for sigma in (0.02, 0.3, 5.0):
        level = NoiseLevel(torch.ones(()), torch.tensor(sigma)).expand(len(x0))
        Denoiser(network, "edm", 0.5, spectrum=spectrum)(corrupt(x0, level, torch.randn_like(x0)), level)
        std = to_waves(network.seen).std(0)
        wanted = ((spectrum.stds(16, 16) ** 2 + sigma**2) / (0.25 + sigma**2)).sqrt().clamp(min=1)
        assert (std / wanted - 1).abs().max() < 0.1
        assert abs(norm(level, 0.5)[0] - (0.25 + sigma**2) ** 0.5) < 1e-6


@every_shape
def test_a_constant_error_of_the_network_is_a_change_of_colour_no_larger_than_in_edm(shape):
    """At much noise; were each wave's scale its own spread, the mean colour would change by sqrt(H·W) times as much."""
    std, error = 0.5, 0.01
    x, spectrum = pictures(shape, 1)
    level = NoiseLevel(torch.ones(1), torch.full((1,), 50.0))

    def estimate(says: float) -> Tensor:
        network = Says()
        network.forward = lambda x, noise, label: torch.full_like(x, says)
        return Denoiser(network, "edm", std, spectrum=spectrum)(x, level).x0

    change = (estimate(error) - estimate(0.0)).mean((2, 3)).norm()
    assert change <= 1.01 * error * std * shape[0] ** 0.5


@every_shape
def test_the_spectrum_of_pictures_is_found_and_survives_being_written(shape):
    x, spectrum = pictures(shape)
    found = Spectrum.read(str(Spectrum.of(x)))
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(shape[0]), atol=1e-4, rtol=0)
    power = (found.stds(*shape[1:]) ** 2).sum() / (spectrum.stds(*shape[1:]) ** 2).sum()
    assert 0.8 < power < 1.25


def test_a_spectrum_of_a_former_form_is_refused():
    text = str(pictures((1, 8, 8), 10)[1])
    for former in (text.partition(":")[2], "other" + text):
        with pytest.raises(UnblotError, match="earlier unblot"):
            Spectrum.read(former)


def test_pictures_that_are_all_alike_have_a_spectrum():
    spectrum = Spectrum.of(torch.full((3, 1, 8, 8), 0.25))
    x = 0.25 + 0.1 * torch.randn(2, 1, 8, 8)
    x0_hat = Denoiser(Says(), "edm", 0.5, spectrum=spectrum)(x, NoiseLevel(torch.ones(2), torch.full((2,), 0.1))).x0
    torch.testing.assert_close(x0_hat, torch.full_like(x, 0.25), atol=1e-3, rtol=0)


class Copies(TorchDispatchMode):
    """Within it `count` is the number of tensors copied to another type or device so far."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@every_shape
def test_a_second_pass_copies_nothing_to_the_pictures_type_and_device(shape):
    """On a GPU each such copy would be waited for."""
    x, spectrum = pictures(shape, 3)
    x, level = x.double(), levels(3)
    cosines.cache_clear()
    counts = []
    for _ in range(2):
        with Copies() as copies:
            spectrum.precondition(x, level, 0.5).output(x)
        counts.append(copies.count)
    assert counts[0] > counts[1] == 0


def test_what_is_kept_is_bounded():
    assert cosines.cache_info().maxsize is not None
    for n in range(1, 100):
        cosines(n, torch.device("cpu"), torch.float64)
    assert cosines.cache_info().currsize == cosines.cache_info().maxsize


@every_shape
def test_training_goes_on_with_what_sampling_in_inference_mode_has_kept(shape):
    x, spectrum = pictures(shape, 3)
    cosines.cache_clear()
    share = nn.Parameter(torch.tensor(0.3))
    denoiser = Denoiser(Says(share), "edm", 0.5, spectrum=spectrum)
    with torch.inference_mode():
        sampled = denoiser(x, levels(3)).x0
    trained = denoiser(x, levels(3)).x0
    trained.sum().backward()
    assert share.grad is not None
    assert torch.equal(sampled, trained.detach())
