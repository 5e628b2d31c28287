"""A data set: pictures, labels, the map of their values, and batches of them for the network."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unblot.data.cache import pool
from unblot.data.cache.build import Progress, Report, cache_folder, cached_dataset, is_new
from unblot.data.cache.manifest import CachedDataset
from unblot.data.image_spec import ImageOptions, parse_size
from unblot.data.readers.listing import Broken, counted
from unblot.data.readers.sources import open_source
from unblot.data.split import split
from unblot.data.values import ValueMap
from unblot.errors import UnblotError


@dataclass(frozen=True, eq=False)  # one is like another only if it is the same
class Dataset:
    """Pictures ready to train on.

    pictures: (N, C, H, W) in the stored type, perhaps memory-mapped. labels: (N,) int64 indices into `classes`,
    None when unlabelled. train, held_out: (n,) int64 indices, copies of one picture never on both sides.
    fingerprint: of the content, so that the same pictures elsewhere have the same one. packed: where all this comes
    from: names, broken pictures, kinds of originals.
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

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture."""
        _, c, h, w = self.pictures.shape
        return c, h, w

    def batch(self, indices: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures (B, C, H, W) float32 in the network's range and their labels (B,) int64, for B indices."""
        index = np.asarray(indices)
        labels = None if self.labels is None else torch.from_numpy(self.labels[index])
        encoded = self.values.encode(np.asarray(self.pictures[index]), np.float32)
        return torch.from_numpy(encoded), labels


def open_data(
    spec: str,
    *,
    size: int | str | tuple[int, int] | None = None,
    fit: str = "crop",
    colour: str = "",
    background: str = "",
    labels: bool = True,
    on_broken: str = "stop",
    held_out: float = 0.05,
    pages: str = "",
    options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    workers: int = 0,
    report: Report = lambda line: None,
    progress: Progress = lambda done, count: None,
) -> Dataset:
    """The data set that a spec names: `digits`, `moons:count=5000`, a folder, `stack.tif:pages=channels`, `hf:NAME`.

    size: 64, "48x64" (height x width) or None for what suits the pictures; fit: crop, pad or stretch. colour: gray,
    rgb or rgba, "" for what is there; background: a colour to lay transparent pictures over, "" to keep opacity.
    labels: False ignores them. on_broken: "stop" or "skip". held_out: the share kept from training. pages: what
    a TIFF's pages are, pictures or channels. options: of the source, laid over the spec's. cache: the folder of
    packs. workers: decoding processes, 0 for one a core. report gets lines for people, progress the counts (done,
    all) while packing.

    Raises UnblotError when there is nothing there, nothing usable or, with on_broken="stop", anything broken; it
    then names every broken picture and why.
    """
    if on_broken not in ("stop", "skip"):
        raise UnblotError(f"unknown way with broken pictures {on_broken!r}; choose stop or skip")
    if not 0 <= held_out < 1:
        raise UnblotError(f"a held-out share of {held_out} makes no sense; give 0 or more, less than 1")
    image_options = ImageOptions(parse_size(size), fit, colour, background)
    given = dict(options or {}) | ({"pages": pages} if pages else {})
    packs = Path(cache or cache_folder())
    with pool.started((workers or pool.cores()) if is_new(spec, image_options, packs) else 0) as idle:
        source, stamp = open_source(spec, given)
        cached = cached_dataset(source, stamp, image_options, packs, report, progress, workers, idle)
    for note in cached.notes:
        report(note)
    if cached.broken and on_broken == "stop":
        raise UnblotError(_told(cached.broken, "mend them, or leave them out with --on-broken skip"))
    if cached.broken:
        report(_told(cached.broken, "left out"))
    train, out = split(cached.families, held_out)
    return Dataset(
        source.name,
        cached.pictures,
        cached.labels if labels else None,
        cached.classes if labels else (),
        cached.values,
        _fingerprint(cached, labels),
        train,
        out,
        cached,
    )


def _told(broken: Sequence[Broken], way_out: str) -> str:
    """Every broken picture and why, a line each."""
    return "\n  ".join([f"{counted(len(broken), 'picture')} cannot be used; {way_out}:", *map(str, broken)])


def _fingerprint(cached: CachedDataset, labels: bool) -> str:
    """A hash of the pictures' values and, if they count, labels; not of where they lie or what they are called."""
    told = hashlib.sha256(repr((cached.pictures.shape[1:], cached.pictures.dtype.name)).encode())
    told.update(cached.digests.tobytes())
    if labels and cached.labels is not None:
        told.update(repr(cached.classes).encode() + cached.labels.tobytes())
    return told.hexdigest()[:32]
