"""A data set: pictures, labels, the map of their values, and batches of them for the network."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unblot.data.cache import pool
from unblot.data.cache.build import Progress, Report, cache_folder, cached_dataset, early_workers
from unblot.data.cache.manifest import CachedDataset
from unblot.data.image_spec import ImageOptions, colour_of, parse_size
from unblot.data.readers.listing import cannot_be_used, readable
from unblot.data.readers.sources import kind_of, open_source, split_spec
from unblot.data.shards.files import ShardFiles
from unblot.data.shards.index import ShardIndex
from unblot.data.shards.stream import Stream
from unblot.data.split import AT_MOST, check_choices, parted, split
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg
from unblot.nn.autoencoder import Autoencoder


@dataclass(frozen=True, eq=False)  # compared by identity: comparing arrays would take long
class Dataset:
    """Pictures ready to train on.

    pictures: (N, C, H, W) in the stored type, perhaps memory-mapped. labels: (N,) int64 indices into `classes`,
    None when unlabelled. train, held_out: (n,) int64 indices; copies of one picture are never in both. fingerprint: a
    hash of the content, equal for the same pictures at another place. cached: names, broken pictures and kinds of the
    originals, None for a data set that was not read from a source. captions: for
    each of the N pictures, in order, its captions, one or several, () for a picture without any; None where no picture
    has one, or where they are not asked for. autoencoder, latents: through which a run sees the pictures, and what it
    sees, (N, c, h, w) float32; None where it sees the pictures themselves. stream: the training pictures, where they
    stay in shards; all else is then a sample of them. None where they are `pictures[train]`.
    """

    name: str
    pictures: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    values: ValueMap
    fingerprint: str
    train: np.ndarray
    held_out: np.ndarray
    cached: CachedDataset | None = None
    captions: tuple[tuple[str, ...], ...] | None = None
    autoencoder: Autoencoder | None = None
    latents: np.ndarray | None = None
    stream: Stream | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture."""
        _, c, h, w = self.pictures.shape
        return c, h, w

    @property
    def training_count(self) -> int:
        """The number of training pictures."""
        return len(self.train) if self.stream is None else len(self.stream)

    def label_shares(self, count: int) -> tuple[float, ...]:
        """The share of the training pictures with each of `count` labels; empty for a data set without labels."""
        if self.labels is None:
            return ()
        return tuple((np.bincount(self.labels[self.train], minlength=count) / len(self.train)).round(6).tolist())

    def batch(self, indices: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures (B, C, H, W) float32 in the network's range and their labels (B,) int64, for B indices."""
        index = np.asarray(indices)
        labels = None if self.labels is None else torch.from_numpy(self.labels[index])
        encoded = self.values.encode(np.asarray(self.pictures[index]), np.float32)
        return torch.from_numpy(encoded), labels

    def training_names(self, positions: np.ndarray) -> list[str]:
        """What people call the training pictures at these positions."""
        if self.stream is not None:
            return self.stream.names(positions)
        return [self.cached.names[i] if self.cached else str(i) for i in self.train[positions].tolist()]


def open_data(
    spec: str,
    *,
    size: int | str | tuple[int, int] | None = None,
    fit: str = "crop",
    colour: str = "",
    background: str = "",
    labels: bool = True,
    captions: bool = True,
    on_broken: str = "stop",
    held_out: float = 0.05,
    pages: str = "",
    options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    workers: int = 0,
    report: Report = lambda line: None,
    progress: Progress = lambda done, count: None,
) -> Dataset:
    """The data set of a spec: `digits`, `moons:count=5000`, a folder, `stack.tif:pages=channels`, `hf:NAME`, shards.

    size: 64, "48x64" (height x width), or None for a size that suits the pictures; fit: crop, pad or stretch. colour:
    gray, rgb or rgba, "" for the pictures' own; background: a colour under transparent pictures, "" to keep opacity.
    labels: False reads all pictures without labels. captions: False leaves the captions out. on_broken: "stop" or
    "skip". held_out: the share that is not trained on, 0 to 1. pages: whether a TIFF's pages are pictures or channels.
    options: of the source, in place of the spec's. cache: the folder of dataset caches. workers: decoding processes, 0
    for one a core. report receives lines for the user, progress the counts (done, all) while the cache is built. Raises
    UnblotError where nothing is usable or, with on_broken="stop", anything is broken, and names it.
    """
    check_choices(on_broken, held_out)
    image_options = ImageOptions(parse_size(size), fit, colour, background)
    source_options = dict(options or {}) | ({"pages": pages} if pages else {})
    caches = Path(cache or cache_folder())
    source_options |= {"on_broken": on_broken} if kind_of(place := split_spec(spec)[0]) == "shards" else {}
    with pool.started(early_workers(place, image_options, caches, workers or pool.cores())) as idle:
        source, stamp = open_source(spec, source_options, labels=labels)
        if source.index is not None:
            image_options = _as_packed(source.index, image_options, held_out)
        how = (report, progress, workers, idle, on_broken == "stop")
        cached = cached_dataset(source, stamp, image_options, caches, *how)
    cached, texts = _captioned(cached, captions)
    _report(cached, on_broken, report)
    train, out = _parts(cached, held_out, report)
    used = (cached.labels, cached.classes) if labels else (None, ())
    stream = None
    if source.index is not None:
        files = ShardFiles(source.index, place, caches / "shards", on_broken == "skip", report)
        stream = Stream(source.index, files, cached.values, labels, texts is not None)
    fingerprint = stream.fingerprint if stream else _fingerprint(cached, labels, texts)
    name = readable(source.name) or "data"
    return Dataset(name, cached.pictures, *used, cached.values, fingerprint, train, out, cached, texts, stream=stream)


def _parts(cached: CachedDataset, share: float, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n,) of training and of held-out pictures; reports where none are held out although there are enough."""
    train, held_out = split(cached.families, share) if cached.held_out is None else parted(cached.held_out)
    if share and not len(held_out) and len(train) * AT_MOST >= 1:
        reason = "all are copies of one another" if cached.held_out is None else "packing held out none of them"
        report(f"no picture is held out, as {reason}: nothing will tell whether a model learns them by heart")
    return train, held_out


def _as_packed(index: ShardIndex, options: ImageOptions, held_out: float) -> ImageOptions:
    """The options by which a sample of shards is what was packed. Raises UnblotError for choices of another kind."""
    channels, height, width = index.shape
    colour = (colour_of(channels) if index.alpha == (channels == 4) else "") or f"{channels} channels"
    given = {
        "size": options.size not in (None, (height, width)) and f"{height}x{width}",
        "colour": options.colour not in ("", colour) and colour,
        "background": options.background and "what was chosen then",
        "held_out": held_out != index.held_out and f"{index.held_out:g}",
    }
    for name, packed in given.items():
        if packed:
            raise UnblotError(
                f"shards are read as they were packed, with {packed}; leave {arg(name)} as it was, or pack them again"
            )
    return ImageOptions((height, width))


def _captioned(cached: CachedDataset, wanted: bool) -> tuple[CachedDataset, tuple[tuple[str, ...], ...] | None]:
    """The pictures with the notes about their captions if these are wanted; and the captions, None for none."""
    if not wanted or cached.captions is None:
        return cached, None
    return replace(cached, notes=(*cached.notes, *cached.captions.notes)), cached.captions.texts or None


def _report(cached: CachedDataset, on_broken: str, report: Report) -> None:
    """Reports how the source was read, and broken pictures. Raises UnblotError where these are a reason to stop."""
    for note in cached.notes:
        report(note)
    if cached.broken and on_broken == "stop":
        way_out = f"repair them, or leave them out with {arg('on_broken', 'skip')}"
        raise UnblotError(cannot_be_used(cached.broken, way_out))
    if cached.broken:
        report(cannot_be_used(cached.broken, "left out"))


def _fingerprint(cached: CachedDataset, labels: bool, captions: tuple[tuple[str, ...], ...] | None) -> str:
    """A hash of the pictures' values and, if used, of labels and captions; not of the names and places of files."""
    digest = hashlib.sha256(repr((cached.pictures.shape[1:], cached.pictures.dtype.name)).encode())
    digest.update(cached.digests.tobytes())
    if labels and cached.labels is not None:
        digest.update(repr(cached.classes).encode() + cached.labels.tobytes())
    if captions is not None:
        digest.update(repr(captions).encode())
    return digest.hexdigest()[:32]
