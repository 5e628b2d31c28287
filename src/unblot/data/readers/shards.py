"""A data set in shards, of which a sample is listed like any other source; training reads the rest as it goes."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from unblot.data.readers.listing import ArrayPictures, Captions, DataSource, Listing
from unblot.data.shards import places
from unblot.data.shards.files import OpenShard, ShardFiles
from unblot.data.shards.index import INDEX, JOB, ShardIndex
from unblot.errors import UnblotError, counted, printable

SAMPLE_PICTURES, SAMPLE_BYTES = 20_000, 2**30  # that statistics are made of, and held-out losses and metrics


def shards(path: str, *, on_broken: str = "stop") -> DataSource:
    """A folder of shards that `unblot pack` wrote, or its address; a sample of it, from its first shards.

    on_broken: whether shards that cannot be used are left out, "skip", or an error, "stop".
    """
    index = read_index(path)
    folder = places.local_folder(path)
    if folder is not None and on_broken != places.SKIP:
        for shard in index.shards:  # a glance at all of them, rather than an error after hours
            if not (folder / shard.file).exists():
                raise places.refuse(path, shard.file, "it is not there")
    name = PurePosixPath(path.rstrip("/")).name or "shards"

    def load(scratch: Path) -> Listing:
        files = ShardFiles(index, path, scratch / "shards", on_broken == places.SKIP, _quiet)
        return _sample(index, files)

    place = path if folder is None else str(folder.resolve())
    return DataSource(name, [place, index.fingerprint(True, True)], load, index)


def read_index(path: str) -> ShardIndex:
    """The index of a folder of shards. Raises UnblotError where there is none, and says how far packing came."""
    try:
        return ShardIndex.from_json(places.read_file(path, INDEX), path)
    except places.Missing as reason:
        with suppress(places.Missing):
            places.read_file(path, JOB)
            raise UnblotError(
                f"packing into {printable(path)!r} was not finished: {INDEX} is not there; run the same unblot pack "
                "again, every part of it"
            ) from None
        raise UnblotError(f"{printable(path)!r} holds no shards: {INDEX}: {reason}") from None


def has_shards(path: str) -> bool:
    """Whether a folder of this machine was packed into, or is being packed into."""
    with suppress(OSError):
        folder = Path(path)
        return (folder / JOB).is_file() or ((folder / INDEX).is_file() and (folder / "00000.npy").is_file())
    return False


def _quiet(line: str) -> None:
    """Takes the lines on shards that are left out of the sample: training says them of all."""


class _Part(NamedTuple):
    """Some pictures of a shard, in the sample: their rows, the first `held_out` of which are not trained on."""

    shard: OpenShard
    rows: np.ndarray
    held_out: int


def _sample(index: ShardIndex, files: ShardFiles) -> Listing:
    """The pictures of the first shards, as many as a sample may have; at least some of one."""
    parts = list(_parts(index, files))
    if not parts:
        raise places.refuse(files.place, index.shards[0].file, "and neither can any other")
    shard_of = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    row_of = np.concatenate([part.rows for part in parts])
    count = len(row_of)

    def rows(start: int, stop: int) -> np.ndarray:
        here = shard_of[start:stop]
        return np.concatenate([parts[i].shard.rows(row_of[start:stop][here == i]) for i in np.unique(here)])

    note = (
        f"{index.count:,} pictures in {counted(len(index.shards), 'shard')}, read while training; statistics, "
        f"held-out losses and metrics are those of {count:,} of them"
    )
    texts = tuple(part.shard.captions[row] for part in parts if part.shard.captions for row in part.rows)
    labels = [part.shard.labels[part.rows] for part in parts if part.shard.labels is not None]
    return Listing(
        array=ArrayPictures((count, *index.shape), np.dtype(index.dtype), rows, index.alpha),
        labels=np.concatenate(labels) if labels else None,
        classes=index.classes,
        notes=(*index.notes, *([note] if count < index.count else [])),
        captions=Captions(texts, index.caption_notes) if index.captioned or index.caption_notes else None,
        held_out=np.concatenate([np.arange(len(part.rows)) < part.held_out for part in parts]),
    )


def _parts(index: ShardIndex, files: ShardFiles) -> Iterator[_Part]:
    """The shards of a sample, of the last one a part."""
    room = min(SAMPLE_PICTURES, max(2, SAMPLE_BYTES // index.picture_bytes))
    for number, shard in enumerate(index.shards):
        if room <= 0:
            return
        opened = files.open(number)
        if opened is None:
            continue
        held_out = min(shard.held_out, room // 4 if room < shard.pictures else shard.held_out)
        training = min(shard.training, room - held_out)
        room -= held_out + training
        rows = np.concatenate([np.arange(held_out), shard.held_out + np.arange(training)])
        yield _Part(opened, rows, held_out)
