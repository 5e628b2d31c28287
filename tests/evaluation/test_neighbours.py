"""Nearest pictures: exact, whatever the chunks, the rounding and the forms."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unblot.evaluation import neighbours
from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.neighbours import Variant, nearest


def brute_force(queries: Tensor, base: Tensor, k: int) -> tuple[Tensor, Tensor]:
    differences = queries.flatten(1).double()[:, None] - base.flatten(1).double()
    distances, order = differences.square().sum(-1).sqrt().sort(dim=1, stable=True)
    return distances[:, :k], order[:, :k]


def pictures(n: int, seed: int, shape: tuple[int, ...] = (2, 3, 3)) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(1, 60), k=st.integers(1, 8), seed=st.integers(0, 1000))
def test_is_exact(n: int, m: int, k: int, seed: int) -> None:
    x, y = pictures(n, seed), pictures(m, seed + 1)
    distances, positions = nearest(ImageSet(x), ImageSet(y), k)
    expected, order = brute_force(x, y, k)
    torch.testing.assert_close(distances, expected, rtol=1e-12, atol=0)
    assert torch.equal(positions, order)


def test_is_the_same_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = ImageSet(pictures(50, 0)), ImageSet(pictures(300, 1))
    whole = nearest(x, y, 3)
    for size in (100, 1000, 5000):
        monkeypatch.setattr(neighbours, "BYTES", size)
        for a, b in zip(whole, nearest(x, y, 3), strict=True):
            assert torch.equal(a, b)


def test_is_exact_where_float32_cannot_tell_pictures_apart() -> None:
    # A thousand pictures far from the others, within rounding of each other: the screen's order among them is noise.
    far = 1000 + 1e-2 * pictures(1000, 0)
    base = torch.cat([-far[:10], far])
    queries = far[:5] + 1e-2 * pictures(5, 1)
    distances, positions = nearest(ImageSet(queries), ImageSet(base), 4)
    expected, order = brute_force(queries, base, 4)
    torch.testing.assert_close(distances, expected, rtol=1e-12, atol=0)
    assert torch.equal(positions, order)


def test_large_pictures_are_not_all_compared_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one bound for the rounding of a whole picture every query of 128 x 128 was compared with all in float64."""
    widest, exact = 0, neighbours._exact

    def watched(flat: Tensor, known: Tensor, base: ImageSet, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        nonlocal widest
        widest = max(widest, candidates.shape[1])
        return exact(flat, known, base, candidates, k)

    monkeypatch.setattr(neighbours, "_exact", watched)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(40, 4, 128, 128, generator=generator)
    query = base[:3] + 0.1 * torch.randn(3, 4, 128, 128, generator=generator)
    _, where = nearest(ImageSet(query), ImageSet(base), 2)
    assert where[:, 0].tolist() == [0, 1, 2]
    assert widest == 2 + neighbours.SPARE


def test_the_nearest_of_several_forms_counts_each_picture_once() -> None:
    x, y = pictures(20, 0), pictures(90, 1)
    half = torch.ones(2, 3, 3)
    half[:, 0] = 0

    def variants(part: Tensor) -> Iterator[Variant]:
        yield from (
            Variant(part, torch.ones(2, 3, 3)),
            Variant(part.flip(-1), torch.ones(2, 3, 3)),
            Variant(part.flip(-2), half),
        )

    each = [
        ((variant.pictures[:, None] - y).double().square() * variant.known).flatten(2).sum(-1) / variant.known.mean()
        for variant in variants(x)
    ]
    expected, order = torch.stack(each).amin(0).sqrt().sort(dim=1, stable=True)
    distances, positions = nearest(ImageSet(x), ImageSet(y), 5, variants)
    torch.testing.assert_close(distances, expected[:, :5], rtol=1e-6, atol=0)
    assert torch.equal(positions, order[:, :5])


def test_pictures_are_read_lazily_and_in_their_range() -> None:
    stored = np.arange(2 * 1 * 2 * 2, dtype=np.uint8).reshape(2, 1, 2, 2)
    set_ = ImageSet(stored, lambda a: a.astype(np.float32) * 2, indices=[1, 0, 1])
    assert len(set_) == 3
    assert set_.shape == (1, 2, 2)
    assert set_[1:].flatten(1).tolist() == [[0, 2, 4, 6], [8, 10, 12, 14]]
    assert [len(chunk) for chunk in set_.chunks(2)] == [2, 1]
    assert set_.distinct().tolist() == [0, 1]
    assert set_.take([1]).hash() != set_.take([0]).hash() == set_.take([2]).hash()
    assert set_.hash([0, 1, 0]) != set_.hash([0, 1, 1])
    assert len(set_.sample(2)) == 2
    assert set_.sample(7) is set_
