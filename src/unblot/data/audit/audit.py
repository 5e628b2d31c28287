"""The audit of a data set before training: its contents, its problems, and advice."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from unblot.data import copies
from unblot.data.audit.advice import advise, pointless, warnings
from unblot.data.audit.captions import audit_captions, caption_warnings
from unblot.data.audit.dataset_audit import DatasetAudit
from unblot.data.audit.turning import worth_of_turns
from unblot.data.dataset import Dataset
from unblot.data.subset import spread
from unblot.data.values import in_parts
from unblot.errors import UnblotError, counted, printable

QUICK = 512  # pictures that the quick check reads


def audit_dataset(
    data: Dataset,
    *,
    near: bool = True,
    flipped: bool = False,
    seconds: Callable[[Dataset], float] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> DatasetAudit:
    """The audit of a data set that was opened with on_broken="skip".

    near, flipped: whether to look for near copies and for mirrored ones. seconds: gives the duration of a training on
    this machine in seconds. report receives a line for each long step.
    """
    cached = data.cached
    names = [printable(n) for n in cached.names] if cached else [f"picture {i}" for i in range(len(data))]
    digests = cached.digests if cached else np.arange(len(data))
    kinds, sizes = _originals(cached.kinds if cached else {})
    report(f"reading the values of {counted(len(data), 'picture')}")
    channels, flat = _values(data)
    exact = copies.exact_copies(digests)
    found = _Near(data, digests, exact, near or flipped, report)
    reason = pointless(*_glance(data))
    audit = DatasetAudit(
        name=printable(data.name),
        count=len(data),
        distinct=len(np.unique(digests)),
        shape=data.shape,
        dtype=data.values.dtype,
        train=len(data.train),
        held_out=len(data.held_out),
        kinds=kinds,
        sizes=sizes,
        classes=_classes(data),
        channels=channels,
        broken=tuple((printable(b.name), b.reason) for b in (cached.broken if cached else ())),
        constant=tuple(names[i] for i in flat),
        exact=_named(exact, names),
        near=_named(found.groups(False), names) if near else None,
        flipped=_named(found.groups(True), names) if flipped else None,
        compared=len(found.rows),
        turning=worth_of_turns(data),
        notes=cached.notes if cached else (),
        seconds=seconds(data) if seconds and not reason else None,
        captions=audit_captions(data.captions),
    )
    return replace(audit, advice=((f"Nothing can be learnt: {reason}.",) if reason else ()) + advise(audit))


def quick_check(data: Dataset) -> list[str]:
    """Warnings about a data set, a sentence each; takes a fraction of a second even for many pictures.

    Raises UnblotError where nothing can be learnt, because all pictures are the same or constant.
    """
    distinct, count, flat, deviation = _glance(data)
    if reason := pointless(distinct, count, flat, deviation):
        raise UnblotError(reason)
    return [*warnings(distinct, count, flat, _classes(data)), *caption_warnings(data.captions)]


def _glance(data: Dataset) -> tuple[int, int, float, float]:
    """Number of distinct and of all pictures; of a sample of QUICK the share of constant ones and the standard
    deviation of all values, in the network's range."""
    rows = spread(np.arange(len(data)), QUICK)
    digests = data.cached.digests if data.cached else rows
    means, deviations = np.empty(len(rows)), np.empty(len(rows))
    for part in in_parts(len(rows), data.shape):
        x = data.values.encode(np.asarray(data.pictures[rows[part]])).reshape(len(rows[part]), -1)
        means[part], deviations[part] = x.mean(axis=1), x.std(axis=1)
    constant = 0.0 if data.shape[1:] == (1, 1) else float((deviations < copies.FLAT).mean())
    return len(np.unique(digests)), len(data), constant, float(np.sqrt(np.square(deviations).mean() + means.var()))


class _Near:
    """Near copies, from thumbnails of the distinct pictures, which are made once."""

    def __init__(
        self, data: Dataset, digests: np.ndarray, exact: list[list[int]], wanted: bool, report: Callable[[str], None]
    ):
        firsts = np.sort(np.unique(digests, return_index=True)[1])
        limit = copies.AT_MOST if wanted else QUICK
        self.rows = spread(firsts, limit)
        self.members = {group[0]: group for group in exact}
        points = data.shape[1:] == (1, 1)
        if wanted and not points:
            report(f"comparing {counted(len(self.rows), 'picture')} with each other")
        self.found = None if points else copies.thumbnails(data.pictures, data.values, self.rows)

    def groups(self, flipped: bool) -> list[list[int]]:
        """Groups of indices of near copies, with the exact copies of their members."""
        if self.found is None:
            return []
        groups = [[int(self.rows[i]) for i in group] for group in copies.near_copies(self.found, flipped)]
        return [sorted(m for i in group for m in self.members.get(i, [i])) for group in groups]


def _values(data: Dataset) -> tuple[tuple[dict[str, float], ...], list[int]]:
    """Smallest, largest and mean stored value and standard deviation of each channel; indices of constant pictures."""
    low, high = np.full(data.shape[0], np.inf), np.full(data.shape[0], -np.inf)
    means, squares = np.empty((2, len(data), data.shape[0]))  # of each picture, so that parts of any size give the same
    offset, scale = np.array(data.values.offset), np.array(data.values.scale)
    for part in in_parts(len(data), data.shape):
        stored = np.asarray(data.pictures[part])
        x = data.values.encode(stored).reshape(*stored.shape[:2], -1)
        low, high = np.minimum(low, stored.min(axis=(0, 2, 3))), np.maximum(high, stored.max(axis=(0, 2, 3)))
        means[part] = x.mean(axis=2)
        squares[part] = np.square(x - means[part][..., None]).mean(axis=2)
    points = data.shape[1:] == (1, 1)
    flat = [] if points else np.flatnonzero(np.sqrt(squares.mean(axis=1)) < copies.FLAT).tolist()
    mean = means.mean(axis=0)
    deviation = np.sqrt(squares.mean(axis=0) + means.var(axis=0)) * scale
    rows = zip(low.tolist(), high.tolist(), (mean * scale + offset).tolist(), deviation.tolist())
    return tuple({"low": a, "high": b, "mean": c, "deviation": d} for a, b, c, d in rows), flat


def _originals(kinds: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """How many originals have each mode and each size, most frequent first."""
    modes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for kind, count in kinds.items():
        mode, _, size = kind.rpartition(" ")
        modes[mode] += count
        sizes[size] += count
    return dict(modes.most_common()), dict(sizes.most_common())


def _classes(data: Dataset) -> dict[str, int]:
    """Number of pictures in each class."""
    if data.labels is None:
        return {}
    counts = np.bincount(data.labels, minlength=len(data.classes))
    return {printable(name): int(count) for name, count in zip(data.classes, counts)}


def _named(groups: list[list[int]], names: list[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of indices as groups of names."""
    return tuple(tuple(names[i] for i in group) for group in groups)
