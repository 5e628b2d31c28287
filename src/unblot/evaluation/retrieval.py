"""Do drawn pictures show what their captions say? A dual encoder ranks each picture's caption among others.

Two small networks learn from the run's own training pairs to put a picture and its caption at one place (contrastively,
as in Radford et al. 2021). How far they can be trusted is measured on held-out pairs, which they never saw; where they
cannot, nothing is said.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.evaluation.fitting import fit
from unblot.evaluation.image_set import CHUNK, ImageSet, at_once, shrink
from unblot.evaluation.memorization import share_interval
from unblot.process.randomness import seeded
from unblot.text.words import words

CANDIDATES = 100  # captions that are ranked, the true one among them
FEWEST_CANDIDATES, FEWEST_PAIRS = 10, 20  # different captions, and held-out pairs, with which a ranking means something
TRUSTED = 0.5  # of the mean rank of held-out pairs, as a share of chance's, at most
JUDGED = 1000  # pictures of a set that are ranked, at most
SIDE, DIMS, WORDS, LONGEST = 32, 128, 4096, 32  # pixels, values of an embedding, known words, words of a caption
TIE = 1e-6  # difference of two scores up to which captions fit equally well
STEPS, EPOCHS, BATCH = 800, 20, 128


class Pairs(NamedTuple):
    """Pictures, and for each of them its captions, one or several."""

    pictures: ImageSet
    captions: Sequence[Sequence[str]]

    def captioned(self) -> "Pairs":
        """Those with a caption that says something."""
        texts = [tuple(text for text in several if words(text)) for several in self.captions]
        kept = [i for i, several in enumerate(texts) if several]
        return Pairs(self.pictures.take(kept), [texts[i] for i in kept])


class Ranks(NamedTuple):
    """Ranks (N,) of the true captions among `candidates`, 1 the best; captions that fit as well count as half."""

    ranks: Tensor
    candidates: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values: R@1 with its 95 % interval, and the mean rank."""
        first, count = int((self.ranks < 1.5).sum()), len(self.ranks)
        low, high = share_interval(first, count)
        mean = float(self.ranks.mean())
        return {"count": count, "recall_at_1": first / count, "low": low, "high": high, "mean_rank": mean}


def caption_agreement(training: Pairs, held_out: Pairs, samples: Pairs) -> dict[str, Any] | str:
    """R@1 and mean rank of the captions of samples, of held-out pictures, and of samples with shuffled captions.

    Of each picture the first caption is ranked among others of the whole data set. Follows from the arguments alone.
    A text instead, the reason, where nothing can be said.
    """
    training, held_out, samples = (pairs.captioned() for pairs in (training, held_out, samples))
    pool = sorted({several[0] for pairs in (training, held_out) for several in pairs.captions})
    candidates = min(CANDIDATES, len(pool))
    if candidates < FEWEST_CANDIDATES:
        return f"there are {len(pool)} different captions, too few to rank ({FEWEST_CANDIDATES} are needed)"
    if len(held_out.captions) < FEWEST_PAIRS or not samples.captions:
        return f"there are {len(held_out.captions)} held-out pictures with captions; {FEWEST_PAIRS} are needed"
    encoder = train_encoder(training)
    real = ranks(encoder, held_out, pool, candidates)
    chance = (candidates + 1) / 2
    if float(real.ranks.mean()) > TRUSTED * chance:
        return (
            f"the judge cannot be trusted: it gives the captions of held-out real pictures mean rank "
            f"{real.ranks.mean():.0f} of {candidates} (chance: {chance:.0f}); more captioned pictures would help"
        )
    rows = {"samples": samples, "shuffled": with_other_captions(samples, pool)}
    found = {name: ranks(encoder, pairs, pool, candidates).to_dict() for name, pairs in rows.items()}
    return {"candidates": candidates, "held_out": real.to_dict(), **found}


def with_other_captions(pairs: Pairs, pool: Sequence[str]) -> Pairs:
    """The pictures, each with one of the pool that is not its first caption, at random from the seed i of picture i.

    pool: two different captions or more.
    """
    captions = []
    for i, (own, *_) in enumerate(pairs.captions):
        first, second = np.random.default_rng([1, i]).choice(len(pool), 2, replace=False)
        captions.append((pool[second if pool[first] == own else first],))
    return Pairs(pairs.pictures, captions)


