"""Randomness is an argument: streams follow from what they are for, and from nothing else."""

from contextlib import nullcontext

import pytest
import torch
from scipy import stats

from unblot.errors import UnblotError
from unblot.process.randomness import (
    chunk_generator,
    epoch_order,
    generator,
    normal,
    picture_generators,
    seeded,
    stratified_uniform,
    uniform_indices,
)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_pictures_noise_is_the_same_in_any_batch_and_order(batch: int) -> None:
    alone = [normal(picture_generators(5, [i]), (1, 4, 4))[0] for i in range(64)]
    for first in range(0, 64, batch):
        order = list(range(first, min(first + batch, 64)))[::-1]
        for row, i in zip(normal(picture_generators(5, order), (1, 4, 4)), order, strict=True):
            torch.testing.assert_close(row, alone[i], rtol=0, atol=0)


def test_no_two_pictures_of_a_seed_are_doubles() -> None:
    """A hash into the 32 bits that PyTorch heeds of a seed gives one double among 100,000 on average."""
    seeds = {g.initial_seed() % 2**32 for g in picture_generators(0, range(100_000))}
    assert len(seeds) == 100_000


def test_purposes_and_seeds_do_not_share_streams() -> None:
    paths = [(1, 0), (2, 0), (1, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 0), (3, 0), (3, 1)]
    streams = {generator(seed, *path).initial_seed() for seed in (0, 1, 2**32, 2**40) for path in paths}
    assert len(streams) == 4 * len(paths)
    assert torch.equal(
        torch.randn(3, generator=chunk_generator(1, 2, 3)), torch.randn(3, generator=chunk_generator(1, 2, 3))
    )


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UnblotError, match="-1"):
        generator(-1, 0)


def test_noise_is_standard_normal_and_unrelated_between_neighbours() -> None:
    noise = normal(picture_generators(0, range(200)), (100,))
    assert stats.kstest(noise.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    neighbours = torch.corrcoef(noise)[torch.arange(199), torch.arange(1, 200)]
    assert float(neighbours.abs().max()) < 5 / 100**0.5
    assert float(neighbours.mean().abs()) < 5 / (199 * 100) ** 0.5


def test_strata_cover_the_unit_interval_evenly() -> None:
    t = torch.cat([stratified_uniform(16, 64, first, chunk_generator(0, 0, first)) for first in range(0, 64, 16)])
    assert torch.equal((t * 64).floor(), torch.arange(64.0, dtype=torch.float64))
    assert bool(((t > 0) & (t < 1)).all())


def test_indices_are_ddpms() -> None:
    t = uniform_indices(20_000, 10, generator(0, 0))
    assert t.unique().tolist() == list(range(1, 11))
    assert stats.chisquare(torch.bincount(t)[1:].numpy()).pvalue > 1e-3


def test_a_pass_visits_every_picture_once() -> None:
    first, second = (epoch_order(3, epoch, 50) for epoch in (0, 1))
    assert first.sort().values.tolist() == list(range(50))
    assert not torch.equal(first, second)


def test_within_a_seed_only_the_generators_of_its_device_change_and_only_till_its_end(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seen.append(("current", seed)))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: seen.append(("all", seed)))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(seen.append(device)))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: seen.append((state, device)))
    before, gpu = torch.get_rng_state(), torch.device("cuda", 1)
    with seeded(3):
        drawn = torch.rand(4)
    assert seen == []
    with seeded(3, gpu):
        assert torch.equal(torch.rand(4), drawn)
    assert seen == [gpu, ("current", 3), ("state of cuda:1", gpu)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.rand(4, generator=torch.Generator().manual_seed(3)), drawn)
