"""A data set: pictures, labels, the map of their values, and batches of them for the network."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from unblot.data import formats, values
from unblot.data.listing import Broken, Listing, printable
from unblot.data.sources import open_source
from unblot.data.split import digest, split
from unblot.data.values import ValueMap
from unblot.errors import UnblotError


@dataclass(frozen=True)
class Dataset:
    """Pictures ready to train on.

    pictures: (N, C, H, W) in the stored type, perhaps memory-mapped. labels: (N,) int64 indices into `classes`,
    None when unlabelled. train, held_out: (n,) int64 indices, copies of one picture never on both sides.
    fingerprint: of the content, so that the same pictures elsewhere have the same one.
    """

    name: str
    pictures: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    values: ValueMap
    fingerprint: str
    train: np.ndarray
    held_out: np.ndarray
    broken: tuple[Broken, ...] = ()
    on_device: torch.Tensor | None = None

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
        if self.on_device is not None:
            chosen = torch.from_numpy(index).to(self.on_device.device)
            return self.on_device[chosen], None if labels is None else labels.to(self.on_device.device)
        encoded = self.values.encode(np.asarray(self.pictures[index]), np.float32)
        return torch.from_numpy(encoded), labels

    def to(self, device: torch.device | str, limit_bytes: int = 2**30) -> Self:
        """The same data set with all pictures encoded and kept on the device, if that takes at most limit_bytes."""
        if self.pictures.size * 4 > limit_bytes:
            return self
        every = self.values.encode(np.asarray(self.pictures), np.float32)
        return replace(self, on_device=torch.from_numpy(every).to(device))


def open_data(
    spec: str,
    *,
    size: int | str | tuple[int, int] | None = None,
    fit: str = "crop",
    on_broken: str = "stop",
    held_out: float = 0.05,
    options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> Dataset:
    """The data set that a spec names: `digits`, `moons:count=5000`, a folder, `stack.npy`, …

    Raises UnblotError when there is nothing there, nothing usable, or (on_broken="stop") anything broken.
    """
    source = open_source(spec, dict(options or {}))
    listing = source.load()
    pictures, kept, broken = _read(listing)
    broken = [*listing.broken, *broken]
    if broken and on_broken != "skip":
        told = "\n".join(f"  {b}" for b in broken)
        raise UnblotError(f"{len(broken)} pictures are broken; mend them or skip them (--on-broken skip):\n{told}")
    if not len(pictures):
        raise UnblotError(f"no usable picture in {printable(spec)!r}")
    labels = None if listing.labels is None else listing.labels[kept]
    digests = np.array([digest(p) for p in pictures], np.int64)
    train, out = split(digests, held_out)
    content = hashlib.sha256(repr((pictures.shape[1:], pictures.dtype.name, listing.classes)).encode())
    content.update(digests.tobytes() + (b"" if labels is None else labels.tobytes()))
    return Dataset(
        source.name,
        pictures,
        labels,
        listing.classes,
        values.fit(pictures),
        content.hexdigest()[:32],
        train,
        out,
        tuple(broken),
    )


def _read(listing: Listing) -> tuple[np.ndarray, np.ndarray, list[Broken]]:
    """All pictures (n, C, H, W), the indices (n,) of those that could be read, and the others."""
    broken: list[Broken] = []
    kept: list[int] = []
    pictures: list[np.ndarray] = []
    for i in range(len(listing)):
        try:
            picture = _picture(listing, i)
            if pictures and picture.shape != pictures[0].shape:
                raise UnblotError(f"its shape is {picture.shape}, the first picture's {pictures[0].shape}")
            pictures.append(picture)
            kept.append(i)
        except (UnblotError, OSError) as error:
            name = f"picture {i}" if listing.array else listing.items[i].name
            broken.append(Broken(name, str(error)))
    return np.array(pictures), np.array(kept, np.int64), broken


def _picture(listing: Listing, i: int) -> np.ndarray:
    """Picture i (C, H, W), after checking that its values are finite."""
    if listing.array:
        picture = listing.array.rows(i, i + 1)[0]
    else:
        with open(os.path.join(listing.root, listing.items[i].name), "rb") as file:
            picture = formats.decode(file.read())
    if not np.isfinite(picture).all():
        raise UnblotError("some values are not finite (NaN or infinity)")
    return picture
