"""Distances: closed forms, laws, and agreement with torchmetrics on random and on real features."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from measure import kernel
from unblot.evaluation import distances
from unblot.evaluation.distances import (
    RESAMPLES,
    RESAMPLES_WIDE,
    WIDE,
    DistanceTo,
    Moments,
    frechet,
    frechet_distance,
    frechet_error,
    frechet_infinity,
    kernel_distance,
    moments,
)


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, d, generator=g, dtype=torch.float64)


def digits() -> tuple[Tensor, Tensor]:
    """Real features: two halves of the digits, their pixels; several of them never change."""
    x = torch.tensor(load_digits().data / 16)
    return x[:800], x[800:]


PAIRS = {
    "random": lambda: (normal(400, 12, 0), normal(500, 12, 1, 1.3, 0.2)),
    "correlated": lambda: (normal(400, 6, 0) @ normal(6, 12, 2), normal(500, 6, 1) @ normal(6, 12, 3)),
    "real": digits,
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    return PAIRS[request.param]()


class AsFeatures(nn.Module):
    """For torchmetrics: "pictures" that are features already."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.num_features = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def as_pictures(x: Tensor) -> Tensor:
    return x[:, :, None, None]


def test_frechet_agrees_with_torchmetrics(pair: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    x, y = pair
    peer = FrechetInceptionDistance(AsFeatures(x.shape[1]), input_img_size=(x.shape[1], 1, 1), normalize=True)
    peer.set_dtype(torch.float64)
    peer.update(as_pictures(y), real=True)
    peer.update(as_pictures(x), real=False)
    assert frechet_distance(x, y) == pytest.approx(float(peer.compute()), rel=1e-4)


def test_kernel_distance_agrees_with_torchmetrics(pair: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = pair
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    peer = KernelInceptionDistance(AsFeatures(x.shape[1]), subsets=1, subset_size=n, normalize=True)
    peer.set_dtype(torch.float64)
    peer.update(as_pictures(y), real=True)
    peer.update(as_pictures(x), real=False)
    mean, _ = peer.compute()
    assert kernel_distance(x, y, resamples=0)[0] == pytest.approx(float(mean), rel=1e-4, abs=1e-7)


def test_frechet_of_two_gaussians_is_the_closed_form() -> None:
    # With covariances that commute it is |m - m'|² + sum (s - s')².
    a, b = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([2.0, 1.0, 0.1])
    turn, _ = torch.linalg.qr(normal(3, 3, 0))
    one = Moments(torch.tensor([1.0, 0.0, 0.0]).double(), turn @ (a.double() ** 2).diag() @ turn.T)
    two = Moments(torch.tensor([0.0, 2.0, 0.0]).double(), turn @ (b.double() ** 2).diag() @ turn.T)
    assert frechet(one, two) == pytest.approx(5.0 + float((a - b).square().sum()), rel=1e-6)


def test_frechet_in_two_dimensions_is_the_closed_form() -> None:
    # For 2x2 matrices tr(root(AB)) = sqrt(tr(AB) + 2 sqrt(det AB)), commuting or not.
    a, b = (x.T @ x for x in (normal(2, 2, 5), normal(2, 2, 6)))
    root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(torch.linalg.det(a @ b))))
    zero = torch.zeros(2, dtype=torch.float64)
    expected = float(a.trace() + b.trace()) - 2 * root
    assert frechet(Moments(zero, a), Moments(zero, b)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rows", [400, 8])
def test_frechet_against_itself_is_zero_at_any_rank(rows: int) -> None:
    x = normal(rows, 20, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_moments_are_numpys() -> None:
    x = normal(50, 4, 0)
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.numpy().mean(0))
    np.testing.assert_allclose(found.cov, np.cov(x.numpy(), rowvar=False))


def test_extrapolation_takes_the_bias_away() -> None:
    # N(0, 1.21·I) against N(0, I): 0.01 a dimension. The plain distance is biased upwards.
    d = 16
    truth = 0.01 * d
    reference = normal(20_000, d, 1)
    plain, infinite = [], []
    for seed in range(2, 8):
        samples = normal(1_000, d, seed, scale=1.1)
        plain.append(frechet_distance(samples, reference))
        infinite.append(frechet_infinity(samples, reference)[0])
    error = np.std(infinite, ddof=1) / np.sqrt(len(infinite))
    assert np.mean(plain) - truth > 5 * error
    assert abs(np.mean(infinite) - truth) < 3 * error


def test_bootstrap_error_is_the_spread_of_repeated_draws() -> None:
    values = [frechet_distance(normal(500, 4, s, 1.5), normal(500, 4, s + 1000)) for s in range(60)]
    error = frechet_error(normal(500, 4, 0, 1.5), normal(500, 4, 1000))
    assert error == pytest.approx(np.std(values), rel=0.4)
    values = [kernel_distance(normal(300, 4, s, 1.5), normal(300, 4, s + 1000), resamples=0)[0] for s in range(60)]
    _, error = kernel_distance(normal(300, 4, 0, 1.5), normal(300, 4, 1000))
    assert error == pytest.approx(np.std(values), rel=0.4)


def test_kernel_distance_is_unbiased() -> None:
    values = [kernel_distance(normal(60, 4, s), normal(80, 4, s + 1000), resamples=0)[0] for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert min(values) < 0


def test_kernel_distance_is_the_definition() -> None:
    x, y = normal(7, 3, 0), normal(9, 3, 1)

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / 3 + 1) ** 3

    def off_diagonal(matrix: Tensor) -> Tensor:
        n = len(matrix)
        return (matrix.sum() - matrix.trace()) / (n * (n - 1))

    expected = off_diagonal(k(x, x)) + off_diagonal(k(y, y)) - 2 * k(x, y).mean()
    assert kernel_distance(x, y, resamples=0)[0] == pytest.approx(float(expected), rel=1e-12)


def test_of_few_samples_in_many_dimensions_those_with_too_little_variety_are_not_nearer() -> None:
    d, reference = 64, normal(1000, 64, 0)
    right, narrow = ([normal(50, d, seed, scale) for seed in range(1, 21)] for scale in (1.0, 0.7))
    assert all(frechet_distance(a, reference) > frechet_distance(b, reference) for a, b in zip(right, narrow))
    distance = DistanceTo(reference)
    found = [np.mean([distance(x) for x in sets]) for sets in (right, narrow)]
    assert found[0] < found[1]
    assert distance(right[0]) == pytest.approx(kernel_distance(right[0], reference, resamples=0)[0], rel=1e-12)
    many = normal(4 * d, d, 1)
    assert distance(many) == frechet_distance(many, reference)
    assert [distance.name(n) for n in (4 * d - 1, 4 * d)] == ["Kernel distance", "Fréchet distance"]
    assert DistanceTo(reference[: 4 * d - 1]).name(1000) == "Kernel distance"


@pytest.mark.parametrize("d", [4, 128], ids=["Fréchet", "kernel"])
def test_resamples_leave_out_what_is_by_chance_in_both(d: int) -> None:
    """Sets that differ by a constant shift alone differ surely; independent ones by chance."""
    x, y, distance = normal(400, d, 0), normal(400, d, 1), DistanceTo(normal(3000, d, 2, shift=0.5))
    first, shifted, other = (distance.resampled(part) for part in (x, x - 0.05, y))
    assert torch.equal(first, distance.resampled(x))
    assert (shifted - first).std() < 0.5 * (other - first).std()
    apart = [distance(normal(400, d, seed)) for seed in range(3, 33)]
    assert float((other - first).std()) == pytest.approx(2**0.5 * np.std(apart), rel=0.5)
    assert distance(x) == pytest.approx(float(first.mean()), abs=5 * float(first.std()))


def test_a_wide_fréchet_distance_has_few_resamples_and_the_root_of_the_reference_is_taken_once(monkeypatch) -> None:
    roots, root = [], distances._root
    monkeypatch.setattr(distances, "_root", lambda cov: roots.append(1) or root(cov))
    distance = DistanceTo(normal(100, 3, 0))
    distance(normal(50, 3, 1))
    distance.resampled(normal(50, 3, 1))
    assert len(roots) == 1 + 1 + RESAMPLES
    monkeypatch.setattr(distances, "_root", lambda cov: roots.append(1) or torch.zeros_like(cov))
    roots.clear()
    frechet_error(normal(3, WIDE + 1, 0), normal(3, WIDE + 1, 1))
    assert len(roots) == 2 * RESAMPLES_WIDE


def test_benchmarks_give_the_kernel_distance_with_its_interval() -> None:
    x, y = digits()
    value, low, high = kernel(x, y)
    expected, std = kernel_distance(x, y)
    assert value == pytest.approx(expected, rel=1e-3)
    assert (high - low) / 2 == pytest.approx(1.96 * std, rel=1e-2)
