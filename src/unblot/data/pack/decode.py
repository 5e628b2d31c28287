"""The pictures of shards, decoded by worker processes, shard after shard."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from unblot.data.cache import pool
from unblot.data.cache.build import cost_of
from unblot.data.cache.decoding import Decoded, decode_array, decode_items
from unblot.data.cache.place import ALONE
from unblot.data.cache.worker import part_of_rows, write_rows
from unblot.data.pack.job import Job
from unblot.data.pack.write import Decoding, write_shard
from unblot.data.readers.reading import Reader
from unblot.errors import UnblotError, arg


def fill(
    job: Job, missing: Sequence[int], decode_all: Callable[..., Iterator[Decoded]], progress: Callable[[int, int], None]
) -> None:
    """Writes the shards of these numbers. Raises UnblotError where they cannot be written."""
    count, done = sum(len(job.shards[s]) for s in missing), 0
    opened: dict[int, Decoding] = {}
    progress(0, count)
    try:
        for result in _results(job, missing, count, decode_all):
            number, first = divmod(result.start, job.rows_each)
            if result.colourful:
                raise UnblotError(
                    "some pictures are in colour after all, and the first ones were gray; remove "
                    f"{str(job.folder)!r}, or choose another folder, and give {arg('colour', 'rgb')} or "
                    f"{arg('colour', 'gray')}"
                )
            shard = opened.setdefault(number, Decoding(np.zeros(len(job.shards[number]), np.int64)))
            shard.digests[first : first + len(result.digests)] = result.digests
            shard.broken.update({i - result.start + first: why for i, why in (*result.broken, *result.passing)})
            shard.kinds.update(result.kinds)
            shard.done += len(result.digests)
            if shard.done == len(shard.digests):
                write_shard(job, number, opened.pop(number))
            done += len(result.digests)
            progress(done, count)
    except OSError as error:
        raise UnblotError(f"cannot write shards into {str(job.folder)!r}: {error.strerror or error}") from None


def _results(
    job: Job, missing: Sequence[int], count: int, decode_all: Callable[..., Iterator[Decoded]]
) -> Iterator[Decoded]:
    """The results of decoding the pictures of some shards, in parts, their rows written to one file a shard."""
    listing, spec, array = job.listing, job.spec, job.listing.array
    if array:
        for number in missing:
            for first, some in _parts(job, number, lambda i: 1 / 256):
                rows = np.concatenate([array.rows(i, i + 1) for i in some])
                yield _written(job, number, *decode_array(number * job.rows_each + first, rows, array.alpha, spec))
        return

    def tasks() -> Iterator[pool.Task]:
        for number in missing:
            for first, some in _parts(job, number, lambda i: cost_of(listing.items[i])):
                yield number * job.rows_each + first, [listing.items[i] for i in some]

    if not listing.read and count > ALONE:
        how = {"root": listing.root, "pages": listing.pages, "spec": spec, "path": str(job.scratch)}
        yield from decode_all(how | {"offset": 0, "rows_each": job.rows_each}, tasks(), count)
        return
    with Reader(listing.root, listing.pages, listing.read) as reader:
        for start, items in tasks():
            yield _written(job, start // job.rows_each, *decode_items(reader, start, items, spec))


def _parts(job: Job, number: int, cost: Callable[[int], float]) -> Iterator[tuple[int, list[int]]]:
    """The pictures of a shard in parts that cost about 1: the place of the first in the shard, and their indices. A
    file with room for its rows is made first."""
    with open(part_of_rows(str(job.scratch), number), "wb"):
        pass
    some: list[int] = []
    total, first = 0.0, 0
    for index in job.shards[number].tolist():
        total += cost(index)
        if some and total > 1:
            yield first, some
            first, some, total = first + len(some), [], cost(index)
        some.append(index)
    yield first, some


def _written(job: Job, number: int, rows: np.ndarray, result: Decoded) -> Decoded:
    """The result, after its rows were written."""
    write_rows(part_of_rows(str(job.scratch), number), 0, result.start % job.rows_each, rows)
    return result
