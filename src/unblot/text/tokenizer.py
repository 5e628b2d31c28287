"""Captions as tokens: byte-pair encoding (Sennrich et al. 2016) learned from a run's own captions, over their bytes.

Every text has tokens, in any language and with any symbol: what no merge covers is spelled byte by byte.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from unblot.config.schema import TextFacts
from unblot.errors import UnblotError
from unblot.text.words import commonest, normalised

PAD, START = 0, 1  # tokens: what fills a row up, and the first of every caption, alone in "no text"
SPECIAL = " pad", " start"  # a space in a token cannot come from a text, whose bytes have other names
LONGEST = 64  # tokens of a caption, START included; the rest is cut
MOST_TOKENS = 4096
RARE = 1000  # a pair of tokens is merged if it occurs more than once, and once in this number of captions


class Tokenizer:
    """Texts to rows of tokens, as the captions of a run were read.

    Raises UnblotError for merges that cannot be.
    """

    def __init__(self, facts: TextFacts):
        from tokenizers import Tokenizer as Model
        from tokenizers.models import BPE

        if not 1 <= facts.length <= LONGEST:
            raise UnblotError(f"captions of {facts.length} tokens are impossible")
        self.length = facts.length
        self.vocabulary = {token: i for i, token in enumerate([*SPECIAL, *_alphabet()])}
        merges = []
        for line in facts.merges.splitlines():
            first, _, second = line.partition(" ")
            if not {first, second} <= self.vocabulary.keys():
                raise UnblotError(f"{line!r} is no merge of two tokens")
            self.vocabulary.setdefault(first + second, len(self.vocabulary))
            merges.append((first, second))
        self._model = _bytewise(Model(BPE(self.vocabulary, merges)))

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.vocabulary)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens (n, length) int64: START, those of the text, as many as there is room for, then PAD."""
        rows = torch.full((len(texts), self.length), PAD)
        rows[:, 0] = START
        for row, text in zip(rows, texts, strict=True):
            ids = self._ids(text)[: self.length - 1]
            row[1 : 1 + len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return rows

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, START included, before anything is cut."""
        return [1 + len(self._ids(text)) for text in texts]

    def to_json(self) -> str:
        """The encoding as the library tokenizers reads it; it gives the tokens of a normalised text, without START."""
        return self._model.to_str()

    def _ids(self, text: str) -> list[int]:
        return self._model.encode(normalised(text)).ids


def learn(captions: Sequence[Sequence[str]]) -> TextFacts | None:
    """What a run must know of its captions, the texts of each training picture; None where no picture has one."""
    from tokenizers import Tokenizer as Model
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    texts = [text for several in captions for text in several if normalised(text)]
    if not texts:
        return None
    model = _bytewise(Model(BPE()))
    rare = max(2, -(-len(texts) // RARE))
    trainer = BpeTrainer(
        vocab_size=MOST_TOKENS - len(SPECIAL),
        min_frequency=rare,
        initial_alphabet=_alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(map(normalised, texts), trainer)
    merges = "\n".join(" ".join(pair) for pair in json.loads(model.to_str())["model"]["merges"])
    pictures = sum(map(bool, captions))
    facts = TextFacts(merges, " ".join(commonest(texts)), LONGEST, pictures)
    sizes = Tokenizer(facts).sizes(texts)
    return replace(facts, length=min(LONGEST, max(sizes)), cut=sum(size > LONGEST for size in sizes))


def captions_of(
    captions: Sequence[Sequence[str]] | None, pictures: Iterable[int], turns: Iterable[int] = ()
) -> list[str] | None:
    """A caption for each picture, of all pictures' captions: the one whose turn it is; "" where it has none.

    turns: a number for each picture; without them the first. None where there are no captions at all.
    """
    if captions is None:
        return None
    chosen = zip([captions[i] for i in pictures], chain(turns, repeat(0)))
    return [several[turn % len(several)] if several else "" for several, turn in chosen]


def _bytewise(model: Any) -> Any:
    """The model on words, each with the space before it, as bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    model.pre_tokenizer = ByteLevel(add_prefix_space=True)
    return model


def _alphabet() -> list[str]:
    """The names of the 256 bytes, in order."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())
