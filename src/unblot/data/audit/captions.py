"""What the captions of a data set say: how many there are, how long, of which words, and which tell nothing apart."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from unblot.errors import arg, counted, printable
from unblot.text.words import words

RARE = 5  # pictures: a word in fewer is hardly learned
READ = 48  # words of a caption that the text encoder surely reads: its 64 tokens are at least as many in most languages
SHOWN, SHOWN_LETTERS = 10, 80
MANY = 0.5  # as a share of the pictures with captions


@dataclass(frozen=True)
class CaptionAudit:
    """The captions of a data set, in plain values.

    pictures: how many have captions. captions: how many these have. shortest, middle, longest: number of words of a
    caption. long: captions of more than READ words. words: the number of different words, case apart. common, rare: the
    commonest words and some in fewer than RARE pictures, each with its number of pictures; rare_words: how many are
    rare. distinct: how many different sets of captions the pictures have. shared: pictures whose captions are all those
    of another picture as well. commonest: captions of several pictures, with the number of these.
    """

    pictures: int
    captions: int
    shortest: int
    middle: float
    longest: int
    long: int
    words: int
    common: dict[str, int]
    rare_words: int
    rare: dict[str, int]
    distinct: int
    shared: int
    commonest: dict[str, int]


def audit_captions(captions: Sequence[Sequence[str]] | None) -> CaptionAudit | None:
    """What the captions of pictures, () for a picture without any, say; None where there are none."""
    there = [texts for texts in captions or () if texts]
    if not there:
        return None
    split = [[words(text) for text in texts] for texts in there]
    lengths = [len(found) for texts in split for found in texts]
    seen = Counter(word for texts in split for word in {word for found in texts for word in found})
    sets = Counter(tuple(sorted(set(texts))) for texts in there)
    each = Counter(text for texts in there for text in set(texts))
    again = {shortened(text): n for text, n in _ordered(each)[:SHOWN] if n > 1}
    rare = [(word, n) for word, n in _ordered(seen) if n < RARE]
    return CaptionAudit(
        pictures=len(there),
        captions=len(lengths),
        shortest=min(lengths),
        middle=float(median(lengths)),
        longest=max(lengths),
        long=sum(length > READ for length in lengths),
        words=len(seen),
        common={shortened(word): n for word, n in _ordered(seen)[:SHOWN]},
        rare_words=len(rare),
        rare={shortened(word): n for word, n in rare[:SHOWN]},
        distinct=len(sets),
        shared=sum(n for n in sets.values() if n > 1),
        commonest=again,
    )


def caption_advice(found: CaptionAudit | None, count: int) -> list[str]:
    """Advice about the captions of `count` pictures, a sentence or two each."""
    if found is None:
        return []
    advice = []
    way_out = f"write what tells them apart, or train with {arg('uncaptioned', True)}"
    if found.distinct == 1 and found.pictures > 1:
        advice.append(f"All captions are the same, so that nothing can be learned from them: {way_out}.")
    elif found.shared > MANY * found.pictures:
        advice.append(
            f"{found.shared} of {counted(found.pictures, 'picture')} have the same captions as another; a prompt "
            "cannot tell these apart."
        )
    if found.pictures < count:
        advice.append(
            f"{counted(count - found.pictures, 'picture')} without a caption: what they show is learned, but no words "
            "for it."
        )
    if found.rare_words:
        more = f" and {found.rare_words - len(found.rare)} more" if found.rare_words > len(found.rare) else ""
        advice.append(
            f"{found.rare_words} of {counted(found.words, 'word')} are in fewer than {RARE} pictures, too few to be "
            f"learned: {', '.join(found.rare)}{more}."
        )
    if found.long:
        advice.append(
            f"{counted(found.long, 'caption')} of more than {READ} words: the text encoder reads only the beginning; "
            "say what matters first."
        )
    return advice


def caption_warnings(captions: Sequence[Sequence[str]] | None) -> list[str]:
    """What the user should know of the captions before training; takes next to no time."""
    there = {tuple(texts) for texts in captions or () if texts}
    if len(there) == 1 and sum(map(bool, captions or ())) > 1:
        return ["all captions are the same: nothing can be learned from them"]
    return []


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    """Names and counts, the highest first, then by name."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def shortened(text: str) -> str:
    """The beginning of a text, as it can be shown."""
    text = printable(text)
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
