"""Copies: planted ones are found exactly, changed ones nearly always, and real pictures are not called copies."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest, mannwhitneyu
from sklearn.datasets import load_digits

from unblot.errors import UnblotError
from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.memorization import copying_z, nearness, percentiles, share_interval, variants_of


def encode(stored: np.ndarray) -> np.ndarray:
    return stored.astype(np.float32) / np.float32(127.5) - 1


def as_pictures(stored: np.ndarray) -> ImageSet:
    return ImageSet(stored, encode)


@pytest.fixture(scope="module", params=[0, 1, 2])
def split(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Digits, 1,297 to train on and 500 held out, split anew for each of several seeds."""
    stored = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(request.param).permutation(len(stored))
    return stored[order[500:]], stored[order[:500]]


def with_noise(stored: np.ndarray) -> np.ndarray:
    """Normal noise of two grey levels."""
    noise = np.random.default_rng(0).normal(0, 2, stored.shape)
    return np.clip(np.rint(stored + noise), 0, 255).astype(np.uint8)


def recompressed(stored: np.ndarray) -> np.ndarray:
    """Through JPEG at the usual quality of 75."""
    found = []
    for picture in stored[:, 0]:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=75)
        found.append(np.asarray(Image.open(file))[None])
    return np.stack(found)


@pytest.mark.parametrize("share", [0, 0.01, 0.05, 0.5])
def test_planted_copies_are_found_exactly(split: tuple[np.ndarray, np.ndarray], share: float) -> None:
    training, held_out = split
    k = round(share * len(held_out))
    planted = np.concatenate([training[100 : 100 + k], held_out[k:]])
    found = nearness(as_pictures(planted), as_pictures(training))
    assert torch.equal(found.copies(), torch.arange(len(planted)) < k)
    assert (found.distance[:k] == 0).all()
    assert found.position[:k].tolist() == list(range(100, 100 + k))


@pytest.mark.parametrize("change", [with_noise, recompressed])
def test_changed_copies_are_found(split: tuple[np.ndarray, np.ndarray], change) -> None:
    training, held_out = split
    mixed = np.concatenate([change(training[:250]), held_out[:250]])
    copies = nearness(as_pictures(mixed), as_pictures(training)).copies()
    assert copies[:250].double().mean() >= 0.95
    assert copies[250:].double().mean() < 0.01


def test_repetitions_in_the_training_set_hide_nothing(split: tuple[np.ndarray, np.ndarray]) -> None:
    training, held_out = split
    repeated = np.concatenate([training[:200]] * 10)
    found = nearness(as_pictures(with_noise(training[:200])), as_pictures(repeated))
    assert found.copies().double().mean() >= 0.95
    assert found.position.tolist() == list(range(200))
    assert nearness(as_pictures(held_out), as_pictures(repeated)).copies().double().mean() < 0.01


def test_flips_and_shifts_count_when_asked(split: tuple[np.ndarray, np.ndarray]) -> None:
    training, held_out = split
    flipped = training[:100, :, :, ::-1]
    shifted = np.roll(training[100:200], (1, -1), (2, 3))  # what comes in at the edges is foreign
    variants = variants_of(flip=True, shift=1)
    for pictures in (flipped, shifted):
        plain = nearness(as_pictures(pictures), as_pictures(training))
        asked = nearness(as_pictures(pictures), as_pictures(training), variants)
        assert plain.copies().double().mean() < 0.1
        assert asked.copies().all()
        assert (asked.distance == 0).all()
    assert nearness(as_pictures(held_out), as_pictures(training), variants).copies().double().mean() < 0.01


def test_a_copy_of_several_training_pictures_is_a_copy(split: tuple[np.ndarray, np.ndarray]) -> None:
    """As where the training set was augmented: mirrored and moved, a picture is nearest to five at distance 0."""
    training, held_out = split
    wide = np.pad(training[:3], ((0, 0), (0, 0), (2, 2), (2, 2)))
    moved = [np.roll(wide, shift, (2, 3)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1), (0, -1), (-1, 0))]
    others = np.pad(np.concatenate([training[3:], held_out[:50]]), ((0, 0), (0, 0), (2, 2), (2, 2)))
    planted = np.concatenate([wide, wide[..., ::-1], others[-50:]])
    found = nearness(
        as_pictures(planted), as_pictures(np.concatenate([*moved, others[:-50]])), variants_of(flip=True, shift=1)
    )
    assert (found.ratio[:6] == 0).all()
    assert found.ratio.isfinite().all()
    assert torch.equal(found.copies(), torch.arange(56) < 6)


def test_pictures_of_another_shape_are_refused() -> None:
    with pytest.raises(UnblotError, match=r"shape \(1, 2, 2\)"):
        nearness(ImageSet(torch.zeros(2, 1, 2, 2)), ImageSet(torch.zeros(2, 1, 3, 3)))
    with pytest.raises(UnblotError, match="at least 2 different"):
        nearness(ImageSet(torch.zeros(2, 1, 2, 2)), ImageSet(torch.zeros(2, 1, 2, 2)))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 40), (20, 20), (500, 1000)])
def test_interval_of_a_share_is_wilsons(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert share_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_percentiles() -> None:
    held_out = torch.arange(10.0)
    assert percentiles(torch.tensor([-1.0, 0.0, 4.5, 9.0, 20.0]), held_out).tolist() == [0, 5, 50, 95, 100]


def test_copying_statistic_is_mann_whitney() -> None:
    g = np.random.default_rng(0)
    x, y = g.gamma(2, 1, 300), g.gamma(2.3, 1, 200)
    peer = mannwhitneyu(x, y, alternative="less", method="asymptotic", use_continuity=False)
    z = copying_z(torch.tensor(x), torch.tensor(y))
    assert float(torch.special.ndtr(torch.tensor(z))) == pytest.approx(peer.pvalue, rel=1e-6)


def test_copying_in_one_region_does_not_hide_behind_another() -> None:
    # Copied in cell 0, too far in cell 1: on the whole nothing is seen; in the cells it is, by held-out counts.
    g = np.random.default_rng(0)
    held_out, cells = torch.tensor(g.uniform(1, 2, 400)), torch.tensor([0] * 300 + [1] * 100)
    samples = torch.cat([torch.full((200,), 0.5), torch.full((200,), 2.5)])
    of_sample = torch.tensor([0] * 200 + [1] * 200)
    assert copying_z(samples, held_out) == pytest.approx(0)
    assert copying_z(samples, held_out, (of_sample, cells)) < -3
    # Cells without enough of both are passed over.
    assert copying_z(samples[:205], held_out, (of_sample[:205], cells)) == copying_z(samples[:200], held_out[:300])
