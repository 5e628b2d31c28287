"""A data set packed into shards: decoded as for a dataset cache, in random order, by one machine or by several.

Which picture lies in which shard is a function of the listing alone. So machines share the work by sharing the numbers
of the shards, and what they write together is what one of them would have written. A shard appears whole or not at all,
with its labels and checksum beside it; the index is written when all shards are there. Packing that was stopped goes on
with the shards that are missing. What is not finished lies in a folder of the part, which one process at a time has.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unblot.data.cache import pool
from unblot.data.cache.build import nothing_usable
from unblot.data.cache.decoding import opacity_settled
from unblot.data.pack.decode import fill
from unblot.data.pack.job import Reading, claim, make_job
from unblot.data.pack.write import told_of, write_index
from unblot.data.readers.sources import open_source
from unblot.data.shards.index import ShardIndex
from unblot.data.split import check_choices
from unblot.errors import UnblotError, printable
from unblot.system.folders import locked


def pack(
    spec: str,
    folder: Path,
    reading: Reading,
    *,
    per_shard: int | None,
    part: tuple[int, int],
    workers: int,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> ShardIndex | None:
    """Packs the data set of a spec into a folder of shards; the index, or None where other parts are still to come.

    part: (k, n), the k-th of n machines, from 1. per_shard: pictures in a shard. workers: decoding processes, 0 for one
    a core. Raises UnblotError where nothing is usable, something is broken (unless it is skipped), or the folder holds
    shards of something else, or another process packs this part.
    """
    check_choices(reading.on_broken, reading.held_out)
    source, _ = open_source(spec, reading.source_options, labels=reading.labels)
    if source.index is not None:
        raise UnblotError(f"{printable(spec)!r} is packed already")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".work-{part[0]}-of-{part[1]}"
    with locked(scratch, "part"):
        try:
            listing = opacity_settled(source.load(scratch), reading.options)
            if not len(listing):
                raise nothing_usable(listing.broken)
            for note in listing.notes:
                report(note)
            job = make_job(listing, folder, scratch, reading, per_shard)
            for note in job.caption_notes:
                report(note)
            claim(job, spec)
            mine = range(part[0] - 1, len(job.shards), part[1])
            missing = [s for s in mine if told_of(job, s, reading.on_broken) is None]
            fill(job, missing, partial(pool.decode_all, count=workers or pool.cores(), idle=[]), progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return write_index(job, reading.on_broken, report)
