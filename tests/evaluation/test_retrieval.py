"""Captions ranked: the true one is first where pictures show it; a judge that cannot tell is refused."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from unblot.evaluation import retrieval
from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.retrieval import (
    DualEncoder,
    Pairs,
    caption_agreement,
    contrastive_loss,
    ranks,
    train_encoder,
    with_other_captions,
)

TONES = ("black", "dark", "light", "white")
PLACES = ("left", "above")


def pairs(count: int, seed: int, shown: bool = True) -> Pairs:
    """Pictures (count, 1, 8, 8) whose halves have two of four tones, and what is said of them: 24 captions."""
    rng = np.random.default_rng(seed)
    pictures, captions = np.zeros((count, 1, 8, 8), np.float32), []
    for picture in pictures:
        first, second = rng.permutation(4)[:2]
        place = rng.integers(2)
        captions.append((f"{TONES[first]} {PLACES[place]} of {TONES[second]}",))
        if not shown:
            first, second, place = rng.integers(4), rng.integers(4), rng.integers(2)
        a, b = (np.linspace(-1, 1, 4)[i] for i in (first, second))
        half = picture[0] if place == 1 else picture[0].T
        half[:4], half[4:] = a, b
        picture += 0.05 * rng.standard_normal(picture.shape)
    return Pairs(ImageSet(pictures), captions)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """A smaller judge that learns for a shorter time: enough for pictures of two halves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "DIMS", 64)
        patch.setattr(retrieval, "STEPS", 60)
        yield


@pytest.fixture(scope="module")
def found() -> dict:
    torch.set_num_threads(1)
    agreement = caption_agreement(pairs(96, 0), pairs(60, 1), pairs(100, 2))
    assert isinstance(agreement, dict)
    return agreement


def test_the_true_caption_comes_first_and_shuffled_ones_by_chance(found: dict) -> None:
    assert found["candidates"] == 24
    assert found["samples"]["recall_at_1"] > 0.9
    assert found["held_out"]["recall_at_1"] > 0.9
    assert found["shuffled"]["recall_at_1"] < 0.15
    assert found["shuffled"]["mean_rank"] == pytest.approx(12.5, abs=3)


@pytest.mark.parametrize("drawn", [["a cat"], ["a cat", "a dog"], ["a text of no picture"]])
def test_shuffled_captions_are_never_the_true_ones_however_few_the_prompts(drawn: list[str]) -> None:
    pool = ["a bird", "a cat", "a dog", "a fish"]
    samples = Pairs(ImageSet(np.zeros((90, 1, 2, 2), np.float32)), [(drawn[i % len(drawn)],) for i in range(90)])
    others = with_other_captions(samples, pool)
    assert others == with_other_captions(samples, pool)
    for text in drawn:
        found = {other for (own,), (other,) in zip(samples.captions, others.captions, strict=True) if own == text}
        assert found == {*pool} - {text}


def test_the_same_pairs_give_the_same_numbers_and_pictures_that_do_not_show_their_captions_chance(found: dict) -> None:
    encoder = train_encoder(pairs(96, 0))
    pool = sorted({several[0] for several in pairs(96, 0).captions})
    assert ranks(encoder, pairs(100, 2), pool, 24).to_dict() == found["samples"]
    assert float(ranks(encoder, pairs(100, 2, shown=False), pool, 24).ranks.mean()) == pytest.approx(12.5, abs=3)


def test_a_judge_that_cannot_tell_held_out_pairs_is_refused() -> None:
    reason = caption_agreement(pairs(48, 0, shown=False), pairs(30, 1, shown=False), pairs(10, 2))
    assert isinstance(reason, str)
    assert "cannot be trusted" in reason
    assert "of 23 (chance: 12)" in reason


def test_too_few_captions_or_held_out_pairs_are_refused() -> None:
    one = Pairs(pairs(40, 0).pictures, [("a picture",)] * 40)
    assert caption_agreement(one, one, one) == "there are 1 different captions, too few to rank (10 are needed)"
    assert "there are 5 held-out pictures" in str(caption_agreement(pairs(60, 0), pairs(5, 1), pairs(5, 2)))


def test_pictures_without_captions_are_left_out() -> None:
    three = Pairs(ImageSet(np.arange(3 * 4, dtype=np.float32).reshape(3, 1, 2, 2)), [(), ("", "a cat"), (" ",)])
    kept = three.captioned()
    assert kept.captions == [("a cat",)]
    assert torch.equal(kept.pictures[:], three.pictures[slice(1, 2)])


def test_captions_that_fit_as_well_share_the_rank() -> None:
    encoder = DualEncoder({}, 1, 8, 8).eval()  # knows no word: all captions of two words are alike to it
    several: Sequence[str] = [f"one thing{i}" for i in range(11)]
    assert ranks(encoder, pairs(1, 0)._replace(captions=[(several[0],)]), several, 11).ranks.tolist() == [6.0]


def test_equal_captions_in_a_batch_are_not_held_against_each_other() -> None:
    encoder = DualEncoder({"black": 2}, 1, 8, 8).eval()
    loss = contrastive_loss(encoder, pairs(3, 0).pictures[:], ["black"] * 3)
    assert loss.item() == pytest.approx(0, abs=1e-6)
