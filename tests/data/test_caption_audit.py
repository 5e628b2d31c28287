"""What the doctor says of captions."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unblot.data.audit.advice import COMPARABLE, advise
from unblot.data.audit.audit import audit_dataset, quick_check
from unblot.data.audit.captions import READ, audit_captions
from unblot.data.dataset import Dataset, open_data
from unblot.reports import audit as pages
from unblot.text.words import commonest


def with_captions(texts: list[tuple[str, ...]], tmp_path: Path) -> Dataset:
    pictures = np.random.default_rng(0).integers(0, 256, (len(texts), 8, 8), np.uint8)
    np.save(tmp_path / "x.npy", pictures)
    return dataclasses.replace(open_data(str(tmp_path / "x.npy")), captions=tuple(texts))


def test_what_captions_say_is_counted(tmp_path: Path) -> None:
    texts = [("a red fox",)] * 4 + [("a red fox", "an owl")] + [("a blue owl in the snow",), ()]
    found = audit_dataset(with_captions(texts, tmp_path), near=False).captions
    assert found is not None
    assert (found.pictures, found.captions, found.distinct, found.shared) == (6, 7, 3, 4)
    assert (found.shortest, found.middle, found.longest, found.words) == (2, 3, 6, 9)
    assert found.commonest == {"a red fox": 5}
    assert list(found.common.items())[:3] == [("a", 6), ("fox", 5), ("red", 5)]
    assert (found.rare_words, found.rare["owl"], found.rare["snow"]) == (6, 2, 1)


def test_words_are_those_that_a_run_knows() -> None:
    found = audit_captions([("l'été, a blue-green fox",), ("红色的 fox",)])
    assert found is not None
    assert set(found.common) == {"l", "été", "a", "blue", "green", "fox", "红", "色", "的"}


def test_advice_follows_from_the_captions(tmp_path: Path) -> None:
    data = with_captions([("a fox",)] * 6 + [("word " * (READ + 1),), ()], tmp_path)
    audit = audit_dataset(data, near=False)
    advice = "\n".join(audit.advice)
    for sentence in (
        "6 of 7 pictures have the same captions as another",
        "1 picture without a caption",
        "1 of 3 words are in fewer than 5 pictures, too few to be learned: word.",
        f"1 caption of more than {READ} words",
    ):
        assert sentence in advice
    assert "captions    7 captions of 7 of 8 pictures, 2 … 49 words, median 2; 2 different" in pages.text(audit)
    assert "repeated" in pages.page(audit, data)
    assert json.loads(json.dumps(audit.to_dict()))["captions"]["commonest"] == {"a fox": 6}
    none = audit_dataset(dataclasses.replace(data, captions=None), near=False)
    assert (none.captions, "caption" in pages.text(none)) == (None, False)


def test_augmentation_that_captions_may_forbid_is_not_called_safe(tmp_path: Path) -> None:
    audit = audit_dataset(with_captions([("left",)] * 9, tmp_path), near=False)
    audit = dataclasses.replace(audit, distinct=COMPARABLE, turning={"flip": 0.9})
    (turns,) = [line for line in advise(audit) if line.startswith("Augmentation")]
    assert "safe as pixels; captions may say what is left and right: check them first: augment='plain:flip=" in turns
    (turns,) = [line for line in advise(dataclasses.replace(audit, captions=None)) if line.startswith("Augmentation")]
    assert turns.startswith("Augmentation is safe: augment=")


def test_one_caption_for_all_is_said_before_training(tmp_path: Path) -> None:
    same = with_captions([("a fox",)] * 9, tmp_path)
    assert "all captions are the same: nothing can be learned from them" in quick_check(same)
    assert any(line.startswith("All captions are the same") for line in audit_dataset(same, near=False).advice)
    other = with_captions([("a fox",)] * 8 + [("an owl",)], tmp_path)
    assert not any("caption" in line for line in quick_check(other))


@given(st.lists(st.lists(st.text(max_size=8), max_size=3).map(tuple), max_size=6))
def test_any_captions_can_be_audited_and_shown(captions: list[tuple[str, ...]]) -> None:
    found = audit_captions(captions)
    there = [texts for texts in captions if texts]
    assert (found is None) == (not there)
    if found is not None:
        assert found.pictures == len(there)
        assert found.captions == sum(map(len, there))
        assert found.shortest <= found.middle <= found.longest
        assert found.distinct <= found.pictures
        assert len(found.rare) <= found.rare_words <= found.words
        assert found.words == len(commonest(text for texts in there for text in texts))
        json.dumps(dataclasses.asdict(found)).encode()


def test_the_page_shows_captions_beside_their_pictures() -> None:
    data = open_data("shapes:count=20,language=zh")
    page = pages.page(audit_dataset(data, near=False), data)
    assert data.captions is not None
    assert data.captions[0][0] in page
