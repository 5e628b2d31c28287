"""Captions as tokens: every text has some, what was learned is the same each time, and nothing is cut unnoticed."""

import dataclasses

import pytest
import torch

from unblot.config.schema import TextFacts
from unblot.errors import UnblotError
from unblot.text.tokenizer import LONGEST, PAD, START, Tokenizer, captions_of, learn
from unblot.text.words import commonest, normalised, unseen, words

COLOURS = [(f"a {size} {colour} circle",) for size in ("small", "large") for colour in ("red", "blue")] * 10


def facts(captions=COLOURS) -> TextFacts:
    found = learn(captions)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A small, RED circle!", ["a", "small", "red", "circle"]),
        ("左边是红色圆形", list("左边是红色圆形")),
        ("a 😀cat👍🏽", ["a", "😀", "cat", "👍"]),
        ("हिन्दी शब्द", ["हिन्दी", "शब्द"]),  # vowel signs are marks, not letters
        ("l'été «ici» ...", ["l", "été", "ici"]),
        ("キツネ", ["キ", "ツ", "ネ"]),
        ("", []),
        (" \x00\u200d\ufe0f ", []),
    ],
)
def test_words_in_any_script(text, expected):
    assert words(text) == expected


def test_texts_that_look_the_same_are_the_same():
    assert normalised("Ｃａｆé\t\x00 X") == normalised("cafe\u0301 x") == "café x"


def test_the_commonest_words_come_first_and_unseen_ones_are_named_once():
    known = commonest(["red red blue", "blue red"])
    assert known == ("red", "blue")
    assert unseen(["a red dragon", "Dragon, blue"], known) == ["a", "dragon"]


def test_common_words_become_one_token_and_rows_are_start_text_pad():
    tokenizer = Tokenizer(facts())
    rows = tokenizer(["a small red circle", "red", ""])
    assert rows.shape == (3, 5)
    assert (rows[:, 0] == START).all()
    assert (rows != PAD).sum(1).tolist() == [5, 2, 1]
    assert rows[1, 1] == rows[0, 3]  # the same word at another place


@pytest.mark.parametrize("text", ["红色的圆", "🦊", "\ud800 x", "naïve zürich", "a" * 10_000, "\x00\x01"])
def test_every_text_has_tokens(text):
    row = Tokenizer(dataclasses.replace(facts(), length=LONGEST))([text])[0]
    assert row[0] == START
    assert int(row.max()) < len(Tokenizer(facts()))


def test_different_texts_have_different_tokens():
    tokenizer = Tokenizer(dataclasses.replace(facts(), length=LONGEST))
    texts = ["圆", "方", "red blue", "blue red", "redblue", "é", "e"]
    assert len({tuple(row.tolist()) for row in tokenizer(texts)}) == len(texts)


def test_the_same_captions_teach_the_same():
    assert facts() == facts(list(COLOURS))


def test_long_captions_are_cut_and_counted():
    found = facts([*COLOURS, ("".join(map(chr, range(0x4E00, 0x4E40))),), ()])
    assert (found.cut, found.length, found.pictures) == (1, LONGEST, 41)


def test_captions_without_a_word_are_none():
    assert learn([("",), (), (" \n",)]) is None


@pytest.mark.parametrize("change", [{"merges": "ab cd"}, {"merges": "a"}, {"length": 0}, {"length": 10**9}])
def test_forged_facts_are_refused(change):
    with pytest.raises(UnblotError, match=r"no merge|impossible"):
        Tokenizer(dataclasses.replace(facts(), **change))


def test_captions_take_turns():
    captions = (("a", "b", "c"), ("d",), ())
    assert [captions_of(captions, [0, 1, 2], [turn] * 3) for turn in range(4)] == [
        ["a", "d", ""],
        ["b", "d", ""],
        ["c", "d", ""],
        ["a", "d", ""],
    ]
    assert captions_of(captions, [2, 0]) == ["", "a"]
    assert captions_of(None, [0]) is None
    assert torch.equal(Tokenizer(facts())([""]), Tokenizer(facts())([" \n"]))
