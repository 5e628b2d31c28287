"""Precision, recall, density, coverage and class shares: agreement with the authors' prdc, and laws."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from unblot.evaluation.coverage import class_counts, covering, share_distance, share_distance_by_chance


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def digits() -> tuple[Tensor, Tensor]:
    x = torch.tensor(load_digits().data / 16)
    noise = 0.02 * normal(
        len(x), x.shape[1], 0
    )  # no two distances are the same then, which makes ties a matter of taste
    return (x + noise)[:700], (x + noise)[700:]


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("pair", [lambda: (normal(600, 8, 0, 0.5), normal(700, 8, 1)), digits], ids=["random", "real"])
def test_agrees_with_prdc(pair, k: int) -> None:
    from prdc import compute_prdc

    x, y = pair()
    peer = compute_prdc(y.numpy(), x.numpy(), nearest_k=k)
    found = covering(x, y, k=k, k_density=k)._asdict()
    for name, value in peer.items():
        assert float(found[name].mean()) == pytest.approx(value, rel=1e-4), name
    assert float(found["crowding"].mean()) == pytest.approx(peer["density"], rel=1e-9)


def test_of_itself_all_is_covered() -> None:
    x = normal(300, 4, 0)
    found = covering(x, x)
    for name in ("precision", "recall", "coverage"):
        assert float(getattr(found, name).mean()) == 1


def test_a_dropped_mode_is_seen_by_recall_and_coverage_alone() -> None:
    both = torch.cat([normal(300, 4, 0), normal(300, 4, 1, shift=50)])
    one = normal(600, 4, 2)
    found = covering(one, both)
    assert torch.equal(found.precision, covering(one, both[:300]).precision)
    assert float(found.recall[300:].mean()) == float(found.coverage[300:].mean()) == 0


def test_pictures_out_of_reach_are_seen_by_precision_alone() -> None:
    samples = torch.cat([normal(300, 4, 0), normal(100, 4, 1, shift=50)])
    found = covering(samples, normal(400, 4, 2))
    assert float(found.precision[300:].mean()) == float(found.density[300:].mean()) == 0
    assert float(found.recall.mean()) > 0.8


def test_shares_of_classes() -> None:
    counts = class_counts(torch.tensor([0, 0, 2, 0]), 4)
    assert counts.tolist() == [3, 0, 1, 0]
    truth = torch.tensor([1, 1, 1, 1])
    assert share_distance(counts, truth) == pytest.approx(0.5)
    assert share_distance(truth, truth) == 0


@pytest.mark.parametrize(("classes", "n", "m"), [(100, 1000, 5000), (10, 200, 100), (2, 50, 50)])
def test_shares_of_classes_differ_by_chance(classes: int, n: int, m: int) -> None:
    rng, shares = np.random.default_rng(0), np.arange(1, classes + 1) / (classes * (classes + 1) / 2)
    found, expected = [], []
    for _ in range(400):
        a, b = rng.multinomial(n, shares), rng.multinomial(m, shares)
        found.append(share_distance(torch.from_numpy(a), torch.from_numpy(b)))
        expected.append(share_distance_by_chance(a.tolist(), b.tolist()))
    assert np.mean(expected) == pytest.approx(np.mean(found), rel=0.1)
