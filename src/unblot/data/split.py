"""The held-out split: which pictures are not trained on, chosen by content, the same on every machine."""

import hashlib

import numpy as np

from unblot.errors import UnblotError, arg

AT_LEAST = 48  # pictures: the held-out loss of fewer is mostly noise
AT_MOST = 0.2  # of a small set, as a share
DIGESTS = 2**63  # a digest is below it


def digest(picture: np.ndarray) -> int:
    """A 63-bit hash of a picture's values, never 0: equal for equal content."""
    data = np.ascontiguousarray(picture).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1 or 1


def split(digests: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (int64, ascending) of training and of held-out pictures; equal digests (N,) int64 are in one of them.

    About `share` (0 to 1) of the pictures are held out, or AT_LEAST where that is more, but of a small set at most
    AT_MOST; none if share is 0. The pictures of lowest digest are chosen, so that the order of the files has no
    influence and added pictures change the split of few others.
    """
    count = len(digests)
    wanted = min(max(round(share * count), AT_LEAST), max(round(share * count), int(AT_MOST * count)))
    values, inverse, copies = np.unique(digests, return_inverse=True, return_counts=True)
    out = np.zeros(len(values), bool)
    taken = 0
    for i in range(len(values)):
        if not share or taken >= wanted:
            break
        if taken + copies[i] <= max(2 * wanted, 1) and taken + copies[i] < count:
            out[i] = True
            taken += int(copies[i])
    held_out = out[inverse.reshape(-1)]
    return parted(held_out)


def chosen_alone(digests: np.ndarray, share: float, count: int) -> np.ndarray:
    """Which pictures (n,) bool are held out, each decided by its own digest, so that parts of a set of `count` pictures
    agree without knowing one another: about `share` of them, for a small set more, as `split` has it. Equal digests
    are on one side."""
    wanted = min(max(share * count, AT_LEAST), max(share * count, AT_MOST * count)) if share else 0.0
    return (digests != 0) & (digests < int(wanted / max(1, count) * DIGESTS))


def parted(held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (int64, ascending) of training and of held-out pictures, for a choice (N,) bool."""
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)


def check_choices(on_broken: str, held_out: float) -> None:
    """Raises UnblotError for a choice that does not exist or is out of range."""
    if on_broken not in ("stop", "skip"):
        raise UnblotError(f"{arg('on_broken', on_broken)} is unknown; choose stop or skip")
    if not 0 <= held_out < 1:
        raise UnblotError(f"the held-out share {held_out} is out of range; give {arg('held_out')} from 0 to below 1")