class DualEncoder(nn.Module):
    """Pictures and captions to unit vectors (B, 128), whose products times `scale()` are the scores.

    vocabulary: word to index from 2 on; 1 is any other word, 0 none. channels, height, width: of the pictures.
    """

    def __init__(self, vocabulary: dict[str, int], channels: int, height: int, width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        widths = [channels, 32, 64, 128]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * widths[-1], DIMS))
        self.words = nn.Embedding(len(vocabulary) + 2, DIMS, padding_idx=0)
        self.places = nn.Parameter(0.5 * torch.randn(LONGEST, DIMS))
        self.mixing = nn.Conv1d(DIMS, DIMS, 3, padding=1)  # of neighbouring words
        self.text = nn.Sequential(nn.ReLU(), nn.Linear(DIMS, DIMS), nn.ReLU(), nn.Linear(DIMS, DIMS))
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def picture(self, x: Tensor) -> Tensor:
        """Unit vectors of pictures (B, C, H, W) in the network's range."""
        return F.normalize(self.trunk(shrink(x, SIDE)), dim=1)

    def caption(self, tokens: Tensor) -> Tensor:
        """Unit vectors of tokens (B, L)."""
        tokens = tokens[:, : int((tokens > 0).sum(1).max())]  # those that there are
        there = (tokens > 0).float()[:, :, None]
        h = (self.words(tokens) + self.places[: tokens.shape[1]]) * there
        h = self.text(self.mixing(h.transpose(1, 2)).transpose(1, 2))
        return F.normalize((h * there).sum(1) / there.sum(1).clamp_min(1), dim=1)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Indices of the first LONGEST words of each text, (B, L) int64, filled up with 0."""
        rows = torch.zeros(len(texts), LONGEST, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            known = [self.vocabulary.get(word, 1) for word in words(text)[:LONGEST]]
            row[: len(known)] = torch.tensor(known, dtype=torch.int64)
        return rows

    def scale(self) -> Tensor:
        """The factor of the scores, at most 100."""
        return self.log_scale.exp().clamp(max=100)


def train_encoder(pairs: Pairs) -> DualEncoder:
    """A dual encoder of the pairs, trained from a fixed seed, in eval mode. Every pass shows every picture once, with
    one of its captions in turn; a batch's pictures of the same caption are not held against each other."""
    counts = Counter(word for several in pairs.captions for text in several for word in words(text))
    known = sorted((word for word in counts if counts[word] > 1), key=lambda word: (-counts[word], word))[:WORDS]
    with seeded(0):
        encoder = DualEncoder({word: i + 2 for i, word in enumerate(known)}, *pairs.pictures.shape)
        _train(encoder, pairs)
    return encoder


def _train(encoder: DualEncoder, pairs: Pairs) -> None:
    """EPOCHS passes, but from 100 to STEPS steps."""
    count = len(pairs.captions)
    batch = min(BATCH, count)
    visits = [0] * count

    def loss(chosen: Tensor) -> Tensor:
        texts = []
        for i in chosen.tolist():
            texts.append(pairs.captions[i][visits[i] % len(pairs.captions[i])])
            visits[i] += 1
        return contrastive_loss(encoder, pairs.pictures[chosen.numpy()], texts)

    steps = min(STEPS, max(100, EPOCHS * count // batch))
    fit(encoder, loss, count, batch=batch, steps=steps, weight_decay=0.1)


def contrastive_loss(encoder: DualEncoder, pictures: Tensor, texts: Sequence[str]) -> Tensor:
    """Cross-entropy of finding each picture's caption in the batch, and each caption's picture; equal ones aside."""
    scores = encoder.scale() * encoder.picture(pictures) @ encoder.caption(encoder.tokens(texts)).T
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    which = torch.tensor([numbers[text] for text in texts])
    same = (which[:, None] == which) & ~torch.eye(len(texts), dtype=torch.bool)
    scores = scores.masked_fill(same, -torch.inf)
    own = torch.arange(len(texts))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


@torch.no_grad()
def ranks(encoder: DualEncoder, pairs: Pairs, pool: Sequence[str], candidates: int) -> Ranks:
    """The ranks of the first captions of up to JUDGED pictures, among as many of the pool as make `candidates`.

    The other captions of picture i are chosen at random from the seed i, all different from its own.
    """
    known = sorted({*pool, *(several[0] for several in pairs.captions)})
    place = {text: i for i, text in enumerate(known)}
    others = np.array([place[text] for text in pool])
    texts = torch.cat([encoder.caption(encoder.tokens(known[i : i + CHUNK])) for i in range(0, len(known), CHUNK)])
    found, count = [], min(JUDGED, len(pairs.captions))
    rows = at_once(pairs.pictures.shape)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        for i, vector in enumerate(encoder.picture(pairs.pictures[slice(start, stop)]), start):
            own = place[pairs.captions[i][0]]
            order = np.random.default_rng([0, i]).permutation(others)
            chosen = order[order != own][: candidates - 1]
            scores, mine = texts[chosen] @ vector, texts[own] @ vector
            better, equal = scores > mine + TIE, (scores - mine).abs() <= TIE
            found.append(1 + float(better.sum()) + float(equal.sum()) / 2)
    return Ranks(torch.tensor(found, dtype=torch.float64), candidates)
