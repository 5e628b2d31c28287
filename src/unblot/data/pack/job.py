"""What is packed into shards, and how: the same on every machine that takes part."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.cache.build import spec_of
from unblot.data.image_spec import ImageOptions, ImageSpec
from unblot.data.readers.listing import Listing
from unblot.data.readers.reading import Reader
from unblot.data.shards.index import JOB, VERSION
from unblot.data.split import digest
from unblot.data.subset import spread
from unblot.errors import UnblotError, printable
from unblot.process.randomness import epoch_order
from unblot.system.files import write_text

SHARD_BYTES = 64 * 10**6  # of a shard, unless another number of pictures is asked for
SAMPLE, BEGINNING = 512, 2**16  # pictures whose content tells one data set from another, and bytes of each file


@dataclass(frozen=True)
class Reading:
    """How pictures are read: brought to which size and colours, by which options of the source, with labels and
    captions or not; which share is held out; and whether broken ones "stop" the packing, or it goes on ("skip")."""

    options: ImageOptions
    source_options: Mapping[str, Any]
    labels: bool
    captions: bool
    held_out: float
    on_broken: str


@dataclass(frozen=True)
class Job:
    """What is packed: the listing, the kind of its pictures, and where to.

    scratch: a folder for shards that are not finished. held_out: the share that is held out. caption_notes: what is to
    be said of the captions. shards: for each shard the indices of its pictures in the listing, ascending.
    """

    listing: Listing
    spec: ImageSpec
    folder: Path
    scratch: Path
    held_out: float
    labels: bool
    captions: bool
    caption_notes: tuple[str, ...]
    shards: Sequence[np.ndarray]

    @property
    def rows_each(self) -> int:
        """Room for the pictures of one shard, in the numbers of rows."""
        return max(map(len, self.shards))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what is to be packed and how, the same on every machine that has the same files."""
        array = self.listing.array
        what = [array.shape, array.dtype.str] if array else [[i.name, i.size, i.page] for i in self.listing.items]
        labels = None if self.listing.labels is None else self.listing.labels.tolist()
        told = None if self.listing.captions is None else self.listing.captions.texts
        how = [VERSION, self.spec, self.held_out, self.labels, self.captions, len(self.shards), self.listing.classes]
        about = [what, sampled(self.listing), labels, told, how]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def sampled(listing: Listing) -> list[int]:
    """Hashes of what SAMPLE pictures hold, spread over the listing; 0 for one that cannot be read."""
    chosen = spread(np.arange(len(listing)), SAMPLE).tolist()
    if listing.array:
        return [digest(listing.array.rows(i, i + 1)) for i in chosen]
    found = []
    with Reader(listing.root, listing.pages, listing.read) as reader:
        for i in chosen:
            try:
                found.append(digest(np.frombuffer(reader.beginning(listing.items[i], BEGINNING), np.uint8)))
            except UnblotError:  # it is reported when it is decoded
                found.append(0)
    return found


def make_job(listing: Listing, folder: Path, scratch: Path, reading: Reading, each: int | None) -> Job:
    """What is to be packed. Raises UnblotError where not one picture can be used."""
    spec = spec_of(listing, reading.options)
    size = spec.channels * spec.height * spec.width * np.dtype(spec.dtype).itemsize
    count = -(-len(listing) // (each or max(1, SHARD_BYTES // size)))
    order = epoch_order(0, 0, len(listing)).numpy()
    shards = [np.sort(some) for some in np.array_split(order, count)]
    labels = reading.labels and listing.labels is not None
    captions = reading.captions and listing.captions is not None and bool(listing.captions.texts)
    notes = listing.captions.notes if reading.captions and listing.captions is not None else ()
    return Job(listing, spec, folder, scratch, reading.held_out, labels, captions, notes, shards)


def claim(job: Job, spec: str) -> None:
    """Notes in the folder what is packed into it. Raises UnblotError where that is something else."""
    path = job.folder / JOB
    about = {"job": job.fingerprint, "shards": len(job.shards), "pictures": len(job.listing)}
    try:
        there = json.loads(path.read_text())
    except FileNotFoundError:
        if any(not path.name.startswith(".") for path in job.folder.iterdir()):  # as data it would be the shards alone
            raise UnblotError(f"{str(job.folder)!r} holds files that are no shards; choose an empty folder") from None
        write_text(path, json.dumps(about, indent=1) + "\n")
        return
    except ValueError:
        there = None
    if there != about:
        raise UnblotError(
            f"{str(job.folder)!r} holds shards of other pictures than {printable(spec)!r}, or packed in another way; "
            "choose another folder, or remove it"
        )
