"""What a finished dataset cache holds, in memory and in its folder."""

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.cache.journal import OnDisk
from unblot.data.image_spec import ImageSpec
from unblot.data.readers.damage import reason_of
from unblot.data.readers.listing import Broken, Captions, Listing, is_passing
from unblot.data.readers.metadata import CONVERTED, FIRST_PAGE
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, counted
from unblot.system.files import checksum
from unblot.system.stored import signed, unsigned

FITTED = {"crop": "resized and cropped", "pad": "resized and padded", "stretch": "stretched"}


@dataclass(frozen=True)
class CachedDataset:
    """All usable pictures of a source, of one image spec.

    pictures: (N, C, H, W) of the stored type. digests: (N,) int64, hashes of each picture's values. families: (N,)
    int64, equal for copies of one picture. labels: (N,) int64 indices into `classes`, or None. names: of each picture,
    for people. kinds: how many originals there were of each kind and size, as "8-bit RGB 640x480". notes: lines that a
    person should read. captions: of the pictures, None where there is nothing to be said of any. held_out: (N,) bool,
    which pictures are not trained on, None where their content decides.
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
    captions: Captions | None
    held_out: np.ndarray | None = None


def load_cached(folder: Path) -> CachedDataset | None:
    """The dataset cache in a folder; None where there is none, or where it is damaged or edited and was removed.

    Raises UnblotError where the system cannot read it now: it stays as it is.
    """
    try:
        manifest = _manifest(folder)
        pictures = np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False)
        digests, families = np.load(folder / "digests.npy", allow_pickle=False)
        if [*pictures.shape, pictures.dtype.str] != manifest["array"]:
            raise ValueError("other pictures than the manifest's")
        found = CachedDataset(
            pictures,
            digests,
            families,
            None if manifest["labels"] is None else np.array(manifest["labels"], np.int64),
            tuple(manifest["classes"]),
            manifest["names"],
            ValueMap.from_dict(manifest["values"]),
            tuple(Broken(*b) for b in manifest["broken"]),
            manifest["kinds"],
            tuple(manifest["notes"]),
            None if manifest["captions"] is None else _captions(*manifest["captions"]),
            None if manifest.get("held_out") is None else np.array(manifest["held_out"], bool),
        )
    except Exception as error:  # whatever was done to the files: the cache is built again
        if is_passing(error) and not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = f"cannot read the dataset cache in {str(folder)!r}: {reason_of(error)}"
            raise UnblotError(f"{reason}; try again, or set UNBLOT_CACHE to another folder") from None
        shutil.rmtree(folder, ignore_errors=True)
        return None
    shutil.rmtree(folder / "work", ignore_errors=True)
    return found


def write_manifest(folder: Path, about: dict[str, Any], fitted: ValueMap, pictures: OnDisk) -> None:
    """Writes manifest.json beside digests.npy: with the hash of those, shape and type of the pictures, and its own."""
    labels = None if about["labels"] is None else about["labels"].tolist()
    array = [*pictures.shape, pictures.dtype.str]
    captions = None if about["captions"] is None else [about["captions"].texts, about["captions"].notes]
    more = {"labels": labels, "captions": captions, "values": fitted.to_dict(), "array": array}
    more["held_out"] = None if about["held_out"] is None else about["held_out"].tolist()
    more["digests"] = checksum(folder / "digests.npy")
    (folder / "manifest.json").write_text(signed(about | more) + "\n")


def _captions(texts: list[list[str]], notes: list[str]) -> Captions:
    return Captions(tuple(map(tuple, texts)), tuple(notes))


def _manifest(folder: Path) -> dict[str, Any]:
    """The contents of manifest.json. Raises ValueError where they, or the digests beside them, were changed."""
    manifest = unsigned((folder / "manifest.json").read_text())
    if manifest["digests"] != checksum(folder / "digests.npy"):
        raise ValueError("other digests than the manifest's")
    return manifest


def describe(
    listing: Listing,
    spec: ImageSpec,
    digests: np.ndarray,
    broken: dict[int, str],
    kinds: dict[str, int],
) -> dict[str, Any]:
    """What a dataset cache says of its pictures besides their values."""
    kept = np.flatnonzero(digests)
    return {
        "labels": None if listing.labels is None else listing.labels[kept],
        "classes": listing.classes,
        "names": [name_of(listing, i) for i in kept.tolist()],
        "broken": (*listing.broken, *(Broken(name_of(listing, i), why) for i, why in sorted(broken.items()))),
        "kinds": dict(sorted(kinds.items())),
        "notes": (*listing.notes, *conversions(spec, kinds)),
        "captions": _kept_captions(listing.captions, kept),
        "held_out": None if listing.held_out is None else listing.held_out[kept],
    }


def _kept_captions(captions: Captions | None, kept: np.ndarray) -> Captions | None:
    """The captions of the pictures that could be used."""
    if captions is None or not captions.texts:
        return captions
    texts = tuple(captions.texts[i] for i in kept.tolist())
    return replace(captions, texts=texts if any(texts) else ())


def conversions(spec: ImageSpec, kinds: dict[str, int]) -> list[str]:
    """What was done to the pictures to bring them to the image spec."""
    notes = []
    size, count = f"{spec.width}x{spec.height}", sum(kinds.values())
    if other := sum(n for kind, n in kinds.items() if kind.split(" ")[-1] != size):
        change = f"{FITTED[spec.fit]} to height {spec.height}, width {spec.width}"
        notes.append(f"{other} of {counted(count, 'picture')} had another size: {change} (the options size and fit)")
    modes: Counter[str] = Counter()
    for kind, n in kinds.items():
        modes[kind.rpartition(" ")[0]] += n
    if converted := sum(n for mode, n in modes.items() if CONVERTED in mode):
        notes.append(f"{counted(converted, 'picture')} converted to sRGB: the file holds another colour profile")
    if paged := sum(n for mode, n in modes.items() if mode.endswith(FIRST_PAGE)):
        notes.append(
            f"only the first page is read of {counted(paged, 'file')}: TIFF of several pages under another suffix; "
            "name such files .tif to read all pages"
        )
    if len(modes) > 1:
        numbers = ", ".join(f"{n} {mode}" for mode, n in modes.most_common())
        all_became = f"all became {counted(spec.channels, 'channel')} of {spec.dtype}"
        notes.append(f"pictures of several kinds ({numbers}): {all_became}")
    return notes


def name_of(listing: Listing, index: int) -> str:
    """What people call a picture: its file's name, with its page, or its number."""
    if listing.array:
        return f"picture {index}"
    item = listing.items[index]
    return f"{item.name}, page {item.page}" if item.page >= 0 else item.name
