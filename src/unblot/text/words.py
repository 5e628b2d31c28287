"""The words of captions: how a text is normalised, and which words of a prompt no caption had."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

MOST_WORDS = 20_000  # kept in a run; the rarer ones could not be learned
ALONE = (  # letters of scripts that put no spaces between words: each counts as a word
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def normalised(text: str) -> str:
    """The text in one form: NFKC, small letters, every run of spaces and control characters one space."""
    return spaced(unicodedata.normalize("NFKC", text).lower())


def spaced(text: str) -> str:
    """The text with every run of spaces and control characters as one space."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).split())


def words(text: str) -> list[str]:
    """The words of a text in order, normalised: runs of letters, marks and digits; a symbol such as an emoji is one."""
    found, run = [], ""
    for c in [*normalised(text), " "]:
        kind = unicodedata.category(c)
        alone = kind == "So" or any(low <= ord(c) <= high for low, high in ALONE)
        if kind[0] in "LMN" and not alone:
            run += c
            continue
        found += [run, c] if alone else [run]
        run = ""
    return [word for word in found if any(unicodedata.category(c)[0] != "M" for c in word)]


def commonest(captions: Iterable[str]) -> tuple[str, ...]:
    """The words of all captions, the commonest first, at most MOST_WORDS."""
    counts = Counter(word for caption in captions for word in words(caption))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS])


def unseen(prompts: Iterable[str], known: Sequence[str]) -> list[str]:
    """The words of prompts that are not among the known ones, each once, in order."""
    there = set(known)
    return list(dict.fromkeys(word for prompt in prompts for word in words(prompt) if word not in there))
