"""What a finished pack holds, in memory and in its folder."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.image_spec import ImageOptions, ImageSpec
from unblot.data.readers.listing import Broken, Listing
from unblot.data.values import ValueMap

DONE = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}


@dataclass(frozen=True)
class CachedDataset:
    """All usable pictures of a source in one form.

    pictures: (N, C, H, W) of the stored type. digests: (N,) int64, of each picture's values. families: (N,) int64, the
    same number for copies of one picture. labels: (N,) int64
    indices into `classes`, or None. names: of each picture, for people. kinds: how many there were of each kind and
    size of original, as "8-bit RGB 640x480". notes: what a person should know.
    """

    pictures: np.ndarray
    digests: np.ndarray
    families: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    names: list[str]
    values: ValueMap
    broken: tuple[Broken, ...]
    kinds: dict[str, int]
    notes: tuple[str, ...]


def load_cached(folder: Path) -> CachedDataset | None:
    """The pack in a folder, None where there is none or it is damaged."""
    try:
        told = json.loads((folder / "manifest.json").read_text())
        pictures = np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False)
        digests, families = np.load(folder / "digests.npy", allow_pickle=False)
        if not len(pictures) == len(digests) == len(told["names"]):
            raise ValueError
    except (OSError, ValueError, KeyError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    shutil.rmtree(folder / "work", ignore_errors=True)
    return CachedDataset(
        pictures,
        digests,
        families,
        None if told["labels"] is None else np.array(told["labels"], np.int64),
        tuple(told["classes"]),
        told["names"],
        ValueMap.from_dict(told["values"]),
        tuple(Broken(*b) for b in told["broken"]),
        told["kinds"],
        tuple(told["notes"]),
    )


def describe(
    listing: Listing,
    spec: ImageSpec,
    options: ImageOptions,
    digests: np.ndarray,
    broken: dict[int, str],
    kinds: dict[str, int],
) -> dict[str, Any]:
    """What a pack says of its pictures besides their values."""
    kept = np.flatnonzero(digests)
    return {
        "labels": None if listing.labels is None else listing.labels[kept],
        "classes": listing.classes,
        "names": [name_of(listing, i) for i in kept.tolist()],
        "broken": (*listing.broken, *(Broken(name_of(listing, i), why) for i, why in sorted(broken.items()))),
        "kinds": dict(sorted(kinds.items())),
        "notes": (*listing.notes, *_notes(spec, options, kinds)),
    }


def _notes(spec: ImageSpec, options: ImageOptions, kinds: dict[str, int]) -> list[str]:
    """What was done to the pictures on the way into their form."""
    notes = []
    size = f"{spec.width}x{spec.height}"
    others = {kind: n for kind, n in kinds.items() if kind.split(" ")[-1] != size}
    if others:
        told = f"{DONE[spec.fit]} to height {spec.height}, width {spec.width} (--size, --fit)"
        notes.append(f"{sum(others.values())} of {sum(kinds.values())} pictures are of other sizes: {told}")
    modes: Counter[str] = Counter()
    for kind, n in kinds.items():
        modes[kind.rpartition(" ")[0]] += n
    if len(modes) > 1:
        told = ", ".join(f"{n} {mode}" for mode, n in modes.most_common())
        notes.append(f"pictures of several kinds ({told}): all became {spec.channels} channels of {spec.dtype}")
    return notes


def name_of(listing: Listing, index: int) -> str:
    """What a picture is called."""
    if listing.array:
        return f"picture {index}"
    item = listing.items[index]
    return f"{item.name}, page {item.page}" if item.page >= 0 else item.name
